"""Groups of near-duplicate clips: those whose prints lie within a Hamming distance, directly or by others.

    a - b - c     a and b, b and c are near: one group of three, whatever the distance from a to c
    d             near to none: a group of its own

The prints are `phash` (192 bits) and `audio_print` (96 bits) together: two clips with the same picture and
other sounds are no duplicates. Where both clips lack the same print (silence, a picture of one colour), the
other one is compared alone, at the same share of its bits. A clip without any print is near to none.

All pairs are compared, so that no duplicate is missed: the time grows with the square of the clips.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from avprep.errors import ArgumentError
from avprep.jobs.components import components
from avprep.jobs.config import PRINT_BITS
from avprep.scores.base import Column
from avprep.scores.prints import AUDIO_PRINT, PHASH

PRINTS: tuple[Column, ...] = (*PHASH.columns, *AUDIO_PRINT.columns)

_BLOCK = 8192  # prints compared at once
_FAST_BYTES = 32  # faiss compares this length three times as fast as any other above it


def near_groups(table: pa.Table, within: int) -> np.ndarray:
    """int64 (rows,): equal numbers for the rows of one group.

    Args:
        table: with the columns of PRINTS.
        within: bits of PRINT_BITS by which two prints may differ.

    Raises:
        ArgumentError: faiss is not installed.
    """
    groups = np.arange(len(table))
    columns = [table[column.name].combine_chunks() for column in PRINTS]
    present = np.stack([column.is_valid().to_numpy(zero_copy_only=False) for column in columns], axis=1)
    for has in ((True, True), (True, False), (False, True)):
        rows = np.flatnonzero((present == has).all(axis=1))
        used = [column for column, is_used in zip(columns, has, strict=True) if is_used]
        if len(rows):
            prints = np.concatenate([_bytes_of(column, rows) for column in used], axis=1)
            groups[rows] = rows[_first_of_group(prints, within * prints.shape[1] * 8 // PRINT_BITS)]
    return groups


def _bytes_of(column: pa.Array, rows: np.ndarray) -> np.ndarray:
    """uint8 (len(rows), bytes): prints, of which none is null."""
    values = column.take(pa.array(rows))
    return np.frombuffer(b"".join(values.to_pylist()), np.uint8).reshape(len(rows), -1)


def _first_of_group(prints: np.ndarray, within: int) -> np.ndarray:
    """int64 (n,): for each print the place of the first one of its group."""
    # Equal prints are compared once: a thousand copies of a test card would be half a million pairs.
    unique, firsts, places = np.unique(prints, axis=0, return_index=True, return_inverse=True)
    group_of = np.arange(len(unique))
    for pairs in _near_pairs(unique, within):
        # Pairs are folded into the groups block by block: their number has no bound.
        edges = np.concatenate([pairs, np.stack([np.arange(len(unique)), group_of], axis=1)])
        group_of = components(edges[:, 0], edges[:, 1], len(unique))
    first = np.full(len(unique), len(prints))
    np.minimum.at(first, group_of, firsts)
    return first[group_of][places.reshape(-1)]


def _near_pairs(prints: np.ndarray, within: int) -> Iterator[np.ndarray]:
    """int64 (pairs, 2): places of prints that differ in at most `within` bits; each pair at least once."""
    try:
        import faiss
    except ImportError:
        raise ArgumentError(
            f"near_duplicates = {within}: faiss is not installed: pip install 'avprep[tags]'"
        ) from None
    # A pair that differs in few bits differs in few of the first ones: these find it, all of them decide.
    compared = np.ascontiguousarray(prints[:, :_FAST_BYTES])
    index = faiss.IndexBinaryFlat(compared.shape[1] * 8)
    for start in range(0, len(prints), _BLOCK):
        index.add(compared[start : start + _BLOCK])
        limits, _, found = index.range_search(compared[start : start + _BLOCK], within + 1)
        limits = limits.astype(np.int64)
        one = np.repeat(np.arange(start, start + len(limits) - 1), limits[1:] - limits[:-1])
        is_other = found < one
        one, other = one[is_other], found[is_other]
        bits = np.bitwise_count(prints[one] ^ prints[other]).sum(axis=1)
        yield np.stack([one, other], axis=1)[bits <= within]
