"""The signature of an experiment function is its configuration: loading the file, its fields, their limits.

An experiment file is Python and runs as such when it is named on the command line; no command ever fetches one.
"""

import difflib
import importlib.util
import inspect
import math
import os
import re
import sys
import traceback
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from genjax.errors import BadInput, GenjaxError
from genjax.kinds import TYPES, check_kind

ENTRY = "experiment"
FOLDERS: list[str] = []  # of the experiments that this process has loaded, the last one first


class Limits(NamedTuple):
    """The values a field may take; given as Annotated[float, Limits(...)]."""

    low: float = -math.inf
    high: float = math.inf
    without_low: bool = False
    without_high: bool = False

    def __str__(self) -> str:
        left, right = "(" if self.without_low else "[", ")" if self.without_high else "]"
        return f"{left}{self.low:g}, {self.high:g}{right}".replace("[-inf", "(-inf").replace("inf]", "inf)")


Positive = Annotated[float, Limits(0, without_low=True)]  # learning rates, scales
NonNegative = Annotated[float, Limits(0)]  # weights of a term, KL's beta
Fraction = Annotated[float, Limits(0, 1, without_high=True)]  # decays, dropout, Adam's b1 and b2
Count = Annotated[int, Limits(1)]  # widths, batch sizes, samples

# fields whose name already says what they may be, in an experiment that annotates them plainly
KNOWN_LIMITS = {
    "learning_rate": Limits(0, without_low=True),
    "batch_size": Limits(1),
    "steps": Limits(0),
    "b1": Limits(0, 1, without_high=True),
    "b2": Limits(0, 1, without_high=True),
}


class Field(NamedTuple):
    """One argument of an experiment function."""

    name: str
    type: Any  # without its limits
    default: Any  # inspect.Parameter.empty: required
    help: str
    limits: Limits | None


class Loaded(NamedTuple):
    """An experiment file that was read."""

    path: Path
    name: str  # of the file, without .py
    title: str  # the first line of its docstring
    about: str  # its docstring
    function: Callable[..., Any]
    fields: tuple[Field, ...]
    source: bytes
    folder: Path  # of the files that it may import


def load(path: str | Path, folder: Path | None = None) -> Loaded:
    """Import an experiment file and read the signature of its function `experiment`.

    Args:
      path: a Python file.
      folder: where the files stand that it imports; None: beside it.

    Returns:
      The function, its fields, and the file's documentation and source.

    Raises:
      BadInput: no such file (the nearest names), not a Python file, an error while importing it (with its line), no
        function `experiment`, a field without a type.
    """
    path = Path(path)
    _check_file(path)
    folder = (folder or path.parent).resolve()
    module = _imported(path, folder)
    function = getattr(module, ENTRY, None)
    if not callable(function):
        near = difflib.get_close_matches(ENTRY, [n for n in vars(module) if callable(getattr(module, n))], 1, 0.5)
        raise BadInput(
            f"{path} defines no function named {ENTRY!r}" + (f"; did you mean {near[0]!r}?" if near else ""),
            f"an experiment file defines `def {ENTRY}(field: type = default, ...) -> Experiment`",
            "see experiments/vae_digits.py",
        )
    about = inspect.cleandoc(module.__doc__ or function.__doc__ or "")
    title = about.partition("\n")[0]
    return Loaded(path, path.stem, title, about, function, _fields(path, function), path.read_bytes(), folder)


def check_values(fields: tuple[Field, ...], values: Mapping[str, Any]) -> None:
    """Refuse values outside the limits of their fields, and floats that are not finite.

    >>> check_values((Field("rate", float, 1.0, "", Limits(0, without_low=True)),), {"rate": -1.0})
    Traceback (most recent call last):
    genjax.errors.BadInput: --rate -1.0
    allowed: a number in (0, inf)
    the default is 1.0
    """
    for field in fields:
        value = values.get(field.name)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, bool) or not isinstance(number, int | float):
                continue
            limits = field.limits or Limits()
            low = number > limits.low if limits.without_low else number >= limits.low
            high = number < limits.high if limits.without_high else number <= limits.high
            if not (low and high and math.isfinite(number)):
                kind = "a whole number" if isinstance(number, int) else "a number"
                raise BadInput(
                    f"--{field.name.replace('_', '-')} {value}",
                    f"allowed: {kind} in {limits}",
                    "" if field.default is inspect.Parameter.empty else f"the default is {field.default}",
                )


