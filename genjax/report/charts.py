"""The curves of a run: which metrics share a chart, and what stands around it on the page."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from genjax.report.curves import Series, line_chart, thin
from genjax.report.log import ROW
from genjax.report.markup import Html, element, join
from genjax.report.progress import number

ERROR = "_standard_error"  # an evaluation logs the standard error of a measure under this ending
COST = ("updates_per_second",)  # logged, but no measure of the model
STYLES = ("major", "second", "third")  # of the lines that are not training's

Rows = Sequence[Mapping[str, Any]]


def stage_charts(rows: Rows, select: str, results: Rows) -> Html | None:
    """The section of curves, stage by stage.

    Args:
      rows: of metrics.jsonl.
      select: the measure that chooses the best checkpoint, such as "validation/neg_elbo": it is drawn over the loss.
      results: result lines; they tell the units of measures.

    Returns:
      The section; None without a curve.
    """
    units = {str(line["name"]).rpartition("/")[2]: str(line.get("unit", "")) for line in results}
    units.setdefault("loss", units.get(select.rpartition("/")[2], ""))
    stages = {row.get("stage_index", 0): str(row.get("stage", "")) for row in rows}
    parts: list[Html] = []
    for index in sorted(stages):
        groups = grouped(series_of([row for row in rows if row.get("stage_index", 0) == index]), select)
        charts = [_figure(name, lines, units.get(name, "")) for name, lines in groups.items()]
        if charts:
            parts += [element("h3", f"Stage {stages[index]}")] if len(stages) > 1 else []
            parts.append(element("div", *charts, class_="charts"))
    if not parts:
        return None
    box = element("input", type="checkbox", id="log")
    toggle = element("label", box, " logarithmic steps", class_="toggle")
    return element("section", element("h2", "Curves"), toggle, *parts, class_="curves")


def series_of(rows: Rows) -> dict[str, Series]:
    """The curves in the rows of one stage: "loss" of training, "validation/neg_elbo" of an evaluation.

    >>> rows = [{"kind": "train", "step": 5, "loss": 2.0}, {"kind": "evaluation", "step": 5, "test/nll": 3.0}]
    >>> {name: (s.x, s.y) for name, s in series_of(rows).items()}
    {'loss': ([5], [2.0]), 'test/nll': ([5], [3.0])}
    """
    found: dict[str, dict[int, tuple[float, float]]] = {}
    for row in rows:
        for name, value in row.items():
            known = name not in (*ROW, *COST) and not name.endswith(ERROR) and isinstance(value, int | float)
            if known and isinstance(row.get("step"), int):
                error = row.get(name + ERROR, math.nan)
                found.setdefault(name, {})[row["step"]] = (value, error if isinstance(error, int | float) else math.nan)
    series = {}
    for name, points in found.items():
        steps = sorted(points)
        errors = [points[step][1] for step in steps]
        series[name] = Series(name, steps, [points[step][0] for step in steps], errors)
    return series


def grouped(series: Mapping[str, Series], select: str = "") -> dict[str, list[Series]]:
    """Curves of the same quantity share a chart; the loss comes first, under the measure that is selected by.

    What was measured only once is no curve.

    >>> lines = {n: Series(n, [1, 2], [1.0, 1.0]) for n in ("rate", "loss", "validation/rate", "validation/nll")}
    >>> {name: [s.name for s in group] for name, group in grouped(lines, "validation/nll").items()}
    {'loss': ['train', 'validation nll'], 'rate': ['train', 'validation']}
    """
    groups: dict[str, list[Series]] = {name: [] for name in series if name == "loss"}
    for name, line in series.items():
        split, _, quantity = name.rpartition("/")
        over_loss = quantity == select.rpartition("/")[2] and "loss" in series and quantity not in series
        label = (f"{split} {quantity}" if over_loss else split) or "train"
        groups.setdefault("loss" if over_loss else quantity, []).append(line._replace(name=label))
    measured = lambda group: any(line.name != "train" for line in group)
    drawn = [name for name, group in groups.items() if any(len(line.x) > 1 for line in group)]
    ordered = sorted(drawn, key=lambda name: (name != "loss", not measured(groups[name])))
    return {name: _styled(groups[name]) for name in ordered}


def _styled(group: list[Series]) -> list[Series]:
    """Training in grey and below; the measures in the accent colour and above."""
    others = [line for line in group if line.name != "train"]
    styles = [STYLES[min(i, len(STYLES) - 1)] for i in range(len(others))]
    styled = [line._replace(style=style) for line, style in zip(others, styles, strict=True)]
    train = [line._replace(style="minor" if others else "major") for line in group if line.name == "train"]
    return train + styled


def _figure(name: str, lines: Sequence[Series], unit: str) -> Html:
    thinned = [thin(line) for line in lines]
    label = f"{name}: " + "; ".join(_in_words(line) for line in lines)
    keys = [element("span", line.name, " ", element("b", _last(line)), class_=f"key {line.style}") for line in lines]
    head = element("figcaption", element("h4", name, element("small", unit) if unit else None), element("p", *keys))
    values = [
        [[x, number(y) if math.isfinite(y) else None] for x, y in zip(line.x, line.y, strict=True)] for line in thinned
    ]
    data = json.dumps({"names": [line.name for line in lines], "values": values}, separators=(",", ":"))
    drawn = join(line_chart(thinned, label), line_chart(thinned, f"{label}; logarithmic steps", log_x=True))
    return element("figure", head, drawn, class_="chart", data_lines=data)


def _last(line: Series) -> str:
    return number(line.y[-1])


def _in_words(line: Series) -> str:
    ends = f"{number(line.y[0])} at step {line.x[0]:,}", f"{number(line.y[-1])} at step {line.x[-1]:,}"
    return f"{line.name} from {ends[0]} to {ends[1]}"
