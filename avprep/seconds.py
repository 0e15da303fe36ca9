"""What the parts of a run take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Seconds(dict[str, float]):
    """Seconds by what was done."""

    @contextmanager
    def measure(self, work: str) -> Iterator[None]:
        """Adds what the block takes to `work`, also if the block raises."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self[work] = self.get(work, 0.0) + time.perf_counter() - started

    def add(self, other: Seconds) -> None:
        for work, seconds in other.items():
            self[work] = self.get(work, 0.0) + seconds
