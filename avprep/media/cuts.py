"""Hard cuts between small pictures that follow one another, and which of them are flashes.

A step between two pictures is a cut where the content changes much, and much more than in the steps around
it, so that a fast pan is none. The content is compared as `scenedetect.AdaptiveDetector` does.

A flash changes the picture and takes it back: two cuts, with nearly the same picture before the first and
after the second, and all of the picture brighter, or all of it darker, between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

MIN_CHANGE = 15.0  # 8-bit levels, the mean over the picture and its three channels
MIN_RATIO = 3.0  # to the mean of the steps around
_AROUND = 2  # steps on either side
_REPEAT = 0.5  # levels: a smaller change is a repeated picture, which says nothing of the movement
_SAME = 0.35  # of the change at a flash: more difference between before and after is another shot
_TINT = 8  # levels by which a part of the picture may go against the flash


def content_changes(pictures: np.ndarray) -> np.ndarray:
    """float64 (n - 1,): mean absolute difference of RGB pictures, uint8 (n, h, w, 3), to the next."""
    return np.abs(np.diff(pictures.astype(np.int16), axis=0)).mean(axis=(1, 2, 3))


def adaptive_cuts(changes: np.ndarray) -> list[int]:
    """The steps that are cuts, of `content_changes` (n - 1,): step i leads to picture i + 1."""
    steps = np.flatnonzero(changes >= _REPEAT)
    moving = changes[steps]
    found = []
    for i in np.flatnonzero(moving >= MIN_CHANGE):
        around = np.concatenate([moving[max(0, i - _AROUND) : i], moving[i + 1 : i + 1 + _AROUND]])
        # A cut next to another one (a shot of a single picture) is measured against the quieter steps.
        quiet = np.sort(around)[: max(1, len(around) - 1)]
        if not len(around) or moving[i] >= MIN_RATIO * quiet.mean():
            found.append(int(steps[i]))
    return found


def without_flashes(pictures: np.ndarray, cuts: Sequence[int], longest: int) -> list[int]:
    """The cuts (steps) that do not begin or end a flash.

    Args:
        pictures: uint8 (n, h, w, 3).
        cuts: steps, ascending; step i leads from picture i to picture i + 1.
        longest: the pictures that a flash lasts at most.
    """
    flashes: set[int] = set()
    for first, second in pairwise(cuts):
        if first not in flashes and second - first <= longest and _is_flash(pictures, first, second):
            flashes |= {first, second}
    return [step for step in cuts if step not in flashes]


def _is_flash(pictures: np.ndarray, first: int, second: int) -> bool:
    before, lit, after = (pictures[i].astype(np.int16) for i in (first, first + 1, second + 1))
    change = lit - before
    is_one_way = (change >= -_TINT).all() or (change <= _TINT).all()
    return bool(is_one_way and np.abs(after - before).mean() <= _SAME * np.abs(change).mean())
