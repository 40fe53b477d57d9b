"""The command `genjax list`: experiments and runs, read as text; nothing is imported or executed, nor is JAX loaded.

A run is `running` only while its LOCK is held: the kernel lets go of it when the process dies, however it dies.
"""

import ast
import fcntl
import json
import os
import re
import shutil
import textwrap
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from genjax.arguments import parse
from genjax.errors import BadInput

ABOUT = """Lists experiments, by what their files say of themselves, or runs.

genjax list [FOLDER]         the experiments of a folder; default: experiments
genjax list runs [FOLDER]    the runs of a folder, those of its sweeps among them; default: runs"""
NAMED = re.compile(r"([A-Z]\w+): +(\S.*)")  # a line of an experiment's header, such as `Paper:    ...`


class ListOptions(NamedTuple):
    """Options of `genjax list`."""

    debug: bool = False
    """Whole tracebacks."""


class Run(NamedTuple):
    """One line of `genjax list runs`."""

    name: str
    state: str
    step: str  # of the newest sealed checkpoint
    best: str
    age: str  # since it last wrote


def command(arguments: Sequence[str]) -> int:
    """`genjax list [FOLDER]`, `genjax list runs [FOLDER]`."""
    runs = list(arguments[:1]) == ["runs"]
    rest = list(arguments[1:] if runs else arguments)
    folder = rest.pop(0) if rest and not rest[0].startswith("-") else ("runs" if runs else "experiments")
    parse("genjax list", ABOUT, ListOptions, rest)
    print(runs_text(Path(folder)) if runs else experiments_text(Path(folder)))
    return 0


def experiments_text(folder: Path) -> str:
    """The experiments of a folder: file, title, paper, measured number.

    Raises:
      BadInput: no such folder, or it holds no experiment.
    """
    if not folder.is_dir():
        raise BadInput(f"there is no folder {folder}", "a folder of experiment files", "genjax list FOLDER")
    found = [(path, _read(path)) for path in sorted(folder.glob("*.py"))]
    parts = [_entry(path, told) for path, told in found if told is not None]
    if not parts:
        raise BadInput(
            f"{folder} holds no experiment",
            "a Python file that defines `experiment`",
            f"genjax list runs {folder}" if any(folder.glob("*/config.json")) else "genjax list FOLDER",
        )
    return "\n\n".join(parts)


def header(docstring: str) -> dict[str, str]:
    """The title and the named lines of an experiment's docstring, each on one line.

    >>> header("A VAE\\non digits.\\n\\nPaper:    one, 2014\\nMeasured: 98.1 nats\\n          on CPU")
    {'title': 'A VAE on digits.', 'Paper': 'one, 2014', 'Measured': '98.1 nats on CPU'}
    """
    told, name = {"title": " ".join(docstring.split("\n\n")[0].split())}, ""
    for line in docstring.splitlines():
        match = NAMED.fullmatch(line)
        if match:
            name = match[1]
            told[name] = match[2].strip()
        elif name and line.startswith(" ") and line.strip():
            told[name] += " " + line.strip()
        else:
            name = ""
    return told


def runs_text(folder: Path) -> str:
    """The runs of a folder as a table, the newest first.

    Raises:
      BadInput: no such folder, or it holds no run.
    """
    places = [
        path.parent for pattern in ("config.json", "*/config.json", "*/*/config.json") for path in folder.glob(pattern)
    ]
    if not places:
        what = "holds no run" if folder.is_dir() else "does not exist"
        raise BadInput(
            f"the folder {folder} {what}", "a folder in which genjax train made runs", "genjax list runs FOLDER"
        )
    places.sort(key=_written, reverse=True)
    lines = [("run", "state", "step", "best", "age"), *(read_run(place, folder) for place in places)]
    cells = [[_clean(cell) for cell in line] for line in lines]
    widths = [max(len(line[column]) for line in cells) for column in range(5)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells)


