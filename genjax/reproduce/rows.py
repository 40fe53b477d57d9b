"""The rows that the experiments of a folder declare, and the command that each of them is trained by."""

import difflib
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from genjax.arguments import parse
from genjax.errors import BadInput
from genjax.fields import Loaded, check_values
from genjax.record import jsonable
from genjax.run import TrainOptions
from genjax.sweep.processes import FORBIDDEN, without
from genjax.targets import Target, read_targets

USUAL = {"seed": 0, "precision": "float32"}


class Row(NamedTuple):
    """A target and the experiment that declares it."""

    path: Path
    target: Target


def read_rows(folder: Path) -> dict[str, Row]:
    """All rows of a folder's experiments by name, in the order of their numbers.

    Raises:
      BadInput: no such folder, no row in it, a row that is declared twice, a row against one that is not there.
    """
    found: dict[str, Row] = {}
    for path in sorted(Path(folder).glob("*.py")):
        for target in read_targets(path):
            if target.row in found:
                twice = f"row {target.row} stands in {found[target.row].path} and in {path}"
                raise BadInput(twice, "each row of a paper once", "rename one of them")
            found[target.row] = Row(path, target)
    if not found:
        what = f"{folder} declares no row of a paper" if Path(folder).is_dir() else f"there is no folder {folder}"
        raise BadInput(what, "TARGETS = (Target(...),) in an experiment file", "run it beside experiments/")
    lost = next((row for row in found.values() if row.target.versus not in ("", *found)), None)
    if lost is not None:
        raise BadInput(f"row {lost.target.row} is compared with {lost.target.versus}", "allowed: another declared row")
    return dict(sorted(found.items(), key=lambda item: int(item[0].partition("-")[0])))


def pick_rows(rows: Mapping[str, Row], names: Sequence[str], cost: str | None) -> list[Row]:
    """The rows that are named, or all of a class; a row that others are compared with comes before them.

    Raises:
      BadInput: a name that no row has (with the nearest), a class of no row.
    """
    for name in names:
        if name not in rows:
            near = difflib.get_close_matches(name, rows, 1, 0.5)
            allowed = f"did you mean {near[0]}?" if near else f"rows: {', '.join(rows)}"[:300]
            raise BadInput(f"there is no row {name!r}"[:120], allowed, "genjax reproduce lists them")
    picked = [rows[name] for name in dict.fromkeys(names)]
    picked += [row for row in rows.values() if row.target.cost == cost and row not in picked]
    if cost and not any(row.target.cost == cost for row in picked):
        raise BadInput(
            f"no row is of class {cost}", f"classes: {', '.join(sorted({r.target.cost for r in rows.values()}))}"
        )
    return sorted(picked, key=lambda row: bool(row.target.versus))


def run_name(rows: Mapping[str, Row], row: Row) -> str:
    """The directory of a row's run: rows of one experiment with the same options share the first one's."""
    same = lambda other: (other.path, other.target.options) == (row.path, row.target.options)
    return next(name for name, other in rows.items() if same(other))


def words_of(target: Target, given: Sequence[str] = ()) -> list[str]:
    """The options of a row's command; those that are given take the place of those declared.

    >>> base = Target("2-k5", 85.54, "nats", "test/nll", "mnist", "b", "", "", options="--k 5 --batch-size 20")
    >>> words_of(base, ["--steps", "10", "--k=1"])
    ['--batch-size', '20', '--steps', '10', '--k=1']
    """
    names = [word.partition("=")[0] for word in given if word.startswith("--")]
    both = [*names, *(f"--{name[5:]}" if name.startswith("--no-") else f"--no-{name[2:]}" for name in names)]
    return [*without(shlex.split(target.options), both), *given]


def values_of(loaded: Loaded, words: Sequence[str]) -> dict[str, Any]:
    """The fields of an experiment under some options, and the precision, as a run's config.json has them.

    Raises:
      BadInput: options that `genjax train` would refuse, or that are not the user's to choose here.
    """
    options, values = parse(f"genjax train {loaded.path}", loaded.about, TrainOptions, words, loaded.fields)
    chosen = next((name for name in FORBIDDEN if getattr(options, name) != TrainOptions._field_defaults[name]), None)
    if chosen is not None:
        raise BadInput(f"{option(chosen)} of a row", "genjax reproduce chooses it", "leave it out")
    check_values(loaded.fields, values)
    return {**jsonable(values), "precision": options.precision}


def departures(loaded: Loaded, target: Target, config: Mapping[str, Any]) -> list[str]:
    """What of a run's configuration is not as its row declares it; the seed may be any.

    A field of type `str` names a file or a run of the user's: what stands in it is told by the name of the data set and
    by the kind of the number.
    """
    own = {**config["experiment"]["fields"], "precision": config.get("precision", "float32")}
    paths = [word for name in _paths(loaded) if own.get(name) for word in (option(name), str(own[name]))]
    declared = values_of(loaded, words_of(target, paths))
    return [option_text(name, own.get(name)) for name in declared if own.get(name) != declared[name]]


def command_of(loaded: Loaded, config: Mapping[str, Any]) -> str:
    """The command of a run, without what would tell of its machine: for its files and runs stand their fields."""
    told = config["experiment"]
    fields, defaults = told["fields"], told.get("defaults", {})
    changed = {name: value for name, value in fields.items() if name not in defaults or defaults[name] != value}
    changed |= {name: name.upper() for name in _paths(loaded) if name in changed}
    changed |= {name: config[name] for name, usual in USUAL.items() if config.get(name, usual) != usual}
    return " ".join([f"genjax train experiments/{told['name']}.py", *(option_text(*one) for one in changed.items())])


def option(name: str) -> str:
    """A field's option on the command line."""
    return f"--{name.replace('_', '-')}"


def option_text(name: str, value: Any) -> str:
    """A field and its value as the command line takes them.

    >>> option_text("learning_rate", 0.1), option_text("centred", False), option_text("hidden", [8, 8])
    ('--learning-rate 0.1', '--no-centred', '--hidden 8 8')
    """
    if isinstance(value, bool):
        return option(name) if value else f"--no-{option(name)[2:]}"
    return f"{option(name)} {' '.join(map(str, value)) if isinstance(value, list) else value}".rstrip()


def _paths(loaded: Loaded) -> list[str]:
    return [field.name for field in loaded.fields if field.type in (str, str | None)]
