"""The page of a sweep: runs ranked by one measure, and the measure over each setting."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genjax.report.curves import Dot, dot_chart
from genjax.report.files import write_whole
from genjax.report.layout import measured, page, plain, section, table
from genjax.report.markup import Html, element, join
from genjax.report.progress import duration

Rows = Sequence[Mapping[str, Any]]


def write_comparison(rows: Rows, path: str | Path, title: str, settings: Rows = ()) -> Path:
    """Writes a page that compares runs.

    Args:
      rows: one a run, {"run": its directory, "fields": {name: value}, "state": "finished", "seconds": 83.2,
        "result": a line of results.json, or None while there is none}.  Only fields that differ are shown.
      path: the page.
      title: such as the experiment's name.
      settings: where runs differ in random numbers alone, one a setting, {"fields": without what draws them, "result":
        as above with the mean over the runs, "deviation": their standard deviation or None, "repeats": how many};
        they are ranked first.

    Returns:
      The path.

    Raises:
      Damaged: the page cannot be written.
    """
    fields = swept(rows)
    means = ranked([row for row in settings if len(rows) > len(settings)])
    parts = [_kind(key, found, means.get(key, ()), fields) for key, found in ranked(rows).items()]
    waiting = [row for row in rows if _value(row) is None]
    count = f"{len(rows)} run{'s' if len(rows) != 1 else ''}"
    head = element("header", element("p", element("span", count), class_="over"), element("h1", title))
    return write_whole(path, page(title, join(head, *parts, _waiting(waiting, fields))))


def ranked(rows: Rows) -> dict[tuple[str, str], Rows]:
    """The runs that have a value, best first, a ranking for each measure and kind: a bound and an estimate share none.

    >>> found = [("bound", 3.0), ("exact", 2.0), ("bound", 1.0)]
    >>> rows = [{"result": {"name": "test/nll", "kind": kind, "value": value}} for kind, value in found]
    >>> {key: [row["result"]["value"] for row in runs] for key, runs in ranked(rows).items()}
    {('test/nll', 'bound'): [1.0, 3.0], ('test/nll', 'exact'): [2.0]}
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        if _value(row) is not None:
            groups.setdefault((str(row["result"].get("name", "")), str(row["result"].get("kind", ""))), []).append(row)
    return {key: sorted(group, key=_cost) for key, group in groups.items()}


def swept(rows: Rows) -> list[str]:
    """The fields whose value is not the same in all runs.

    >>> swept([{"fields": {"seed": 0, "width": 200}}, {"fields": {"seed": 1, "width": 200}}])
    ['seed']
    """
    names = list(dict.fromkeys(name for row in rows for name in row["fields"]))
    return [name for name in names if len({repr(row["fields"].get(name)) for row in rows}) > 1]


def _kind(key: tuple[str, str], rows: Rows, settings: Rows, fields: Sequence[str]) -> Html | None:
    name, kind = key
    better = {"higher": "higher", "": "neither way"}.get(rows[0]["result"].get("better"), "lower")
    unit = str(rows[0]["result"].get("unit", ""))
    about = f"{', '.join(part for part in (kind, unit) if part)}; {better} is better"
    plotted = [field for field in fields if field != "seed"] or list(fields)
    charts = [chart for field in plotted if (chart := _chart(field, name, rows)) is not None]
    warning = "The ± is one standard error over the examples; a difference below two of them is no evidence."
    return section(
        name.replace("/", " "),
        element("p", about, class_="quiet lead"),
        element("div", *charts, class_="charts") if charts else None,
        _means(settings),
        _ranking(rows, fields),
        element("p", warning, class_="quiet"),
        class_="comparison",
    )


def _means(rows: Rows) -> Html | None:
    lines, fields = [], swept(rows)
    for rank, row in enumerate(rows, 1):
        text = measured(row["result"]["value"], row.get("deviation"))
        value = element("strong", text) if rank == 1 else text
        lines.append([str(rank), value, *_settings(row, fields), str(row.get("repeats", ""))])
    head = ["", "mean ± deviation", *fields, "runs"]
    right = [0, 1, 2 + len(fields), *(2 + i for i, field in enumerate(fields) if _numeric(rows, field))]
    return join(element("h3", "Settings"), table(head, lines, right), element("h3", "Runs")) if lines else None


def _ranking(rows: Rows, fields: Sequence[str]) -> Html:
    lines = []
    for rank, row in enumerate(rows, 1):
        text = measured(row["result"]["value"], row["result"].get("standard_error"))
        value = element("strong", text) if rank == 1 else text
        lines.append([str(rank), value, *_settings(row, fields), _seconds(row), _run(row)])
    right = [0, 1, 2 + len(fields), *(2 + i for i, field in enumerate(fields) if _numeric(rows, field))]
    return table(["", "value", *fields, "time", "run"], lines, right)


def _waiting(rows: Rows, fields: Sequence[str]) -> Html | None:
    lines = [[str(row.get("state", "")), *_settings(row, fields), _run(row)] for row in rows]
    return section("Without a value", table(["state", *fields, "run"], lines)) if lines else None


def _chart(field: str, name: str, rows: Rows) -> Html | None:
    """The measure over one setting: every run a dot, the best in colour."""
    values = [row["fields"].get(field) for row in rows]
    numeric = _numeric(rows, field)
    if len({repr(value) for value in values}) < 2:
        return None
    names = sorted({plain(value) for value in values})
    xs = [float(value) if numeric else float(names.index(plain(value))) for value in values]
    ticks = sorted({(x, plain(value)) for x, value in zip(xs, values, strict=True)})
    ys = [float(row["result"]["value"]) for row in rows]
    errors = [_error(row) for row in rows]
    dots = [Dot(*dot, best=i == 0) for i, dot in enumerate(zip(xs, ys, errors, strict=True))]
    log_x = numeric and min(xs) > 0 and max(xs) >= 20 * min(xs)
    drawn = dot_chart(dots, f"{name} over {field}: best at {plain(values[0])}", ticks, log_x)
    return element("figure", element("figcaption", element("h4", field)), drawn, class_="chart")


def _numeric(rows: Rows, field: str) -> bool:
    values = [row["fields"].get(field) for row in rows]
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _run(row: Mapping[str, Any]) -> Html:
    return element("code", str(row.get("run", "")))


def _settings(row: Mapping[str, Any], fields: Sequence[str]) -> list[Html | str]:
    return [plain(row["fields"].get(field, "")) for field in fields]


def _value(row: Mapping[str, Any]) -> float | None:
    value = (row.get("result") or {}).get("value")
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _cost(row: Mapping[str, Any]) -> float:
    return -row["result"]["value"] if row["result"].get("better") == "higher" else row["result"]["value"]


def _error(row: Mapping[str, Any]) -> float:
    error = row["result"].get("standard_error")
    return float(error) if isinstance(error, int | float) and math.isfinite(error) else 0.0


def _seconds(row: Mapping[str, Any]) -> str:
    return duration(row["seconds"]) if isinstance(row.get("seconds"), int | float) else ""
