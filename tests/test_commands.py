"""The commands that look: list, show, data, doctor; what they say, of whole and of damaged places."""

import fcntl
import json
import os
import subprocess
import sys
import textwrap
import time
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

from genjax import cli, doctor
from genjax.listing import header, is_locked
from genjax.show import Cost, cost_of

LINEAR = '''
"""A linear map
of numbers.

Paper:    Gauss, Theoria combinationis, 1823
Command:  genjax train experiments/linear.py
Cost:     nothing
Measured: 0.5 nats
          on one core
"""
import jax.numpy as jnp
import numpy as np
import optax
from genjax import Count, Experiment, Out, Stage, minimize
from genjax.data import Split, batches

ROWS = np.zeros((300, 64), np.float32)


def experiment(units: Count = 32, steps: int = 50, batch_size: Count = 128):
    """A linear map.

    Args:
      units: of the map.
    """
    def loss(params, state, batch, key):
        return Out(jnp.sum((batch["x"] @ params["params"]["map"]["kernel"]) ** 2, axis=-1))

    init = lambda key, batch: {"params": {"map": {"kernel": jnp.ones((64, units))}, "scale": jnp.ones(())}}
    learner = minimize(loss, optax.sgd(0.1), init)
    data = batches(Split({"x": ROWS}, lambda rows, key: rows), batch_size)
    return Experiment([Stage("first", learner, data, steps, steps_per_call=10), Stage("second", learner, data, steps)])
'''


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "linear.py").write_text(LINEAR.lstrip())
    return tmp_path


def said(capsys, *arguments, code=0):
    assert cli.main(list(arguments)) == code
    told = capsys.readouterr()
    return told.err if code else told.out


# --- list -------------------------------------------------------------------------------------------------------------


def test_experiments_are_listed_by_what_their_files_say(here, capsys):
    folder = here / "experiments"
    (folder / "broken.py").write_text("def experiment(:\n")
    (folder / "notes.py").write_text("raise SystemExit('imported')\n")
    (folder / "variation.py").write_text('"""Wider."""\nfrom linear import experiment\n')
    (folder / "latin.py").write_bytes(b'"""caf\xe9"""\ndef experiment(): pass\n')
    entries = said(capsys, "list").split("\n\n")
    assert entries[0].splitlines()[1].startswith("  cannot be read: line 1: ")
    assert entries[1].startswith("experiments/latin.py\n  cannot be read: ")
    assert entries[2] == textwrap.dedent("""\
        experiments/linear.py
          A linear map of numbers.
          paper     Gauss, Theoria combinationis, 1823
          measured  0.5 nats on one core""")
    assert entries[3].strip() == "experiments/variation.py\n  Wider." and len(entries) == 4


def test_a_header_ends_where_the_text_goes_on():
    told = header("T.\n\nPaper: one\n  two\nplain Words: no\n  neither\nMeasured: 3")
    assert told == {"title": "T.", "Paper": "one two", "Measured": "3"}


def test_folders_without_experiments_or_runs_are_told(here, capsys):
    (here / "runs" / "one").mkdir(parents=True)
    assert "there is no folder other" in said(capsys, "list", "other", code=2)
    assert "holds no run" in said(capsys, "list", "runs", code=2)
    (here / "runs").rename(here / "all")
    (here / "all" / "one" / "config.json").write_text("{}")
    assert "genjax list runs all" in said(capsys, "list", "all", code=2)
    assert "unknown option --all" in said(capsys, "list", "--all", code=2)


def run_directory(path, state=None, config=None, seals=(), rows=0):
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config or {"select": "validation/nll", "better": "lower"}))
    if state is not None:
        (path / "results.json").write_text(json.dumps(state))
    for step, score in seals:
        place = path / "checkpoints" / f"00-vae-{step:09d}"
        place.mkdir(parents=True)
        (place / "SEAL.json").write_text(json.dumps({"step": step, "stage": "vae", "stage_index": 0, "score": score}))
    return path


def table(text):
    lines = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in text.splitlines()]
    return {line[0]: line[1:4] for line in lines[1:]}


