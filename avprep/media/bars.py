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

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from avprep.media.crop import GRID, NO_BARS, Bars

if TYPE_CHECKING:
    from avprep.media.limits import Deadline
    from avprep.media.timeline import Part

BLACK = 24  # 8-bit luma: bars of compressed video, full range, lie at 0 to about 20
_LIT = 2 * BLACK
_NOISY_SHARE = 0.02  # of a row or column that may be brighter in a bar: ringing at its ends
_LIT_SHARE = 0.6  # of the line inside a bar that is lit in some picture
_SOFT = 2  # pixels that scaling and compression blur at a bar's edge
_SAMPLED = 16  # pictures of a source
_UNEVEN_SHARE = 0.02  # of the picture's side by which two opposite bars may differ


def bars_of(pictures: np.ndarray) -> Bars:
    """The bars that all pictures share.

    Bars come in pairs of about the same height or width. Both pairs may be there (a letterboxed film in a
    pillarboxed broadcast), as long as one of them takes less than two fifths of the picture: a small lit
    rectangle in the dark may as well be a window. The blurred pixels at a bar's edge are part of the bar.

    Args:
        pictures: uint8 luma (n, H, W), sampled over a shot or a source; n > 0.
    """
    brightest = pictures.max(axis=0)
    top, bottom = _pair(brightest)
    left, right = _pair(brightest[top : len(brightest) - bottom].T)
    if not (top or left):
        return NO_BARS
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


def bars_of_source(
    path: str | os.PathLike[str], *, parts: Sequence[Part] | None = None, deadline: Deadline | None = None
) -> Bars:
    """The bars of a source, in pixels of its picture stretched to GRID x GRID, as it is shown.

    Sixteen pictures are looked at, evenly spread over the source; over long stretches the file is skipped.

    Args:
        parts: as `probe` gives them; None: the source is probed.
        deadline: for reading; None: any time.

    Raises:
        MediaError: the source cannot be opened or probed, or the time is up.
    """
    # Here: `bars_of` is used where PyAV is not installed.
    from avprep.media.limits import Deadline, bounded
    from avprep.media.probe import probe
    from avprep.media.sampled import sampled_pictures, spread_instants

    deadline = deadline or Deadline(None)
    parts = probe(path, deadline).parts if parts is None else parts
    shown = bounded(sampled_pictures(path, spread_instants(parts, _SAMPLED), side=GRID, deadline=deadline))
    luma = [np.asarray(Image.fromarray(picture.pixels).convert("L")) for picture in shown]
    return bars_of(np.stack(luma)) if luma else NO_BARS
