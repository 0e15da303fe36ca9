"""Counts over millions of rows in a fixed amount of memory: a histogram, the most frequent, the lowest."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

BINS = 64
_FINEST, _COARSEST = -60, 1000  # exponents of a bin's width


class Histogram:
    """At most `BINS` bins of equal width, a power of two that doubles whenever the values need it.

    One pass over the values is enough, in any order and in parts of any size.
    """

    def __init__(self) -> None:
        self.count = 0
        self.undefined = 0  # nulls, NaN and infinities
        self.low, self.high, self.total = math.inf, -math.inf, 0.0
        self._exponent = _FINEST
        self._is_whole = True
        self._counts: Counter[int] = Counter()

    def add(self, values: np.ndarray) -> None:
        """Adds values, (N,) of any number type; NaN stands for a value that is not defined."""
        values = np.asarray(values, np.float64)
        finite = values[np.isfinite(values)]
        self.undefined += len(values) - len(finite)
        if not len(finite):
            return
        self.count += len(finite)
        self.low, self.high = min(self.low, float(finite.min())), max(self.high, float(finite.max()))
        self.total += float(finite.sum())
        self._is_whole = self._is_whole and bool((finite == np.floor(finite)).all())
        self._coarsen_to(self._needed_exponent())
        places, counts = np.unique(np.floor(np.ldexp(finite, -self._exponent)), return_counts=True)
        self._counts.update(dict(zip(map(int, places.tolist()), counts.tolist(), strict=True)))
        while max(self._counts) - min(self._counts) >= BINS:
            self._coarsen_to(self._exponent + 1)

    @property
    def mean(self) -> float:
        return self.total / self.count

    def bins(self) -> tuple[list[int], list[float]]:
        """Counts (B,) and edges (B + 1,), without empty bins at the ends. Whole numbers get whole bins."""
        if self._is_whole and self._counts:
            self._coarsen_to(0)
        if not self._counts:
            return [], []
        first, last = min(self._counts), max(self._counts)
        edges = [math.ldexp(place, self._exponent) for place in range(first, last + 2)]
        return [self._counts[place] for place in range(first, last + 1)], edges

    def _needed_exponent(self) -> int:
        """The least at which the range takes BINS bins and every place is an exact float."""
        largest = max(abs(self.low), abs(self.high), 2.0**-20)
        precise = math.frexp(largest)[1] - 40
        span = self.high / BINS - self.low / BINS  # halves first: the difference may overflow
        return min(_COARSEST, max(precise, math.frexp(span)[1] - 1 if span else precise))

    def _coarsen_to(self, exponent: int) -> None:
        if exponent <= self._exponent:
            return
        merged: Counter[int] = Counter()
        for place, count in self._counts.items():
            merged[place >> (exponent - self._exponent)] += count
        self._counts, self._exponent = merged, exponent


class BoundedCounter:
    """Counts of texts, exact up to `limit` distinct ones; beyond it the rarest are forgotten."""

    def __init__(self, limit: int = 1 << 17) -> None:
        self._limit = limit
        self._counts: Counter[str] = Counter()
        self.is_exact = True

    def add(self, counts: Mapping[str, int]) -> None:
        self._counts.update(counts)
        if len(self._counts) > self._limit:
            self._counts = Counter(dict(self._counts.most_common(self._limit // 2)))
            self.is_exact = False

    def add_column(self, column: pa.ChunkedArray | pa.Array) -> None:
        """Adds each text of a column."""
        found = column.drop_null().value_counts()
        self.add(dict(zip(found.field(0).to_pylist(), found.field(1).to_pylist(), strict=True)))

    def __len__(self) -> int:
        return len(self._counts)

    def most_common(self, n: int) -> list[tuple[str, int]]:
        """The `n` most frequent; equal counts by name, so that the order of the shards does not show."""
        return sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))[:n]

    def counts(self) -> np.ndarray:
        return np.fromiter(self._counts.values(), np.int64, len(self._counts))


@dataclass(frozen=True, order=True)
class Pick:
    """A clip that was chosen: the lower the rank, the sooner."""

    rank: float
    shard: int
    key: str


@dataclass
class Lowest:
    """The `size` clips with the lowest ranks of all that were offered."""

    size: int
    picks: list[Pick] = field(default_factory=list)

    def offer(self, ranks: np.ndarray, shard: int, keys: pa.ChunkedArray | pa.Array) -> None:
        """ranks: float (N,), NaN is never chosen; keys: (N,)."""
        near = np.argsort(ranks, kind="stable")[: self.size]
        found = [Pick(float(ranks[i]), shard, keys[int(i)].as_py()) for i in near if not np.isnan(ranks[i])]
        self.picks = heapq.nsmallest(self.size, [*self.picks, *found])
