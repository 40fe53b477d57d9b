"""Charts as SVG text: lines over training steps, and dots over the settings of a sweep.

A chart is drawn in its own units, `WIDTH` by `HEIGHT`, and scales with the page.  Colours come from the page's style.
"""

import json
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from genjax.report.markup import Html, element, join
from genjax.report.progress import number

WIDTH, HEIGHT = 440, 230
TOP, RIGHT, BOTTOM = 12.0, 14.0, 26.0  # the margins; the left one is as wide as its labels
MOST = 600  # points of a line; more are averaged in groups
DOTS = 25  # a line of at most so many points shows them

Ticks = Sequence[tuple[float, str]]  # value, label


class Series(NamedTuple):
    """A line, in the order of x."""

    name: str
    x: Sequence[float]
    y: Sequence[float]  # a value that is not finite interrupts the line
    error: Sequence[float] = ()  # standard errors, drawn as a band
    style: str = "minor"  # the class that gives its colour


class Dot(NamedTuple):
    """A value over a setting."""

    x: float
    y: float
    error: float = 0.0
    best: bool = False


class Frame(NamedTuple):
    """Where values stand on a chart."""

    x: Callable[[float], float]  # value -> SVG units
    y: Callable[[float], float]
    left: float
    x_ticks: Ticks
    y_ticks: Ticks


def line_chart(series: Sequence[Series], label: str, log_x: bool = False) -> Html:
    """Lines over training steps.

    Args:
      series: one line or more.
      label: the chart in words, for those who do not see it.
      log_x: positions log(1 + x / first positive x), where step 0 has a place too.

    Returns:
      An `svg` element whose axis begins at step 0.  What lies far above the rest, such as the first moments of
      training, leaves the frame at the top, where a mark tells the highest value.
    """
    points = [(float(x), float(y)) for s in series for x, y in zip(s.x, s.y, strict=True) if math.isfinite(y)]
    if not points:
        return element("p", "no finite value", class_="quiet")
    top = _ceiling([y for _, y in points])
    ys = [y + sign * e for s in series for y, e in _with_errors(s) if y <= top for sign in (-1, 1)]
    frame = line_frame([0.0, *(x for x, _ in points)], ys, log_x)
    above = [(y, x) for x, y in points if y > top]
    lines = _clipped(*[_curve(s, frame, top) for s in series])
    content = join(_axes(frame), lines, _mark(frame, above))
    places = [[_place(frame, x, y) for x, y in zip(s.x, s.y, strict=True)] for s in series]
    return _svg("log" if log_x else "linear", label, content, json.dumps(places, separators=(",", ":")))


def line_frame(xs: Sequence[float], ys: Sequence[float], log_x: bool = False) -> Frame:
    """The axes of a line chart: as large as the values need, with ticks at round numbers."""
    unit = min((x for x in xs if x > 0), default=1.0)
    place = (lambda x: math.log10(1 + max(x, 0.0) / unit)) if log_x else float
    powers = [(t, short(t)) for t in (0.0, *(10.0**k for k in range(12)))]
    steps = powers if log_x else round_ticks(min(xs), max(xs), 5, short)
    room = 0.04 * (max(ys) - min(ys)) or 0.1 * abs(ys[0]) or 1.0
    low, high = min(ys) - room, max(ys) + room
    y_ticks = [tick for tick in round_ticks(low, high) if low <= tick[0] <= high]
    left = _left(y_ticks)
    across = _linear(place(min(xs)), place(max(xs)), left, WIDTH - RIGHT)
    x = lambda value: across(place(value))
    x_ticks = _apart([tick for tick in steps if min(xs) <= tick[0] <= max(xs)], x)
    return Frame(x, _linear(low, high, HEIGHT - BOTTOM, TOP), left, x_ticks, y_ticks)


