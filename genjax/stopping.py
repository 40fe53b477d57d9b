"""Requests to stop: SIGTERM and the first Ctrl-C ask, the second Ctrl-C leaves at once."""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager


@contextmanager
def stop_requests(signals: Sequence[signal.Signals]) -> Iterator[Callable[[], bool]]:
    """Within this context, whether somebody has asked the run to stop.

    Args:
      signals: which of SIGTERM and SIGINT to listen to; with several processes JAX holds SIGTERM itself.

    Outside the main thread, where Python allows no signal handlers, nobody can ask.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def ask(number: int, frame: object) -> None:
        if asked.is_set() and number == signal.SIGINT:
            os._exit(128 + number)
        asked.set()
        os.write(2, b"\nstopping soon, with the state saved; Ctrl-C again leaves at once\n")

    before = {number: signal.signal(number, ask) for number in signals}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
