"""The last number of a row as a small JSON file, read off a finished run, and what it is worth.

    reproduced   inside what the row wants, by the command that it declares
    partial      by another command: fewer updates, another size, another precision
    missed       by the declared command, and outside; also where it is better than was published

That a number is exact, a bound or an estimate is part of the record and of the table: a bound inside the tolerance says
that the model is at least so good, an estimate says what its kind says.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from genjax.errors import BadInput, Damaged
from genjax.fields import Loaded
from genjax.listing import read_object
from genjax.record import read_config
from genjax.report import write_whole
from genjax.reproduce.rows import Row, command_of, departures
from genjax.targets import Target, interval

STATES = ("reproduced", "partial", "missed")
SLACK = 1e-9  # of the figure: 8.58 - 8.43 is 0.15 and a rounding


class Record(NamedTuple):
    """results/ROW.json."""

    row: str
    status: str  # one of STATES
    value: float
    standard_error: float | None
    unit: str
    measure: str
    kind: str  # exact, a bound, an estimate: as the run says it
    examples: int | None  # that it is a mean over
    weights: str  # ema or raw
    step: int | None  # of the state that was measured
    data: str
    command: str
    departs: tuple[str, ...]  # from the declared command
    date: str
    machine: str  # the device's kind, or the number of cores; no host
    jax: str | None
    commit: str
    precision: str
    config: str | None  # digest of the configuration
    seconds: float | None  # of updates
    note: str = ""
    transcribed: bool = False  # from the experiment's header, where no run directory was at hand


def judge(target: Target, value: float, departs: tuple[str, ...], other: float | None = None) -> str:
    """What a number is worth: see the head of this file.

    Args:
      target: what was wanted.
      value: what was measured.
      departs: from the declared command.
      other: the value of the row that it is compared with, where it is.

    >>> made = Target("14-made", 94.5, "nats", "test/nll", "binarized_mnist", "a", "", "", tolerance=1.0)
    >>> judge(made, 94.48, ()), judge(made, 95.6, ()), judge(made, 93.0, ()), judge(made, 94.48, ("--steps 9",))
    ('reproduced', 'missed', 'missed', 'partial')
    """
    if departs:
        return "partial"
    low, high = interval(target)
    slack = SLACK * abs(target.figure)
    told = value - (other or 0.0)
    return "reproduced" if low - slack <= told <= high + slack else "missed"


def record_of(row: Row, loaded: Loaded, run: Path, known: Mapping[str, Record]) -> Record:
    """The record of a finished run.

    Args:
      row: what the run is to show.
      loaded: the row's experiment.
      run: its directory.
      known: records of other rows.

    Raises:
      BadInput: another experiment, an unfinished run, no such measure, other data, a row to compare with that has no
        record.
    """
    target, config, told = row.target, read_config(run), read_object(run / "results.json")
    line = _line(row, run, config, told)
    departs = tuple(departures(loaded, target, config))
    check_compared([row], known)
    other = known.get(target.versus)
    place = read_object(run / "environment.json")
    value = float(line["value"])
    return Record(
        row=target.row, status=judge(target, value, departs, other.value if other else None), value=value,
        standard_error=line.get("standard_error") or None, unit=str(line.get("unit", "")), measure=target.measure,
        kind=str(line.get("kind", "")), examples=line.get("count"), weights=str(line.get("weights", "")),
        step=line.get("step"), data=target.data, command=command_of(loaded, config), departs=departs,
        date=str(place.get("started", ""))[:10] or "not recorded", machine=_machine(place), jax=place.get("jax"),
        commit=str(line.get("code", "not recorded")), precision=str(line.get("trained", config.get("precision", ""))),
        config=line.get("config"), seconds=_rounded(told.get("seconds")),
    )  # fmt: skip


def check_compared(picked: Sequence[Row], known: Mapping[str, Record]) -> None:
    """Refuse rows that are compared with one that has no record, and will have none.

    Raises:
      BadInput: names both.
    """
    at_hand = {*known, *(row.target.row for row in picked if not row.target.versus)}
    for target in (row.target for row in picked if row.target.versus not in ("", *at_hand)):
        missing = f"row {target.row} is compared with {target.versus}, of which there is no result"
        raise BadInput(missing, "the other row first", f"genjax reproduce {target.versus} {target.row}")


def read_records(folder: Path) -> dict[str, Record]:
    """The records of a folder by row; none where it is not there.

    Raises:
      Damaged: a file that is no record, named.
    """
    return {path.stem: _read(path) for path in sorted(Path(folder).glob("[0-9]*-*.json"))}


def write_record(folder: Path, record: Record) -> Path:
    """Write results/ROW.json; the file is whole, or as it was."""
    path = Path(folder) / f"{record.row}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(record._asdict(), indent=1, ensure_ascii=False) + "\n")
    return path


def _line(row: Row, run: Path, config: Mapping[str, Any], told: Mapping[str, Any]) -> Mapping[str, Any]:
    """The result line of the row's measure."""
    target, name = row.target, config["experiment"]["name"]
    if name != row.path.stem:
        told_name = f"{run} is a run of {name}.py; row {target.row} is one of {row.path.name}"
        raise BadInput(told_name, "a run of the row's own experiment", f"genjax reproduce {target.row}")
    if told.get("state") != "finished":
        remedy = f"genjax resume {run}"
        raise BadInput(f"{run} is not finished: {told.get('state', 'started')}", "a finished run is recorded", remedy)
    lines = [line for line in told.get("results") or [] if isinstance(line, dict)]
    line = next((line for line in lines if line.get("name") == target.measure), None)
    if line is None or not isinstance(line.get("value"), int | float):
        names = ", ".join(str(line.get("name")) for line in lines)
        raise BadInput(
            f"{run} does not tell {target.measure}, by which row {target.row} is judged", f"it has: {names}"[:300]
        )
    if line.get("data") != target.data or line.get("unit") != target.unit:
        own, wanted = (
            f"{one[0]}, in {one[1]}" for one in ((line.get("data"), line.get("unit")), (target.data, target.unit))
        )
        named = isinstance(config["experiment"]["fields"].get("data"), str)
        remedy = f"a set has the name of its file: call it {target.data}" if named else "numbers of one set alone"
        raise BadInput(f"{run} was measured on {own}", f"row {target.row} is of {wanted}", remedy)
    return line


def _machine(place: Mapping[str, Any]) -> str:
    """What computed: the kind of the devices, or how many cores; nothing that tells which host."""
    if place.get("platform") in (None, "cpu"):
        return f"cpu, {place['cpus']} cores" if place.get("cpus") else "not recorded"
    count = place.get("device_count", 1)
    return f"{count} x {place.get('device_kind')}" if count != 1 else str(place.get("device_kind"))


def _rounded(seconds: Any) -> float | None:
    return round(float(seconds), 1) if isinstance(seconds, int | float) else None


def _read(path: Path) -> Record:
    told = read_object(path)
    try:
        record = Record(**{**told, "departs": tuple(told["departs"])})
    except (TypeError, KeyError):
        raise Damaged(f"{path} is no record of a row", f"fields: {', '.join(Record._fields)}"[:300]) from None
    if record.row != path.stem or record.status not in STATES or not isinstance(record.value, int | float):
        raise Damaged(f"{path} is no record of row {path.stem}", f"its row is {record.row!r}, {record.status!r}"[:200])
    return record