def test_runs_are_listed_with_their_state_step_and_best(here, capsys):
    results = [{"name": "test/nll", "value": 2.5}, {"name": "validation/nll", "value": 1.25}]
    runs = here / "runs"
    run_directory(runs / "done", {"state": "finished", "results": results}, seals=[(10, 3.0), (20, 2.0)])
    run_directory(runs / "dead", {"state": "running"}, seals=[(10, 3.0), (20, 4.0), (30, None)])
    high = {"select": "validation/bound", "better": "higher"}
    run_directory(runs / "high", {"state": "preempted"}, high, [(10, 3.0), (20, 4.0)])
    run_directory(runs / "new")
    run_directory(runs / "sweep-1" / "seed_0", {"state": "non-finite"})
    alive = run_directory(runs / "alive", {"state": "running"}, seals=[(1234, 3.0)])
    with open(alive / "LOCK", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        listed = table(said(capsys, "list", "runs"))
    assert listed == {
        "done": ["finished", "20", "validation/nll 1.25"],
        "dead": ["interrupted", "30", "validation/nll 3"],
        "high": ["preempted", "20", "validation/bound 4"],
        "new": ["interrupted", "-", "-"],
        "sweep-1/seed_0": ["non-finite", "-", "-"],
        "alive": ["running", "1,234", "validation/nll 3"],
    }
    assert table(said(capsys, "list", "runs"))["alive"][0] == "interrupted"  # the lock is free: its process is gone


DAMAGE = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:7]),
    "empty": lambda path: path.write_bytes(b""),
    "binary": lambda path: path.write_bytes(bytes(range(256))),
    "a list": lambda path: path.write_text("[1, 2]"),
    "deep": lambda path: path.write_text("[" * 100_000),
    "another shape": lambda path: path.write_text('{"state": ["x\\u001b[2J"], "results": {"a": [null]}, "step": "x"}'),
    "unreadable": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["config.json", "results.json", "checkpoints/00-vae-000000020/SEAL.json"])
def test_a_damaged_run_is_listed_too(here, capsys, damage, name):
    done = {"state": "finished", "results": [{"name": "validation/nll", "value": 1.25}]}
    run = run_directory(here / "runs" / "one", done, seals=[(10, 3.0), (20, 2.0)])
    DAMAGE[damage](run / name)
    text = said(capsys, "list", "runs")
    assert "one" in table(text) and "\x1b" not in text
    wanted = {"config.json": "20", "results.json": "20"}.get(name, "10")
    assert table(text)["one"][1] == wanted or (name == "config.json" and damage == "unreadable")


def test_a_lock_is_held_only_while_its_process_lives(tmp_path):
    assert not is_locked(tmp_path)
    script = "import fcntl, sys; f = open('LOCK', 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True); input()"
    holder = subprocess.Popen(
        [sys.executable, "-c", script], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout.readline() == b"1\n"
    assert is_locked(tmp_path) and is_locked(tmp_path)
    holder.kill()
    holder.communicate()
    assert not is_locked(tmp_path)


# --- start-up ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["list"], ["list", "runs", "all"]])
def test_what_needs_no_jax_does_not_load_it(here, arguments):
    run_directory(here / "all" / "one")
    script = (
        "import sys; from genjax.cli import main; code = main(sys.argv[1:]);"
        "print(code, [name for name in ('jax', 'numpy', 'flax') if name in sys.modules])"
    )
    home = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parent.parent)}
    begun = time.process_time(), os.times().children_user + os.times().children_system
    done = subprocess.run([sys.executable, "-c", script, *arguments], env=home, capture_output=True, text=True)
    used = os.times().children_user + os.times().children_system - begun[1]
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr
    assert used < 0.5


# --- show -------------------------------------------------------------------------------------------------------------


def test_show_tells_configuration_parameters_and_cost(here, capsys):
    text = said(capsys, "show", "experiments/linear.py", "--units", "256")
    lines = [line.split() for line in text.splitlines()]
    assert ["units", "256", "default", "32", "of", "the", "map."] in lines and ["steps", "50"] in lines
    assert lines.count(["map", "16,384"]) == 2 and lines.count(["kernel", "64", "x", "256", "16,384"]) == 2
    assert ["scale", "scalar", "1"] in lines and lines.count(["16,385", "parameters"]) == 2
    assert "updates    50, 10 a call, 21.3 epochs" in text and "updates    50, 21.3 epochs" in text
    assert text.count("data       300 rows, 2 batches an epoch; batches of 128") == 2
    assert text.count("state      parameters 65.5 kB, optimizer 0 B") == 2
    assert text.index("stage first") < text.index("stage second")
    told = [line for line in text.splitlines() if "floating-point" in line]
    # forward and the gradient of the kernel, 2 B n m each; the squares, their sums and the update are small
    for line in told:
        flops = float(line.split()[2]) * {"k": 1e3, "M": 1e6}[line.split()[3]]
        assert 4 * 128 * 64 * 256 <= flops <= 1.1 * 4 * 128 * 64 * 256
    assert len(told) == 2


