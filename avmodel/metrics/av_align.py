"""AV-Align: do the sound's onsets and the picture's movements come at the same times? (docs/model.md 6)

No weights: onsets by librosa, movement by Farneback's optical flow, both as in the published code
(`avprep.dsp.av_align`, where its sources are named). Frames are taken at their full size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from avmodel.metrics import MetricError
from avprep.dsp import av_align as arithmetic
from avprep.dsp.av_align import AVAlign
from avprep.dsp.av_align import alignment as score


@dataclass(frozen=True)
class Events:
    """What the detectors found in one clip."""

    onsets_s: np.ndarray  # float64 (onsets,), seconds
    peaks: np.ndarray  # int64 (peaks,), frames


@dataclass(frozen=True, kw_only=True)
class AVAlignMean:
    """Over many clips."""

    mean: AVAlign | None  # None: no clip counted
    counted: int
    skipped: int  # clips in which nothing sounds up and nothing moves


def av_align(frames: np.ndarray, waveform: np.ndarray, fps: float, sample_rate: int) -> AVAlign | None:
    """AV-Align of one clip; None where it has neither an onset nor a peak.

    Args:
        frames: uint8 (T, H, W, RGB).
        waveform: float (samples,), mono; sample 0 sounds as frame 0 is shown.
        fps: frames per second.
        sample_rate: of the waveform, Hz.

    Raises:
        MetricError: arrays of another form, or OpenCV is not installed.
    """
    return score(audio_onsets(waveform, sample_rate), motion_peaks(frames), fps)


def mean_av_align(scores: Iterable[AVAlign | None]) -> AVAlignMean:
    """The means over the clips that have a score."""
    scores = list(scores)
    rows = [(clip.align, clip.align_wide, clip.iou) for clip in scores if clip is not None]
    mean = None
    if rows:
        align, align_wide, iou = np.mean(rows, axis=0)
        mean = AVAlign(align=float(align), align_wide=float(align_wide), iou=float(iou))
    return AVAlignMean(mean=mean, counted=len(rows), skipped=len(scores) - len(rows))


def shuffled_baseline(clips: Sequence[Events], fps: float, *, rounds: int = 10, seed: int = 0) -> AVAlignMean:
    """The means where each clip's pictures meet the sound of another clip, drawn anew in each round.

    What these clips score by chance: many onsets and peaks raise it, and a score says something only by how
    far it lies above. A round gives every sound to one clip, never to its own.

    Raises:
        MetricError: fewer than two clips, or no round.
    """
    if len(clips) < 2 or rounds < 1:
        raise MetricError(f"a shuffled baseline needs 2 clips and 1 round, not {len(clips)} and {rounds}")
    rng = np.random.default_rng(seed)
    scores = []
    for _ in range(rounds):
        order = rng.permutation(len(clips))
        pairs = zip(order, np.roll(order, 1), strict=True)
        scores += [score(clips[other].onsets_s, clips[own].peaks, fps) for own, other in pairs]
    return mean_av_align(scores)


def audio_onsets(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """Seconds, float64 (onsets,): when something begins to sound in a waveform (samples,)."""
    waveform = np.asarray(waveform)
    if waveform.ndim != 1 or waveform.dtype.kind != "f" or not waveform.size:
        raise MetricError(f"a waveform is (samples,) floats, not {waveform.shape} {waveform.dtype}")
    return arithmetic.audio_onsets(waveform, sample_rate)


def motion_peaks(frames: np.ndarray) -> np.ndarray:
    """Frames, int64 (peaks,), that more moves into than into their neighbours, of uint8 (T, H, W, RGB)."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or len(frames) < 2:
        raise MetricError(f"frames are (T, H, W, 3) uint8, T > 1, not {frames.shape} {frames.dtype}")
    try:
        import cv2
    except ImportError as error:
        raise MetricError(
            "AV-Align's optical flow needs OpenCV, which is not installed: pip install 'avprep[metrics]'"
        ) from error
    grey = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])
    return arithmetic.motion_peaks(arithmetic.flow_lengths(grey, arithmetic.PUBLISHED))
