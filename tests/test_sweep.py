"""Sweeps: the grid, the ranking, and processes that fail, stop and go on."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from cloud import CLOUD, grid_of, written

from genjax import cli
from genjax.errors import BadInput, Preempted
from genjax.sweep import processes, sweep
from genjax.sweep.grid import described
from genjax.sweep.processes import by_processes, last_error
from genjax.sweep.ranking import over_draws, point_row, ranking_text


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return written(CLOUD)


# --- the grid --------------------------------------------------------------------------------------------------------


def test_the_grid_holds_every_combination_once_typed_and_in_order(cloud):
    grid = grid_of(cloud, "learning_rate=1e-3,3e-4", "--steps", "7", "seed=0:3", "--precision", "bfloat16")
    assert [(p.swept["learning_rate"], p.seed) for p in grid.points] == [
        *((1e-3, seed) for seed in range(3)),
        *((3e-4, seed) for seed in range(3)),
    ]
    assert {p.values["steps"] for p in grid.points} == {7} and grid.options.precision == "bfloat16"
    assert grid.points[4].name == "learning_rate_0.0003-seed_1"
    assert grid.points[4].arguments == ("--learning-rate=3e-4", "--seed=1")
    assert described(grid.points[4].swept) == "learning_rate=0.0003 seed=1"


def test_a_point_has_the_same_name_in_a_larger_grid(cloud):
    small = {point.name for point in grid_of(cloud, "seed=0:2", "shift=-1,0.5").points}
    assert small < {point.name for point in grid_of(cloud, "seed=0:4", "shift=-1,0.5,2").points}


def test_flags_choices_and_negative_numbers(cloud):
    grid = grid_of(cloud, "flag=true,false", "kind=a,b", "shift=-1e-2,")
    assert [(p.swept["flag"], p.swept["kind"], p.swept["shift"]) for p in grid.points] == [
        (True, "a", -0.01), (True, "b", -0.01), (False, "a", -0.01), (False, "b", -0.01),
    ]  # fmt: skip
    assert [p.arguments[0] for p in grid.points[1:3]] == ["--flag", "--no-flag"]


BAD_GRIDS = [
    ([], "nothing to sweep"),
    (["lerning_rate=1,2"], "did you mean learning_rate?"),
    (["zzz=1"], "fields: width, learning_rate"),
    (["seed=3:3"], "seed=3:3 has no values"),
    (["learning_rate="], "learning_rate= has no values"),
    (["learning_rate=1e-3,0.001"], "0.001 is given twice"),
    (["learning_rate=1e-3,0"], "allowed: a number in (0, inf)"),
    (["learning_rate=nan"], "allowed: a number in (0, inf)"),
    (["learning_rate=fast"], "learning-rate"),
    (["width=1.5"], "width"),
    (["width=0:2"], "--width 0"),
    (["kind=a,c"], "invalid choice 'c'"),
    (["flag=yes"], "allowed: true or false"),
    (["seed=0:2", "seed=3"], "swept twice"),
    (["seed=0:2", "--seed", "1"], "swept and fixed"),
    (["seed=4294967296"], "--seed 4294967296"),
    (["seed=0:4294967296"], "at most 10,000"),
    (["seed=0:200", "width=1:100"], "19,800 points (200 x 99)"),
    (["seed=0:2", "--sceed", "1"], "did you mean --seed?"),
]


@pytest.mark.parametrize(("arguments", "told"), BAD_GRIDS)
def test_a_bad_grid_is_told_in_three_lines(cloud, arguments, told):
    with pytest.raises(BadInput) as error:
        grid_of(cloud, *arguments)
    assert told in str(error.value) and 1 <= len(error.value.lines) <= 3


def test_bad_options_of_the_command(cloud, capsys):
    assert cli.main(["sweep", "cloud.py", "seed=0:2", "--jobs", "0"]) == 2
    assert cli.main(["sweep", "cloud.py", "seed=0:2", "--workdir", "a/.."]) == 2
    assert cli.main(["sweep", "clout.py", "seed=0:2"]) == 2
    told = capsys.readouterr().err
    assert "--jobs 0" in told and "--workdir a/.." in told and "did you mean cloud.py" in told


# --- the ranking -----------------------------------------------------------------------------------------------------


def row(value, kind="exact", better="lower", error=0.5, **fields):
    line = {"name": "test/nll", "kind": kind, "unit": "nats", "better": better, "value": value, "standard_error": error}
    run = described(fields)
    return {
        "run": run,
        "fields": fields,
        "state": "finished",
        "message": "",
        "result": line if value is not None else None,
    }


def test_settings_are_ranked_by_their_mean():
    values = {(4, 0): 3.0, (4, 1): 5.0, (8, 0): 1.0, (8, 1): 2.0, (8, 2): 6.0}
    rows = [row(value, width=width, seed=seed) for (width, seed), value in values.items()]
    means = {r["fields"]["width"]: (r["result"]["value"], r["deviation"], r["repeats"]) for r in over_draws(rows)}
    assert means == {4: (4.0, pytest.approx(2**0.5), 2), 8: (3.0, pytest.approx(7**0.5), 3)}
    assert ranking_text(rows).splitlines() == [
        "test/nll in nats (exact; lower is better; ± standard deviation over runs)",
        "   width  value      runs",
        "1  8      3.0 ± 2.6  3",
        "2  4      4.0 ± 1.4  2",
    ]


def test_draws_of_labels_are_repetitions_and_words_are_not():
    rows = [row(value, choice=i, method=m) for (m, i), value in {("a", 1): 1.0, ("a", 2): 3.0, ("b", 1): 4.0}.items()]
    assert [(r["fields"], r["result"]["value"], r["repeats"]) for r in over_draws(rows)] == [
        ({"method": "a"}, 2.0, 2),
        ({"method": "b"}, 4.0, 1),
    ]
    assert len(over_draws([row(1.0, choice="left"), row(2.0, choice="right")])) == 2
    assert len(over_draws([row(1.0, choice=False), row(2.0, choice=True)])) == 2


def test_higher_is_better_where_the_quantity_says_so():
    text = ranking_text([row(1.0, better="higher", width=4), row(2.0, better="higher", width=8)])
    assert text.splitlines() == [
        "test/nll in nats (exact; higher is better; ± standard error over the examples)",
        "   width  value",
        "1  8      2.00 ± 0.50",
        "2  4      1.00 ± 0.50",
    ]


def test_neither_way_is_better_where_the_quantity_says_so():
    text = ranking_text([row(1.0, better="", width=4)])
    assert text.startswith("test/nll in nats (exact; neither way is better; ")


def test_a_bound_and_an_exact_value_share_no_ranking():
    text = ranking_text([row(1.0, kind="upper bound", width=4), row(2.0, width=8), row(None, width=16)])
    assert text.count("lower is better") == 2 and text.splitlines()[-1] == "  width=16: finished"
    assert [line.split()[:2] for line in text.splitlines() if line.startswith("1")] == [["1", "4"], ["1", "8"]]


def test_a_run_is_ranked_by_the_measure_that_its_experiment_selects(cloud):
    (point,) = grid_of(cloud, "seed=0").points
    run = Path(point.name)
    run.mkdir()
    lines = [{"name": "test/nll", "value": 1.0}, {"name": "validation/nll", "value": 2.0}]
    (run / "results.json").write_text(json.dumps({"state": "finished", "results": lines}))
    assert point_row(Path(), point)["result"]["name"] == "test/nll"
    (run / "config.json").write_text(json.dumps({"select": "validation/nll"}))
    assert point_row(Path(), point)["result"]["name"] == "validation/nll"
    (run / "results.json").write_text('{"state": "fini')
    assert point_row(Path(), point)["state"] == "not started"


# --- processes -------------------------------------------------------------------------------------------------------

STUB = """\
#!{python}
import json, os, pathlib, signal, sys, time
given = dict(zip(sys.argv, sys.argv[1:]))
run = pathlib.Path(given["--workdir"])
seed = int(next(word.partition("=")[2] for word in sys.argv if word.startswith("--seed=")))
run.mkdir(exist_ok=True)
with open(run.parent / "times", "a") as file:
    file.write(f"+{{seed}} {{time.monotonic()}}\\n")
