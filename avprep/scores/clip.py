"""A clip as the scores see it: the stored fields, and the small pictures that several scores share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from PIL import Image

from avprep.dsp.av_align import FAST, audio_onsets, flow_lengths, motion_peaks
from avprep.spec import ClipSpec

# Fields of a `ClipDataset` item.
Field = Literal["frames", "mel", "waveform", "json"]

SMALL = 50  # pixels: the side of the small pictures is this or a little more
# Picture widths per frame. Noise of 20 of 255 levels on a still picture gives maxima of up to 0.00044, films
# that stand still but for their grain 0.00041. A thing of a tenth of the picture's width that moves by one
# pixel of 256 gives 0.0005.
LEAST_PEAK = 5e-4
TINY = 16  # pixels: of the small pictures in colour


@dataclass(frozen=True, eq=False)
class ScoredClip:
    """A clip's fields, as an item of `ClipDataset` holds them: those that the scores need.

    Reading a field that was not decoded raises KeyError.
    """

    spec: ClipSpec
    fields: Mapping[str, Any]

    @property
    def frames(self) -> np.ndarray:
        """uint8 (T, H, W, RGB)"""
        return self.fields["frames"]

    @property
    def waveform(self) -> np.ndarray:
        """float32 (samples,), mono, full scale 1"""
        return self.fields["waveform"]

    @property
    def mel(self) -> np.ndarray:
        """float16 (T, n_mels, W) in [-1, 1]: the mel stack"""
        return self.fields["mel"]

    @property
    def header(self) -> dict[str, Any]:
        """The clip's stored header: source, start_s, residual_ms, sounding_s, ..."""
        return self.fields["json"]

    @cached_property
    def grey(self) -> np.ndarray:
        """uint8 (T, H, W): the luma of the frames (BT.601 weights)."""
        return _joined(self.frames, lambda picture: picture.convert("L"))

    @cached_property
    def small_grey(self) -> np.ndarray:
        """uint8 (T, h, w): `grey` by block means, SMALL pixels or a little more high and wide."""
        return _reduced(self.grey, SMALL)

    @cached_property
    def small_frames(self) -> np.ndarray:
        """uint8 (T, h, w, RGB): the frames TINY pixels or a little more high and wide: means of 16
        pixels of each block."""
        step = max(1, self.spec.size // TINY // 4)
        return _reduced(self.frames[:, ::step, ::step], TINY)

    @cached_property
    def flow_lengths(self) -> np.ndarray:
        """Pixels of the small pictures, float32 (T - 1,): mean length of the optical flow into each frame.

        Raises ImportError where OpenCV is not installed.
        """
        return flow_lengths(self.small_grey, FAST)

    @cached_property
    def motion_peaks(self) -> np.ndarray:
        """Frames, int64 (peaks,): local maxima of the flow that rise by LEAST_PEAK above the flow around."""
        return motion_peaks(self.flow_lengths, least=LEAST_PEAK * self.small_grey.shape[2])

    @cached_property
    def onsets_s(self) -> np.ndarray:
        """Seconds of the clip, float64 (onsets,): when something begins to sound."""
        return audio_onsets(self.waveform, self.spec.sample_rate)


def _reduced(pictures: np.ndarray, side: int) -> np.ndarray:
    """Means of whole square blocks, as large as leave `side` of them; what is left over at the right and the
    bottom is cut off."""
    factor = max(1, min(pictures.shape[1:3]) // side)
    height, width = (length // factor * factor for length in pictures.shape[1:3])
    return _joined(pictures[:, :height, :width], lambda picture: picture.reduce(factor))


def _joined(pictures: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """The pictures, changed as one picture in which they lie below each other: most of the time for a small
    picture is Pillow's overhead. `change` must not mix rows of two pictures."""
    rows = np.ascontiguousarray(pictures).reshape(-1, *pictures.shape[2:])
    changed = np.asarray(change(Image.fromarray(rows)))
    return changed.reshape(len(pictures), -1, *changed.shape[1:])
