"""The order in which training takes clips: an endless row, in which any run of the same seed finds its place.

Without shares, the row is shuffled epochs of all clips:

    row      | epoch 0, shuffled by (seed, 0) | epoch 1, shuffled by (seed, 1) | ...

With shares, it is blocks of `BLOCK` places. In each, every output has its share of the places, shuffled, and
fills them with shuffled epochs of its own clips:

    row      | B A B B A B B B A B ... |  each block: 3 places in 10 are A's, if A's share is 0.3
    A        |   0     1       2   ...    the clips of A, shuffled epochs in a row
    B        | 0   1 2   3 4 5   6 ...
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from avprep.errors import ArgumentError
from avprep.shards.layout import ShardError

BLOCK = 10_000  # places: what a share is a whole number of


class ClipOrder:
    """Which clip is at each place of the row: its position in the index.

    Args:
        clips: how many each output has, in the order of the index; with shares, at least one.
        shares: of the outputs, as `checked_shares` gives them; None: each clip comes once per epoch.

    Raises:
        ShardError: no clip.
    """

    def __init__(self, clips: Sequence[int], *, seed: int, shares: Sequence[float] | None = None) -> None:
        self.clips = sum(clips)
        if not self.clips:
            raise ShardError("no clip to train on")
        self._seed = seed
        self._parts = _AllClips(self.clips, seed) if shares is None else _Mixture(clips, shares, seed)

    def at(self, place: int) -> int:
        """The position of the clip at a place, from 0 on."""
        return self._parts.at(place)


class _AllClips:
    """Shuffled epochs of all clips."""

    def __init__(self, clips: int, *entropy: int) -> None:
        self._clips, self._entropy = clips, entropy
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def at(self, place: int) -> int:
        epoch, place = divmod(place, self._clips)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, shuffled(self._clips, *self._entropy, epoch)
        return int(self._order[place])


class _Mixture:
    """Blocks in which each output has its share."""

    def __init__(self, clips: Sequence[int], shares: Sequence[float], seed: int) -> None:
        self._seed, self._quotas = seed, quotas(shares)
        self._firsts = np.cumsum([0, *clips])[:-1].tolist()  # the position of each output's first clip
        self._rows = [_AllClips(count, seed, number) for number, count in enumerate(clips)]
        self._block = -1

    def at(self, place: int) -> int:
        block, place = divmod(place, BLOCK)
        if block != self._block:
            self._open(block)
        output = int(self._outputs[place])
        drawn = block * self._quotas[output] + int(self._earlier[place])
        return self._firsts[output] + self._rows[output].at(drawn)

    def _open(self, block: int) -> None:
        """Which output has each place of a block, and how many of the places before it that output has."""
        outputs = np.repeat(np.arange(len(self._quotas)), self._quotas)
        self._outputs = np.random.default_rng([self._seed, len(self._quotas), block]).permutation(outputs)
        self._earlier = np.empty(BLOCK, np.int64)
        for output, quota in enumerate(self._quotas):
            self._earlier[self._outputs == output] = np.arange(quota)
        self._block = block


def shuffled(clips: int, *entropy: int) -> np.ndarray:
    """int64 (clips,): the order of an epoch, of (seed, epoch)."""
    return np.random.default_rng(entropy).permutation(clips)


def checked_shares(shares: Sequence[float] | None, outputs: int) -> tuple[float, ...] | None:
    """The shares of the outputs, which sum to 1. They are given in any unit: 3 and 7 are 0.3 and 0.7.

    Raises:
        ArgumentError: not one share per output, or one that is no number above 0, or too small beside the
            others.
    """
    if shares is None:
        return None
    if len(shares) != outputs:
        raise ArgumentError(f"shares must be one per output: {len(shares)} for {outputs} outputs")
    is_number = [isinstance(share, int | float) and share > 0 for share in shares]
    if not all(is_number) or not sum(shares) < math.inf:
        raise ArgumentError(f"shares must be finite numbers above 0, not {', '.join(map(str, shares))}")
    of_all = tuple(share / sum(shares) for share in shares)
    if min(quotas(of_all)) == 0:
        raise ArgumentError(
            f"shares must be at least 1/{BLOCK:,} of their sum, not {', '.join(map(str, shares))}"
        )
    return of_all


def quotas(shares: Sequence[float]) -> list[int]:
    """The places of a block that each output has: they sum to `BLOCK`, each within one of its share."""
    exact = [share * BLOCK for share in shares]
    whole = [math.floor(places + 1e-9) for places in exact]
    by_rest = sorted(range(len(shares)), key=lambda i: (whole[i] - exact[i], i))
    for i in by_rest[: BLOCK - sum(whole)]:
        whole[i] += 1
    return whole
