"""The types that a field of an experiment may have: those that the command line and JSON can both give back."""

import inspect
import types
import typing
from typing import Annotated, Any

from genjax.errors import BadInput

TYPES = "int, float, bool, str, Literal, tuple of these, X | None"


def check_kind(where: str, kind: Any, default: Any) -> None:
    """Refuse a type that is not allowed, and a default that is not of its type.

    >>> check_kind("steps", int, 100)
    >>> check_kind("steps", int, "many")
    Traceback (most recent call last):
    genjax.errors.BadInput: steps has the type int, and the default 'many'
    ...
    """
    if not _known(kind):
        told = f"{where} has the type {kind_name(kind)}"
        raise BadInput(told, f"allowed: {TYPES}", "let the field choose by number or name, and build the rest inside")
    if default is not inspect.Parameter.empty and not fits(default, kind):
        told = f"{where} has the type {kind_name(kind)}, and the default {default!r}"
        raise BadInput(told, "a default has the type of its field", "change one of both")


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a type; a whole number is also a float.

    >>> fits((8, 8), tuple[int, ...]), fits(1, float), fits(True, int), fits(None, int | None)
    (True, True, False, True)
    """
    parts, origin = typing.get_args(kind), typing.get_origin(kind)
    if origin is Annotated:
        return fits(value, parts[0])
    if origin is tuple:
        if parts[-1] is ... and isinstance(value, tuple):
            parts = parts[:1] * len(value)
        return isinstance(value, tuple) and len(value) == len(parts) and all(map(fits, value, parts))
    if origin is typing.Literal:
        return value in parts
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float if kind is float else kind)


def kind_name(kind: Any) -> str:
    """A type as one writes it."""
    return kind.__name__ if inspect.isclass(kind) and not typing.get_args(kind) else str(kind).replace("typing.", "")


def _known(kind: Any) -> bool:
    parts, origin = typing.get_args(kind), typing.get_origin(kind)
    if origin is Annotated:
        return _known(parts[0])
    if origin in (tuple, typing.Union, types.UnionType):
        return all(_known(part) for part in parts if part is not ...)
    return kind in (int, float, bool, str, type(None)) or origin is typing.Literal
