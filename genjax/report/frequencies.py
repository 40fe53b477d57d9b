"""How often each letter occurs, in samples and in data: a chart of bars in pairs, as an SVG that stands alone."""

from collections.abc import Mapping, Sequence

import numpy as np

from genjax.errors import BadInput
from genjax.report.curves import round_ticks
from genjax.report.markup import element, join

WIDTH, HEIGHT = 640, 260
LEFT, TOP, RIGHT, BOTTOM = 44.0, 40.0, 12.0, 28.0
PAPER, QUIET, GRID = "#fbfaf8", "#666b73", "#e5e3de"
COLOURS = ("#0a6b7c", "#b9b5ab", "#c2603a")  # of the bars, in the order in which they are given


def frequencies_svg(letters: Sequence[str], shares: Mapping[str, np.ndarray], label: str) -> bytes:
    """Bars side by side, one group a letter.

    Args:
      letters: the names of the groups.
      shares: name -> [letters] numbers from 0, at most three of them; as percentages they are drawn.
      label: the chart in words.

    Returns:
      An SVG document.

    Raises:
      BadInput: no letters, no shares or more than three, or some of another length, negative or not finite.

    >>> chart = frequencies_svg("AC", {"samples": np.array([0.25, 0.75])}, "Residues").decode()
    >>> chart.count("<rect"), "C in samples: 75.0 %" in chart  # paper, key, two bars
    (4, True)
    """
    values = {name: np.asarray(share, np.float64) for name, share in shares.items()}
    fits = [v.shape == (len(letters),) and np.isfinite(v).all() and (v >= 0).all() for v in values.values()]
    if not letters or not 1 <= len(values) <= len(COLOURS) or not all(fits):
        found = {name: v.shape for name, v in values.items()}
        raise BadInput(f"shares {found} of {len(letters)} letters", "allowed: one to three times [letters], from 0")
    most = 100 * max(float(v.max()) for v in values.values()) or 1.0
    floor, step = HEIGHT - BOTTOM, (WIDTH - LEFT - RIGHT) / len(letters)
    y = lambda percent: floor - (floor - TOP) * percent / (1.05 * most)
    bar = 0.8 * step / len(values)
    bars, words, grid = [], [], ""
    for at, text in round_ticks(0.0, most, 4):
        if at <= 1.05 * most:
            grid += f"M{LEFT:.1f},{y(at):.1f}H{WIDTH - RIGHT:.1f}"
            words.append(element("text", f"{text} %", x=LEFT - 6, y=round(y(at) + 4, 1), text_anchor="end"))
    for group, letter in enumerate(letters):
        middle = LEFT + step * (group + 0.5)
        words.append(element("text", letter, x=round(middle, 1), y=floor + 19, text_anchor="middle"))
        for number, (name, share) in enumerate(values.items()):
            top = y(100 * share[group])
            told = element("title", f"{letter} in {name}: {100 * share[group]:.1f} %")
            place = {"x": round(middle - 0.4 * step + number * bar, 1), "y": round(top, 1), "fill": COLOURS[number]}
            bars.append(element("rect", told, **place, width=round(bar, 1), height=round(floor - top, 1)))
    x = LEFT
    for number, name in enumerate(values):
        bars.append(element("rect", x=x, y=11, width=14, height=10, fill=COLOURS[number]))
        words.append(element("text", name, x=x + 20, y=20))
        x += 36.0 + 6.6 * len(name)
    content = join(
        *(element("title", label), element("rect", width=WIDTH, height=HEIGHT, fill=PAPER)),
        *(element("path", d=grid, stroke=GRID), *bars),
        element("g", *words, font_family="system-ui, sans-serif", font_size=12, fill=QUIET),
    )
    whole = element("svg", content, xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img")
    return whole.text.encode()