def test_show_says_when_the_compiler_says_nothing():
    class Silent:
        def cost_analysis(self):
            raise NotImplementedError

        def memory_analysis(self):
            return None

    assert cost_of(Silent()) == cost_of(lambda: None) == Cost(None, None, None, None)


def test_show_of_a_run_marks_what_differs_from_the_file(here, capsys):
    from genjax.fields import load
    from genjax.record import configuration

    loaded = load("experiments/linear.py")
    values = {"units": 4, "steps": 50, "batch_size": 128}
    config = configuration(loaded, values, {"precision": "float32", "parallel": "jit", "devices": None, "seed": 3})
    run_directory(here / "one", config={**config, "facts": {}, "run_id": "one"})
    (here / "one" / "experiment.py").write_text(LINEAR.lstrip())
    text = said(capsys, "show", "one")
    assert ["units", "4", "default", "32", "of", "the", "map."] in [line.split() for line in text.splitlines()]
    assert "257 parameters" in text


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["show"], "an experiment file or a run directory is missing"),
        (["show", "experiments/linaer.py"], "did you mean experiments/linear.py?"),
        (["show", "experiments"], "a directory, not an experiment file"),
        (["show", "experiments/linear.py", "--unit", "3"], "did you mean --units?"),
        (["show", "experiments/linear.py", "--units", "0"], "--units 0"),
        (["show", "experiments/linear.py", "--batch-size", "301"], "301"),
        (["show", "experiments/linear.py", "--devices", "9"], "devices=9"),
        (["data"], "what to do is missing"),
        (["data", "prepair"], "did you mean prepare?"),
        (["data", "prepare"], "the name of a set is missing"),
        (["data", "prepare", "mnits"], "mnist"),
        (["data", "check", "cifar"], "cifar"),
        (["data", "check", "digits", "--from", "x"], "takes no --from"),
        (["data", "list", "digits"], "takes no name"),
        (["data", "check", "mnist", "--data-dir", "empty"], "genjax data prepare mnist"),
        (["data", "prepare", "mnist", "--from", "nowhere"], "nowhere"),
        (["doctor", "--fix"], "unknown option --fix"),
    ],
)
def test_bad_input_is_told_in_three_lines(here, capsys, arguments, told):
    text = said(capsys, *arguments, code=2)
    assert told in text and text.startswith("error: ") and 1 <= len(text.splitlines()) <= 3


# --- data -------------------------------------------------------------------------------------------------------------


def test_data_sets_are_listed_and_checked(here, capsys):
    lines = [line.split() for line in said(capsys, "data", "list", "--data-dir", "empty").splitlines()]
    assert lines[0] == ["name", "state", "rows", "licence"] and ["digits", "ready", "1,797", "CC", "BY", "4.0"] in lines
    assert next(line for line in lines if line[0] == "mnist")[1:3] == ["not", "prepared"]
    assert said(capsys, "data", "check", "digits").startswith("1,297 + 250 + 250 rows, values in range")
    assert said(capsys, "data", "prepare", "digits") == "digits needs no preparation.\n"


# --- doctor -----------------------------------------------------------------------------------------------------------


def test_a_healthy_machine_has_no_failure(here, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "foreign_distribution", lambda: None)
    lines = said(capsys, "doctor", "--data-dir", "sets").splitlines()
    assert lines[-1].startswith("0 failed, ") and not any(line.startswith("fail") for line in lines)
    assert sum("jaxlib" in line and "optax" in line for line in lines) == 1
    assert any("1 x cpu (cpu)" in line for line in lines)
    assert any(line.startswith(f"ok    data sets go to {here}/sets, not made yet: ") for line in lines)


