"""The grid of a sweep: `learning_rate=1e-4,3e-4 seed=0:5` becomes points, each with its values and its name.

A range a:b holds the whole numbers from a to b - 1.  A point's name depends on nothing but its own swept values, so a
sweep that is repeated with more values finds again what is done.
"""

import difflib
import hashlib
import itertools
import math
import re
import typing
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from genjax.arguments import parse
from genjax.errors import BadInput
from genjax.fields import Field, Limits, check_values

SEED = Field("seed", int, 0, "of a run", Limits(0, 2**32 - 1))
MOST = 10_000  # points: more is a slip of the pen
_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_-]*)=(.*)", re.DOTALL)


class Point(NamedTuple):
    """One run of a sweep."""

    name: str  # of its run directory
    swept: Mapping[str, Any]  # field -> value, the seed among them where it is swept
    values: Mapping[str, Any]  # all fields of the experiment
    seed: int
    arguments: tuple[str, ...]  # what the command line of `train` gets for the swept fields


class Grid(NamedTuple):
    """What a sweep's command line says."""

    points: tuple[Point, ...]
    swept: Mapping[str, Sequence[Any]]  # field -> its values
    options: Any  # the command's
    fixed: tuple[str, ...]  # arguments that are fields of the experiment or options of `train`


def read_grid(prog: str, about: str, options: type, arguments: Sequence[str], fields: Sequence[Field]) -> Grid:
    """All combinations of the values of the swept fields, typed and inside their limits.

    Args:
      prog: "genjax sweep FILE".
      about: for its help.
      options: the command's NamedTuple; its `seed` is that of every point where the seed is not swept.
      arguments: `field=value,value`, `field=low:high` and options in any order.
      fields: the experiment's.

    Raises:
      BadInput: no field, an unknown one (the nearest name), one named twice, no values, a value given twice, of the
        wrong type or outside its limits, too many points.
    """
    known = {field.name: field for field in (*fields, SEED)}
    matches = [_ASSIGNMENT.fullmatch(text) for text in arguments]
    fixed = tuple(text for text, match in zip(arguments, matches, strict=True) if not match)
    texts: dict[str, list[str]] = {}
    for match in filter(None, matches):
        name = match[1].replace("-", "_")
        _check_name(prog, name, texts, known, fixed)
        texts[name] = _texts(known[name], match[2])
    if not texts and not {"-h", "--help"} & set(fixed):
        raise BadInput(f"{prog}: nothing to sweep", "field=value,value or field=low:high", f"{prog} seed=0:3")
    first = [word for name, found in texts.items() for word in _words(known[name], found[0])]
    _check_size(texts)
    chosen, values = parse(prog, about, options, [*fixed, *first], fields)
    check_values((*fields, SEED), {**values, "seed": chosen.seed})
    typed = {name: _typed(prog, options, fields, fixed + tuple(first), known[name], texts[name]) for name in texts}
    points = tuple(_point(known, texts, typed, numbers, values, chosen.seed) for numbers in _combinations(texts))
    return Grid(points, typed, chosen, fixed)


def point_name(swept: Mapping[str, Any]) -> str:
    """The name of a point's run directory; where its values hold other characters, or many, a digest makes it unique.

    >>> point_name({"latents": 4, "learning_rate": 1e-3, "seed": 0})
    'latents_4-learning_rate_0.001-seed_0'
    >>> point_name({"shape": (8, 8), "data": "a/b"})
    'shape_8.8-data_a.b-48fd4e7b'
    """
    text = "-".join(f"{name}_{_plain(value)}" for name, value in swept.items())
    safe = re.sub(r"[^A-Za-z0-9._-]", ".", text)
    if safe == text and len(text) <= 100:
        return text
    return f"{safe[:91]}-{hashlib.sha256(repr(sorted(swept.items())).encode()).hexdigest()[:8]}"


def described(swept: Mapping[str, Any]) -> str:
    """A point for people.

    >>> described({"latents": 4, "seed": 0})
    'latents=4 seed=0'
    """
    return " ".join(f"{name}={_plain(value)}" for name, value in swept.items())


