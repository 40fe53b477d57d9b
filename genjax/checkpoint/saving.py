"""Saving: asynchronous, one at a time, sealed after the arrays were read back.

The order of a save is the contract.  The training loop starts the digests on the devices and the copy to the host, and
goes on.  The commit thread then waits for Orbax, reads the arrays back and compares digests (an asynchronous save on a
full disk can report success), syncs the files, writes and syncs the seal, renames, syncs the name, says that it is
saved, and only then deletes what need not be kept.

With several processes each one writes its shards and reads back its share; whoever fails does not come to the meeting
before the seal, so that there is none.
"""

import contextlib
import errno
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from genjax import digest
from genjax.checkpoint import arrays
from genjax.checkpoint.lock import unwritable
from genjax.checkpoint.places import discard, kept, places, publish, seals, set_aside, shelf, sync, sync_tree, tidy
from genjax.checkpoint.seal import Identity, Seal, inventory, make_seal, place, read_seal, write_seal
from genjax.errors import BadInput, Damaged
from genjax.types import Array


class Store(NamedTuple):
    """Where a run saves its states; three functions, called alike on all processes.

    save(state, *, stage, stage_index, step, metrics=None, score=None, final=False, on_saved=None) starts to save, and
      returns when the state may be donated.  `metrics` are numbers by name; by `score` the best is kept; `final` marks
      the last state of a stage, which is always kept; `on_saved(seal)` is called in the commit thread, after the seal.
    wait() returns the last seal, or None, when everything in flight is sealed.
    close() waits, and ends the commit thread.

    All three raise Damaged for an earlier save that failed; its files are removed, older checkpoints are whole.
    """

    save: Callable[..., None]
    wait: Callable[[], Seal | None]
    close: Callable[[], None]


class _Job(NamedTuple):
    """A save in flight."""

    seal: Seal  # whose digests are not known yet
    partial: Path  # the directory, before it has its name
    lanes: dict[str, Array]  # of every leaf, being computed
    stored: dict[str, jax.ShapeDtypeStruct]
    writing: Any


def open_store(
    directory: str | os.PathLike,
    identity: Identity,
    keep: int = 3,
    best: int = 1,
    better: Literal["lower", "higher"] = "lower",
) -> Store:
    """Open the checkpoints of a run for writing, under its lock; remove what a killed process left.

    Args:
      directory: the run directory.
      identity: what every seal repeats.
      keep: how many of the newest to keep, from 1.
      best: how many of the best of each stage to keep as well; a score that is not finite is the worst.
      better: whether lower or higher scores are.

    Raises:
      BadInput: the directory cannot be written, or a number makes no sense.
    """
    if keep < 1 or best < 0 or better not in ("lower", "higher"):
        raise BadInput(f"keep={keep}, best={best}, better={better!r}", "keep from 1, best from 0, 'lower' or 'higher'")
    _prepare(directory)
    thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
    flight: list[Future[Seal]] = []  # at most one
    last: list[Seal] = []  # at most one

    def wait() -> Seal | None:
        if flight:
            last[:] = [flight.pop().result()]
        return last[0] if last else None

    def save(
        state: Any,
        *,
        stage: str,
        stage_index: int,
        step: int,
        metrics: Mapping[str, Any] | None = None,
        score: float | None = None,
        final: bool = False,
        on_saved: Callable[[Seal], None] | None = None,
    ) -> None:
        wait()
        leaves = _leaves(state)
        facts = {path: {"shape": leaf.shape, "dtype": str(leaf.dtype)} for path, leaf in leaves.items()}
        where = {"stage": stage, "stage_index": stage_index, "step": step, "final": final}
        job = _begin(shelf(directory), make_seal(identity, metrics or {}, score, leaves=facts, **where), leaves)
        flight.append(thread.submit(_commit, job, on_saved, lambda found: kept(found, keep, best, better)))

    def close() -> None:
        try:
            wait()
        finally:
            thread.shutdown()

    def finish() -> None:
        try:
            wait()
        except Damaged as error:
            sys.stderr.write(f"{error.lines[0]}; call close() before the process ends\n")

    # A process may end without close().  This hook, which has no public name, comes before Python's executors refuse
    # Orbax's work; from Python 3.12 on no thread can be started even here, and what is lost is at least said.
    threading._register_atexit(finish)  # type: ignore[attr-defined]
    return Store(save, wait, close)