def dot_chart(dots: Sequence[Dot], label: str, x_ticks: Ticks, log_x: bool = False) -> Html:
    """Dots with their standard errors over the values of a setting; those of one value stand side by side.

    Args:
      dots: at least one.
      label: the chart in words.
      x_ticks: the values of the setting and their labels.
      log_x: a logarithmic axis, for positive values.

    Returns:
      An `svg` element.
    """
    place = math.log10 if log_x else float
    ends = [place(value) for value, _ in x_ticks]
    frame = line_frame([0.0, 1.0], [dot.y + sign * dot.error for dot in dots for sign in (-1, 1)])
    room = (max(ends) - min(ends)) / (2 * len(ends)) or 1.0
    across = _linear(min(ends) - room, max(ends) + room, frame.left, WIDTH - RIGHT)
    x = lambda value: across(place(value))
    frame = frame._replace(x=x, x_ticks=_apart(x_ticks, x))
    return _svg("dots", label, join(_axes(frame), *_beside(dots, frame)), None)


def thin(series: Series, most: int = MOST) -> Series:
    """At most `most` points: means over groups of neighbours, each at its last x.

    >>> thin(Series("loss", [1, 2, 3, 4], [8.0, 6.0, 4.0, 2.0]), most=2)[1:3]
    ([2, 4], [7.0, 3.0])
    """
    size = -(-len(series.x) // most)
    if size <= 1:
        return series
    groups = [list(series.y[i : i + size]) for i in range(0, len(series.x), size)]
    last = [series.x[min(i + size, len(series.x)) - 1] for i in range(0, len(series.x), size)]
    return series._replace(x=last, y=[sum(group) / len(group) for group in groups], error=())


def round_ticks(low: float, high: float, about: int = 4, name: Callable[[float], str] | None = None) -> Ticks:
    """Multiples of 1, 2 or 5 times a power of ten that enclose an interval.

    >>> round_ticks(93.2, 168.0)
    [(80.0, '80'), (100.0, '100'), (120.0, '120'), (140.0, '140'), (160.0, '160'), (180.0, '180')]
    >>> [label for _, label in round_ticks(0.001, 0.0024)]
    ['0.0010', '0.0015', '0.0020', '0.0025']
    """
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        low, high = low - (abs(low) * 0.1 or 1.0), high + (abs(high) * 0.1 or 1.0)
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * min((1, 2, 5, 10), key=lambda m: abs(math.log(m * power / rough)))
    places = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    values = [round(i * step, places) for i in range(first, last + 1)]
    return [(value, name(value) if name else _tick(value, places)) for value in values]


def short(value: float) -> str:
    """A step count for an axis.

    >>> short(500), short(2000), short(2500), short(100000), short(1.5e6)
    ('500', '2k', '2.5k', '100k', '1.5M')
    """
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _tick(value: float, places: int) -> str:
    return f"{value:.0e}" if abs(value) >= 1e6 or places > 5 else f"{value:,.{places}f}"


def _ceiling(values: Sequence[float]) -> float:
    """The top of the frame: below the highest values if they would flatten everything else."""
    ordered = sorted(values)
    low, most, high = ordered[0], ordered[int(0.9 * (len(ordered) - 1))], ordered[-1]
    return high if high - low <= 4 * (most - low) or most == low else low + 2 * (most - low)


def _left(ticks: Ticks) -> float:
    return 14.0 + 6.6 * max(len(label) for _, label in ticks)


def _linear(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    return lambda value: start + (end - start) * ((value - low) / (high - low) if high > low else 0.5)


def _apart(ticks: Ticks, place: Callable[[float], float]) -> Ticks:
    """The ticks whose labels do not run into the one before."""
    kept: list[tuple[float, str]] = []
    for value, label in ticks:
        if not kept or place(value) - place(kept[-1][0]) > 3.6 * (len(label) + len(kept[-1][1])) + 6:
            kept.append((value, label))
    return kept


def _place(frame: Frame, x: float, y: float) -> tuple[float, float] | None:
    """Where a reader's pointer finds a value; None: nowhere."""
    return (round(frame.x(x), 1), round(max(frame.y(y), TOP), 1)) if math.isfinite(y) else None


def _clipped(*children: Html) -> Html:
    """An inner picture with the same coordinates: it cuts off what leaves the frame, without ids."""
    height = HEIGHT - BOTTOM - TOP + 4
    box = f"0 {TOP - 2} {WIDTH} {height}"
    return element("svg", *children, x=0, y=TOP - 2, width=WIDTH, height=height, viewBox=box)


def _svg(kind: str, label: str, content: Html, places: str | None) -> Html:
    box = f"0 0 {WIDTH} {HEIGHT}"
    return element("svg", content, class_=kind, viewBox=box, role="img", aria_label=label, data_places=places)


def _axes(frame: Frame) -> Html:
    floor = HEIGHT - BOTTOM
    grid = "".join(f"M{frame.left:.1f},{frame.y(value):.1f}H{WIDTH - RIGHT:.1f}" for value, _ in frame.y_ticks)
    rows = [
        element("text", t, x=round(frame.left - 8, 1), y=round(frame.y(v) + 4, 1), class_="y") for v, t in frame.y_ticks
    ]
    columns = [element("text", t, x=round(frame.x(v), 1), y=floor + 18, class_="x") for v, t in frame.x_ticks]
    ticks = "".join(f"M{frame.x(value):.1f},{floor:.1f}v4" for value, _ in frame.x_ticks)
    return join(element("path", d=grid, class_="grid"), element("path", d=ticks, class_="tick"), *rows, *columns)


def _curve(series: Series, frame: Frame, top: float) -> Html:
    """A line with its band and its dots; the path is cut where a value is not finite."""
    d, pen = "", "M"
    for x, y in zip(series.x, series.y, strict=True):
        d += f"{pen}{frame.x(x):.1f},{frame.y(y):.1f}" if math.isfinite(y) else ""
        pen = "L" if math.isfinite(y) else "M"
    inside = [(x, y) for x, y in zip(series.x, series.y, strict=True) if math.isfinite(y) and y <= top]
    dots = [_dot(frame.x(x), frame.y(y), series.style) for x, y in inside] if len(series.x) <= DOTS else []
    return join(_band(series, frame), element("path", d=d, class_=f"line {series.style}"), *dots)


def _with_errors(series: Series) -> list[tuple[float, float]]:
    errors = series.error or [0.0] * len(series.y)
    pairs = zip(series.y, errors, strict=True)
    return [(y, e if math.isfinite(e) else 0.0) for y, e in pairs if math.isfinite(y)]


def _band(series: Series, frame: Frame) -> Html | None:
    known = [(x, y, e) for x, y, e in zip(series.x, series.y, series.error, strict=False) if math.isfinite(y + e)]
    if len(known) < 2:
        return None
    edge = [(x, y + e) for x, y, e in known] + [(x, y - e) for x, y, e in reversed(known)]
    d = "M" + "L".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in edge) + "Z"
    return element("path", d=d, class_=f"band {series.style}")


def _beside(dots: Sequence[Dot], frame: Frame) -> list[Html]:
    drawn = []
    for x in sorted({dot.x for dot in dots}):
        column = sorted((dot for dot in dots if dot.x == x), key=lambda dot: dot.y)
        step = min(9.0, 64.0 / len(column))
        for i, dot in enumerate(column):
            at, style = frame.x(x) + (i - (len(column) - 1) / 2) * step, "major" if dot.best else "minor"
            bar = f"M{at:.1f},{frame.y(dot.y - dot.error):.1f}V{frame.y(dot.y + dot.error):.1f}"
            drawn += [element("path", d=bar, class_=f"bar {style}"), _dot(at, frame.y(dot.y), style, 4.0)]
    return drawn


def _dot(x: float, y: float, style: str, radius: float = 2.4) -> Html:
    return element("circle", cx=round(x, 1), cy=round(y, 1), r=radius, class_=f"dot {style}")


def _mark(frame: Frame, above: Sequence[tuple[float, float]]) -> Html | None:
    """An arrow where the highest value leaves the frame, and that value in the other half, away from the lines."""
    if not above:
        return None
    y, x = max(above)
    at, anchor = (frame.left + 6, "start") if frame.x(x) > WIDTH / 2 else (WIDTH - RIGHT, "end")
    words = f"▲ {number(y)} at step {x:,.0f}"
    text = element("text", words, x=round(at, 1), y=TOP + 4, text_anchor=anchor, class_="above")
    return join(element("path", d=f"M{frame.x(x):.1f},{TOP - 7:.1f}l4,7h-8z", class_="above"), text)
