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
STAGES = {  # of two stages, each with so many updates
    "consistency_points": (6_000, "--distillation-steps 6000 --width 8 --blocks 1 --levels 4"),  # a diffusion first
    "dbn_mnist": (6_000, "--widths 6 5 --betas 3"),
}
ON_TOYS = """
import genjax.data
import toy_data
genjax.data.binarized_mnist = toy_data.bars
from {name} import experiment
"""


def start(*arguments):
    folders = (ROOT, ROOT / "tests", ROOT / "experiments")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders))}
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-m", "genjax", *arguments], env=environment, **pipes)


def killed_at(process, run, step, stage=0, seconds=240):
    """Wait for the sealed checkpoint of a step, then kill; returns the newest stage and step that is sealed."""
    deadline = time.monotonic() + seconds
    newest = lambda: max([(seal.stage_index, seal.step) for seal in seals(run)] if run.exists() else [], default=(0, 0))
    while (found := newest()) < (stage, step):
        assert process.poll() in (None, 0) and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return found


def digests(run, stage, step):
    (last,) = [seal for seal in seals(run) if (seal.stage_index, seal.step) == (stage, step)]
    return {path: leaf["digest"] for path, leaf in last.leaves.items()}


def check_kills(file, steps, options, last=0):
    """Kill a run within its first stage and within its last; then it ends as the whole one did."""
    often = ("--checkpoint-every", str(steps // 6), "--evaluate-every", str(10 * steps), "--keep", "9")
    command = ("train", file, "--steps", str(steps), *options.split(), *often)
    killed_at(start(*command, "--workdir", "whole"), Path("whole"), steps, last)
    process = start(*command, "--workdir", "parts")
    for stage in sorted({0, last}):
        reached = killed_at(process, Path("parts"), steps // 6, stage)
        assert (stage, 0) < reached < (stage, steps), "it was over before it was killed"
        process = start("resume", "parts")
    killed_at(process, Path("parts"), steps, last)
    whole, parts = digests(Path("whole"), last, steps), digests(Path("parts"), last, steps)
    assert len(whole) > 4 and parts == whole


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, monkeypatch, family):
    monkeypatch.chdir(tmp_path)
    check_kills(str(ROOT / "experiments" / f"{family}.py"), *FAMILIES[family])


@pytest.mark.slow
@pytest.mark.parametrize("family", STAGES)
def test_a_run_killed_in_each_of_its_stages_goes_on_bit_for_bit(tmp_path, monkeypatch, family):
    monkeypatch.chdir(tmp_path)
    Path("toys.py").write_text(ON_TOYS.format(name=family))
    check_kills("toys.py", *STAGES[family], last=1)