def build(loaded: Loaded, values: Mapping[str, Any]) -> Any:
    """Call the experiment function; what goes wrong in the user's file is told with its line.

    Raises:
      BadInput: the function raised, or returned something that is not an Experiment.
    """
    from genjax.experiment import Experiment, check_experiment

    check_values(loaded.fields, values)
    try:
        built = loaded.function(**values)
    except (GenjaxError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        raise BadInput(
            f"{loaded.path.name}{_line_in(error, loaded.path)}: {type(error).__name__}: {_one_line(error)}",
            f"raised by {ENTRY}({', '.join(f'{k}={v!r}' for k, v in values.items())})"[:200],
            "run again with --debug for the whole traceback",
        ) from error
    if not isinstance(built, Experiment):
        raise BadInput(
            f"{loaded.path.name}: {ENTRY}() returned {type(built).__name__}",
            f"{ENTRY}() returns a genjax.Experiment(stages=[...], ...)",
            "see experiments/vae_digits.py",
        )
    check_experiment(built)
    return built


def _check_file(path: Path) -> None:
    if os.path.isdir(path):
        run = next((place for place in (path, *path.absolute().parents) if (place / "config.json").exists()), None)
        what = "a directory" if run is None else "a run directory" if run == path else f"a part of the run {run}"
        next_step = f"genjax resume {run}" if run else "name a file in it"
        raise BadInput(f"{path} is {what}, not an experiment file", "an experiment is one Python file", next_step)
    if not os.path.exists(path):
        folder = path.parent if os.path.isdir(path.parent) else Path("experiments")
        names = sorted(str(p) for p in folder.glob("*.py")) if folder.is_dir() else []
        near = difflib.get_close_matches(str(path), names, 3, 0.4)
        raise BadInput(
            f"experiment file {str(path)[:200]} does not exist",
            f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(names[:5]) or 'no .py files there'}",
            "genjax list shows the experiments of a folder",
        )
    if path.suffix != ".py":
        raise BadInput(f"{path} is not a Python file", "an experiment is one file ending in .py", "genjax list")


def _imported(path: Path, folder: Path) -> Any:
    name = "experiment_" + re.sub(r"\W", "_", path.stem)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise BadInput(f"{path} cannot be imported", "an experiment is one Python file")
    module = importlib.util.module_from_spec(spec)
    _look_in(folder)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (GenjaxError, MemoryError):
        raise
    except SyntaxError as error:
        where = f", line {error.lineno}" if error.lineno else ""
        raise BadInput(
            f"{Path(error.filename or path).name}{where}: {error.msg}",
            "an experiment is a valid Python file, as UTF-8 text",
        ) from error
    except (Exception, SystemExit) as error:
        raise BadInput(
            f"{path.name}{_line_in(error, path)}: {type(error).__name__}: {_one_line(error)}",
            "raised while the file was imported",
            "run again with --debug for the whole traceback",
        ) from error
    return module


def _look_in(folder: Path) -> None:
    """Lets a file import those beside it: a larger variation is another file that imports `experiment` from this one.

    Last of all places, for the libraries' sake: a numbers.py beside an experiment must not hide the standard one.
    """
    own = str(folder)
    beside = [(name, str(Path(getattr(module, "__file__", None) or "").parent)) for name, module in sys.modules.items()]
    for name, place in beside:  # of two folders' files of one name each experiment gets its own
        if place in FOLDERS and place != own and (folder / f"{name}.py").exists():
            del sys.modules[name]
    FOLDERS[:] = [own, *(place for place in FOLDERS if place != own)]
    sys.path[:] = [*(place for place in sys.path if place not in FOLDERS), *FOLDERS]


def _fields(path: Path, function: Callable[..., Any]) -> tuple[Field, ...]:
    hints, helps = _hints(path, function), _argument_help(function.__doc__ or "")
    found = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise BadInput(
                f"{path.name}: {ENTRY}() takes {parameter.kind.description} {str(parameter)!r}",
                "every field is named in the signature, and given by its name",
            )
        if parameter.name not in hints:
            raise BadInput(
                f"{path.name}: field {parameter.name!r} of {ENTRY}() has no type",
                f"types make the command line: {TYPES}",
                f"write {parameter.name}: int = ..., for example",
            )
        kind, limits = hints[parameter.name], KNOWN_LIMITS.get(parameter.name)
        if typing.get_origin(kind) is Annotated:
            kind, *extras = typing.get_args(kind)
            limits = next((extra for extra in extras if isinstance(extra, Limits)), limits)
        check_kind(f"{path.name}: field {parameter.name!r}", kind, parameter.default)
        found.append(Field(parameter.name, kind, parameter.default, helps.get(parameter.name, ""), limits))
    return tuple(found)


def _hints(path: Path, function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except Exception as error:
        raise BadInput(
            f"{path.name}: a type of {ENTRY}() cannot be read: {_one_line(error)}", f"types: {TYPES}"
        ) from error


def _argument_help(docstring: str) -> dict[str, str]:
    """The entries of the `Args:` section of a docstring."""
    _, _, section = inspect.cleandoc(docstring).partition("Args:\n")
    entries: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        if line and not line.startswith(" "):
            break
        match = re.match(r"\s{2,4}(\w+)(?: \([^)]*\))?: (.*)", line)
        if match:
            name = match[1]
            entries[name] = match[2].strip()
        elif name:
            entries[name] += " " + line.strip()
    return {name: text.strip() for name, text in entries.items()}


def _line_in(error: BaseException, path: Path) -> str:
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).name == path.name]
    return f", line {lines[-1]}" if lines else ""


def _one_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:200]
