"""`genjax train` as a user runs it: killed, asked to stop, out of disk, damaged; and what it goes on to is the same.

The truth is one uninterrupted run.  A run that was interrupted has the same digests of parameters, optimizer and
average at its last step, and the same log, bit for bit.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from refusals import tree

from genjax.checkpoint import seals
from genjax.cli import main
from genjax.report import read_log

ROOT = Path(__file__).parent.parent
STEPS, EVERY = 300, 20

# Noise in every update, a moving average, samples to draw; PAUSE seconds an update, so that there is time to interrupt.
EXPERIMENT = '''"""A mean under noise, learnt slowly."""

import os
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from genjax import Evaluation, Experiment, Out, Quantity, Stage, ema, minimize
from genjax.data import Split, batches

ROWS = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)


def pause(step):
    time.sleep(float(os.environ.get("PAUSE", 0)))
    return np.float32(0)


def experiment(steps: int = 300, learning_rate: float = 0.05, explode: int = -1) -> Experiment:
    """A mean.

    Args:
      explode: the update whose loss is infinite.
    """

    def loss(params, state, batch, key):
        noise = 0.1 * jax.random.normal(key, batch["x"].shape)
        value = jnp.sum((batch["x"] + noise - params["mean"]) ** 2, axis=-1)
        waited = jax.pure_callback(pause, jax.ShapeDtypeStruct((), jnp.float32), state.step)
        return Out(jnp.where(state.step == explode, jnp.inf, value) + waited)

    def measure(state, batch, key):
        return {"distance": jnp.sum((batch["x"] - state.params["mean"]) ** 2, axis=-1)}

    split = Split({"x": ROWS}, lambda rows, key: rows)
    tx = optax.chain(optax.adam(learning_rate), ema(0.9))
    learner = minimize(loss, tx, lambda key, batch: {"mean": jax.random.normal(key, (1, 2))})
    return Experiment(
        [Stage("mean", learner, batches(split, 8), steps)],
        {"validation": Evaluation(measure, split, 32, {"distance": Quantity("exact", "squares")})},
        sample=lambda state, key, n: jax.random.uniform(key, (n, 4, 4, 1)),
        select="validation/distance",
    )
'''
INTERVALS = ("--checkpoint-every", str(EVERY), "--log-every", "10", "--evaluate-every", "100")


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The uninterrupted run."""
    folder = tmp_path_factory.mktemp("truth")
    (folder / "slow.py").write_text(EXPERIMENT)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", "slow.py", "--workdir", "run", *INTERVALS]) == 0
    return folder / "run"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "slow.py").write_text(EXPERIMENT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def start(*arguments: str, pause: float = 0.01, code: str = "", **settings: str) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PAUSE": str(pause)} | settings
    command = [sys.executable, "-c", code] if code else [sys.executable, "-m", "genjax"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*command, *arguments], env=environment, **pipes)


def train(*arguments: str, **settings: Any) -> subprocess.Popen:
    return start("train", "slow.py", "--workdir", "run", *INTERVALS, *arguments, **settings)


def ended(process: subprocess.Popen, timeout: float = 120) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    assert "Traceback" not in err, err
    return process.returncode, out, err


def until(condition: Callable[[], object], process: subprocess.Popen, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise AssertionError(f"it never came: {process.communicate()}")
        time.sleep(0.005)


def newest(run: Path = Path("run")) -> int:
    return seals(run)[0].step if run.exists() and seals(run) else 0


def digests(run: Path, step: int = STEPS) -> dict[str, str]:
    (one,) = [seal for seal in seals(run) if seal.step == step]
    assert one.final
    return {path: leaf["digest"] for path, leaf in one.leaves.items()}


def logged(run: Path) -> list[dict]:
    return [{k: v for k, v in row.items() if k not in ("time", "updates_per_second")} for row in read_log(run)]


def message(err: str) -> list[str]:
    """The error: three lines at most."""
    start = err.index("error: ") if "error: " in err else err.index("stopped at step")  # stopping is no error
    lines = err[start:].strip().splitlines()
    assert len(lines) <= 3, lines
    return lines


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_killed_at_random_moments(seed: int, truth: Path, here: Path) -> None:
    draw = random.Random(seed)
    process = train()
    until(Path("run/metrics.jsonl").exists, process)  # the first kill may fall before the first checkpoint
    for _ in range(3):  # and each anywhere: into an update, a save, a clean-up
        time.sleep(draw.uniform(0, 0.3))
        process.kill()
        process.communicate()
        reached = newest()
        assert reached < STEPS, "it was over before it was killed"
        process = start("resume", "run")
        until(lambda reached=reached: newest() > reached, process)
    code, _, err = ended(process)
    assert code == 0, err
    assert digests(Path("run")) == digests(truth)
    assert logged(Path("run")) == logged(truth)


@pytest.mark.slow
@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop(asked: signal.Signals, truth: Path, here: Path) -> None:
    process = train()
    until(newest, process)
    process.send_signal(asked)
    since = time.monotonic()
    code, _, err = ended(process)
    assert code == 75 and time.monotonic() - since < 10, err
    stopped = newest()
    assert 0 < stopped < STEPS and f"stopped at step {stopped} of {STEPS}" in message(err)[0]
    assert "genjax resume run" in message(err)[2]
    assert json.loads(Path("run/results.json").read_text())["state"] == "preempted"
    code, _, err = ended(train(pause=0) if asked == signal.SIGTERM else start("resume", "run", pause=0))
    assert code == 0, err
    assert digests(Path("run")) == digests(truth)
    assert {row["step"] for row in logged(Path("run"))} == {row["step"] for row in logged(truth)} | {stopped}


@pytest.mark.slow
def test_the_second_ctrl_c_leaves_at_once(truth: Path, here: Path) -> None:
    process = train("--checkpoint-every", "4", pause=0.4)
    until(newest, process)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None, "the first waits for the updates in flight"
    process.send_signal(signal.SIGINT)
    since = time.monotonic()
    code, _, _ = ended(process)
    assert code == 130 and time.monotonic() - since < 2
    code, _, err = ended(start("resume", "run", *INTERVALS, pause=0))
    assert code == 0 and digests(Path("run")) == digests(truth), err


@pytest.mark.slow
def test_a_second_writer_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    process = train(pause=0.1)
    until(newest, process)
    since = time.monotonic()
    code = main(["train", "slow.py", "--workdir", "run"])
    seconds, err = time.monotonic() - since, capsys.readouterr().err
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 75, "the first writer goes on undisturbed"
    assert code == 2 and f"process {process.pid}" in message(err)[0] and "--workdir" in message(err)[2]
    assert seconds < 4  # the lock waits for one of them


@contextlib.contextmanager
def tiny_disk(directory: Path) -> Iterator[None]:
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(directory)]
    if os.getuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot mount a file system here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


