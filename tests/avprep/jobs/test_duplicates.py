"""Groups of near-duplicates: against all pairs compared in plain Python."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avprep.errors import ArgumentError
from avprep.jobs import duplicates
from avprep.jobs.config import PRINT_BITS
from avprep.jobs.duplicates import PRINTS, near_groups
from avprep.scores.prints import hamming

Print = bytes | None


def table_of(rows: Sequence[tuple[Print, Print]]) -> pa.Table:
    pictures, sounds = ([row[i] for row in rows] for i in (0, 1))
    return pa.table({"phash": pa.array(pictures, pa.binary()), "audio_print": pa.array(sounds, pa.binary())})


def members(groups: Sequence[int]) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(np.asarray(groups) == group).tolist()) for group in set(groups)}


def plain_groups(rows: Sequence[tuple[Print, Print]], within: int) -> set[frozenset[int]]:
    """By comparing every pair, and joining the groups of those that are near."""
    group = list(range(len(rows)))
    for i, a in enumerate(rows):
        for j, b in enumerate(rows[:i]):
            shared = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
            is_alike = [x is None for x in a] == [y is None for y in b]
            bits = sum(len(x) * 8 for x, _ in shared)
            if shared and is_alike and sum(hamming(x, y) for x, y in shared) <= within * bits // PRINT_BITS:
                group = [group[j] if g == group[i] else g for g in group]
    return members(group)


def flipped(print_: bytes, places: Sequence[int]) -> bytes:
    bits = np.unpackbits(np.frombuffer(print_, np.uint8))
    bits[list(places)] ^= 1
    return np.packbits(bits).tobytes()


@st.composite
def many_rows(draw: st.DrawFn) -> list[tuple[Print, Print]]:
    """A few originals and copies with some bits flipped, some of which lack a print."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    originals = [(rng.bytes(24), rng.bytes(12)) for _ in range(4)]
    rows: list[tuple[Print, Print]] = []
    for _ in range(draw(st.integers(0, 30))):
        picture, sound = originals[rng.integers(4)]
        picture = flipped(picture, rng.choice(192, rng.integers(0, 20), replace=False))
        sound = flipped(sound, rng.choice(96, rng.integers(0, 20), replace=False))
        lacks = rng.integers(0, 6)
        rows.append((None if lacks in (1, 3) else picture, None if lacks in (2, 3) else sound))
    return rows


@settings(deadline=None)
@given(rows=many_rows(), within=st.integers(0, 60), block=st.integers(1, 8))
def test_groups_are_those_of_comparing_all_pairs(rows, within: int, block: int):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "_BLOCK", block)
        assert members(near_groups(table_of(rows), within)) == plain_groups(rows, within)


def test_the_distance_is_over_both_prints_and_its_bound_is_included():
    picture, sound = bytes(24), bytes(12)
    other = flipped(picture, range(6)), flipped(sound, range(90, 96))
    assert members(near_groups(table_of([(picture, sound), other]), 12)) == {frozenset({0, 1})}
    assert len(members(near_groups(table_of([(picture, sound), other]), 11))) == 2


def test_near_ones_of_near_ones_are_of_one_group():
    rows = [(flipped(bytes(24), range(10 * i)), bytes(12)) for i in range(5)]
    assert members(near_groups(table_of(rows), 10)) == {frozenset(range(5))}
    assert members(near_groups(table_of([rows[0], rows[2], rows[4]]), 10)) == {
        frozenset({i}) for i in range(3)
    }


def test_silent_clips_are_compared_by_their_pictures_alone_and_not_with_others():
    picture = bytes(range(24))
    rows = [(picture, None), (picture, None), (picture, bytes(12)), (None, None), (None, None)]
    assert members(near_groups(table_of(rows), 20)) == {
        frozenset({0, 1}),
        frozenset({2}),
        frozenset({3}),
        frozenset({4}),
    }


def test_a_thousand_copies_are_one_group():
    rows = [(bytes(24), bytes(12))] * 1000 + [(bytes([255] * 24), bytes(12))]
    assert members(near_groups(table_of(rows), 10)) == {frozenset(range(1000)), frozenset({1000})}


def test_without_faiss_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ArgumentError, match=r"^near_duplicates = 10: .*pip install 'avprep\[tags\]'"):
        near_groups(table_of([(bytes(24), bytes(12))]), 10)


def test_the_bits_of_the_option_are_those_of_the_prints():
    assert sum(column.high or 0 for column in PRINTS) == PRINT_BITS
