"""`genjax train` on two processes of four devices: killed, asked to stop, told apart, and gone on with elsewhere.

The truth is one uninterrupted run on one device.  Batches and noise are drawn for the whole batch, so that every run
sees the same numbers on any number of devices, and only the order of float32 sums differs.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from test_hosts import free_port

from genjax import hosts
from genjax.checkpoint import seals
from genjax.saved import open_run

HERE = Path(__file__).parent
STEPS, EVERY = 150, 50
INTERVALS = ("--checkpoint-every", str(EVERY), "--log-every", str(EVERY), "--evaluate-every", str(STEPS))

pytestmark = pytest.mark.slow


def start(workdir: Path, *options: str, devices: int = 1) -> subprocess.Popen:
    command = [sys.executable, "-m", "genjax", "train", str(HERE / "peer_experiment.py"), "--workdir", str(workdir)]
    settings = {"JAX_NUM_CPU_DEVICES": str(devices), "PYTHONPATH": str(HERE.parent)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*command, *INTERVALS, *options], env=os.environ | settings, **pipes)


def start_two(workdir: Path, *options: str, own: Mapping[int, tuple[str, ...]] | None = None) -> list[subprocess.Popen]:
    port, own = free_port(), own or {}
    numbers = [("--coordinator", f"127.0.0.1:{port}", "--processes", "2", "--process", str(i)) for i in range(2)]
    return [start(workdir, *options, *own.get(i, ()), *numbers[i], devices=4) for i in range(2)]


def finish(*peers: subprocess.Popen, timeout: float = 400) -> list[tuple[int, str]]:
    """(exit code, all it said) of each; none is left behind."""
    try:
        said = ["".join(peer.communicate(timeout=timeout)) for peer in peers]
    finally:
        for peer in peers:
            peer.kill()
    return [(peer.returncode, text) for peer, text in zip(peers, said, strict=True)]


def first_checkpoint(workdir: Path, peers: list[subprocess.Popen]) -> None:
    deadline = time.monotonic() + 180
    while not (workdir.exists() and seals(workdir)):
        if time.monotonic() > deadline or any(peer.poll() is not None for peer in peers):
            for peer in peers:
                peer.kill()
            raise AssertionError(f"no checkpoint: {finish(*peers)}")
        time.sleep(0.01)


def final_state(workdir: Path) -> Any:
    run = open_run(str(workdir), None, None, None)
    assert run.step == STEPS
    return jax.device_get(run.state)


def largest_gap(a: Any, b: Any) -> float:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(np.abs(np.asarray(x, np.float64) - np.asarray(y)).max()) for x, y in pairs)


def digests(workdir: Path) -> dict[str, str]:
    (final,) = [seal for seal in seals(workdir) if seal.step == STEPS]
    return {path: leaf["digest"] for path, leaf in final.leaves.items()}


def trained_steps(workdir: Path) -> list[int]:
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [row["step"] for row in rows if row["kind"] == "train"]


@pytest.fixture(scope="module")
def truth(tmp_path_factory) -> Any:
    """The state after the uninterrupted run on one device."""
    workdir = tmp_path_factory.mktemp("truth") / "run"
    ((code, said),) = finish(start(workdir))
    assert code == 0, said
    state = final_state(workdir)
    halfway = open_run(str(workdir), STEPS - EVERY, None, None).state
    assert largest_gap(halfway.params, state.params) > 1e-2, "parameters that do not move prove nothing"
    return state


@pytest.mark.parametrize("victim", [0, 1])
def test_one_is_killed_and_eight_devices_go_on(victim, truth, tmp_path):
    workdir = tmp_path / "run"
    peers = start_two(workdir)
    first_checkpoint(workdir, peers)
    peers[victim].kill()
    killed = time.monotonic()
    ends = finish(*peers)
    assert ends[victim][0] == -signal.SIGKILL and ends[1 - victim][0] not in (0, 75), ends
    assert time.monotonic() - killed < hosts.HEARTBEAT + 20
    reached = seals(workdir)[0].step
    assert EVERY <= reached < STEPS, "it was over before it was killed"
    ((code, said),) = finish(start(workdir, devices=8))
    assert code == 0 and "8 x cpu" in said, said
    assert trained_steps(workdir) == [EVERY, 2 * EVERY, STEPS]
    state = final_state(workdir)
    assert int(state.step) == STEPS and largest_gap(state, truth) < 1e-5


def test_another_order_of_data_is_seen(truth, tmp_path):
    """The planted bug: the same run from another seed."""
    ((code, said),) = finish(start(tmp_path / "run", "--seed", "1"))
    assert code == 0, said
    assert largest_gap(final_state(tmp_path / "run").params, truth.params) > 1e-2


def test_one_is_asked_to_stop_and_both_go_on_bit_for_bit(truth, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for code, said in finish(*start_two(whole, "--parallel", "fsdp")):
        assert code == 0, said
    peers = start_two(cut, "--parallel", "fsdp")
    first_checkpoint(cut, peers)
    peers[1].send_signal(signal.SIGTERM)
    ends = finish(*peers)
    assert [code for code, _ in ends] == [75, 75], ends
    step = seals(cut)[0].step
    assert EVERY < step < STEPS
    assert f"stopped at step {step}" in ends[0][1] and f"stopped at step {step}" in ends[1][1]
    for code, said in finish(*start_two(cut, "--parallel", "fsdp")):
        assert code == 0, said
    assert digests(cut) == digests(whole)
    assert largest_gap(final_state(cut), truth) < 1e-5


def test_a_host_with_another_configuration_is_named(tmp_path):
    ends = finish(*start_two(tmp_path / "run", own={1: ("--learning-rate", "0.002")}))
    assert [code for code, _ in ends] == [2, 2], ends
    for _, said in ends:
        assert "process 1 on" in said and "learning_rate=0.002 against 0.001" in said


def test_devices_that_do_not_divide_end_both(tmp_path):
    ends = finish(*start_two(tmp_path / "run", "--devices", "3"))
    assert [code for code, _ in ends] == [2, 2], ends
    assert all("devices=3 asked for on 2 processes" in said for _, said in ends)
