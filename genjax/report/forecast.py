"""A forecast as people read it: what was seen, the median, the intervals it lies in, and what came; as SVG and as CSV.

The picture stands alone: its colours are attributes, not styles of a page, so that it looks the same in a report, in a
browser and on paper.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from genjax.data.series import periods_after
from genjax.errors import BadInput
from genjax.report.curves import Ticks, round_ticks
from genjax.report.markup import Html, element, join

PROBABILITIES = (0.025, 0.25, 0.5, 0.75, 0.975)  # of the quantiles that are drawn: 95 %, 50 %, the median
WIDTH, HEIGHT = 640, 300
TOP, RIGHT, BOTTOM = 40.0, 16.0, 28.0
PAPER, INK, QUIET, GRID, ACCENT = "#fbfaf8", "#1d1f23", "#666b73", "#e5e3de", "#0a6b7c"
OPACITY = {"95 %": 0.16, "50 %": 0.34}


class Seen(NamedTuple):
    """What a forecast stands on, and what came after it, where it is known."""

    history: Sequence[float]  # [n]; the last of it is drawn, four times as many values as the forecast has
    times: np.ndarray  # [n] whole numbers, or datetime64 in months, days or seconds: as genjax.data.series gives them
    step: int = 1  # between two times, in their unit
    later: Sequence[float] = ()  # held out; as many are drawn as are foreseen
    label: str = ""  # what the values are, with their unit


def forecast_svg(seen: Seen, quantiles: np.ndarray) -> bytes:
    """A chart of a forecast.

    Args:
      seen: history, and what was held out.
      quantiles: [5, steps], of PROBABILITIES, on the scale of the history.

    Returns:
      An SVG document: the 95 % and 50 % intervals as areas, the median and the history as lines, held-out values as
      circles.  A forecast that is not finite is said to be so.

    Raises:
      BadInput: quantiles that are not [5, steps].
    """
    quantiles = _checked(quantiles)
    if not np.isfinite(quantiles).all():  # an explosive model, or one that was not fitted yet
        words = element(
            "text", "the forecast is not finite", x=16, y=60, font_family="system-ui, sans-serif", fill=QUIET
        )
        return _document(_paper(seen, False), words)
    steps, n = quantiles.shape[1], len(seen.history)
    first = max(0, n - 4 * steps)
    later = list(seen.later[:steps])
    values = [float(v) for v in (*seen.history[first:], *later, *quantiles.ravel())]
    room = 0.04 * (max(values) - min(values)) or 1.0
    low, high = min(values) - room, max(values) + room
    y_ticks = [tick for tick in round_ticks(low, high, 5) if low <= tick[0] <= high]
    y = _scale(low, high, HEIGHT - BOTTOM, TOP)
    left = 16.0 + 6.6 * max(len(label) for _, label in y_ticks)
    moments = _years(periods_after(seen.times[0], seen.step, np.arange(n + steps)))
    begin, end = moments[first], moments[-1]
    x_ticks = [tick for tick in round_ticks(begin, end, 8, lambda v: f"{v:g}") if begin <= tick[0] <= end]
    x = _scale(begin, end, left, WIDTH - RIGHT)
    place = lambda i: x(moments[i])
    ahead = [place(n + i) for i in range(steps)]
    past = [place(i) for i in range(first, n)]
    # every quantile begins at the last value that was seen: a forecast goes on from there
    fan = np.concatenate([np.full((len(quantiles), 1), seen.history[-1]), quantiles], axis=1)
    onwards = [past[-1], *ahead]
    bands = [_area(onwards, fan[low], fan[-1 - low], y, name) for low, name in ((0, "95 %"), (1, "50 %"))]
    median = _line(onwards, fan[2], y, ACCENT, 2.0)
    dots = [
        element("circle", cx=round(ahead[i], 1), cy=round(y(v), 1), r=2.6, fill=PAPER, stroke=INK, stroke_width=1.4)
        for i, v in enumerate(later)
    ]
    drawn = join(*bands, _line(past, seen.history[first:], y, INK, 1.6), median, *dots)
    axes = _axes(left, [(x(v), t) for v, t in x_ticks], [(y(v), t) for v, t in y_ticks])
    return _document(_paper(seen, bool(later)), axes, drawn)


def forecast_csv(seen: Seen, quantiles: np.ndarray) -> bytes:
    """The numbers of the chart, one row a step.

    Args:
      seen: history, whose times go on.
      quantiles: [5, steps], of PROBABILITIES.

    Returns:
      Text in UTF-8, with a header.

    Raises:
      BadInput: quantiles that are not [5, steps].

    >>> seen = Seen([1.0, 2.0], np.array(["1949-11", "1949-12"], "datetime64[M]"))
    >>> print(forecast_csv(seen, np.arange(5.0)[:, None]).decode().rstrip())
    time,low_95,low_50,median,high_50,high_95
    1950-01,0,1,2,3,4
    """
    quantiles = _checked(quantiles)
    times = periods_after(seen.times[-1], seen.step, np.arange(1, quantiles.shape[1] + 1))
    rows = [f"{time}," + ",".join(f"{v:.6g}" for v in row) for time, row in zip(times, quantiles.T, strict=True)]
    return ("time,low_95,low_50,median,high_50,high_95\n" + "\n".join(rows) + "\n").encode()


def coefficients_txt(fit: Mapping[str, Mapping[str, float]]) -> bytes:
    """A table of what was fitted.

    Args:
      fit: {"estimate": {name: value}, "error": {name: its standard error}}; an error as large as a float32 can be says
        that the series does not determine the estimate.

    Returns:
      Text in UTF-8.

    >>> table = coefficients_txt({"estimate": {"mean": 49.659387, "ar1": 1.39}, "error": {"mean": 3.165, "ar1": 3e38}})
    >>> print(table.decode().rstrip())
    coefficient        estimate  standard error
    mean                49.6594           3.165
    ar1                    1.39  not determined
    """
    lines = [f"{'coefficient':<14}{'estimate':>13}{'standard error':>16}"]
    for name, value in fit["estimate"].items():
        error = float(fit["error"][name])
        lines.append(f"{name:<14}{float(value):>13.6g}{f'{error:.4g}' if error < 1e37 else 'not determined':>16}")
    return "\n".join([*lines, ""]).encode()


def paths_csv(paths: np.ndarray) -> bytes:
    """Simulated futures as a table: one row a step, one column a path.

    Args:
      paths: [n, steps].

    Returns:
      Text in UTF-8, with a header.

    >>> print(paths_csv(np.array([[1.0, 2.0], [1.5, 2.5]])).decode().rstrip())
    step,path_1,path_2
    1,1,1.5
    2,2,2.5
    """
    head = "step," + ",".join(f"path_{i}" for i in range(1, len(paths) + 1))
    rows = [f"{i}," + ",".join(f"{v:.6g}" for v in row) for i, row in enumerate(np.asarray(paths).T, 1)]
    return "\n".join([head, *rows, ""]).encode()


def _checked(quantiles: np.ndarray) -> np.ndarray:
    quantiles = np.asarray(quantiles, np.float64)
    if quantiles.ndim != 2 or len(quantiles) != len(PROBABILITIES) or not quantiles.shape[1]:
        raise BadInput(
            f"a forecast of shape {list(quantiles.shape)}",
            f"allowed: [{len(PROBABILITIES)}, steps], the quantiles of {', '.join(map(str, PROBABILITIES))}",
        )
    return quantiles


def _document(*children: Html) -> bytes:
    box = f"0 0 {WIDTH} {HEIGHT}"
    return element("svg", *children, xmlns="http://www.w3.org/2000/svg", viewBox=box, role="img").text.encode()


def _years(times: np.ndarray) -> list[float]:
    """Dates as years with their fraction; whole numbers as they are."""
    if times.dtype.kind != "M":
        return [float(time) for time in times]
    first = times.astype("datetime64[Y]")
    length = periods_after(first, 1, 1).astype(times.dtype) - first.astype(times.dtype)
    return [float(year) for year in 1970 + first.astype(np.int64) + (times - first.astype(times.dtype)) / length]


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """value -> SVG units."""
    return lambda value: start + (end - start) * (value - low) / ((high - low) or 1.0)


def _axes(left: float, x_ticks: Ticks, y_ticks: Ticks) -> Html:
    floor, end = HEIGHT - BOTTOM, WIDTH - RIGHT
    grid = "".join(f"M{left:.1f},{y:.1f}H{end:.1f}" for y, _ in y_ticks)
    ticks = "".join(f"M{x:.1f},{floor:.1f}v4" for x, _ in x_ticks)
    text = lambda label, x, y, anchor: element("text", label, x=round(x, 1), y=round(y, 1), text_anchor=anchor)
    labels = [text(label, left - 8, y + 4, "end") for y, label in y_ticks]
    labels += [text(label, x, floor + 19, "middle") for x, label in x_ticks]
    lines = join(element("path", d=grid, stroke=GRID), element("path", d=ticks, stroke=QUIET))
    return join(lines, element("g", *labels, font_family="system-ui, sans-serif", font_size=12, fill=QUIET))


def _paper(seen: Seen, later: bool) -> Html:
    """The ground, the name for those who do not see the chart, and the key."""
    key: list[Html] = []
    x = 16.0
    names = ["seen", *(["held out"] if later else []), "median", *OPACITY]
    for name in names:
        if name in OPACITY:
            mark = element("rect", x=x, y=11, width=14, height=10, fill=ACCENT, fill_opacity=OPACITY[name])
        elif name == "held out":
            mark = element("circle", cx=x + 7, cy=16, r=2.6, fill=PAPER, stroke=INK, stroke_width=1.4)
        else:
            colour = ACCENT if name == "median" else INK
            mark = element("path", d=f"M{x},16h14", stroke=colour, stroke_width=2)
        key += [mark, element("text", name, x=x + 20, y=20)]
        x += 36.0 + 6.6 * len(name)
    label = element("text", seen.label, x=WIDTH - RIGHT, y=20, text_anchor="end") if seen.label else None
    words = element("g", *key, label, font_family="system-ui, sans-serif", font_size=12, fill=QUIET)
    ground = element("rect", width=WIDTH, height=HEIGHT, fill=PAPER)
    return join(element("title", f"Forecast of {seen.label or 'a series'}"), ground, words)


def _line(xs: Sequence[float], ys: Sequence[float], y: Callable[[float], float], colour: str, width: float) -> Html:
    d = "M" + "L".join(f"{at:.1f},{y(float(value)):.1f}" for at, value in zip(xs, ys, strict=True))
    return element("path", d=d, fill="none", stroke=colour, stroke_width=width, stroke_linejoin="round")


def _area(xs: Sequence[float], low: np.ndarray, high: np.ndarray, y: Callable[[float], float], name: str) -> Html:
    edge = [*zip(xs, high, strict=True), *reversed([*zip(xs, low, strict=True)])]
    d = "M" + "L".join(f"{at:.1f},{y(float(value)):.1f}" for at, value in edge) + "Z"
    return element("path", d=d, fill=ACCENT, fill_opacity=OPACITY[name])
