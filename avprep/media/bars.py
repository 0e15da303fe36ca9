"""Black bars around a picture: letterbox (above and below) and pillarbox (left and right).

A bar is black from edge to edge in every picture, and ends along a straight line: right inside of it,
most of the line is lit in some picture. A dark scene has no such line, and no bars are found in it:

    letterbox          night scene        night scene, lit window
    ##########         ##########         ##########
    ..........  line   ##########         ####..####  two of ten columns are lit: no line
    ..........         ##########         ####..####
    ##########         ##########         ##########
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

BLACK = 24  # 8-bit luma: bars of compressed video, full range, lie at 0 to about 20
_LIT = 2 * BLACK
_NOISY_SHARE = 0.02  # of a row or column that may be brighter in a bar: ringing at its ends
_LIT_SHARE = 0.6  # of the line inside a bar that is lit in some picture
_SOFT = 2  # pixels that scaling and compression blur at a bar's edge
_UNEVEN_SHARE = 0.02  # of the picture's side by which two opposite bars may differ


class Bars(NamedTuple):
    """Pixels of each bar, counted from its edge of the picture; 0 where there is none."""

    top: int
    bottom: int
    left: int
    right: int

    def share(self, height: int, width: int) -> float:
        """The share of a picture's area that the bars cover."""
        inside = (height - self.top - self.bottom) * (width - self.left - self.right)
        return 1 - inside / (height * width)


def bars_of(pictures: np.ndarray) -> Bars:
    """The bars that all pictures share.

    Bars come in pairs of about the same height or width. Both pairs may be there (a letterboxed film in a
    pillarboxed broadcast). The blurred pixels at a bar's edge are part of the bar.

    Args:
        pictures: uint8 luma (n, H, W), sampled over a shot or a source; n > 0.
    """
    brightest = pictures.max(axis=0)
    top, bottom = _pair(brightest)
    left, right = _pair(brightest[top : len(brightest) - bottom].T)
    if not (top or left):
        return Bars(0, 0, 0, 0)
    # Rows are judged again without the columns of the pillars, which are dark in every row.
    top, bottom = _pair(brightest[:, left : brightest.shape[1] - right])
    return Bars(top, bottom, left, right)


def _pair(brightest: np.ndarray) -> tuple[int, int]:
    """Rows of the bars above and below, of the brightest luma (rows, columns) of each pixel."""
    first, last = _bar(brightest), _bar(brightest[::-1])
    is_even = abs(first - last) <= max(_SOFT, round(_UNEVEN_SHARE * len(brightest)))
    return (first, last) if first and last and is_even else (0, 0)


def _bar(brightest: np.ndarray) -> int:
    """Rows of the bar that begins at row 0; 0 where the dark rows do not end along a lit line."""
    is_dark = (brightest > BLACK).mean(axis=1) <= _NOISY_SHARE
    dark = int(np.argmin(is_dark)) if not is_dark.all() else 0
    if not dark:
        return 0
    line = brightest[dark : dark + _SOFT + 1] > _LIT
    lit_share = line.mean(axis=1)
    return dark + int(np.argmax(lit_share >= _LIT_SHARE)) if (lit_share >= _LIT_SHARE).any() else 0
