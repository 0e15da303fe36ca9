"""AV-Align: do the sound's onsets and the picture's movements come at the same times? (docs/model.md 6)

No weights: onsets by librosa, movement by Farneback's optical flow, both as in the published code.

    onsets_s  |    x           x        x   |    seconds
    flow      | . .:. . .:. . . . . .:. . . |    mean length of the flow into each frame, pixels
    peaks     |    x     x           x      |    frames: the flow's strict local maxima
    align     =  (onsets near a peak / onsets + peaks near an onset / peaks) / 2

Sources: Yariv et al., "Diverse and Aligned Audio-to-Video Generation via Text-to-Video Model Adaptation",
AAAI 2024, section 4 (the mean of two hit rates); its code, TempoTokens' av_align.py (detectors, the IoU).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import ModuleType

import numpy as np

from avmodel.metrics import MetricError

ONSET_RATE = 22050  # Hz: what the published code loads every sound at
# pyr_scale, levels, winsize, iterations, poly_n, poly_sigma, flags
FARNEBACK = (0.5, 3, 15, 3, 5, 1.2, 0)


@dataclass(frozen=True, kw_only=True)
class AVAlign:
    """The numbers of one clip, or their means: 1 where sound and picture move together, 0 where never."""

    align: float  # the paper's: the mean of two hit rates, a window of one frame to either side
    align_wide: float  # the same with three frames to either side, the other reading of '3-frame window'
    iou: float  # the published code's: pairs closer than a frame, over onsets and peaks less pairs


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
    import librosa

    waveform = np.asarray(waveform)
    if waveform.ndim != 1 or waveform.dtype.kind != "f" or not waveform.size:
        raise MetricError(f"a waveform is (samples,) floats, not {waveform.shape} {waveform.dtype}")
    waveform = librosa.resample(waveform, orig_sr=sample_rate, target_sr=ONSET_RATE)
    strength = librosa.onset.onset_strength(y=waveform, sr=ONSET_RATE)
    onsets = librosa.onset.onset_detect(onset_envelope=strength, sr=ONSET_RATE)
    return librosa.frames_to_time(onsets, sr=ONSET_RATE)


def motion_peaks(frames: np.ndarray) -> np.ndarray:
    """Frames, int64 (peaks,), that more moves into than into their neighbours, of uint8 (T, H, W, RGB)."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or len(frames) < 2:
        raise MetricError(f"frames are (T, H, W, 3) uint8, T > 1, not {frames.shape} {frames.dtype}")
    cv2 = _opencv()
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    flow = [cv2.calcOpticalFlowFarneback(a, b, None, *FARNEBACK) for a, b in pairwise(grey)]
    # As published, frame 0 takes frame 1's flow: a movement into frame 1 alone is no peak.
    lengths = np.array([np.hypot(f[..., 0], f[..., 1]).mean() for f in (flow[0], *flow)])
    middle = lengths[1:-1]
    return np.flatnonzero((lengths[:-2] < middle) & (middle > lengths[2:])) + 1


def score(onsets_s: np.ndarray, peaks: np.ndarray, fps: float) -> AVAlign | None:
    """AV-Align of onsets (seconds) and peaks (frames); None where both are empty.

    An onset belongs to the frame shown as it sounds, and is near a peak at most one frame away (`align`) or
    three (`align_wide`). A rate over no onset, or over no peak, is 0.
    """
    if not len(onsets_s) and not len(peaks):
        return None
    # An onset at 0.3 s is in frame 3 of 10 fps, though 0.3 * 10 may come out just below 3.
    shown = np.floor(np.asarray(onsets_s) * fps + 1e-6)
    apart = np.abs(shown[:, None] - np.asarray(peaks))
    return AVAlign(
        align=_hit_rates(apart <= 1), align_wide=_hit_rates(apart <= 3), iou=_iou(onsets_s, peaks, fps)
    )


def _hit_rates(near: np.ndarray) -> float:
    """The mean of the share of onsets near a peak and of peaks near an onset, of bool (onsets, peaks)."""
    return float(sum(near.any(axis).mean() if near.shape[1 - axis] else 0.0 for axis in (0, 1)) / 2)


def _iou(onsets_s: np.ndarray, peaks: np.ndarray, fps: float) -> float:
    """Each onset takes the first free peak closer than a frame. The code as first published let many onsets
    take one peak and could pass 1; its later copies pair them one to one, as here."""
    free = [peak / fps for peak in peaks]
    for onset_s in onsets_s:
        match = next((peak_s for peak_s in free if abs(peak_s - onset_s) < 1 / fps), None)
        if match is not None:
            free.remove(match)
    matched = len(peaks) - len(free)
    return matched / (len(onsets_s) + len(peaks) - matched)


def _opencv() -> ModuleType:
    try:
        import cv2
    except ImportError as error:
        raise MetricError(
            "AV-Align's optical flow needs OpenCV, which is not installed: pip install 'avprep[metrics]'"
        ) from error
    return cv2