def read_run(directory: Path, folder: Path) -> Run:
    """What a run directory says of its run, however damaged it is."""
    config, told = read_object(directory / "config.json"), read_object(directory / "results.json")
    seals = _seals(directory)
    step = f"{seals[0].get('step', 0):,}" if seals else "-"
    if seals and seals[0].get("stage_index"):
        step = f"{seals[0].get('stage')} {step}"
    name = str(directory.relative_to(folder)) if directory != folder else str(directory)
    return Run(
        name, _state(directory, config, told), step, _best(config, told, seals), age(time.time() - _written(directory))
    )


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; an empty one where it is missing or damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def is_locked(directory: Path) -> bool:
    """Whether a living process holds the directory's LOCK."""
    try:
        file = os.open(directory / "LOCK", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(file)
    return False


def age(seconds: float) -> str:
    """A time that has passed, in its largest unit.

    >>> age(3), age(200), age(7300), age(200_000)
    ('3 s', '3 min', '2 h', '2 d')
    """
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(int(seconds), 0)} s"


def _read(path: Path) -> dict[str, str] | None:
    """The header of an experiment; None for a file that is none."""
    try:
        tree = ast.parse(path.read_bytes(), path.name)
    except SyntaxError as error:
        return {"title": f"cannot be read: line {error.lineno}: {error.msg}"}
    except (OSError, ValueError, RecursionError) as error:
        return {"title": f"cannot be read: {error}"}
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return header(ast.get_docstring(tree) or "") if "experiment" in names else None


def _entry(path: Path, told: Mapping[str, str]) -> str:
    parts = [f"{name.lower():9} {told[name]}" for name in ("Paper", "Measured") if name in told]
    width = min(shutil.get_terminal_size().columns, 120)
    lines = [textwrap.fill(part, width, initial_indent="  ", subsequent_indent=" " * 12) for part in parts]
    title = textwrap.fill(told["title"], width, initial_indent="  ", subsequent_indent="  ")
    return "\n".join([str(path), *([title] if title else []), *lines])


def _clean(text: str) -> str:
    """Without control characters: what a damaged file says must not steer the terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)[:100]


def _seals(directory: Path) -> list[dict[str, Any]]:
    """The readable seals of a run, newest first: their directories are named by stage index and step."""
    paths = sorted(directory.glob("checkpoints/[0-9]*/SEAL.json"), reverse=True)
    return [seal for seal in map(read_object, paths) if isinstance(seal.get("step"), int)]


def _state(directory: Path, config: Mapping[str, Any], told: Mapping[str, Any]) -> str:
    if is_locked(directory):
        return "running"
    if not config or ((directory / "results.json").exists() and not told):
        return "damaged"
    state = str(told.get("state") or "started")
    return "interrupted" if state in ("running", "started") else state


def _best(config: Mapping[str, Any], told: Mapping[str, Any], seals: Sequence[Mapping[str, Any]]) -> str:
    """The measure that the experiment selects by: its result where the run is finished, else its best checkpoint's."""
    chosen, results = config.get("select"), told.get("results")
    lines = [line for line in results if isinstance(line, dict)] if isinstance(results, list) else []
    lines = [line for line in lines if isinstance(line.get("value"), int | float)]
    line = next((line for line in lines if line.get("name") == chosen), lines[0] if lines else None)
    if line is not None:
        return f"{line.get('name')} {line['value']:.5g}"
    scores = [seal["score"] for seal in seals if isinstance(seal.get("score"), int | float)]
    best = max if config.get("better") == "higher" else min
    return f"{chosen} {best(scores):.5g}" if scores and chosen else "-"


def _written(directory: Path) -> float:
    """When a run last wrote one of its files."""
    times = []
    for name in ("config.json", "metrics.jsonl", "results.json"):
        try:
            times.append((directory / name).stat().st_mtime)
        except OSError:
            continue
    return max(times, default=0.0)
