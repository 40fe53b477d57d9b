"""Devices: what holds on one, and, in a process with eight, what `on_devices.py` checks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import on_devices
import pytest

from genjax import parallel
from genjax.errors import BadInput

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def complaints() -> dict[str, str]:
    settings = {"JAX_NUM_CPU_DEVICES": "8", "PYTHONPATH": str(HERE.parent), "PYTHONWARNINGS": "error"}
    command = [sys.executable, str(HERE / "on_devices.py")]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("check", [check.__name__ for check in on_devices.CHECKS])
def test_on_eight_devices(check, complaints):
    assert complaints[check] == ""


def test_one_device_stays_one():
    assert parallel.mesh().size == 1
    with pytest.raises(BadInput, match="devices=2 asked for") as refused:
        parallel.mesh(2)
    assert refused.value.lines[1] == "1 to 1: there is 1 of kind cpu"
    assert "JAX_NUM_CPU_DEVICES=2" in refused.value.lines[2]


def test_absent_kind_of_device():
    """Asked for a GPU where there is none: three lines, no traceback."""
    program = "from genjax import parallel\nfrom genjax.errors import BadInput\n"
    program += "try: parallel.mesh()\nexcept BadInput as error: print('; '.join(error.lines))"
    settings = {"JAX_PLATFORMS": "rocm", "PYTHONPATH": str(HERE.parent)}
    done = subprocess.run([sys.executable, "-c", program], env=os.environ | settings, capture_output=True, text=True)
    assert "no device of the asked kind" in done.stdout and "JAX_PLATFORMS" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("batch, devices", [(64, 8), (8, 8), (1, 1), (100, 4)])
def test_batches_that_divide(batch, devices):
    parallel.check_batch(batch, devices)


@pytest.mark.parametrize(
    "batch, devices, sizes, fewer",
    [(100, 8, "96 or 104", "--devices 5"), (7, 8, "such as 8", "--devices 7"), (0, 4, "such as 4", "4")],
)
def test_batches_that_do_not_divide(batch, devices, sizes, fewer):
    with pytest.raises(BadInput, match=f"batch_size={batch}") as refused:
        parallel.check_batch(batch, devices)
    assert sizes in refused.value.lines[1] and fewer in refused.value.lines[2]
    named = [int(word) for word in refused.value.lines[1].split("such as")[1].split(" or ")]
    assert all(size % devices == 0 for size in named)
