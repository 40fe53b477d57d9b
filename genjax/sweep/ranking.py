"""What a sweep ends with: its points in order of one measure, as a table on the terminal, `sweep.json` and a page.

Points are ranked by the measure that the experiment selects by, on validation data, so that the test set chooses
nothing.  Where the seed is swept, or `choice`, by which an experiment draws which examples have labels, a setting is
ranked by the mean over its runs, whose standard deviation tells how far two of them differ; a single run has the
standard error over its examples instead.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from genjax.fields import Loaded
from genjax.listing import read_object
from genjax.report import write_comparison, write_whole
from genjax.report.comparison import ranked
from genjax.report.layout import measured
from genjax.sweep.grid import Grid, Point, described

REPEATED = ("seed", "choice")  # whole numbers that draw: settings that differ in these alone are one
Row = Mapping[str, Any]  # run, fields, state, exit_code, message, seconds, result: as write_comparison takes them


class Ended(NamedTuple):
    """How the process of a point ended."""

    code: int
    message: str  # its error; empty where it is finished
    seconds: float


def point_row(directory: Path, point: Point, ended: Ended | None = None) -> Row:
    """What a point has reached, read from its run directory; `ended` is None where nothing was done now.

    Returns:
      {"run", "fields", "state", "exit_code", "message", "seconds", "result", "results"}; `result` is the line of
      results.json that it is ranked by, None while there is none.
    """
    return run_row(directory / point.name, point.swept, ended)


def run_row(run: Path, fields: Mapping[str, Any], ended: Ended | None = None) -> Row:
    """What a run has reached: see `point_row`."""
    config, told = read_object(run / "config.json"), read_object(run / "results.json")
    lines = [line for line in told.get("results") or [] if isinstance(line, dict) and "value" in line]
    selected = [line for line in lines if line.get("name") == config.get("select")]
    return {
        "run": str(run), "fields": dict(fields), "state": str(told.get("state") or "not started"),
        "exit_code": ended.code if ended else None, "seconds": told.get("seconds"),
        "message": str((ended and ended.message) or told.get("message") or ""),
        "result": next(iter([*selected, *lines]), None), "results": lines,
    }  # fmt: skip


def over_draws(rows: Sequence[Row]) -> list[Row]:
    """One row a setting: the mean over its runs and their standard deviation (n - 1); those without a value fall out.

    >>> lines = [{"name": "test/nll", "kind": "exact", "value": value, "standard_error": 0.5} for value in (1.0, 3.0)]
    >>> rows = [{"run": "", "fields": {"width": 4, "seed": i}, "result": line} for i, line in enumerate(lines)]
    >>> [(row["fields"], row["result"]["value"], round(row["deviation"], 4)) for row in over_draws(rows)]
    [({'width': 4}, 2.0, 1.4142)]
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row["result"] is not None and math.isfinite(row["result"]["value"]):
            line = row["result"]
            groups.setdefault(repr((_setting(row), line.get("name"), line.get("kind"))), []).append(row)
    return [_mean(group) for group in groups.values()]


def ranking_text(rows: Sequence[Row]) -> str:
    """The table for the terminal: a ranking for each measure and kind of bound, best first, then what has no value."""
    parts = [_table(name, kind, found) for (name, kind), found in ranked(over_draws(rows)).items()]
    failed = [f"  {described(row['fields'])}: {_why(row)}" for row in rows if row["result"] is None]
    return "\n".join([*parts, *(["without a value", *failed] if failed else [])])


def best_run(rows: Sequence[Row]) -> str | None:
    """The directory of the best run of the best setting; None where there is no value."""
    settings = next(iter(ranked(over_draws(rows)).values()), None)
    if not settings:
        return None
    own = [row for row in rows if row["run"] in settings[0]["runs"]]
    return str(next(iter(ranked(own).values()))[0]["run"])


def write_sweep(directory: Path, loaded: Loaded, grid: Grid, rows: Sequence[Row]) -> Path:
    """`sweep.json` and `sweep.html`; returns the page's path."""
    told = {
        "file": str(loaded.path), "name": loaded.name, "title": loaded.title, "swept": grid.swept,
        "fixed": list(grid.fixed), "points": list(rows), "ranking": _ranking(rows),
    }  # fmt: skip
    write_whole(directory / "sweep.json", json.dumps(told, indent=1))
    return write_comparison(rows, directory / "sweep.html", f"{loaded.name}: {', '.join(grid.swept)}", over_draws(rows))


def _why(row: Row) -> str:
    return ": ".join([row["state"], *row["message"].splitlines()[:1]])


def _setting(row: Row) -> dict[str, Any]:
    return {k: value for k, value in row["fields"].items() if k not in REPEATED or type(value) is not int}


def _mean(group: Sequence[Row]) -> Row:
    values = np.array([row["result"]["value"] for row in group], np.float64)
    deviation = float(values.std(ddof=1)) if len(values) > 1 else None
    return {
        "fields": _setting(group[0]), "result": {**group[0]["result"], "value": float(values.mean())},
        "deviation": deviation, "repeats": len(group), "runs": [row["run"] for row in group],
    }  # fmt: skip


def _ranking(rows: Sequence[Row]) -> list[Row]:
    kinds = ranked(over_draws(rows))
    return [
        {
            "name": name, "kind": kind, "rank": rank, "fields": row["fields"], "value": row["result"]["value"],
            "deviation": row["deviation"], "repeats": row["repeats"], "runs": row["runs"],
            "standard_error": row["result"].get("standard_error") if row["repeats"] == 1 else None,
        }
        for (name, kind), found in kinds.items()
        for rank, row in enumerate(found, 1)
    ]  # fmt: skip


def _table(name: str, kind: str, rows: Sequence[Row]) -> str:
    line, several = rows[0]["result"], any(row["repeats"] > 1 for row in rows)
    spread = "standard deviation over runs" if several else "standard error over the examples"
    unit = f" in {line['unit']}" if line.get("unit") else ""
    about = f"{name}{unit} ({kind}; {line.get('better', 'lower') or 'neither way'} is better; ± {spread})"
    names = list(rows[0]["fields"])
    cells = [["", *names, "value", *(["runs"] if several else [])]]
    for rank, row in enumerate(rows, 1):
        values = [described({name: row["fields"].get(name)}).partition("=")[2] for name in names]
        runs = [str(row["repeats"])] if several else []
        cells.append([str(rank), *values, _value(row, several), *runs])
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return "\n".join([about, *("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells)])


def _value(row: Row, several: bool) -> str:
    return measured(row["result"]["value"], row["deviation"] if several else row["result"].get("standard_error"))
