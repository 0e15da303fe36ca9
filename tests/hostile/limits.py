"""The time and memory that reading one hostile input may take."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager

SECONDS = 20  # of processor time, so that a busy machine fails nothing
MEMORY = 512 << 20  # bytes of address space, beyond what is in use


class OutOfTime(BaseException):
    """Not an Exception: nothing that reads may take it for damage."""


@contextmanager
def limited() -> Iterator[None]:
    """Past the limits, raises OutOfTime or MemoryError in the code within; the first leaves the block as an
    AssertionError."""

    def out_of_time(_signal: int, _frame: object) -> None:
        raise OutOfTime

    with open("/proc/self/statm") as file:
        in_use = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGPROF, out_of_time)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (in_use + MEMORY, before[1]))
    try:
        yield
    except OutOfTime:
        raise AssertionError(f"it takes more than {SECONDS} s") from None
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, handler)
