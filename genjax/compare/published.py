"""Published numbers that stand beside one's own: a CSV file of name, value, kind, data set, source."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from genjax.compare.evidence import SORTS
from genjax.errors import BadInput

COLUMNS = ("name", "value", "kind", "data", "source")


class Published(NamedTuple):
    """A number of a paper."""

    name: str
    value: float  # nats an example
    kind: str  # begins with one of SORTS
    data: str  # the name of the data set
    source: str


def read_published(path: str | Path) -> list[Published]:
    """Read a table of published numbers.

    Args:
      path: a CSV file with the head name,value,kind,data,source.

    Raises:
      BadInput: no such file, another head, a value that is no number, a kind that is none; names the line.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            lines = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(
            f"--published {path}: {error}"[:200], "a CSV file", f"its first line: {','.join(COLUMNS)}"
        ) from None
    if not lines or tuple(lines[0]) != COLUMNS:
        raise BadInput(f"--published {path}: its first line is {lines[:1]}"[:200], f"allowed: {','.join(COLUMNS)}")
    return sorted((_entry(path, i, line) for i, line in enumerate(lines[1:], 2) if line), key=lambda one: one.value)


def check_published(published: Sequence[Published], data: str) -> None:
    """Refuse numbers of another data set than the runs'.

    Raises:
      BadInput: names the first and both sets.
    """
    other = next((one for one in published if one.data != data), None)
    if other is not None:
        told = f"--published: {other.name} was measured on {other.data}"
        raise BadInput(told, f"the runs are tested on {data}", "numbers of one data set stand in a table")


def _entry(path: str | Path, i: int, line: list[str]) -> Published:
    try:
        name, text, kind, data, source = line
        value = float(text)
        if not math.isfinite(value) or not kind.startswith(SORTS):
            raise ValueError
    except ValueError:
        allowed = f"allowed: a name, nats, one of {', '.join(SORTS)}, a data set, a source"
        raise BadInput(f"--published {path}, line {i}: {','.join(line)}"[:200], allowed) from None
    return Published(name, value, kind, data, source)
