"""Rows of papers that an experiment sets out to reproduce, declared in its file and read from it as text.

    TARGETS = (Target("14-made", 94.5, "nats", "test/nll", "binarized_mnist", "a", "Germain et al., 2015, ...", ...),)

The tolerance is fixed in the file before the run, so that a number is judged by what was wanted and not by what came
out.  The tuple is made of literals, and of names that the file gives to texts above it: listing it imports no
experiment, and JAX neither.
"""

import ast
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from genjax.errors import BadInput

ROW = re.compile(r"[0-9]{1,3}-[a-z0-9]+(-[a-z0-9]+)*")
CLASSES = ("a", "b", "c")
LOOK = "see genjax/targets.py for what a row of a paper says"


class Target(NamedTuple):
    """A row of a paper's table: what was published, and what counts as reproduced."""

    row: str  # its name, which begins with a number that orders the table: "2-iwae-k5"
    figure: float  # the paper's
    unit: str  # as the run tells it
    measure: str  # of results.json, such as "test/nll"
    data: str  # the name of the data set, as results tell it
    cost: str  # its class: a, two CPU cores in minutes to two hours; b, one GPU; c, a configuration that ships
    source: str  # authors, year, link; "from memory, unchecked" where that is so
    protocol: str  # in one line
    options: str = ""  # of the command
    tolerance: float | None = None  # inside figure ± tolerance
    relative: bool = False  # the tolerance is a share of the figure
    at_least: float | None = None  # instead of a tolerance
    at_most: float | None = None
    versus: str = ""  # a row whose measured value is taken off before `at_least` and `at_most` are asked


def interval(target: Target) -> tuple[float, float]:
    """The values that count as reproduced, both ends included.

    >>> base = Target("14-made", 94.5, "nats", "test/nll", "binarized_mnist", "a", "", "")
    >>> interval(base._replace(tolerance=1.0)), interval(base._replace(at_most=95.0))
    ((93.5, 95.5), (-inf, 95.0))
    """
    if target.tolerance is not None:
        width = target.tolerance * (abs(target.figure) if target.relative else 1.0)
        return target.figure - width, target.figure + width
    low, high = target.at_least, target.at_most
    return (-math.inf if low is None else low, math.inf if high is None else high)


def wanted_text(target: Target) -> str:
    """What counts as reproduced, in words.

    >>> wanted_text(Target("14-made", 94.5, "nats", "test/nll", "mnist", "a", "", "", tolerance=1.0))
    '94.5 ± 1 nats'
    >>> wanted_text(Target("17-names", 1.92, "nats/letter", "test/nats", "names", "a", "", "", at_most=1.95))
    '1.92 nats/letter, wanted: at most 1.95'
    """
    unit = f" {target.unit}" if target.unit else ""
    if target.tolerance is not None:
        width = f"{100 * target.tolerance:g} %" if target.relative else f"{target.tolerance:g}{unit}"
        return f"{target.figure:.10g}{unit if target.relative else ''} ± {width}"
    low, high = target.at_least, target.at_most
    if low is not None and high is not None:
        told = f"{low:g} to {high:g}"
    else:
        told = f"at least {low:g}" if low is not None else f"at most {high:g}"
    against = f" more than {target.versus}" if target.versus else ""
    return f"{target.figure:.10g}{unit}, wanted: {told}{against}"


def read_targets(path: Path) -> tuple[Target, ...]:
    """The rows that an experiment file declares; none where it has no TARGETS, or is no Python.

    Raises:
      BadInput: TARGETS is no literal tuple of targets, or one of them is wrong; names the line.
    """
    try:
        tree = ast.parse(Path(path).read_bytes(), path.name)
    except (OSError, SyntaxError, ValueError, RecursionError):
        return ()  # `genjax list` says so of an experiment that cannot be read
    known: dict[str, ast.expr] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            known |= {ast.unparse(name): node.value for name in node.targets}
        elif isinstance(node, ast.Assign) and [ast.unparse(name) for name in node.targets] == ["TARGETS"]:
            if not isinstance(node.value, ast.Tuple):
                raise BadInput(f"{path}, line {node.lineno}: TARGETS is no tuple", "TARGETS = (Target(...),)", LOOK)
            return tuple(_target(f"{path}, line {entry.lineno}", entry, known) for entry in node.value.elts)
    return ()


def _target(where: str, node: ast.expr, known: Mapping[str, ast.expr]) -> Target:
    if not isinstance(node, ast.Call) or ast.unparse(node.func) != "Target":
        raise BadInput(f"{where}: {ast.unparse(node)[:60]} is no Target", "Target(...) with literal values", LOOK)
    try:
        read = lambda value: ast.literal_eval(known.get(ast.unparse(value), value))
        positional = [read(value) for value in node.args]
        named = {str(word.arg): read(word.value) for word in node.keywords}
        target = Target(*positional, **named)
    except (ValueError, TypeError) as error:
        raise BadInput(f"{where}: {error}"[:200], f"literals of {', '.join(Target._fields)}", LOOK) from None
    wrong = next(iter(_wrong(target._asdict())), None)
    if wrong:
        raise BadInput(f"{where}: {wrong}", "a name, numbers, one of tolerance or at_least, at_most", LOOK)
    return target


def _wrong(told: Mapping[str, Any]) -> list[str]:
    """What is wrong with a target."""
    texts = ("row", "unit", "measure", "data", "cost", "source", "protocol", "options", "versus")
    found = [f"{name} is no text" for name in texts if not isinstance(told[name], str)]
    numbers = {name: told[name] for name in ("figure", "tolerance", "at_least", "at_most") if told[name] is not None}
    found += [f"{name} is no number" for name, value in numbers.items() if not _is_number(value)]
    if found:
        return found
    bounds = {"at_least", "at_most"} & set(numbers)
    return [
        *([] if ROW.fullmatch(told["row"]) else [f"row {told['row']!r}, which is not like 14-made"]),
        *([] if told["cost"] in CLASSES else [f"cost {told['cost']!r}, which is none of {', '.join(CLASSES)}"]),
        *([f"{told['row']} has no source or no protocol"] if not (told["source"] and told["protocol"]) else []),
        *([] if ("tolerance" in numbers) != bool(bounds) else [f"{told['row']} has no tolerance, or two"]),
        *([f"{told['row']} compares a tolerance with a row"] if told["versus"] and not bounds else []),
    ]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
