"""A line on the terminal while a run goes on, and how numbers are written for people.

On a terminal one line is rewritten in place.  Elsewhere (a file, a batch system, a notebook) plain lines are written,
at most one every few seconds.  What is said of evaluations and checkpoints is always written, on a line of its own.
"""

import math
import os
import time
import unicodedata
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, TextIO

PLAIN_EVERY = 5.0  # seconds between plain lines
LIVE_EVERY = 0.1  # seconds between two drawings of the live line
WINDOW = 30.0  # seconds over which speed is measured


class Progress(NamedTuple):
    """The progress line of a run."""

    step: Callable[..., None]  # (stage, step, steps, loss=None, best=None, batch_size=None): updates done of all
    say: Callable[[str], None]  # a line of its own, above the progress line
    close: Callable[[], None]


def open_progress(stream: TextIO, clock: Callable[[], float] = time.monotonic, width: int | None = None) -> Progress:
    """Opens a progress line.

    Args:
      stream: where to write; a terminal gets the live line, anything else plain lines.
      clock: seconds; tests give their own.
      width: columns; None: the terminal's, asked for every time, since windows change.

    Returns:
      A `Progress`.  Its `step` may be called after every compiled call: it writes only when something is due, and
      measures updates a second over the last `WINDOW` seconds, evaluations included, from its first call in a stage
      on; so make that first call when the stage has compiled.

    >>> import io
    >>> out, seconds = io.StringIO(), iter([0.0, 10.0])
    >>> progress = open_progress(out, clock=lambda: next(seconds), width=100)
    >>> progress.step("vae", 0, 2000)
    >>> progress.step("vae", 500, 2000, loss=98.14159, batch_size=100)
    >>> print(out.getvalue())
    vae  0/2,000
    vae  500/2,000  25%  loss 98.14  50 updates/s  5,000 examples/s  30 s left
    """
    live = stream.isatty() and os.environ.get("TERM") != "dumb"
    colour = live and not os.environ.get("NO_COLOR")
    history: deque[tuple[float, str, int]] = deque()
    shown_at, line = -math.inf, ""

    def step(
        stage: str,
        step: int,
        steps: int,
        loss: float | None = None,
        best: float | None = None,
        batch_size: int | None = None,
    ) -> None:
        nonlocal shown_at, line
        now = clock()
        if history and (history[-1][1] != stage or history[-1][2] > step):
            history.clear()
        history.append((now, stage, step))
        while len(history) > 2 and history[1][0] < now - WINDOW:
            history.popleft()
        first, done = len(history) == 1, step >= steps
        if not (first or done or now - shown_at >= (LIVE_EVERY if live else PLAIN_EVERY)):
            return
        shown_at = now
        seconds, updates = now - history[0][0], step - history[0][2]
        speed = updates / seconds if seconds > 0 and updates > 0 else None
        parts = _parts(_clean(stage), step, steps, loss, best, speed, batch_size)
        if live:
            line = _live(parts, step / steps if steps else 1.0, _columns(stream, width), colour, stream)
            stream.write("\r" + line + "\x1b[K")
        else:
            stream.write("  ".join(text for _, text in parts) + "\n")
        stream.flush()

    def say(text: str) -> None:
        lines = "\n".join(_clean(part) for part in text.splitlines())
        stream.write(f"\r\x1b[K{lines}\n{line}" if line else f"{lines}\n")
        stream.flush()

    def close() -> None:
        nonlocal line
        if line:
            line = ""
            stream.write("\n")
            stream.flush()

    return Progress(step, say, close)


def number(value: float, digits: int = 4) -> str:
    """A number for people: `digits` significant digits, thousands apart, powers of ten only where they are needed.

    >>> number(98.14159), number(1234567), number(0.0003), number(1e-9), number(-0.5), number(float("nan"))
    ('98.14', '1,234,567', '0.0003', '1e-09', '-0.5', 'nan')
    """
    if isinstance(value, int) or (abs(value) < 1e15 and float(value).is_integer()):
        return f"{int(value):,}"
    if math.isfinite(value) and 10**digits <= abs(value) < 1e7:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def duration(seconds: float) -> str:
    """A time for people.

    >>> duration(0.234), duration(6.21), duration(75), duration(3725), duration(200_000)
    ('0.23 s', '6.2 s', '1 min 15 s', '1 h 02 min', '2 d 7 h')
    """
    if not math.isfinite(seconds):
        return "?"
    if 0 < seconds < 9.95:
        return f"{seconds:.2g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _parts(
    stage: str,
    step: int,
    steps: int,
    loss: float | None,
    best: float | None,
    speed: float | None,
    batch_size: int | None,
) -> list[tuple[int, str]]:
    """What the line says, each with its rank: on a narrow terminal the highest ranks go first."""
    parts = [(0, stage), (1, f"{step:,}/{steps:,}")]
    parts += [(2, f"{step / steps:.0%}")] if step and steps else []
    parts += [(3, f"loss {number(loss)}")] if loss is not None else []
    parts += [(5, f"best {number(best)}")] if best is not None else []
    if speed is not None:
        parts += [(6, f"{number(speed, 3)} updates/s")]
        parts += [(7, f"{number(speed * batch_size, 3)} examples/s")] if batch_size else []
        parts += [(4, f"{duration(math.ceil((steps - step) / speed))} left")] if step < steps else []
    return parts


def _live(parts: list[tuple[int, str]], fraction: float, columns: int, colour: bool, stream: TextIO) -> str:
    """The line with as many parts as fit, and the bar in what is left of the width."""
    room = columns - 1  # a character in the last column makes some terminals wrap
    while len(parts) > 1 and _cells("  ".join(text for _, text in parts)) > room:
        parts = [part for part in parts if part[0] != max(rank for rank, _ in parts)]
    texts = [text for _, text in parts]
    size = min(24, room - _cells("  ".join(texts)) - 2)
    if size >= 6:
        texts.insert(min(2, len(texts)), _bar(fraction, size, colour, stream))
    return _cut("  ".join(texts), room) if size < 6 else "  ".join(texts)


def _bar(fraction: float, size: int, colour: bool, stream: TextIO) -> str:
    full = round(min(max(fraction, 0.0), 1.0) * size)
    unicode = "utf" in (getattr(stream, "encoding", None) or "utf-8").lower()
    if colour:
        mark = "━" if unicode else "="
        return f"\x1b[36m{mark * full}\x1b[90m{mark * (size - full)}\x1b[0m"
    return ("█" * full + "░" * (size - full)) if unicode else ("#" * full + "." * (size - full))


def _columns(stream: TextIO, width: int | None) -> int:
    if width is not None:
        return width
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):  # ValueError: a stream without a file
        return 80


def _clean(text: str) -> str:
    """Without control characters: a name must not steer the terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _cells(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _cut(text: str, room: int) -> str:
    while text and _cells(text) > room:
        text = text[:-1]
    return text
