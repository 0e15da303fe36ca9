"""Counts in fixed memory, against plain counts."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from avprep.report.tally import BINS, BoundedCounter, Histogram, Lowest, Pick

VALUES = st.lists(st.floats(-1e12, 1e12, allow_subnormal=False), min_size=1, max_size=60)


@settings(deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=4))
def test_a_histogram_of_parts_counts_each_value_in_the_bin_that_holds_it(parts):
    found = Histogram()
    for part in parts:
        found.add(np.array(part))
    counts, edges = found.bins()
    values = np.concatenate([np.array(part) for part in parts])
    assert len(counts) <= BINS and sum(counts) == len(values)
    # Bins are half-open here; numpy's last one is closed, so it gets an edge of its own.
    assert np.histogram(values, [*edges, np.inf])[0].tolist() == [*counts, 0]


def test_nan_null_and_infinity_are_undefined():
    found = Histogram()
    found.add(np.array([1.0, np.nan, np.inf, 3.0]))
    assert (found.count, found.undefined, found.low, found.high, found.mean) == (2, 2, 1, 3, 2)


def test_whole_numbers_get_bins_of_whole_width():
    found = Histogram()
    found.add(np.array([0, 1, 1, 2]))
    assert found.bins() == ([1, 2, 1], [0, 1, 2, 3])


def test_extreme_values_do_not_overflow():
    found = Histogram()
    found.add(np.array([-1.7e308, 1.7e308, 5e-324]))
    assert sum(found.bins()[0]) == 3


def test_a_counter_is_exact_up_to_its_limit_and_says_when_it_is_not():
    counter = BoundedCounter(limit=4)
    counter.add_column(pa.array(["b", "a", "a", None]))
    assert counter.is_exact and counter.most_common(2) == [("a", 2), ("b", 1)]
    counter.add({str(i): 1 for i in range(9)})
    assert not counter.is_exact and len(counter) == 2 and counter.most_common(1) == [("a", 2)]


@settings(deadline=None)
@given(st.permutations(range(6)))
def test_the_lowest_are_the_same_in_any_order_of_the_shards(order):
    ranks = np.random.default_rng(0).random((6, 5))
    ranks[2, 3] = np.nan
    lowest = Lowest(4)
    for shard in order:
        lowest.offer(ranks[shard], shard, pa.array([f"{shard}-{i}" for i in range(5)]))
    every = [Pick(float(ranks[s, i]), s, f"{s}-{i}") for s in range(6) for i in range(5)]
    assert lowest.picks == sorted(pick for pick in every if pick.rank == pick.rank)[:4]