def _check_name(
    prog: str, name: str, seen: Mapping[str, Any], known: Mapping[str, Field], fixed: Sequence[str]
) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, 1, 0.4)
        raise BadInput(
            f"unknown field {name!r}",
            f"did you mean {near[0]}?" if near else f"fields: {', '.join(known)}",
            f"{prog} --help lists them",
        )
    if name in seen:
        raise BadInput(f"field {name!r} is swept twice", "one list of values a field", f"{name}=value,value,value")
    flag = "--" + name.replace("_", "-")
    if any(text.partition("=")[0].replace("_", "-") == flag for text in fixed):
        raise BadInput(f"field {name!r} is swept and fixed", "one of both", f"leave {flag} or {name}= out")


def _texts(field: Field, text: str) -> list[str]:
    found: list[str] = []
    for part in text.split(","):
        part = part.strip()
        bounds = re.fullmatch(r"([+-]?\d+):([+-]?\d+)", part) if field.type is int else None
        if bounds is None:
            found += [part] if part else []
            continue
        low, high = int(bounds[1]), int(bounds[2])
        if high - low > MOST:
            raise BadInput(f"{field.name}={part} has {high - low:,} values", f"allowed: at most {MOST:,} points")
        found += map(str, range(low, high))
    if not found:
        raise BadInput(
            f"{field.name}={text} has no values",
            f"allowed: {field.name}=value,value" + (" or low:high, without high" if field.type is int else ""),
            f"for example {field.name}=0:3" if field.type is int else "",
        )
    return found


def _words(field: Field, text: str) -> list[str]:
    """The words of the command line that give a field a value: a flag, or the values of a tuple one by one."""
    flag = "--" + field.name.replace("_", "-")
    if field.type is bool:
        if text.lower() not in ("true", "false"):
            raise BadInput(f"{field.name}={text}", "allowed: true or false", f"{field.name}=true,false")
        if field.default in (True, False):
            return [flag if text.lower() == "true" else flag.replace("--", "--no-", 1)]
        return [flag, text.capitalize()]
    return [flag, *text.split()] if typing.get_origin(field.type) is tuple else [f"{flag}={text}"]


def _typed(
    prog: str, options: type, fields: Sequence[Field], others: Sequence[str], field: Field, texts: Sequence[str]
) -> list[Any]:
    """The values of a field, read as `train` will read them; the later of two equal options counts."""
    values: list[Any] = []
    for text in texts:
        if field.type is int and re.fullmatch(r"[+-]?\d+", text):
            value: Any = int(text)  # a long range need not pass through the parser
        else:
            chosen, found = parse(prog, "", options, [*others, *_words(field, text)], fields)
            value = chosen.seed if field is SEED else found[field.name]
        check_values((field,), {field.name: value})
        if value in values:
            raise BadInput(f"{field.name}={','.join(texts)[:120]}", f"{text} is given twice", "every value once")
        values.append(value)
    return values


def _check_size(texts: Mapping[str, Sequence[str]]) -> None:
    size = math.prod(len(found) for found in texts.values())
    if size > MOST:
        sizes = " x ".join(str(len(found)) for found in texts.values())
        raise BadInput(f"the sweep has {size:,} points ({sizes})", f"allowed: at most {MOST:,}", "sweep fewer fields")


def _combinations(texts: Mapping[str, Sequence[str]]) -> Any:
    return itertools.product(*(range(len(found)) for found in texts.values()))


def _point(
    known: Mapping[str, Field], texts: Mapping[str, Sequence[str]], typed: Mapping[str, Sequence[Any]],
    numbers: Sequence[int], values: Mapping[str, Any], seed: int,
) -> Point:  # fmt: skip
    swept = {name: typed[name][number] for name, number in zip(texts, numbers, strict=True)}
    words = [_words(known[name], texts[name][number]) for name, number in zip(texts, numbers, strict=True)]
    own = {name: swept.get(name, value) for name, value in values.items()}
    return Point(point_name(swept), swept, own, swept.get("seed", seed), tuple(itertools.chain(*words)))


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(_plain, value))
    return repr(value) if isinstance(value, float) else str(value)
