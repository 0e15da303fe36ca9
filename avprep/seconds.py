"""What the parts of a run take."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class Seconds(defaultdict[str, float]):
    """Seconds by what was done; 0 for what was not done."""

    def __init__(self, seconds: Mapping[str, float] | None = None) -> None:
        super().__init__(float, seconds or {})

    def __reduce__(self) -> tuple[type[Seconds], tuple[dict[str, float]]]:
        return Seconds, (dict(self),)

    @contextmanager
    def measure(self, work: str) -> Iterator[None]:
        """Adds what the block takes to `work`, also if the block raises."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self[work] += time.perf_counter() - started

    def add(self, other: Mapping[str, float]) -> None:
        for work, seconds in other.items():
            self[work] += seconds