def _prepare(directory: str | os.PathLike) -> None:
    if jax.process_index() == 0:
        try:
            shelf(directory).mkdir(parents=True, exist_ok=True)
            tidy(directory)
            probe = shelf(directory) / ".tmp-probe"
            probe.write_bytes(bytes(4096))
            sync(probe)
            probe.unlink()
        except OSError as error:
            raise unwritable(directory, error) from error
    arrays.meet()


def _leaves(state: Any) -> dict[str, jax.Array]:
    leaves = digest.named(state)
    for path, leaf in leaves.items():
        leaves[path] = jnp.asarray(leaf)
        if str(getattr(leaf, "dtype", leaves[path].dtype)) != str(leaves[path].dtype):
            raise BadInput(
                f"state: {path} is {leaf.dtype}, which JAX holds as {leaves[path].dtype}",
                "arrays that a compiled update can return",
                "convert it in `init`, or set jax_enable_x64",
            )
    return leaves


def _begin(root: Path, seal: Seal, leaves: dict[str, jax.Array]) -> _Job:
    partial, lanes = root / f".tmp-{place(seal)}", digest.measure(leaves)
    if jax.process_count() > 1 and jax.default_backend() == "cpu":
        # CPUs run what is in flight in any order, and processes that meet in different orders wait for ever
        jax.block_until_ready((leaves, lanes))
    with _whole_or_nothing(seal, partial):
        if jax.process_index() == 0:
            shutil.rmtree(partial, ignore_errors=True)  # of a save that failed
            partial.mkdir()
        writing = arrays.begin_write(partial / "state", leaves)
    return _Job(seal, partial, lanes, arrays.stored_form(leaves), writing)


def _commit(job: _Job, on_saved: Callable[[Seal], None] | None, keeps: Callable[[list[Seal]], set[str]]) -> Seal:
    with _whole_or_nothing(job.seal, job.partial):
        job.writing.result()
        seal = job.seal._replace(
            leaves={path: _with_digest(leaf, job.lanes[path]) for path, leaf in job.seal.leaves.items()}
        )
        _read_back(job, seal)
        arrays.meet()
        if jax.process_index() == 0:
            sync_tree(job.partial)
            write_seal(job.partial, seal._replace(files=inventory(job.partial / "state")))
            sync(job.partial)
            publish(job.partial)
        arrays.meet()
        seal = read_seal(job.partial.with_name(place(seal)))
    if on_saved is not None:
        on_saved(seal)
    if jax.process_index() == 0:
        _retire(job.partial.parent.parent, seal, keeps)
    return seal


def _with_digest(leaf: dict[str, Any], lane: Array) -> dict[str, Any]:
    return {**leaf, "digest": digest.text(lane, leaf["shape"], leaf["dtype"])}


def _read_back(job: _Job, seal: Seal) -> None:
    found = digest.measure(arrays.read_share(job.partial / "state", job.stored))
    for path, lane in found.items():
        if _with_digest(seal.leaves[path], lane) != seal.leaves[path]:
            raise OSError(errno.EIO, f"{path} did not read back as it was written")


@contextlib.contextmanager
def _whole_or_nothing(seal: Seal, partial: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if jax.process_index() == 0:
            shutil.rmtree(partial, ignore_errors=True)
        reason, remedy = _explain(error)
        raise Damaged(
            f"checkpoint {place(seal)} could not be saved in {partial.parent}: {reason}",
            "what was written of it is removed, older checkpoints are whole",
            f"{remedy}, then run the same command again: it goes on from the newest checkpoint",
        ) from error


def _explain(error: Exception) -> tuple[str, str]:
    """The reason of a failed save, and what to do."""
    number = arrays.system_error(error)
    remedies: dict[int, str] = {
        **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free space on that disk"),
        **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "make the directory writable"),
        errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    }
    if number is not None and number in remedies:
        return os.strerror(number), remedies[number]
    return arrays.first_line(error), "check that disk"


def _retire(directory: Path, seal: Seal, keeps: Callable[[list[Seal]], set[str]]) -> None:
    """Delete what need not be kept.  What is later than this seal was left by going back to an earlier step."""
    with contextlib.suppress(OSError):  # it stays a little longer
        for stage_index, step, path in places(directory):
            if (stage_index, step) > (seal.stage_index, seal.step):
                set_aside(path)
        found = seals(directory)
        wanted = keeps(found)
        for old in found:
            if place(old) not in wanted:
                discard(shelf(directory) / place(old))
