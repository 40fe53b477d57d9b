"""TensorBoard's event files, written where the events arise.

tensorboardX's own writer has a thread, whose errors nobody catches: on a full disk it would die with a traceback.
"""

import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

FLUSH_EVERY = 10.0  # seconds until TensorBoard sees an event


class Events(NamedTuple):
    """An event file; all three functions raise OSError where it cannot be written."""

    scalars: Callable[[int, Mapping[str, float]], None]  # (step, values by tag)
    image: Callable[[int, str, np.ndarray], None]  # (step, tag, uint8 [h, w, 3])
    close: Callable[[], None]


def open_events(directory: Path, purge_step: int | None) -> Events:
    """An event file, opened by its first event: the import takes a moment that starting up need not wait for.

    Args:
      directory: where the event files of a run stand; made if it is not there.
      purge_step: TensorBoard forgets what earlier files say of this step and later ones.
    """
    opened: list[Any] = []
    flushed = 0.0

    def add(**event: Any) -> None:
        nonlocal flushed
        from tensorboardX.proto.event_pb2 import Event

        now = time.time()
        if not opened:
            opened.append(_open(directory, purge_step))
        opened[0].write(Event(wall_time=now, **event).SerializeToString())
        if now - flushed > FLUSH_EVERY:
            opened[0].flush()
            flushed = now

    def scalars(step: int, values: Mapping[str, float]) -> None:
        from tensorboardX.summary import scalar

        for tag, value in values.items():
            add(step=step, summary=scalar(tag, value))

    def image(step: int, tag: str, pixels: np.ndarray) -> None:
        from tensorboardX import summary

        add(step=step, summary=summary.image(tag, pixels, dataformats="HWC"))

    def close() -> None:
        if opened:
            opened.pop().close()

    return Events(scalars, image, close)


def _open(directory: Path, purge_step: int | None) -> Any:
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.record_writer import RecordWriter

    directory.mkdir(exist_ok=True)
    file = RecordWriter(str(directory / f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}"))
    file.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
    if purge_step is not None:
        start = SessionLog(status=SessionLog.START)
        file.write(Event(wall_time=time.time(), step=purge_step, session_log=start).SerializeToString())
    return file
