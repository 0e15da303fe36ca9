"""Splits: nothing straddles them, and what is added later moves nothing else."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from avprep.jobs.splits import by_source, joined_sources

SHARES = {"train": 0.7, "val": 0.2, "test": 0.1}

clips = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=40)  # source, group


@given(clips=clips, seed=st.integers(0, 2**64 - 1))
def test_neither_a_source_nor_a_group_straddles_a_split(clips: list[tuple[int, int]], seed: int):
    sources = [f"source {s}" for s, _ in clips]
    groups = np.array([g for _, g in clips], dtype=np.int64)
    numbers = by_source(joined_sources(sources, groups), SHARES, seed)
    found: dict[tuple[str, int], set[int]] = defaultdict(set)
    for (source, group), number in zip(clips, numbers.tolist(), strict=True):
        found["source", source].add(number)
        found["group", group].add(number)
    assert all(len(splits) == 1 for splits in found.values())


@given(clips=clips)
def test_sources_are_joined_only_where_groups_connect_them(clips: list[tuple[int, int]]):
    """Against repeated merging of sets."""
    joined = [{s} for s in {s for s, _ in clips}]
    for group in {g for _, g in clips}:
        of_group = {s for s, g in clips if g == group}
        touched = [part for part in joined if part & of_group]
        joined = [part for part in joined if not part & of_group] + [set().union(*touched)]
    expected = {s: f"{min(part, key=str)}" for part in joined for s in part}
    names = joined_sources([str(s) for s, _ in clips], np.array([g for _, g in clips], dtype=np.int64))
    assert names == [expected[s] for s, _ in clips]


def test_shares_are_met_about_and_the_seed_decides():
    sources = [f"video-{i}" for i in range(20_000)]
    numbers = by_source(sources, SHARES, seed=0)
    for i, share in enumerate(SHARES.values()):
        assert abs((numbers == i).mean() - share) < 0.01
    assert (numbers != by_source(sources, SHARES, seed=1)).mean() > 0.3


def test_a_source_stays_in_its_split_when_others_come():
    sources = [f"video-{i}" for i in range(300)]
    few, many = by_source(sources[:100], SHARES, 3), by_source(sources, SHARES, 3)
    assert few.tolist() == many[:100].tolist()
