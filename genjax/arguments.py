"""Command-line arguments: tyro reads the types, and what it refuses is told in three lines.

Options of a command are a NamedTuple; the fields of an experiment join them under a heading of their own.
"""

import contextlib
import dataclasses
import difflib
import inspect
import io
import re
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from typing_extensions import Doc

from genjax.errors import BadInput
from genjax.fields import Field
from genjax.kinds import kind_name

# options of several commands, each with its one text
Devices = Annotated[int | None, Doc("How many devices to use; default: all.")]
CheckpointEvery = Annotated[
    int | None, Doc("Updates between checkpoints; default: a fifth of the stage, at most 5,000.")
]
LogEvery = Annotated[int | None, Doc("Updates between log lines; default: a hundredth of the stage, at most 1,000.")]
EvaluateEvery = Annotated[int | None, Doc("Updates between evaluations; default: a tenth of the stage.")]
Precision = Annotated[
    Literal["float32", "tensorfloat32", "bfloat16"],
    Doc("bfloat16 computes in bfloat16 with float32 parameters and reductions."),
]
Parallel = Annotated[
    Literal["jit", "fsdp", "pmap"],
    Doc("jit: replicated state; fsdp: state sharded over the devices; pmap: one program a device."),
]


def parse(
    prog: str,
    about: str,
    options: type,
    arguments: Sequence[str],
    fields: Sequence[Field] = (),
    defaults: Mapping[str, Any] | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Read the arguments of a command; `--help` prints and exits 0.

    Args:
      prog: "genjax train FILE".
      about: the text above the options.
      options: a NamedTuple class with defaults and docstrings of its fields.
      arguments: from the command line.
      fields: an experiment's.
      defaults: of options, where they differ from the class's own.

    Returns:
      (options, {field: value}).

    Raises:
      BadInput: an unknown option (with the nearest name), a wrong type, a missing value, a name used twice.
    """
    import tyro

    _check_names(options, fields)
    shape = _command(options, fields, options(**(defaults or {})))
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            chosen = tyro.cli(
                shape, prog=prog, description=re.sub(r"\n+", "\n\n", about), args=list(arguments), config=(_flat(tyro),)
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise _refused(prog, errors.getvalue(), options, fields, arguments) from None
    return chosen


def first_argument(arguments: Sequence[str], usage: str, options: type, what: str) -> tuple[str, list[str]]:
    """The one argument that comes before the options, and the rest; without it, `--help` shows the options alone.

    Raises:
      BadInput: it is missing, or an option stands in its place.
    """
    if arguments and arguments[0] in ("-h", "--help"):
        parse(usage, f"{usage.split()[-1]}: {what}.", options, ["--help"])
    if not arguments or arguments[0].startswith("-"):
        raise BadInput(
            f"{usage}: {what} is missing", f"{usage.split()[-1]} comes before the options", f"{usage} --help"
        )
    return arguments[0], list(arguments[1:])


def _flat(tyro: Any) -> Any:
    return tyro.conf.OmitArgPrefixes


def _command(options: type, fields: Sequence[Field], chosen: Any) -> Any:
    import tyro

    def entry(field: Field) -> tuple[Any, ...]:
        text = field.help + (f" In {field.limits}." if field.limits else "")
        kind: Any = Annotated[field.type, tyro.conf.arg(help=text)]  # type: ignore[name-defined]
        if field.default is inspect.Parameter.empty:
            return field.name, kind
        return field.name, kind, dataclasses.field(default=field.default)

    if not fields:

        def alone(command=chosen):  # type: ignore[no-untyped-def]
            return command, {}

        alone.__annotations__ = {"command": options}
        return alone
    record = dataclasses.make_dataclass("Fields", [entry(field) for field in fields], kw_only=True)

    def both(experiment, command=chosen):  # type: ignore[no-untyped-def]
        return command, {field.name: getattr(experiment, field.name) for field in fields}

    both.__annotations__ = {"experiment": record, "command": options}
    return both


def _check_names(options: type, fields: Sequence[Field]) -> None:
    reserved = {*options._fields, "help"} if fields else set()  # type: ignore[attr-defined]
    for field in fields:
        if field.name in reserved:
            raise BadInput(
                f"field {field.name!r} of the experiment has the name of an option of the command",
                f"reserved: {', '.join(sorted(reserved))}",
                "rename the field",
            )


def _refused(prog: str, text: str, options: type, fields: Sequence[Field], arguments: Sequence[str]) -> BadInput:
    what = _first_paragraph(text).partition(". Got errors")[0].removeprefix("Error parsing ")
    what = what or f"arguments not understood: {' '.join(arguments)}"
    types = {**{field.name: field.type for field in fields}, **typing.get_type_hints(options)}
    names = [name.replace("_", "-") for name in types]
    if "nrecognized" in text:
        unknown = what.partition(":")[2].replace(",", " ").split()[0]
        near = difflib.get_close_matches(unknown.lstrip("-").replace("_", "-"), names, 1, 0.4)
        what = f"unknown option {unknown}" if unknown.startswith("-") else f"unexpected argument {unknown!r}"
        allowed = f"did you mean --{near[0]}?" if near else f"options: {', '.join('--' + n for n in names)}"[:300]
        return BadInput(what, allowed, f"{prog} --help lists them")
    chosen = re.match(r"invalid choice '(.*?)' for argument '--([\w-]+)'", what)
    if chosen:
        return _no_choice(chosen[1], chosen[2], types, prog)
    named = [name for name in types if re.search(rf"--{name.replace('_', '-')}(?![\w-])", what)]
    helps = {field.name: field.help for field in fields}
    allowed = "; ".join(f"{name}: {kind_name(types[name])}, {helps.get(name, '')}".rstrip(", ") for name in named)
    return BadInput(what[:300], allowed[:300], f"{prog} --help")


def _no_choice(value: str, name: str, types: Mapping[str, Any], prog: str) -> BadInput:
    kinds = typing.get_args(types.get(name.replace("-", "_")))  # of a Literal, or of one beside None
    choices = [one for kind in kinds for one in (typing.get_args(kind) or [kind]) if isinstance(one, str)]
    near = difflib.get_close_matches(value, choices, 1, 0.6)
    told = f"did you mean {near[0]}? " if near else ""
    return BadInput(f"invalid choice '{value}' for --{name}", f"{told}allowed: {', '.join(choices)}", f"{prog} --help")


def _first_paragraph(box: str) -> str:
    """What tyro says below the title of its box; where standard output is no UTF-8, rules stand for the frame."""
    lines = [line.strip(" │") for line in re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines()]
    lines = [line for line in lines if line and line[0] not in "╭╰"][0 if "╭" in box else 2 :]
    rules = [number for number, line in enumerate(lines) if not line.strip("-─")]
    return " ".join(lines[: rules[0]] if rules else lines)
