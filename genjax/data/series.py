"""Time series from CSV files: one number a period, at equal steps, with no period missing.

The first column says when, and a second one too where the first holds years and the second is called quarter or month.
Understood are whole numbers (years, counters), months 1949-01, quarters 1949Q1, days 1958-03-29, moments 2016-07-01
03:00 or with seconds, and 19580329, a day unless most such times of the file are none, or they rise by equal steps past
the end of a month. A file of one column is counted from 0. The other columns are series; a cell that is no finite
number, and a step that differs from the others, are refused by line: a model of equal steps would take what comes after
a gap for what comes next.
"""

import csv
import hashlib
import io
import re
from collections import Counter
from collections.abc import Sequence
from difflib import get_close_matches
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from genjax.data.files import read_utf8
from genjax.errors import BadInput

FORMS = (  # of a cell that says when: its pattern, the unit of NumPy's dates ("": a whole number)
    (re.compile(r"(?P<Y>\d{4})(?P<M>\d\d)(?P<D>\d\d)"), "D"),
    (re.compile(r"[+-]?\d{1,9}"), ""),
    (re.compile(r"(?P<Y>\d{4})-(?P<M>\d\d)"), "M"),
    (re.compile(r"(?P<Y>\d{4})-?[Qq](?P<Q>[1-4])"), "M"),
    (re.compile(r"(?P<Y>\d{4})-(?P<M>\d\d)-(?P<D>\d\d)"), "D"),
    (re.compile(r"(?P<Y>\d{4})-(?P<M>\d\d)-(?P<D>\d\d)[ T](?P<h>\d\d):(?P<m>\d\d)(?::(?P<s>\d\d))?"), "s"),
)
ALLOWED = "Allowed are 1949, 1949-01, 1949Q1, 1949-01-31, 19490131 and 1949-01-31 12:00, one kind in a file."
Forms = Sequence[tuple[re.Pattern[str], str]]
Lines = list[tuple[int, list[str]]]  # number of the line, its cells


class Series(NamedTuple):
    """One column of a table, at equal steps."""

    name: str
    values: np.ndarray  # float64 [T]
    times: np.ndarray  # [T] int64, or datetime64 in months, days or seconds; see `periods_after`
    step: int  # between periods, in the unit of `times`: quarters are 3 months
    column: str
    fingerprint: str  # sha256 over values and times
    about: str


def series(path: str | Path, column: str | None = None) -> Series:
    """A column of a CSV file as a time series.

    Args:
      path: a table in UTF-8, its cells divided by commas, with or without a header.
      column: the name of the series in the header, or its number from 1 where there is none; None: the only one.
    Returns:
      Values and times in the order of the file.
    Raises:
      BadInput: no such file, an unknown column (with the nearest names), a cell that is no finite number, a time that
        is not understood, times that do not rise, or a missing period: named by line.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".csv") as file:
    ...     _ = file.write("month,sold\\n1949-11,112\\n1949-12,118\\n1950-01,132\\n")
    ...     _ = file.flush()
    ...     sold = series(file.name)
    >>> sold.values, periods_after(sold.times[-1], sold.step, np.arange(1, 3))
    (array([112., 118., 132.]), array(['1950-02', '1950-03'], dtype='datetime64[M]'))
    """
    path = Path(path).expanduser()
    if not path.exists():
        allowed = "A series is a CSV file: a time and numbers a line."
        raise BadInput(f"{path} does not exist.", allowed, "Name yours, such as --data FILE.")
    rows = csv.reader(io.StringIO(read_utf8(path).removeprefix("\ufeff"), newline=""))
    lines = [(rows.line_num, [cell.strip() for cell in cells]) for cells in rows if cells]
    header = _header(path, lines)
    timed = _time_columns(header)
    place = _place(path, header, timed, column)
    values = np.array([_value(path, number, cells[place], header[place]) for number, cells in lines], np.float64)
    written = [(number, _written(cells, header, timed)) for number, cells in lines]
    times, step = _times(path, written) if timed else (np.arange(len(lines)), 1)
    digest = hashlib.sha256(values.tobytes() + times.astype(np.int64).tobytes() + times.dtype.str.encode()).hexdigest()
    about = f"Column {header[place]} of the user's own {path.name}: {len(values):,} periods."
    return Series(path.stem, values, times, step, header[place], digest, about)


