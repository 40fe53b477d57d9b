"""What is compared: finished runs, and experiments that are trained first.

An argument is a run directory, or what would follow `genjax train`: an experiment file, with its options in the same
word.  `@FILE` stands for a list of them, one a line, whose paths begin at the list's folder.
"""

import hashlib
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from genjax.arguments import parse
from genjax.errors import BadInput
from genjax.experiment import Experiment
from genjax.fields import Loaded, build, load
from genjax.listing import read_object
from genjax.record import holds, read_config
from genjax.run import TrainOptions, resume_arguments
from genjax.sweep.processes import FORBIDDEN, Job


class Member(NamedTuple):
    """One of those compared."""

    name: str
    directory: Path  # of its run
    job: Job | None  # how it is trained; None: it is there, and finished
    loaded: Loaded
    values: Mapping[str, Any]  # of the experiment's fields


def read_members(words: Sequence[str], directory: Path) -> list[Member]:
    """The members that the command line names.

    Args:
      words: runs, experiments with their options, lists.
      directory: where experiments are trained.

    Raises:
      BadInput: fewer than two, one named twice, a list that cannot be read, what `genjax train` would refuse.
    """
    members = [_member(*line, directory) for word in words for line in _lines(word)]
    if len(members) < 2:
        raise BadInput(
            f"{len(members)} to compare", "at least two runs or experiments", "genjax compare RUN 'FILE --steps 500'"
        )
    names = [member.name for member in members]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise BadInput(f"{twice} is named twice", "every run or experiment once; runs of one name: rename a directory")
    places = [member.directory.resolve() for member in members]
    same = next((member for i, member in enumerate(members) if places[i] in places[:i]), None)
    if same is not None:
        first = members[places.index(same.directory.resolve())].name
        raise BadInput(f"{first} and {same.name} are one run", "every run or experiment once")
    return members


def lines_of(member: Member) -> list[Mapping[str, Any]]:
    """The result lines of a finished run."""
    lines = read_object(member.directory / "results.json").get("results") or []
    return [line for line in lines if isinstance(line, dict) and isinstance(line.get("value"), int | float)]


def check_same_data(members: Sequence[Member]) -> str:
    """Refuse, before anything is trained, what is tested on different examples, or on one set prepared in two ways.

    Returns:
      The name of the data set.

    Raises:
      BadInput: names the two and their data, or one that measures nothing on test examples.
    """
    first = None
    for name, data, tested in (_tested(member) for member in members):
        first = first or (name, data, tested)
        if (data, tested) != first[1:]:
            there = "the same name, other examples" if data == first[1] else f"{name}: {data}"
            raise BadInput(
                f"{first[0]} and {name} are tested on different data",
                f"{first[0]}: {first[1]}; {there}",
                "compare runs of one data set, tested on the same examples",
            )
    return first[1] if first else ""


def tested_on(experiment: Experiment) -> str:
    """A digest of the test examples, without labels: what two runs must share to be compared.

    How they are prepared is not part of it; that one set is binarized in several ways is told by its name.
    """
    tests = [e for name, e in sorted(experiment.evaluations.items()) if name.startswith("test")]
    digest = hashlib.sha256()
    for field, array in sorted(tests[0].split.arrays.items()) if tests else ():
        if field != "label":
            digest.update(f"{field} {array.dtype.str} {array.shape};".encode() + array.tobytes())
    return digest.hexdigest() if tests else ""


def _tested(member: Member) -> tuple[str, str, str]:
    try:
        experiment = build(member.loaded, member.values)
    except BadInput as error:
        raise BadInput(f"{member.name}: {error.lines[0]}", *error.lines[1:]) from error
    tested = tested_on(experiment)
    if not tested:
        raise BadInput(
            f"{member.name} measures nothing on test examples",
            'an experiment with an evaluation whose name begins with "test"',
        )
    return member.name, experiment.data, tested


def _lines(word: str) -> list[tuple[str, Path]]:
    if not word.startswith("@"):
        return [(word, Path())]
    path = Path(word[1:])
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"the list {path} cannot be read: {error}"[:200], "a text file, one run or experiment a line"
        ) from None
    return [(line.partition("#")[0].strip(), path.parent) for line in lines if line.partition("#")[0].strip()]


def _member(text: str, folder: Path, directory: Path) -> Member:
    try:
        first, *rest = shlex.split(text)
    except ValueError as error:
        raise BadInput(f"{text[:120]!r}: {error}", "as after genjax train, or a run directory") from None
    path = folder / first
    if path.is_dir():
        if rest:
            raise BadInput(f"{text[:120]!r}: a run has no options", "a run directory alone, or a file with options")
        read_config(path)
        if read_object(path / "results.json").get("state") != "finished":
            raise BadInput(f"{path} is not finished", "finished runs are compared", f"genjax resume {path}")
        own, _ = resume_arguments(path)
        return Member(path.absolute().name, path, None, own, {field.name: field.default for field in own.fields})
    loaded = load(path)
    options, values = parse(f"genjax train {path}", loaded.about, TrainOptions, rest, loaded.fields)
    chosen = next((name for name in FORBIDDEN if getattr(options, name) != TrainOptions._field_defaults[name]), None)
    if chosen is not None:
        raise BadInput(f"--{chosen.replace('_', '-')} of {first}", "genjax compare chooses it", "leave it out")
    name = _name(loaded.name, rest)
    there = holds(directory / name, loaded, values, options.seed, options.precision)
    job = None if there else Job(name, text, (str(path), *rest))
    return Member(name, directory / name, job, loaded, values)


def _name(name: str, options: Sequence[str]) -> str:
    words = re.sub(r"[^A-Za-z0-9._]+", "_", "_".join(options)).strip("_.")
    return f"{name}-{words}"[:100] if words else name
