"""A run directory as plain values: all that is there, and notes about what is not.

A run that has just started, was killed or is damaged is read as well as a finished one.
"""

import ast
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from genjax.errors import Damaged
from genjax.report.log import read_log


class Snapshot(NamedTuple):
    """A picture or another file of some step."""

    stage_index: int
    step: int
    data: bytes
    path: str  # below the run directory


class Contents(NamedTuple):
    """What a run directory says."""

    directory: Path
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    outcome: Mapping[str, Any]  # results.json
    rows: Sequence[Mapping[str, Any]]  # metrics.jsonl
    source: str  # the experiment file
    pictures: Mapping[str, Sequence[Snapshot]]  # in the order of training
    files: Mapping[str, Sequence[Snapshot]]  # by name with suffix, such as samples.txt, in the order of training
    notes: Sequence[str]  # what could not be read


def read_contents(directory: str | Path) -> Contents:
    """Reads whatever a run directory holds; nothing in it is executed."""
    directory, notes = Path(directory), list[str]()
    config, environment, outcome = (
        _object(directory / f"{name}.json", notes) for name in ("config", "environment", "results")
    )
    try:
        rows = [row for row in read_log(directory) if _counts(row)]
    except (Damaged, OSError) as error:
        rows = []
        notes.append(str(error))
    source = directory / "experiment.py"
    text = source.read_text("utf-8", errors="replace") if source.is_file() else ""
    pictures = {name[:-4]: found for name, found in _snapshots(directory, "pictures").items() if name.endswith(".png")}
    files = _snapshots(directory, "files")
    return Contents(directory, config, environment, outcome, rows, text, pictures, files, notes)


def name_of(run: Contents) -> str:
    """The experiment's name: from the configuration, else the directory's."""
    experiment = mapping(run.config.get("experiment"))
    return str(experiment.get("name") or Path(str(experiment.get("file") or run.directory.resolve().name)).stem)


def description(run: Contents) -> str:
    """The first paragraph of the experiment's docstring, on one line.

    >>> run = Contents(Path("."), {}, {}, {}, [], '"A VAE\\\\non digits.\\\\n\\\\nPaper: ..."', {}, {}, [])
    >>> description(run)
    'A VAE on digits.'
    """
    try:
        text = ast.get_docstring(ast.parse(run.source)) or ""
    except (SyntaxError, ValueError, RecursionError):
        return ""
    return " ".join(text.split("\n\n")[0].split())


def results(run: Contents) -> list[Mapping[str, Any]]:
    """The result lines that have a name and a number."""
    lines = run.outcome.get("results")
    known = [mapping(line) for line in lines] if isinstance(lines, list) else []
    return [line for line in known if "name" in line and isinstance(line.get("value"), int | float)]


def state(run: Contents) -> str:
    """ "finished", "preempted", ... as the run wrote it; "running" or "started" if it wrote none yet."""
    return str(run.outcome.get("state") or ("running" if run.rows else "started"))


def mapping(value: Any) -> Mapping[str, Any]:
    """The value if it is an object of JSON, else an empty one."""
    return value if isinstance(value, dict) else {}


def _counts(row: Mapping[str, Any]) -> bool:
    return all(isinstance(row.get(name), int) for name in ("stage_index", "step"))


def _object(path: Path, notes: list[str]) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_bytes()) if path.exists() else {}
    except (OSError, ValueError) as error:
        notes.append(f"{path.name} cannot be read: {error}")
        return {}
    if not isinstance(value, dict):
        notes.append(f"{path.name} holds no object")
    return mapping(value)


def _snapshots(directory: Path, folder: str) -> dict[str, list[Snapshot]]:
    """NAME-STAGE-STEP.SUFFIX of a folder, by NAME.SUFFIX; a .png that is none is left out."""
    found: dict[str, list[Snapshot]] = {}
    for path in sorted((directory / folder).glob("*.*")):
        match = re.fullmatch(r"(.+)-(\d+)-(\d+)", path.stem)
        data = path.read_bytes()
        if match and (path.suffix != ".png" or data.startswith(b"\x89PNG")):
            snapshot = Snapshot(int(match[2]), int(match[3]), data, f"{folder}/{path.name}")
            found.setdefault(match[1] + path.suffix, []).append(snapshot)
    return {name: sorted(several, key=lambda s: s[:2]) for name, several in found.items()}
