"""Splits of a selection that no source, or no group of near-duplicates, straddles.

Where a source belongs follows from the seed and its name alone: sources that are added later move no other
one to another split. A split therefore has about its share of the clips, not exactly.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from avprep.jobs.components import components


def by_source(sources: Sequence[str], shares: Mapping[str, float], seed: int) -> np.ndarray:
    """int64 (clips,): the number of each clip's split, in the order of `shares`."""
    bounds = np.cumsum(list(shares.values()))[:-1]
    names, places = np.unique(np.array(sources, dtype=object), return_inverse=True)
    at = np.array([_position(str(name), seed) for name in names])
    return np.searchsorted(bounds, at, side="right")[places]


def joined_sources(sources: Sequence[str], groups: np.ndarray) -> list[str]:
    """For each clip the name of its source's component: the first of all sources that groups connect to it.

    Args:
        groups: int64 (clips,): equal numbers for the clips of one group.
    """
    names, places = np.unique(np.array(sources, dtype=object), return_inverse=True)
    _, numbers = np.unique(groups, return_inverse=True)
    nodes = len(names) + int(numbers.max(initial=-1)) + 1
    # Nodes are the names, then the groups: the smallest node of a component is a name.
    firsts = components(places, len(names) + numbers, nodes)
    return [str(name) for name in names[firsts[places]]]


def _position(name: str, seed: int) -> float:
    """In [0, 1), even over all names."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8, key=seed.to_bytes(8))
    return int.from_bytes(digest.digest()) / 2**64
