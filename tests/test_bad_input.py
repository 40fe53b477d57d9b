"""Bad input on the command line: exit 2, at most three lines that name field and value, nothing changed.

What is wrong inside an experiment's own code stands in `test_bad_experiment.py`, and damaged data in
`test_data_bad_input.py`.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from refusals import EXPERIMENT, Case, case, judge, run_case, tree

from genjax.cli import main


def file(name: str, content: bytes | str) -> Callable[[Path], object]:
    """Before the command, a file is written."""

    def write(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return write


def removed(pattern: str) -> Callable[[Path], object]:
    def remove(folder: Path) -> None:
        for path in folder.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return remove


def config(**changes: object) -> Callable[[Path], object]:
    """Values of the run's config.json are replaced; of the experiment's fields where there is such a field."""

    def change(folder: Path) -> None:
        path = folder / "run" / "config.json"
        values = json.loads(path.read_text())
        for name, value in changes.items():
            (values["experiment"]["fields"] if name in values["experiment"]["fields"] else values)[name] = value
        path.write_text(json.dumps(values))

    return change


def newer_format(folder: Path) -> None:
    from genjax.checkpoint import seal

    for path in (folder / "run" / "checkpoints").iterdir():
        body = json.loads((path / "SEAL.json").read_text())
        body.pop("digest")
        body["version"] = seal.VERSION + 1
        (path / "SEAL.json").write_text(json.dumps({**body, "digest": seal._digest(body)}))


def flipped(newest: int) -> Callable[[Path], object]:
    """One byte of the largest file of each of the newest checkpoints is another."""

    def flip(folder: Path) -> None:
        for place in sorted((folder / "run" / "checkpoints").iterdir())[-newest:]:
            path = max((p for p in place.rglob("*") if p.is_file() and p.name != "SEAL.json"), key=os.path.getsize)
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)

    return flip


TRAIN, NEW = "train {file} --workdir new", "train {file} --workdir"
LONG = "x" * 300

# fmt: off
COMMANDS = {
    "no such command": case("frobnicate", "'frobnicate'", "train"),
    "a command mistyped": case("trian {file}", "'trian'", "did you mean train?"),
    "no file": case("train", "FILE", "missing"),
    "an option for a file": case("train --steps 3", "FILE", "before the options"),
    "no such file": case("train tinny.py", "tinny.py does not exist", "did you mean tiny.py"),
    "a long name of a file": case(f"train {LONG}.py", "does not exist"),
    "a directory for a file": case("train run/pictures", "run/pictures", "directory"),
    "a run for a file": case("train {run}", "run is a run directory", "genjax resume run"),
    "a checkpoint for a file": case("train run/checkpoints/00-mean-000000006", "000006 is a part of the run", "resume"),
    "a notebook for a file": case("train tiny.ipynb", "tiny.ipynb", ".py", prepare=file("tiny.ipynb", "{}")),
    "an unknown option": case(f"{TRAIN} --lerning-rate 1", "--lerning-rate", "did you mean --learning-rate?"),
    "an option of nothing": case(f"{TRAIN} --zzz 1", "--zzz", "--learning-rate"),
    "a stray word": case(f"{TRAIN} 3", "'3'"),
    "an option of another command": case("evaluate {run} --learning-rate 1", "--learning-rate"),
    "a value is missing": case(f"{TRAIN} --steps", "--steps", "int"),
}
FIELDS = {
    "a word for a whole number": case(f"{TRAIN} --steps many", "--steps", "'many'", "int"),
    "a fraction for a whole number": case(f"{TRAIN} --steps 1.5", "--steps", "'1.5'", "int"),
    "a word for a number": case(f"{TRAIN} --learning-rate fast", "--learning-rate", "'fast'", "float"),
    "a list for a number": case(f"{TRAIN} --learning-rate 0.1,0.2", "--learning-rate", "0.1,0.2"),
    "no such choice": case(f"{TRAIN} --kind mode", "--kind", "'mode'", "allowed: mean, median"),
    "a word in a tuple": case(f"{TRAIN} --sizes 2 b", "--sizes", "'b'"),
    "a value for a switch": case(f"{TRAIN} --fast maybe", "'maybe'"),
    "learning rate negative": case(f"{TRAIN} --learning-rate -1", "--learning-rate -1.0", "(0, inf)"),
    "learning rate zero": case(f"{TRAIN} --learning-rate 0", "--learning-rate 0.0", "(0, inf)"),
    "learning rate NaN": case(f"{TRAIN} --learning-rate nan", "--learning-rate nan", "(0, inf)"),
    "learning rate infinite": case(f"{TRAIN} --learning-rate inf", "--learning-rate inf", "(0, inf)"),
    "b1 above one": case(f"{TRAIN} --b1 1.5", "--b1 1.5", "[0, 1)", "default is 0.9"),
    "steps negative": case(f"{TRAIN} --steps -1", "--steps -1", "[0, inf)"),
    "steps zero": case(f"{TRAIN} --steps 0", code=0),
    "batch zero": case(f"{TRAIN} --batch-size 0", "--batch-size 0", "[1, inf)"),
    "batch larger than the data": case(f"{TRAIN} --batch-size 65", "batch_size = 65", "64 rows", "--batch-size 64"),
    "limits of one's own": case(f"{TRAIN} --b1 3", "--b1 3.0", "(1, 2]", edits=(
        "b1: float = 0.9", "b1: Annotated[float, Limits(1, 2, without_low=True)] = 1.5")),
}
OPTIONS = {
    "seed negative": case(f"{TRAIN} --seed -1", "--seed -1", "4294967295"),
    "seed 2^32": case(f"{TRAIN} --seed {2**32}", f"--seed {2**32}", "4294967295"),
    "seed 2^40, which is JAX's 0": case(f"{TRAIN} --seed {2**40}", f"--seed {2**40}"),
    "seed a fraction": case(f"{TRAIN} --seed 0.5", "--seed", "'0.5'"),
    "more devices than there are": case(f"{TRAIN} --devices 7", "devices=7", "1 to 1"),
    "no device": case(f"{TRAIN} --devices 0", "devices=0", "1 to 1"),
    "precision of nothing": case(f"{TRAIN} --precision float16", "--precision", "'float16'", "bfloat16"),
    "parallel of nothing": case(f"{TRAIN} --parallel ddp", "--parallel", "'ddp'", "fsdp"),
    "log every 0": case(f"{TRAIN} --log-every 0", "--log-every 0", "from 1"),
    "checkpoint every -5": case(f"{TRAIN} --checkpoint-every -5", "--checkpoint-every -5", "from 1"),
    "evaluate every 0": case(f"{TRAIN} --evaluate-every 0", "--evaluate-every 0", "from 1"),
    "keep 0": case(f"{TRAIN} --keep 0", "--keep 0", "from 1"),
    "a lone number of processes": case(f"{TRAIN} --processes 2", "processes=2", "--coordinator"),
}
NAMES = {
    "run name ..": case(f"{NEW} ..", "--workdir ..", "at most 100"),
    "run name below ..": case(f"{NEW} runs/..", "--workdir runs/..", "at most 100"),
    "run name /": case(f"{NEW} /", "--workdir /", "letters"),
    "run name of 300 characters": case(f"{NEW} {LONG}", "--workdir xxx", "at most 100"),
    "a folder of 300 characters": case(f"{NEW} {LONG}/a", "cannot be written", "--workdir"),
    "run name with a blank": case(f"{NEW} 'my run'", "--workdir my run", "letters"),
    "run name hidden": case(f"{NEW} .hidden", "--workdir .hidden", "letters"),
    "run name empty": case(f"{NEW} ''", "--workdir", "letters"),
    "a file for a run": case(f"{NEW} tiny.py", "tiny.py", "File exists"),
    "below a file": case(f"{NEW} tiny.py/run", "tiny.py/run", "Not a directory"),
    "a folder of other things": case(f"{NEW} thesis", "thesis", "a.tex", prepare=file("thesis/a.tex", "!")),
    "a run of another experiment": case("train other.py --workdir {run}", "experiment-name tiny -> other",
                                        prepare=file("other.py", EXPERIMENT)),
}
RESUMED = {
    "finished": case("train {file} --workdir {run}", code=0),
    "finished, by resume": case("resume {run}", code=0),
    "another seed": case("resume {run} --seed 1", "seed 0 -> 1", "--allow-change seed"),
    "another batch size": case("resume {run} --batch-size 4", "batch_size 8 -> 4"),
    "another precision": case("resume {run} --precision bfloat16", "precision float32 -> bfloat16"),
    "more steps, not asked for": case("resume {run} --steps 9", "steps 6 -> 9", "--allow-change steps"),
    "three other fields": case("resume {run} --seed 3 --b1 0.5 --kind median", "b1 0.9 -> 0.5; kind mean -> median"),
    "only one of two allowed": case("resume {run} --b1 0.5 --seed 1 --allow-change b1", "seed 0 -> 1"),
    "nothing of that name to allow": case("resume {run} --allow-change stepz", "stepz", "did you mean steps?"),
    "another code": case("train {file} --workdir {run}", "source-code", edits=("zeros((1, 2))", "ones((1, 2))")),
    "other data": case("train {file} --workdir {run}", "source-code", "data-set", edits=("rng(0)", "rng(1)")),
    "no run": case("resume nowhere", "nowhere", "config.json"),
    "a file for a run to resume": case("resume {file}", "tiny.py", "config.json"),
    "a checkpoint for a run to resume": case("resume run/checkpoints", "run/checkpoints", "a part of the run"),
    "the copy is lost": case("resume {run}", "experiment.py", "genjax train tiny.py --workdir run",
                             prepare=removed("run/experiment.py")),
    "the copy was edited": case("resume {run}", "source-code", prepare=file("run/experiment.py", EXPERIMENT + "#\n")),
    "the copy is broken": case("resume {run}", "experiment.py, line 1", prepare=file("run/experiment.py", "def :")),
    "config cut": case("resume {run}", "config.json", code=4, prepare=file("run/config.json", '{"seed": ')),
    "config of nothing": case("resume {run}", "config.json", code=4, prepare=file("run/config.json", "[]")),
    "config without facts": case("resume {run}", "config.json", "facts", code=4, prepare=file(
        "run/config.json", '{"experiment": {"name": "a", "file": "a", "folder": "a", "fields": {}}, "run_id": "a"}')),
    "config not UTF-8": case("resume {run}", "config.json", code=4, prepare=file("run/config.json", b"\xff{}")),
    "a field of another type": case("resume {run}", "steps is 'x'", "int", code=4, prepare=config(steps="x")),
    "a seed of another type": case("resume {run}", "seed is None", "int", code=4, prepare=config(seed=None)),
    "results damaged": case("resume {run}", code=0, prepare=file("run/results.json", "{"), changes=("run/",)),
}
CHECKPOINTS = {
    "step not kept": case("evaluate {run} --step 2", "step 2", "kept: ", "6"),
    "step not kept, to sample": case("sample {run} --step 7 --out new.png", "step 7", "kept: "),
    "no checkpoint yet": case("evaluate {run}", "no checkpoint", "genjax resume run",
                              prepare=removed("run/checkpoints")),
    "a newer format": case("evaluate {run}", "format 2", "up to 1", prepare=newer_format),
    "the newest damaged": case("evaluate {run} --step 6", "00-mean-000000006", "quarantine/", code=4,
                               prepare=flipped(1), changes=("run/checkpoints", "run/quarantine")),
    "all damaged": case("sample {run} --out new.png", "no checkpoint", "00-mean-000000006", "00-mean-000000005", code=4,
                        prepare=flipped(9), changes=("run/checkpoints", "run/quarantine")),
    "evaluate nothing": case("evaluate", "RUN", "missing"),
    "evaluate nowhere": case("evaluate nowhere", "nowhere", "config.json"),
    "evaluate with a seed of 33 bits": case(f"evaluate {{run}} --seed {2**32}", "--seed 4294967296"),
    "sample 0": case("sample {run} --n 0", "--n 0", "from 1"),
    "sample -3": case("sample {run} --n -3", "--n -3", "from 1"),
    "sample many": case("sample {run} --n many", "--n", "'many'"),
    "sample to .gif": case("sample {run} --out a.gif", "a.gif", ".npz"),
    "sample to nowhere": case("sample {run} --out no/a.png", "no/a.png", "folder"),
    "sample to a folder": case("sample {run} --out folder.png", "folder.png",
                               prepare=lambda folder: (folder / "folder.png").mkdir()),
    "sample with a seed below 0": case("sample {run} --seed -1", "--seed -1"),
    "sample on 3 devices": case("sample {run} --devices 3", "devices=3"),
}
SWEEPS = {
    "nothing to sweep": case("sweep {file}", "nothing to sweep", "seed=0:3"),
    "an unknown field": case("sweep {file} lerning_rate=1,2", "'lerning_rate'", "did you mean learning_rate?"),
    "no values": case("sweep {file} seed=3:3", "seed=3:3", "no values"),
    "a value out of range": case("sweep {file} learning_rate=0.1,-1", "--learning-rate -1.0", "(0, inf)"),
    "a value of another type": case("sweep {file} steps=3,x", "--steps", "'x'"),
    "a value twice": case("sweep {file} seed=1,2,1", "seed=1,2,1", "twice"),
    "a field twice": case("sweep {file} seed=1 seed=2", "'seed'", "twice"),
    "too many points": case("sweep {file} seed=0:100000", "seed=0:100000", "10,000"),
    "swept and fixed": case("sweep {file} steps=3,4 --steps 5", "'steps'", "fixed"),
    "no jobs": case("sweep {file} seed=0:2 --jobs 0", "--jobs 0", "from 1"),
    "a run for a sweep": case("sweep {file} seed=0:2 --workdir {run}", "--workdir run", "no run's own"),
}
DATA = {
    "an action of nothing": case("data prepair mnist", "'prepair'", "did you mean prepare?"),
    "a set of nothing": case("data prepare mnits --data-dir sets", "'mnits'", "mnist"),
    "a set without a name": case("data check", "name of a set", "mnist"),
    "a set that is not prepared": case("data check mnist --data-dir sets", "mnist is not", "genjax data prepare mnist"),
    "originals from nowhere": case("data prepare mnist --from no --data-dir new", "--from no"),
    "show nothing": case("show nowhere.py", "nowhere.py"),
}
# fmt: on
CASES: dict[str, Case] = {
    **COMMANDS,
    **FIELDS,
    **OPTIONS,
    **NAMES,
    **RESUMED,
    **CHECKPOINTS,
    **SWEEPS,
    **DATA,
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the experiment, with checkpoints of its last three steps."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.py").write_text(EXPERIMENT)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", "tiny.py", "--workdir", "run", "--checkpoint-every", "1"]) == 0
    return folder


@pytest.fixture
def here(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory of the command: the experiment, and a copy of its finished run."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_case(CASES[name], here, lambda: capsys.readouterr().err) == []


def test_there_are_enough_cases() -> None:
    assert len(CASES) == sum(map(len, (COMMANDS, FIELDS, OPTIONS, NAMES, RESUMED, CHECKPOINTS, SWEEPS, DATA))) >= 60


TOLD = "error: --steps -1\n  allowed: from 0\n  the default is 6\n"
BEFORE = {"tiny.py": "a", "run/config.json": "b"}
PLANTED = {
    "another exit code": (1, TOLD, BEFORE),
    "nothing said": (2, "", BEFORE),
    "four lines": (2, TOLD + "  more\n", BEFORE),
    "an endless line": (2, "error: --steps -1 " + "x" * 400, BEFORE),
    "a traceback": (2, "Traceback (most recent call last):\n" + TOLD, BEFORE),
    "the value is not named": (2, TOLD.replace("-1", "is wrong"), BEFORE),
    "a file is lost": (2, TOLD, {"tiny.py": "a"}),
    "a file is changed": (2, TOLD, {**BEFORE, "run/config.json": "c"}),
    "a file is added": (2, TOLD, {**BEFORE, "run/results.json": "c"}),
}


@pytest.mark.parametrize("mistake", PLANTED)
def test_the_judge_sees_a_planted(mistake: str) -> None:
    one = case("train {file} --steps -1", "--steps -1")
    assert judge(one, 2, TOLD, BEFORE, BEFORE) == []
    code, err, after = PLANTED[mistake]
    assert len(judge(one, code, err, BEFORE, after)) >= 1


def test_the_tree_sees_every_byte_but_the_lock(here: Path) -> None:
    before = tree(here)
    (here / "run" / "LOCK").write_text("another process")
    assert tree(here) == before
    with open(here / "run" / "metrics.jsonl", "ab") as log:
        log.write(b"\n")
    assert tree(here) != before