if seed == 9:  # runs until it is asked to stop
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    (run / "started").touch()
    time.sleep(30)
time.sleep(20 if seed == 7 else 0.3)
with open(run.parent / "times", "a") as file:
    file.write(f"-{{seed}} {{time.monotonic()}}\\n")
if seed == 2:
    print("error: the loss is not finite\\n  at step 3\\n  lower the rate", file=sys.stderr)
    sys.exit(3)
if seed == 3:
    os.kill(os.getpid(), signal.SIGKILL)
line = {{"name": "test/nll", "kind": "exact", "value": 10.0 - seed, "standard_error": 0.1, "unit": "nats"}}
(run / "results.json").write_text(json.dumps({{"state": "finished", "results": [line]}}))
print("done", sys.argv[1:6])
"""


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """A stand-in for the interpreter: what `train` does, without training."""
    path = tmp_path / "stub"
    path.write_text(STUB.format(python=sys.executable))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(path))


def at_once(directory):
    """The most processes that ran at one time."""
    events = sorted(
        (float(time), mark[0])
        for mark, time in (line.split() for line in (directory / "times").read_text().splitlines())
    )
    running = np.cumsum([1 if mark == "+" else -1 for _, mark in events])
    return int(running.max())


@pytest.mark.parametrize("jobs", [1, 2])
def test_points_run_some_at_a_time_and_one_that_fails_stops_nothing(cloud, stub, tmp_path, jobs, capsys):
    grid = grid_of(cloud, "seed=0:5", "--jobs", str(jobs), "--steps", "9", "--workdir", "all")
    assert sweep(cloud, grid) == 1  # killed: worse than not finite
    said = json.loads(Path("all/sweep.json").read_text())
    assert [point["exit_code"] for point in said["points"]] == [0, 0, 3, 1, 0]
    assert said["points"][2]["message"] == "the loss is not finite\nat step 3\nlower the rate"
    assert said["points"][3]["message"] == "exit -9"
    assert [point["result"] and point["result"]["value"] for point in said["points"]] == [10.0, 9.0, None, None, 6.0]
    assert (said["ranking"][0]["value"], said["ranking"][0]["repeats"]) == (pytest.approx(25 / 3), 3)
    assert at_once(tmp_path / "all") == jobs
    assert Path("all/seed_0.log").read_text() == "done ['-P', '-m', 'genjax', 'train', 'cloud.py']\n"
    told = capsys.readouterr().out
    assert "exit 3 (0 s)\n  the loss is not finite\n  at step 3\n  lower the rate\n" in told
    assert "next     genjax sample all/seed_4 --n 64" in told


def test_a_request_to_stop_is_passed_on_and_the_rest_is_not_started(cloud, stub, tmp_path):
    grid = grid_of(cloud, "seed=0,9,7,4", "--jobs", "2")
    process = os.getpid()
    watcher = subprocess.Popen(  # asks this process to stop when the endless child has begun
        ["sh", "-c", f"while ! [ -e {tmp_path}/seed_9/started ]; do sleep 0.05; done; sleep 0.2; kill -TERM {process}"]
    )
    begun = time.monotonic()
    with pytest.raises(Preempted) as error:
        by_processes(cloud, grid, grid.points, tmp_path, lambda text: None)
    assert watcher.wait() == 0 and time.monotonic() - begun < 10
    assert "of 4 points to go on with" in error.value.lines[0] and error.value.lines[2] == "run the same command again"
    assert not (tmp_path / "seed_4").exists()  # seed 0 has ended, and 7 takes its time
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_processes_at_a_time_have_cores_of_their_own(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(5)), raising=False)
    with processes._cores(2) as cores:
        assert list(cores) == [{0, 2, 4}, {1, 3}]
    for jobs in (1, 6):  # one process has them all; more processes than cores share them
        with processes._cores(jobs) as cores:
            assert not cores


def test_the_last_error_of_a_log_is_that_of_its_last_run(tmp_path):
    log = tmp_path / "log"
    log.write_text("error: old\n  line\n")
    size = log.stat().st_size
    log.write_text(log.read_text() + "step 1\nerror: new\n  what\n  then\n  more\n")
    assert last_error(log, size) == "new\nwhat\nthen"
    log.write_text("Traceback:\n  File x\nZeroDivisionError: division by zero\n\n")
    assert last_error(log) == "ZeroDivisionError: division by zero"
    log.write_bytes(b"\xff\xfe error")
    assert last_error(log).endswith("error")


def test_two_sweeps_in_one_directory_are_refused(cloud, tmp_path):
    from genjax.checkpoint import lock

    (tmp_path / "all").mkdir()
    with lock(tmp_path / "all"), pytest.raises(BadInput, match="in use by process"):
        sweep(cloud, grid_of(cloud, "seed=0:2", "--workdir", "all"))


def command(*arguments, **options):
    home = str(Path(cli.__file__).parent.parent)
    return subprocess.Popen(
        [sys.executable, "-m", "genjax", *arguments], env={**os.environ, "PYTHONPATH": home},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options,
    )  # fmt: skip


@pytest.mark.slow
def test_a_real_sweep_fails_where_it_must_and_is_gone_on_with(cloud):
    line = ("sweep", "cloud.py", "learning_rate=0.05,1e30", "--jobs", "2", "--workdir", "all")
    first = command(*line)
    told = first.communicate(timeout=300)[0]
    assert first.returncode == 3, told
    said = json.loads(Path("all/sweep.json").read_text())
    assert [point["exit_code"] for point in said["points"]] == [0, 3]
    assert "is not finite" in said["points"][1]["message"]
    seals = {path: path.stat().st_mtime_ns for path in Path("all").glob("learning_rate_0.05*/checkpoints/*/SEAL.json")}
    again = command(*line)
    told = again.communicate(timeout=300)[0]
    assert again.returncode == 3 and "1 of 2 finished" in told
    assert seals == {path: path.stat().st_mtime_ns for path in seals} and seals


@pytest.mark.slow
def test_a_real_sweep_that_is_interrupted_saves_its_runs_and_exits_75(cloud):
    line = ("sweep", "cloud.py", "shift=0,0.1,0.2", "--steps", "100000", "--workdir", "all")
    process = command(*line, start_new_session=True)
    metrics = Path("all/shift_0.0/metrics.jsonl")
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") > 2) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=60)[0]
    assert process.returncode == 75, told
    assert "stopped with 3 of 3 points" in told and not Path("all/shift_0.1").exists()
    (seal, *_) = sorted(Path("all/shift_0.0/checkpoints").glob("*/SEAL.json"))[::-1]
    assert json.loads(seal.read_text())["step"] > 0
