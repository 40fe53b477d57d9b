"""One writer a run: a lock that the kernel releases when its holder dies, however it dies."""

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import jax

from genjax.errors import BadInput

PATIENCE = 1.0  # seconds to wait for a process that is just ending
_held: set[tuple[int, int]] = set()  # the locks of this process: device and inode of each LOCK


@contextlib.contextmanager
def lock(directory: str | os.PathLike) -> Iterator[None]:
    """Be the only writer of a run, until the block or the process ends.

    The directory is made if it is not there.  With several processes the first one holds the lock for all.

    Raises:
      BadInput: somebody writes there already (process, host, start), or the directory cannot be written.
    """
    if jax.process_index():
        yield
        return
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
        file = _open(directory)
    except OSError as error:
        raise unwritable(directory, error) from error
    try:
        _seize(file, directory)
        _held.add(_name(file))
        try:
            yield
        finally:
            _held.discard(_name(file))
    finally:
        os.close(file)  # this releases it; the file stays, because removing it would race with the next writer


@contextlib.contextmanager
def unless_locked(directory: str | os.PathLike) -> Iterator[str | None]:
    """For who only reads: whether something may be moved now.  Nobody begins to write before the block ends.

    Yields:
      None: this process holds the lock, or nobody did.  Else who holds it, or why that cannot be told.
    """
    try:
        file = _open(directory)
    except OSError as error:
        yield f"LOCK cannot be opened: {error.strerror}"
        return
    try:
        yield None if _name(file) in _held else _hindrance(file)
    finally:
        os.close(file)


def unwritable(directory: str | os.PathLike, error: OSError) -> BadInput:
    """The message for a run directory that cannot be written."""
    return BadInput(
        f"the run directory {directory} cannot be written: {error.strerror}",
        "a directory of this user, on a disk with free space and file locks",
        "choose another directory with --workdir",
    )


def _open(directory: str | os.PathLike) -> int:
    return os.open(Path(directory) / "LOCK", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _name(file: int) -> tuple[int, int]:
    found = os.fstat(file)
    return found.st_dev, found.st_ino


def _hindrance(file: int) -> str | None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return f"{_holder(file)} writes here"
    except OSError as error:
        return f"LOCK cannot be asked for: {error.strerror}"
    return None


def _seize(file: int, directory: str | os.PathLike) -> None:
    deadline = time.monotonic() + PATIENCE
    while not _try(file, directory):
        if time.monotonic() > deadline:
            raise BadInput(
                f"the run directory {directory} is in use by {_holder(file)}",
                "one writer a run",
                "wait for it, stop it, or choose another directory with --workdir",
            )
        time.sleep(0.05)
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "start": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    try:
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps(holder).encode(), 0)
        os.fsync(file)
    except OSError as error:
        raise unwritable(directory, error) from error


def _try(file: int, directory: str | os.PathLike) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError as error:
        raise unwritable(directory, error) from error


def _holder(file: int) -> str:
    try:
        who = json.loads(os.pread(file, 4096, 0))
        return f"process {who['pid']} on {who['host']}, started {who['start']}"
    except (ValueError, KeyError, TypeError):  # it has not written yet
        return "another process"