@pytest.mark.slow
def test_a_full_disk(truth: Path, here: Path) -> None:
    run = here / "disk" / "run"
    with tiny_disk(here / "disk"):
        process = start("train", "slow.py", "--workdir", str(run), *INTERVALS)
        until(lambda: newest(run) > EVERY, process)
        with contextlib.suppress(OSError), open(here / "disk" / "filler", "wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
        kept = newest(run)
        code, _, err = ended(process)
        assert code == 4, err
        assert "No space left" in message(err)[0]
        assert newest(run) >= kept
        (here / "disk" / "filler").unlink()
        code, _, err = ended(start("resume", str(run), pause=0))
        assert code == 0, err
        assert digests(run) == digests(truth)
        assert logged(run) == logged(truth)


LIMITED = """
import resource, sys
from genjax.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_limit_on_the_size_of_files(truth: Path, here: Path) -> None:
    """Without a disk of one's own to fill: nothing may grow beyond some updates' worth of log."""
    code, _, err = ended(train(pause=0, code=LIMITED, JAX_ENABLE_COMPILATION_CACHE="false"))
    assert code == 4 and "File too large" in message(err)[0], err
    code, _, err = ended(train(pause=0))
    assert code == 0 and digests(Path("run")) == digests(truth), err


def resumed(truth: Path, here: Path, step: int) -> Path:
    """A run as a kill after this step leaves it: the truth less its later checkpoints."""
    shutil.copytree(truth, here / "run")
    for path in (here / "run" / "checkpoints").iterdir():
        if int(path.name[-9:]) > step:
            shutil.rmtree(path)
    (here / "run" / "results.json").write_text('{"state": "running"}')
    return here / "run"


def flip(place: Path) -> None:
    path = max((p for p in (place / "state").rglob("*") if p.is_file()), key=os.path.getsize)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def test_the_newest_damaged(truth: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = resumed(truth, here, STEPS - EVERY)
    flip(run / "checkpoints" / f"00-mean-{STEPS - EVERY:09d}")
    assert main(["resume", "run"]) == 0
    err = capsys.readouterr().err
    assert err.count("is damaged") == 1 and f"00-mean-{STEPS - EVERY:09d} is damaged" in err
    assert digests(run) == digests(truth) and logged(run) == logged(truth)
    assert [path.name for path in (run / "quarantine").iterdir()] == [f"00-mean-{STEPS - EVERY:09d}"]


HOLD = "import sys, time; from genjax.checkpoint import lock\nwith lock('run'): print(1, flush=True); time.sleep(60)"


def test_who_only_reads_moves_nothing_while_a_process_trains(
    truth: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the damaged best checkpoint it tells, and takes the next best; the writer's directory stays as it is."""
    run = resumed(truth, here, STEPS)
    best = min(seals(run), key=lambda seal: float("inf") if seal.score is None else seal.score).step
    flip(run / "checkpoints" / f"00-mean-{best:09d}")
    holder = start(pause=0, code=HOLD)
    assert holder.stdout is not None and holder.stdout.readline() == "1\n"
    before = tree(run / "checkpoints")
    code = main(["evaluate", "run"])
    holder.kill()
    holder.communicate()
    told = capsys.readouterr()
    assert code == 0 and told.err.count("is damaged") == 1 and f"process {holder.pid} on" in told.err
    assert f"step {best}" not in told.out and tree(run / "checkpoints") == before and not (run / "quarantine").exists()
    assert main(["evaluate", "run"]) == 0 and (run / "quarantine" / f"00-mean-{best:09d}").is_dir()


def test_no_steps(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run of nothing can be sampled, measured, and extended to the run that it would have been."""
    assert main(["train", "slow.py", "--workdir", "run", *INTERVALS, "--steps", "0"]) == 0
    assert [(seal.step, seal.final) for seal in seals(Path("run"))] == [(0, True)]
    assert main(["sample", "run", "--n", "2", "--out", "two.npz"]) == 0
    assert main(["evaluate", "run"]) == 0 and "step 0," in capsys.readouterr().out
    assert main(["resume", "run", "--steps", "100", "--allow-change", "steps"]) == 0
    assert main(["train", "slow.py", "--workdir", "whole", *INTERVALS, "--steps", "100"]) == 0
    assert digests(Path("run"), 100) == digests(Path("whole"), 100)
    assert logged(Path("run")) == logged(Path("whole"))
    told = [json.loads(Path(run, "config.json").read_text())["experiment"] for run in ("run", "whole")]
    assert told[0]["defaults"] == told[1]["defaults"]  # the file's, not what the run had before it went on


def test_the_cost_of_all_processes(truth: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = resumed(truth, here, STEPS - EVERY)
    spent = {"seconds": 5.0, "compile_seconds": 2.0, "updates": 299, "examples": 2392, "processes": 2}
    (run / "results.json").write_text(json.dumps({"state": "running", **spent}))
    assert main(["resume", "run"]) == 0
    told = json.loads((run / "results.json").read_text())
    assert (told["updates"], told["examples"], told["processes"]) == (299 + EVERY, 2392 + 8 * EVERY, 3)
    assert 5 < told["seconds"] < 60 and 2 < told["compile_seconds"] < 60
    assert told["examples_per_second"] == pytest.approx(told["examples"] / told["seconds"])
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("cost"))
    assert f"{299 + EVERY} updates in" in line and "in 3 processes one after the other" in line
    assert "one after the other" in (run / "report.html").read_text()


COUNTING = """
import sys
from genjax import record
from genjax.cli import main
record.COST_EVERY = 0.0
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_the_cost_of_a_process_that_was_killed(here: Path) -> None:
    """What it had done is counted, also what is done again from its last checkpoint."""
    process = train(code=COUNTING)
    until(lambda: newest() >= 2 * EVERY, process)
    process.kill()
    process.communicate()
    before, kept = json.loads(Path("run/results.json").read_text()), newest()
    assert before["state"] == "running" and before["processes"] == 1 and before["updates"] >= kept
    code, _, err = ended(start("resume", "run", pause=0))
    told = json.loads(Path("run/results.json").read_text())
    assert code == 0 and told["updates"] - before["updates"] == STEPS - kept, err
    assert told["seconds"] > before["seconds"] and told["processes"] == 2


def test_all_damaged(truth: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = resumed(truth, here, STEPS - EVERY)
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    for name in names:
        flip(run / "checkpoints" / name)
    for _ in range(2):  # and again: it never starts from zero by itself
        assert main(["resume", "run"]) == 4
        lines = message(capsys.readouterr().err)
        assert all(name in lines[0] for name in names) and "new directory" in lines[2]
    assert seals(run) == [] and sorted(path.name for path in (run / "quarantine").iterdir()) == names


def test_an_infinite_loss(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "slow.py", "--workdir", "run", *INTERVALS, "--explode", "47", "--steps", "100"]
    for _ in range(2):  # a resume meets it again
        assert main(arguments) == 3
        assert "stage 'mean', step 47: loss is not finite" in message(capsys.readouterr().err)[0]
        assert newest() == 40
        assert json.loads(Path("run/results.json").read_text())["state"] == "non-finite"
    assert main(["evaluate", "run", "--step", "40"]) == 0


def test_more_steps(truth: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run of 100 steps that is extended to 300 is the run of 300 steps."""
    assert main(["train", "slow.py", "--workdir", "run", *INTERVALS, "--steps", "100"]) == 0
    before = tree(here)
    assert main(["train", "slow.py", "--workdir", "run", "--steps", "300"]) == 2
    assert tree(here) == before
    assert main(["resume", "run", "--steps", "300", "--allow-change", "steps"]) == 0
    assert digests(here / "run") == digests(truth)
    assert main(["resume", "run"]) == 0 and "finished" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"JAX_NUM_CPU_DEVICES": "3"}, ("batch_size=8", "3 devices", "6 or 9")),
        ({"JAX_PLATFORMS": "cuda"}, ("cuda", "JAX_PLATFORMS")),
        ({"JAX_PLATFORMS": "gpux"}, ("gpux", "JAX_PLATFORMS")),
    ],
)
def test_devices(settings: dict[str, str], said: tuple[str, ...], here: Path) -> None:
    code, _, err = ended(train(**settings))
    assert code == 2 and all(text in "\n".join(message(err)) for text in said), err
    assert not Path("run").exists()
