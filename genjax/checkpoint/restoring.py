"""Restoring: the newest checkpoint whose arrays have the digests of its seal, onto any devices."""

import asyncio
import errno
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from genjax import digest
from genjax.checkpoint import arrays
from genjax.checkpoint.lock import unless_locked
from genjax.checkpoint.places import places, refuse_ruins, set_aside
from genjax.checkpoint.seal import Broken, Seal, check_files, differences, place, read_seal
from genjax.errors import BadInput, Damaged, GenjaxError

SHOWN = 10  # leaves in a message


class Ruined(Damaged):
    """The checkpoint that was asked for is damaged; another may be whole."""


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def restore(
    directory: str | os.PathLike,
    abstract: Any,
    step: int | None = None,
    stage_index: int | None = None,
    config: Mapping[str, Any] | None = None,
    tell: Callable[[str], None] = _to_stderr,
) -> tuple[Any, Seal] | None:
    """Restore the newest sound checkpoint.  A damaged one is moved to quarantine/ and the one before is tried.

    It is not moved while another process holds the run's lock: who only reads leaves the order to who writes.

    Args:
      directory: the run directory.
      abstract: the tree of `jax.ShapeDtypeStruct` to fill, with the shardings that the arrays shall have.
      step: the step to restore and no other; None: the newest.
      stage_index: look at this stage only; None: at all.
      config: the configuration of this command, to name the fields that explain another structure.
      tell: what to do with the one line about each damaged checkpoint.

    Returns:
      The state and its seal.  None: the run (or that stage, while an earlier one has checkpoints) has none.

    Raises:
      BadInput: the structure is another than that of `abstract`, the step is not kept, or the format is newer.
      Ruined: the asked one is damaged.
      Damaged: there were checkpoints and none can be used; or one cannot be read though it is whole.
    """
    found = [one for one in places(directory) if stage_index in (None, one[0])]
    asked = [path for _, number, path in found if step in (None, number)][: None if step is None else 1]
    if found and not asked:
        listed = ", ".join(str(number) for _, number, _ in reversed(found))
        raise BadInput(
            f"step {step} of {directory} is not kept", f"kept: {listed}", "ask for one of them, or the newest"
        )
    problems, where = dict[Path, str](), ""
    for path in asked:
        restored, problem = _attempt(path, abstract, config)
        if restored is not None:
            return restored
        if not path.exists():  # its writer deleted it while we read: newer ones are there
            return restore(directory, abstract, step, stage_index, config, tell)
        problems[path] = f"{path.name}: {problem}"
        where = _quarantine(path, problem, tell)
    if step is not None and problems:
        raise Ruined(f"the asked checkpoint is damaged: {problems[asked[0]]}", f"it was {where}", "ask for another")
    if all(path in problems for _, _, path in places(directory)):
        refuse_ruins(directory, list(problems.values()))
    return None


def _attempt(path: Path, abstract: Any, config: Mapping[str, Any] | None) -> tuple[tuple[Any, Seal] | None, str]:
    """Restore one checkpoint, on all processes or on none; else say what is wrong."""
    restored, problem = None, ""
    try:
        seal = read_seal(path)
        restored = _load(path, seal, abstract, config), seal
    except GenjaxError:
        raise
    except (Exception, asyncio.CancelledError) as error:  # the latter is no Exception, and Orbax loads by asyncio
        problem = _damage(path, error)
    return (restored, "") if _all_agree(restored is not None) else (None, problem or "another process cannot read it")


def _load(path: Path, seal: Seal, abstract: Any, config: Mapping[str, Any] | None) -> Any:
    targets = digest.named(abstract)
    _check_structure(seal, targets, config)
    check_files(path / "state", seal)
    leaves = arrays.read(path / "state", targets)
    for name, lane in digest.measure(leaves).items():
        saved = seal.leaves[name]
        if digest.text(lane, leaves[name].shape, str(leaves[name].dtype)) != saved["digest"]:
            raise Broken(f"{name} has another digest than its seal says")
    return jax.tree.unflatten(jax.tree.structure(abstract), [leaves[name] for name in targets])


def _check_structure(seal: Seal, targets: Mapping[str, Any], config: Mapping[str, Any] | None) -> None:
    saved = {name: _kind(leaf["dtype"], leaf["shape"]) for name, leaf in seal.leaves.items()}
    now = {name: _kind(str(leaf.dtype), leaf.shape) for name, leaf in targets.items()}
    names = [name for name in [*now, *saved.keys() - now.keys()] if saved.get(name) != now.get(name)]
    if not names:
        return
    lines = [f"{name} {saved.get(name, 'absent')} -> {now.get(name, 'absent')}" for name in names[:SHOWN]]
    more = f"; and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    changed = "; ".join(differences(seal.config, config or seal.config).values())
    raise BadInput(
        f"checkpoint {place(seal)} is of another structure (saved -> now): {'; '.join(lines)}{more}",
        f"configuration: {changed}" if changed else "no field of the configuration differs: the code does",
        "give back the old values or the old code, or start in a new directory",
    )


def _kind(dtype: str, shape: Any) -> str:
    return f"{dtype}[{','.join(map(str, shape))}]"


def _damage(path: Path, error: BaseException) -> str:
    """What is wrong with the bytes of a checkpoint that could not be read.

    Whatever was raised, and by whichever version of whichever library: what counts is whether the files are those that
    were sealed.  Only a seal, a file or a digest that differs, and a disk that cannot read, speak against them.

    Raises:
      Damaged: nothing does; the checkpoint stays where it is.
    """
    found, why = error, "its files are as they were sealed"
    if not _against_the_bytes(error):
        try:
            check_files(path / "state", read_seal(path), whole=True)
        except (Broken, OSError) as other:
            found, why = other, f"whether its files are as they were sealed cannot be told: {arrays.first_line(other)}"
    if _against_the_bytes(found):
        return arrays.first_line(found)
    raise Damaged(
        f"checkpoint {path.name} cannot be read: {type(error).__name__}: {arrays.first_line(error)}",
        f"{why}; it was left where it is",
        "check memory, open files (ulimit -n), permissions, versions of jax and orbax, then run the same command again",
    ) from error


def _against_the_bytes(error: BaseException) -> bool:
    return isinstance(error, Broken) or arrays.system_error(error) == errno.EIO


def _all_agree(mine: bool) -> bool:
    if jax.process_count() == 1:
        return mine
    from jax.experimental.multihost_utils import process_allgather

    return bool(process_allgather(np.asarray(mine)).all())


def _quarantine(path: Path, problem: str, tell: Callable[[str], None]) -> str:
    """Set a damaged checkpoint aside if nobody else writes here; where it is now."""
    where = "moved to quarantine/"
    if jax.process_index() == 0:
        with unless_locked(path.parent.parent) as hindrance:
            try:
                if hindrance is None:
                    set_aside(path)
                else:
                    where = f"left where it is: {hindrance}"
            except OSError as error:
                where = f"left where it is: {error.strerror}"
        tell(f"checkpoint {path.name} is damaged ({problem}): {where}")
    arrays.meet()
    return where
