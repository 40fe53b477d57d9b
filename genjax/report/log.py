"""What a run leaves while it runs: `metrics.jsonl`, TensorBoard events and pictures.

`metrics.jsonl` is the truth; everything else is made from it or beside it.  One JSON object a line:

    {"stage": "vae", "stage_index": 0, "step": 100, "kind": "train", "time": 1765000000.0, "loss": 101.3}

`kind` is "train", "evaluation" or "final"; `time` is in seconds since 1970; every other key is a metric.  JSON knows no
NaN, so values that are not finite are the strings "NaN", "Infinity" and "-Infinity"; `read_log` gives them back as
floats.  A line that a kill has torn is left out on reading and removed when the log is opened again.
"""

import errno
import json
import math
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from genjax.errors import BadInput, Damaged
from genjax.report.events import open_events
from genjax.report.files import write_whole
from genjax.report.pictures import save_png

ROW = ("stage", "stage_index", "step", "kind", "time")  # the keys of a row that are no metrics
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class Log(NamedTuple):
    """The open log of a run."""

    write: Callable[[Mapping[str, Any]], None]  # a row: stage, stage_index, step, kind and metrics (scalars)
    picture: Callable[[str, str, int, int, np.ndarray], Path]  # (name, stage, stage_index, step, uint8 [h, w, 3])
    file: Callable[[str, int, int, bytes], Path]  # (name with its suffix, stage_index, step, content)
    close: Callable[[], None]


def open_log(directory: str | Path, stage_steps: Sequence[int], after: tuple[int, int] | None = None) -> Log:
    """Opens `metrics.jsonl`, `pictures/`, `files/` and `tensorboard/` of a run directory to add to them.

    Args:
      directory: the run directory; it exists.
      stage_steps: the updates of each stage; TensorBoard counts steps through all stages.
      after: the (stage_index, step) that a resumed run goes on from: what was logged later will be logged again, so
        those rows are dropped, and TensorBoard is told to forget its own.

    Returns:
      A `Log`.  A row is in the file when `write` returns, so a kill loses none.

    Raises:
      Damaged: a file cannot be read or written.
      BadInput: by `write`, a metric that is not one number; by `picture`, a name that is no file name.
    """
    directory = Path(directory)
    starts = [sum(stage_steps[:i]) for i in range(len(stage_steps))]
    _repair(directory / "metrics.jsonl")
    if after is not None:
        truncate_after(directory, *after)
    file = _at_edge(lambda: open(directory / "metrics.jsonl", "ab", buffering=0), directory / "metrics.jsonl")
    board = open_events(directory / "tensorboard", None if after is None else starts[after[0]] + after[1] + 1)

    def write(row: Mapping[str, Any]) -> None:
        row = {"time": round(time.time(), 3)} | {name: _plain(name, value) for name, value in row.items()}
        row = {name: row[name] for name in ROW} | row  # the same order in every line
        line = json.dumps({name: _writable(value) for name, value in row.items()}, allow_nan=False) + "\n"
        _at_edge(lambda: _write_all(file, line.encode()), directory / "metrics.jsonl")
        values = {name: value for name, value in row.items() if name not in ROW and isinstance(value, int | float)}
        tags = {name if "/" in name else f"{row['kind']}/{name}": v for name, v in values.items() if math.isfinite(v)}
        step = starts[row["stage_index"]] + row["step"]
        _at_edge(lambda: board.scalars(step, tags), directory / "tensorboard")

    def picture(name: str, stage: str, stage_index: int, step: int, pixels: np.ndarray) -> Path:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._]{0,63}", name):
            raise BadInput(f"picture name {name!r}", "letters, digits, '.' and '_', at most 64", "rename the picture")
        (directory / "pictures").mkdir(exist_ok=True)
        path = directory / "pictures" / f"{name}-{stage_index:02d}-{step:09d}.png"
        _at_edge(lambda: board.image(starts[stage_index] + step, name, pixels), directory / "tensorboard")
        return save_png(path, pixels, {"name": name, "stage": stage, "stage_index": stage_index, "step": step})

    def written(name: str, stage_index: int, step: int, content: bytes) -> Path:
        stem, _, suffix = name.rpartition(".")
        (directory / "files").mkdir(exist_ok=True)
        return write_whole(directory / "files" / f"{stem}-{stage_index:02d}-{step:09d}.{suffix}", content)

    def close() -> None:
        file.close()
        _at_edge(board.close, directory / "tensorboard")

    return Log(write, picture, written, close)


def read_log(directory: str | Path) -> list[dict[str, Any]]:
    """The rows of a run's `metrics.jsonl`, oldest first; none if there is no such file.

    Raises:
      Damaged: a line before the last is no row; it says which.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     log = open_log(folder, stage_steps=[10])
    ...     log.write({"stage": "vae", "stage_index": 0, "step": 5, "kind": "train", "time": 0, "loss": math.inf})
    ...     log.close()
    ...     read_log(folder)
    [{'stage': 'vae', 'stage_index': 0, 'step': 5, 'kind': 'train', 'time': 0, 'loss': inf}]
    """
    path = Path(directory) / "metrics.jsonl"
    rows = [_parse(line) for line in _lines(path)]
    if None in rows:
        raise Damaged(f"line {rows.index(None) + 1} of {path} is not a row", "", "remove that line; the rest is whole")
    return [row for row in rows if row is not None]


def truncate_after(directory: str | Path, stage_index: int, step: int) -> None:
    """Drops the rows that come after a step of a stage, and final ones: the run that goes on ends later.

    The rows kept stay as they are, byte for byte.

    Args:
      directory: the run directory.
      stage_index, step: of the last row to keep.

    Raises:
      Damaged: the file cannot be written; it is then unchanged.
    """
    path = Path(directory) / "metrics.jsonl"
    lines = _lines(path)
    rows = [_parse(line) for line in lines]
    ends = (stage_index, step)
    kept = [
        r is None or ((r.get("stage_index", 0), r.get("step", 0)) <= ends and r.get("kind") != "final") for r in rows
    ]
    if not all(kept):
        write_whole(path, b"".join(line + b"\n" for line, keep in zip(lines, kept, strict=True) if keep))


def _repair(path: Path) -> None:
    """Removes what stands after the last newline: a row that a kill has torn."""
    data = path.read_bytes() if path.exists() else b""
    if data and not data.endswith(b"\n"):
        write_whole(path, data[: data.rfind(b"\n") + 1])


def _lines(path: Path) -> list[bytes]:
    """The lines that end with a newline, without it; what a kill has torn is left out."""
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    if not isinstance(row, dict):
        return None
    return {k: _NOT_FINITE.get(v, v) if k not in ROW and isinstance(v, str) else v for k, v in row.items()}


def _plain(name: str, value: Any) -> Any:
    """NumPy's and JAX's scalars as Python's."""
    if isinstance(value, str | int | float) or value is None:
        return value
    if np.size(value) != 1:
        raise BadInput(
            f"the metric {name!r} has shape {list(np.shape(value))}",
            "a logged metric is one number",
            "take its mean over the batch, or return it as [B] from the loss",
        )
    return np.asarray(value).reshape(()).item()


def _writable(value: Any) -> Any:
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _write_all(file: Any, data: bytes) -> None:
    if file.write(data) != len(data):  # the system wrote a part: the disk is full
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _at_edge(act: Callable[[], Any], path: Path) -> Any:
    try:
        return act()
    except OSError as error:
        raise Damaged(
            f"cannot write {path}: {error.strerror}", "", "free some space, then run the same command again"
        ) from error
