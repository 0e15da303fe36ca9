"""What a clip's frames look like: luma, sharpness, repeated pictures, a cut, black bars."""

from __future__ import annotations

import numpy as np

from avprep.media.bars import bars_of
from avprep.media.cuts import adaptive_cuts, content_changes, without_flashes
from avprep.scores.base import Column, Measure, Score, Value, without_weights
from avprep.scores.clip import Field, ScoredClip
from avprep.scores.stored import first_shown

FLASH_S = 0.5  # the longest that a flash lasts; a shorter shot between two like ones may be taken for one
_STILL = 2  # 8-bit levels: block means of a repeated picture differ by less, after compression
_SHARP_FRAMES = 4  # of the clip, evenly spread: sharpness changes slowly


def luma(clip: ScoredClip) -> dict[str, Value]:
    """Mean luma of all frames: 0 is black, 1 is white."""
    return {"luma": float(clip.small_grey.mean() / 255)}


def sharpness(clip: ScoredClip) -> dict[str, Value]:
    """Variance of the Laplacian of the luma (8-bit levels squared): the median of four frames.

    It compares clips of one size: blur and upscaling lower it, noise and text raise it. About 10 is very
    soft, 100 soft, 500 and more sharp, at 256 x 256.
    """
    step = max(1, len(clip.grey) // _SHARP_FRAMES)
    grey = clip.grey[::step].astype(np.int16)
    middle = grey[:, 1:-1, 1:-1]
    laplacian = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:] - 4 * middle
    values = laplacian.reshape(len(laplacian), -1).astype(np.float64)
    # The sums are of whole numbers, and exact. np.var makes a second copy, and takes three times as long.
    variances = [row @ row / len(row) - (row.sum() / len(row)) ** 2 for row in values]
    return {"sharpness": float(np.median(variances))}


def frozen(clip: ScoredClip) -> dict[str, Value]:
    """The share of steps from frame to frame in which no block of about 5 x 5 pixels changes.

    1 for a still picture. A source of a lower frame rate than the clip's repeats pictures, too.
    """
    steps = np.abs(np.diff(clip.small_grey.astype(np.int16), axis=0))
    if not len(steps):
        return {"frozen_share": None}
    return {"frozen_share": float((steps.max(axis=(1, 2)) < _STILL).mean())}


def cut(clip: ScoredClip) -> dict[str, Value]:
    """Whether there is a hard cut inside of the clip, as `avprep.media.cuts` defines it.

    Flashes are no cuts, whole or cut off by the clip's ends. Fades and dissolves take several frames and are
    not found here.
    """
    pictures = clip.small_frames[first_shown(clip)]
    steps = adaptive_cuts(content_changes(pictures))
    longest = round(FLASH_S * clip.spec.fps)
    return {"cut": bool(without_flashes(pictures, steps, longest=longest, are_cut_out=True))}


def bars(clip: ScoredClip) -> dict[str, Value]:
    """The share of the picture's area in letter and pillar box bars (`avprep.media.bars`)."""
    height, width = clip.grey.shape[1:]
    return {"bars": float(bars_of(clip.grey).share(height, width))}


def _score(column: Column, measure: Measure, source: str, needs: tuple[Field, ...] = ("frames",)) -> Score:
    return Score(
        name=column.name,
        columns=(column,),
        needs=needs,
        cost="array",
        open=without_weights(measure),
        source=source,
    )


LUMA = _score(
    Column(name="luma", kind="float", unit="share of white", low=0, high=1, meaning="mean luma"),
    luma,
    "ITU-R BT.601 (luma)",
)
SHARPNESS = _score(
    Column(name="sharpness", kind="float", unit="levels^2", low=0, meaning="variance of the Laplacian"),
    sharpness,
    "Pech-Pacheco et al., Diatom autofocusing in brightfield microscopy, ICPR 2000",
)
FROZEN = _score(
    Column(name="frozen_share", kind="float", unit="share", low=0, high=1, meaning="steps without change"),
    frozen,
    "avprep",
)
CUT = _score(
    Column(name="cut", kind="bool", unit="", meaning="a hard cut inside of the clip"),
    cut,
    "after PySceneDetect's AdaptiveDetector",
    needs=("frames", "json"),
)
BARS = _score(
    Column(name="bars", kind="float", unit="share", low=0, high=1, meaning="area of black bars"),
    bars,
    "avprep",
)
