"""SIGINT and SIGTERM: the first one asks a run to stop in order, the second interrupts it at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class StopSignal:
    """Whether SIGINT or SIGTERM has asked this process, or another process of the run, to stop."""

    number: int | None = None

    def __bool__(self) -> bool:
        return self.number is not None

    def join(self) -> None:
        """Another process was asked to stop; so this one stops too."""
        if self.number is None:
            self.number = signal.SIGTERM


@contextmanager
def stop_on_signal() -> Iterator[StopSignal]:
    """Within the block, the first SIGINT or SIGTERM sets the flag; the second raises KeyboardInterrupt.

    Signals are left to the caller in a thread that is not the main one: Python delivers none there.
    """
    stop = StopSignal()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, _frame: object) -> None:
        if stop:
            raise KeyboardInterrupt
        stop.number = number

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
