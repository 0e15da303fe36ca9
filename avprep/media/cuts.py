"""Hard cuts between small pictures that follow one another, and which of them are flashes.

A step between two pictures is a cut where the content changes much, and much more than in the steps around
it, so that a fast pan is none. A picture that is shown twice has to be left out, or any movement after it
would stand out. The content is compared as `scenedetect.AdaptiveDetector` does.

A flash changes the picture and takes it back: two cuts, with nearly the same picture before the first and
after the second, and all of the picture brighter, or all of it darker, between them. Of a flash that the end
of the pictures cuts off, only one of the two is seen:

    pictures   L L d d d d L d d d d L L        L = lit
    cuts           1       2 3       4          2 and 3 are a flash; 1 and 4 are the halves of others
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

MIN_CHANGE = 15.0  # 8-bit levels, the mean over the picture and its three channels
MIN_RATIO = 3.0  # to the mean of the steps around
_AROUND = 2  # steps on either side
_SAME = 0.35  # of the change at a flash: more difference between before and after is another shot
_TINT = 8  # levels by which a part of the picture may go against the flash
_FLAT = 12.0  # levels: the standard deviation of a picture that is all of one colour
_WHITE = 192  # levels: the mean of a picture that a flash leaves nothing of
_TEXTURED = 4.0  # levels: pictures with less have nothing to be alike by
_ALIKE = 0.5  # the correlation of a picture with itself, lit by a flash


def content_changes(pictures: np.ndarray) -> np.ndarray:
    """float64 (n - 1,): mean absolute difference of RGB pictures, uint8 (n, h, w, 3), to the next."""
    return np.abs(np.diff(pictures.astype(np.int16), axis=0)).mean(axis=(1, 2, 3))


def adaptive_cuts(changes: np.ndarray) -> list[int]:
    """The steps that are cuts, of `content_changes` (n - 1,): step i leads to picture i + 1."""
    found = []
    for i in np.flatnonzero(changes >= MIN_CHANGE):
        around = np.concatenate([changes[max(0, i - _AROUND) : i], changes[i + 1 : i + 1 + _AROUND]])
        # A cut next to another one (a shot of a single picture) is measured against the quieter steps.
        quiet = np.sort(around)[: max(1, len(around) - 1)]
        if not len(around) or changes[i] >= MIN_RATIO * quiet.mean():
            found.append(int(i))
    return found


def without_flashes(
    pictures: np.ndarray, cuts: Sequence[int], longest: int, *, are_cut_out: bool = False
) -> list[int]:
    """The cuts (steps) that do not begin or end a flash.

    Args:
        pictures: uint8 (n, h, w, 3).
        cuts: steps, ascending; step i leads from picture i to picture i + 1.
        longest: the pictures that a flash lasts at most.
        are_cut_out: other pictures come before the first and after the last, so that half of a flash may be
            seen at either end: then a single change to a white picture, or to the same scene but brighter,
            is a flash as well, and not a shot that begins or ends there.
    """
    flashes: set[int] = set()
    if are_cut_out and cuts and cuts[0] < longest and _is_lit(pictures, cuts[0], cuts[0] + 1):
        flashes.add(cuts[0])
    for first, second in pairwise(cuts):
        if first not in flashes and second - first <= longest and _is_flash(pictures, first, second):
            flashes |= {first, second}
    if are_cut_out and cuts and len(pictures) - 1 - cuts[-1] <= longest:
        if _is_lit(pictures, cuts[-1] + 1, cuts[-1]):
            flashes.add(cuts[-1])
    return [step for step in cuts if step not in flashes]


def _is_flash(pictures: np.ndarray, first: int, second: int) -> bool:
    before, lit, after = (pictures[i].astype(np.int16) for i in (first, first + 1, second + 1))
    change = lit - before
    is_one_way = (change >= -_TINT).all() or (change <= _TINT).all()
    return bool(is_one_way and np.abs(after - before).mean() <= _SAME * np.abs(change).mean())


def _is_lit(pictures: np.ndarray, lit: int, unlit: int) -> bool:
    """Whether a picture is another one in the light of a flash: brighter all over, and white or alike."""
    one, other = pictures[lit].astype(np.float64), pictures[unlit].astype(np.float64)
    if (one - other < -_TINT).any():
        return False
    if one.std() < _FLAT and one.mean() >= _WHITE:
        return True
    return bool(
        min(one.std(), other.std()) >= _TEXTURED and np.corrcoef(one.ravel(), other.ravel())[0, 1] >= _ALIKE
    )
