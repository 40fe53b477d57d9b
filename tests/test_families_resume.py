"""Every family, killed for real in the middle of an update and gone on with: the same bits as if nothing had happened.

What must agree at the last step is every leaf of the state: parameters, moments of the optimizers, moving averages, and
what no gradient touches (chains, codebooks, a growing run's place).  Where a family ends with a long measurement, the
last sealed checkpoint is enough, and the process is killed again.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from genjax.checkpoint import seals

ROOT = Path(__file__).parent.parent
FAMILIES = {  # as many updates as take some seconds, so that the kill falls among them
    "vae_digits": (1_500, ""),
    "pixelcnn_digits": (60, ""),
    "gan_digits": (1_500, ""),
    "rbm_digits": (24_000, "--hidden 4"),
    "semi_supervised": (150, "--method mean_teacher"),
}


def start(*arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-m", "genjax", *arguments], env=environment, **pipes)


def killed_at(process, run, step, seconds=240):
    """Wait for the sealed checkpoint of a step, then kill; returns the newest step that is sealed."""
    deadline = time.monotonic() + seconds
    while not (found := [seal.step for seal in seals(run)] if run.exists() else []) or max(found) < step:
        assert process.poll() in (None, 0) and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return max(found)


def digests(run, step):
    (last,) = [seal for seal in seals(run) if seal.step == step]
    return {path: leaf["digest"] for path, leaf in last.leaves.items()}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, monkeypatch, family):
    monkeypatch.chdir(tmp_path)
    steps, options = FAMILIES[family]
    often = ("--checkpoint-every", str(steps // 6), "--evaluate-every", str(10 * steps), "--keep", "9")
    file = str(ROOT / "experiments" / f"{family}.py")
    command = ("train", file, "--steps", str(steps), *options.split(), *often)
    killed_at(start(*command, "--workdir", "whole"), Path("whole"), steps)
    reached = killed_at(start(*command, "--workdir", "parts"), Path("parts"), steps // 6)
    assert 0 < reached < steps, "it was over before it was killed"
    killed_at(start("resume", "parts"), Path("parts"), steps)
    whole, parts = digests(Path("whole"), steps), digests(Path("parts"), steps)
    assert len(whole) > 4 and parts == whole