def plant(site, package=False):
    """What pip leaves of PyPI's genjax."""
    (site / "genjax-0.10.3.dist-info").mkdir(parents=True)
    (site / "genjax-0.10.3.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: genjax\nVersion: 0.10.3\n")
    (site / "genjax-0.10.3.dist-info" / "RECORD").write_text("genjax/__init__.py,,\n")
    if package:
        (site / "genjax").mkdir()
        (site / "genjax" / "__init__.py").write_text("raise ImportError('the other project')\n")


def test_the_other_project_of_this_name_is_found(tmp_path, monkeypatch):
    plant(tmp_path / "site", package=True)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    (finding,) = doctor.import_name()
    assert finding.level == "fail" and "the other project named genjax (0.10.3) is installed;" in finding.what
    assert f"gives {tmp_path}/site/genjax" in finding.what and "uninstall genjax" in finding.remedy


def test_the_other_project_that_mixed_its_files_into_this_one_is_found(monkeypatch, tmp_path):
    plant(tmp_path)
    (tmp_path / "genjax-0.10.3.dist-info" / "RECORD").write_text(f"{doctor.HERE}/cli.py,,\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    (finding,) = doctor.import_name()
    assert finding.level == "fail" and "has written into this library's own folder" in finding.what


def test_another_copy_in_front_is_found(monkeypatch, tmp_path):
    (tmp_path / "genjax").mkdir()
    (tmp_path / "genjax" / "__init__.py").write_text("")
    monkeypatch.setattr(doctor, "foreign_distribution", lambda: None)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (finding,) = doctor.import_name()
    assert (finding.level, finding.remedy) == ("fail", f"remove {tmp_path} from PYTHONPATH")


def test_the_doctor_asks_for_what_the_library_depends_on():
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    assert {Requirement(line).name for line in project["dependencies"]} | {"jaxlib"} == set(doctor.REQUIRED)


def test_a_missing_package_fails(monkeypatch):
    monkeypatch.setattr(doctor, "REQUIRED", ("jax", "a-package-that-is-not-there"))
    ok, missing = doctor.packages()
    assert "jax " in ok.what and missing[:2] == ("fail", "not installed: a-package-that-is-not-there")


@pytest.mark.parametrize(("mode", "level"), [(0o700, "ok"), (0o750, "warn"), (0o777, "fail"), (0o720, "fail")])
def test_a_cache_that_others_can_write_fails(monkeypatch, tmp_path, mode, level):
    import jax

    directory = tmp_path / "cache"
    directory.mkdir()
    directory.chmod(mode)
    (directory / "program").write_bytes(bytes(3_000_000))
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(directory))
    try:
        (finding,) = doctor.cache()
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert finding.level == level and f"3 MB, mode {mode:04o}" in finding.what


@pytest.mark.parametrize(("free", "level"), [(6e9, "ok"), (1e9, "warn"), (1e8, "fail")])
def test_free_space_is_judged(monkeypatch, tmp_path, free, level):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=int(free)))
    findings = list(doctor.places("sets"))
    assert [finding.level for finding in findings] == [level, level]


def test_a_place_that_cannot_be_written_fails(monkeypatch, tmp_path):
    def refuse(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    monkeypatch.chdir(tmp_path)
    assert [(f.level, "Permission denied" in f.what) for f in doctor.places("sets")] == [("fail", True)] * 2


def test_a_missing_home_and_a_check_that_breaks_are_findings(here, monkeypatch, capsys):
    monkeypatch.setenv("HOME", "/nowhere/at/all")
    monkeypatch.setenv("GENJAX_DATA_DIR", str(here))
    assert next(doctor.places(None)).level == "warn"

    def broken():
        yield from ()
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(doctor, "computation", broken)
    assert "fail  broken: ZeroDivisionError: division by zero" in capture(capsys, ["doctor"], 4)


def capture(capsys, arguments, code):
    assert cli.main(arguments) == code
    return capsys.readouterr().out


def test_a_reader_that_has_seen_enough_ends_a_command_quietly(here):
    for number in range(700):  # more than a pipe holds
        run_directory(here / "runs" / f"{number:0>90}")
    home = str(Path(cli.__file__).parent.parent)
    line = f"{sys.executable} -m genjax list runs | head -n 1"
    done = subprocess.run(["sh", "-c", line], env={**os.environ, "PYTHONPATH": home}, capture_output=True, text=True)
    assert done.stdout.startswith("run ") and done.stderr == ""