def _header(path: Path, lines: Lines) -> list[str]:
    """Takes the header off the lines, or counts the columns from 1; all lines are as wide."""
    if not lines:
        raise BadInput(f"{path} is empty.", "A series is a CSV file: a time and numbers a line.")
    first = lines[0][1]
    numbers = first[1:] if len(first) > 1 else first
    plain = all(not cell or _number(cell) is not None for cell in numbers) and (len(first) == 1 or _form(first[0]))
    if not plain and len(first) > 1 and _form(first[0]):
        what = f"{path}, line {lines[0][0]}: {', '.join(first)[:80]!r} is neither a header nor a time and numbers."
        raise BadInput(what, "A series has no gaps.", "Fill it in, or give a header.")
    header = [str(place) for place in range(1, len(first) + 1)] if plain else lines.pop(0)[1]
    for number, cells in lines:
        if len(cells) != len(header):
            what = f"{path}, line {number}: {len(cells)} cells."
            raise BadInput(what, f"The first line has {len(header)}.", "Repair this line.")
    if len(lines) < 2:
        raise BadInput(f"{path} has {len(lines)} periods.", "A series has two at least.", "Give more lines.")
    return header


def _time_columns(header: Sequence[str]) -> int:
    """How many of the first columns say when: 0, 1 or 2."""
    if len(header) == 1:
        return 0
    parts = len(header) > 2 and header[0].lower() == "year" and header[1].lower() in ("quarter", "month")
    return 2 if parts else 1


def _place(path: Path, header: Sequence[str], timed: int, column: str | None) -> int:
    """The number of the column that is asked for."""
    names = list(header[timed:])
    if column is None and len(names) == 1:
        return timed
    if column is None:
        what = f"{path} has {len(names)} series: {', '.join(names)}."[:300]
        raise BadInput(what, "Name one of them.", f"For example: column={names[0]!r}")
    if names.count(column) != 1:
        near = get_close_matches(column, names, n=3, cutoff=0.0)
        times = names.count(column)
        what = f"{path}: there is no column {column!r}." if not times else f"{path}: {times} columns are {column!r}."
        raise BadInput(what, f"The nearest are {', '.join(near)}.", "Its header names the columns.")
    return timed + names.index(column)


def _value(path: Path, number: int, cell: str, column: str) -> float:
    """A cell as a finite number; anything else is a gap."""
    value = _number(cell)
    if value is None or not isfinite(value):
        what = f"{path}, line {number}, column {column}: " + (
            f"{cell[:40]!r} is no finite number." if cell else "empty."
        )
        raise BadInput(what, "A series has no gaps.", "Fill it in, or cut the series before or after it.")
    return value


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _form(cell: str, forms: Forms = FORMS) -> tuple[re.Match[str], str] | None:
    """How a time is written, and in which unit."""
    for pattern, unit in forms:
        if found := pattern.fullmatch(cell):
            return found, unit
    return None


def _written(cells: Sequence[str], header: Sequence[str], timed: int) -> str:
    """When a line is, as one word: a year and its quarter or month stand in two columns."""
    if timed < 2:
        return cells[0]
    return f"{cells[0]}Q{cells[1]}" if header[1].lower() == "quarter" else f"{cells[0]}-{cells[1].zfill(2)}"


