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
        file = os.open(Path(directory) / "LOCK", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise unwritable(directory, error) from error
    try:
        _seize(file, directory)
        yield
    finally:
        os.close(file)  # this releases it; the file stays, because removing it would race with the next writer


def unwritable(directory: str | os.PathLike, error: OSError) -> BadInput:
    """The message for a run directory that cannot be written."""
    return BadInput(
        f"the run directory {directory} cannot be written: {error.strerror}",
        "a directory of this user, on a disk with free space and file locks",
        "choose another directory with --workdir",
    )


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
