"""Where the checkpoints of a run stand: listing, naming, keeping, deleting, setting aside."""

import contextlib
import os
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from genjax.checkpoint.seal import STAGE_NAME, Seal, place, read_seal
from genjax.errors import Damaged

_PLACE = re.compile(rf"(\d{{2,}})-({STAGE_NAME.pattern})-(\d{{9,}})")


def shelf(directory: str | os.PathLike) -> Path:
    """The directory of a run in which its checkpoints stand."""
    return Path(directory).absolute() / "checkpoints"


def places(directory: str | os.PathLike) -> list[tuple[int, int, Path]]:
    """The checkpoints of a run by their names alone, newest first: (stage index, step, path)."""
    root = shelf(directory)
    names = [(_PLACE.fullmatch(path.name), path) for path in root.iterdir()] if root.is_dir() else []
    return sorted(((int(match[1]), int(match[3]), path) for match, path in names if match), reverse=True)


def seals(directory: str | os.PathLike) -> list[Seal]:
    """The sealed checkpoints of a run, newest first; their arrays are not read, damaged seals are left out.

    Raises:
      BadInput: one is of a newer format.
    """
    found = []
    for _, _, path in places(directory):
        with contextlib.suppress(ValueError, OSError):
            found.append(read_seal(path))
    return found


def refuse_ruins(directory: str | os.PathLike, problems: Sequence[str]) -> None:
    """Raise if there were checkpoints and none is left: such a run must not start from zero silently.

    Raises:
      Damaged: lists the problems, or what is in quarantine.
    """
    quarantine = Path(directory) / "quarantine"
    ruins = sorted(path.name for path in quarantine.iterdir()) if quarantine.is_dir() else []
    listed = list(problems) or [f"quarantine/{name}" for name in ruins]
    if listed:
        raise Damaged(
            f"no checkpoint of {directory} can be used: {'; '.join(listed)}",
            "what is damaged is never deleted: it stays where it is, or in quarantine/",
            "start again in a new directory, or put back checkpoints/ from a copy",
        )


def kept(found: Sequence[Seal], keep: int, best: int, better: Literal["lower", "higher"]) -> set[str]:
    """The places to keep: the newest, and of each stage the final state and the best by score.

    Args:
      found: all seals, newest first.
      keep: how many of the newest.
      best: how many of the best of each stage; a score that is None is never among them.
      better: whether lower or higher scores are.
    """
    sign = 1 if better == "lower" else -1
    ranked = sorted((seal for seal in found if seal.score is not None), key=lambda seal: sign * (seal.score or 0.0))
    stages = {seal.stage_index for seal in found}
    wanted = [*found[:keep], *(seal for seal in found if seal.final)]
    for stage in stages:
        wanted += [seal for seal in ranked if seal.stage_index == stage][:best]
    return {place(seal) for seal in wanted}


def publish(partial: Path) -> Path:
    """Give a sealed directory its name, in place of an older one of the same step; the name is on the disk."""
    target = partial.with_name(partial.name.removeprefix(".tmp-"))
    discard(target)
    partial.rename(target)
    sync(target.parent)
    return target


def tidy(directory: str | os.PathLike) -> None:
    """Remove what a killed process left; what it had sealed and not yet named gets its name."""
    root = shelf(directory)
    for partial in root.glob(".tmp-*"):
        with contextlib.suppress(ValueError):
            read_seal(partial)
            publish(partial)
    for rubbish in [*root.glob(".tmp-*"), *root.glob(".trash-*")]:
        shutil.rmtree(rubbish, ignore_errors=True)


def discard(path: Path) -> None:
    """Delete a checkpoint, if it is there: first its name, at once, then its bytes."""
    trash = path.with_name(f".trash-{path.name}-{time.time_ns()}")
    with contextlib.suppress(FileNotFoundError):
        path.rename(trash)
        shutil.rmtree(trash, ignore_errors=True)


def set_aside(path: Path) -> None:
    """Move a checkpoint to quarantine/, under a name that is not taken."""
    quarantine = path.parent.parent / "quarantine"
    quarantine.mkdir(exist_ok=True)
    target = quarantine / path.name
    path.rename(target if not target.exists() else target.with_name(f"{path.name}-{time.time_ns()}"))


def sync(path: Path) -> None:
    """Make a file's bytes, or a directory's names, reach the disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def sync_tree(directory: Path) -> None:
    """Make all files and names below a directory reach the disk, and the directory itself last."""
    for folder, _, files in os.walk(directory, topdown=False):
        for name in files:
            sync(Path(folder, name))
        sync(Path(folder))