def _times(path: Path, written: Sequence[tuple[int, str]]) -> tuple[np.ndarray, int]:
    """The periods and the step between them; raises BadInput at the first step that is another."""
    forms = FORMS[1:] if _counted([text for _, text in written]) else FORMS
    moments = [_moment(path, number, text, forms) for number, text in written]
    unit = moments[0][1]
    odd = next((i for i, (_, other) in enumerate(moments) if other != unit), None)
    if odd is not None:
        number, text = written[odd]
        raise BadInput(f"{path}, line {number}: {text!r} is another kind of time than {written[0][1]!r}.", ALLOWED)
    times = np.array([moment for moment, _ in moments], f"datetime64[{unit}]" if unit else np.int64)
    if unit == "D":
        times = _as_months(times)
    steps = np.diff(times.astype(np.int64))
    usual = int(Counter(steps.tolist()).most_common(1)[0][0])
    wrong = (steps != usual) | (steps <= 0)
    if wrong.any():
        odd = int(np.argmax(wrong))
        what = f"{path}, line {written[odd + 1][0]}: {written[odd + 1][1]} follows {written[odd][1]}."
        name = {"": "", "M": " months", "D": " days", "s": " seconds"}[unit_of(times)]
        step = f", most of them {usual}{name}" if usual > 0 else ""
        raise BadInput(what, f"Times rise by equal steps{step}.", "Fill in what is missing, or sort the lines.")
    return times, usual


def _as_months(days: np.ndarray) -> np.ndarray:
    """The same day of every month, or the last of every month, is a series of months; other days stay days."""
    months = days.astype("datetime64[M]")
    same = len(set((days - months.astype("datetime64[D]")).tolist())) == 1
    last = bool((periods_after(days, 1, 1).astype("datetime64[M]") == periods_after(months, 1, 1)).all())
    return months if (same or last) and len(set(np.diff(days).tolist())) > 1 else days


def periods_after(times: np.ndarray, step: int, counts: np.ndarray | int) -> np.ndarray:
    """The periods `counts` steps after `times`, the step in their unit: dates take no bare numbers from NumPy 2.5 on.

    >>> periods_after(np.datetime64("1949-11"), 3, np.arange(2)).astype(str).tolist()
    ['1949-11', '1950-02']
    """
    times = np.asarray(times)
    unit: Any = unit_of(times)
    return times + counts * (np.timedelta64(step, unit) if unit else step)


def unit_of(times: np.ndarray) -> str:
    """The unit of dates: M, D or s; empty for whole numbers."""
    return np.datetime_data(times.dtype)[0] if times.dtype.kind == "M" else ""


def _counted(texts: Sequence[str]) -> bool:
    """Whether numbers of eight digits count: most are no days, or some are none and all rise by equal steps."""
    days = sum(_day(text) for text in texts)
    if 2 * days < len(texts) or days == len(texts):
        return days < len(texts)
    even = all(text.isdigit() for text in texts) and len(set(np.diff([int(text) for text in texts]).tolist())) == 1
    return even and len(texts) > 2


def _day(text: str) -> bool:
    """Whether eight digits are a day of the calendar; other numbers of eight digits count something."""
    found = FORMS[0][0].fullmatch(text)
    try:
        return found is not None and np.datetime64("-".join(found.groups())) is not None
    except ValueError:
        return False


def _moment(path: Path, number: int, text: str, forms: Forms) -> tuple[int | np.datetime64, str]:
    """When a line is, and in which unit."""
    try:
        form = _form(text, forms)
        if form is None:
            raise ValueError
        found, unit = form
        parts = found.groupdict()
        if not unit:
            return int(text), unit
        if "Q" in parts:
            return np.datetime64(f"{parts['Y']}-{3 * int(parts['Q']) - 2:02d}"), unit
        date = "-".join(parts[part] for part in "YMD" if part in parts)
        clock = f"T{parts['h']}:{parts['m']}:{parts['s'] or '00'}" if "h" in parts else ""
        return np.datetime64(date + clock), unit
    except ValueError as error:
        raise BadInput(f"{path}, line {number}: {text[:40]!r} is not a time.", ALLOWED) from error
