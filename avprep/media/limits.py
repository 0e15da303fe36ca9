"""Limits of time and memory for one source: a header can claim 10^9 frames, and FFmpeg believes it.

The memory limit is on the growth of this process's address space (RLIMIT_AS), so an allocation beyond it
fails at once, in FFmpeg too, before any of it is used. It holds only while the source is being read: what the
caller does with a clip is not the source's fault.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from avprep.reasons import MediaError, Reason

Item = TypeVar("Item")

# 16 reference pictures of 8192 x 8192, 8 bit, 4:2:0 are 1.6 GB: the most that a plausible source needs.
MAX_GROWTH = 2 << 30  # bytes


class Deadline:
    """The time a source may take. `check()` is called between packets and raises past it.

    It cannot interrupt native code that never returns; the runner's watchdog does that.
    """

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self._ends = None if seconds is None else time.monotonic() + seconds

    def extend(self, seconds: float) -> None:
        """Leaves out time that was not spent on the source."""
        if self._ends is not None:
            self._ends += seconds

    def check(self) -> None:
        """Raises MediaError(TIMEOUT) once the time is up."""
        if self._ends is not None and time.monotonic() > self._ends:
            raise MediaError(Reason.TIMEOUT, f"not done after the time limit of {self.seconds:g} s")


def bounded(
    items: Iterator[Item], growth: int = MAX_GROWTH, *, size_of: Callable[[Item], int] = lambda item: 0
) -> Iterator[Item]:
    """The items of an iterator that may not take more than `growth` bytes above what is in use now.

    Once an item is yielded, its `size_of` bytes count as the caller's: a caller that keeps all clips of a
    long film does not use up the source's memory.

    Raises:
        MediaError: CORRUPT, if the iterator reached the limit and did not raise an error of its own.
    """
    limit = _address_space() + growth
    while True:
        with _limited(min(limit, _address_space() + growth), growth):
            try:
                item = next(items)
            except StopIteration:
                return
        limit += size_of(item)
        yield item


@contextmanager
def _limited(limit: int, growth: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        limit = min(limit, soft)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    except MemoryError as error:
        detail = f"reading it takes more than {growth >> 20} MiB of memory"
        raise MediaError(Reason.CORRUPT, detail) from error
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _address_space() -> int:
    """Bytes of address space that this process holds."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()
