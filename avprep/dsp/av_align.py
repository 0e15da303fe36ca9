"""AV-Align's arithmetic: onsets of a sound, peaks of movement, and how well their times agree.

    onsets_s  |    x           x        x   |    seconds
    flow      | . .:. . .:. . . . . .:. . . |    mean length of the flow into each frame, pixels
    peaks     |    x     x           x      |    frames: the flow's strict local maxima
    align     =  (onsets near a peak / onsets + peaks near an onset / peaks) / 2

librosa finds the onsets. OpenCV computes the flow; it is imported only where the flow is computed.

Sources: Yariv et al., "Diverse and Aligned Audio-to-Video Generation via Text-to-Video Model Adaptation",
AAAI 2024, section 4 (the mean of two hit rates); its code, TempoTokens' av_align.py (detectors, the IoU).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

ONSET_RATE = 22050  # Hz: what the published code loads every sound at


# librosa's defaults for onsets.
_ONSET_FFT, _ONSET_HOP = 2048, 512  # samples


class FarnebackSettings(NamedTuple):
    """Arguments of `cv2.calcOpticalFlowFarneback`, in its order."""

    pyr_scale: float
    levels: int
    winsize: int
    iterations: int
    poly_n: int
    poly_sigma: float
    flags: int


PUBLISHED = FarnebackSettings(0.5, 3, 15, 3, 5, 1.2, 0)  # as in the published code
# For pictures of about 50 x 50: two levels are all that such have. True to a tenth on pans of up to 16 of 256
# pixels per frame; a single iteration is a seventh off.
FAST = FarnebackSettings(0.5, 2, 11, 2, 5, 1.2, 0)


@dataclass(frozen=True, kw_only=True)
class AVAlign:
    """The numbers of one clip, or their means: 1 where sound and picture move together, 0 where never."""

    align: float  # the paper's: the mean of two hit rates, a window of one frame to either side
    align_wide: float  # the same with three frames to either side, the other reading of '3-frame window'
    iou: float  # the published code's: pairs closer than a frame, over onsets and peaks less pairs


def audio_onsets(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """Seconds, float64 (onsets,): when something begins to sound in a waveform, float (samples,), mono."""
    import librosa

    waveform = librosa.resample(waveform, orig_sr=sample_rate, target_sr=ONSET_RATE)
    magnitude = np.abs(librosa.stft(waveform, n_fft=_ONSET_FFT, hop_length=_ONSET_HOP))
    levels = librosa.power_to_db(_onset_bands() @ np.square(magnitude))
    strength = librosa.onset.onset_strength(S=levels, sr=ONSET_RATE)
    onsets = librosa.onset.onset_detect(onset_envelope=strength, sr=ONSET_RATE)
    return librosa.frames_to_time(onsets, sr=ONSET_RATE)


@lru_cache(maxsize=1)
def _onset_bands() -> np.ndarray:
    """float32 (128, bins): `onset_strength` makes its own anew for each sound, in a third of its time."""
    import librosa

    return librosa.filters.mel(sr=ONSET_RATE, n_fft=_ONSET_FFT, fmax=ONSET_RATE / 2)


def flow_lengths(pictures: np.ndarray, settings: FarnebackSettings) -> np.ndarray:
    """Pixels, float32 (T - 1,): mean length of the flow from each grey picture to the next.

    Args:
        pictures: uint8 (T, H, W), T > 1.

    Raises:
        ImportError: OpenCV is not installed.
    """
    import cv2

    no_flow: Any = None  # none to begin with, which OpenCV's type information denies
    flows = [cv2.calcOpticalFlowFarneback(a, b, no_flow, *settings) for a, b in pairwise(pictures)]
    return np.array([np.hypot(flow[..., 0], flow[..., 1]).mean() for flow in flows])


def motion_peaks(lengths: np.ndarray, *, least: float = 0.0) -> np.ndarray:
    """Frames, int64 (peaks,), that more moves into than into their neighbours, of flow lengths (T - 1,).

    As published, frame 0 takes frame 1's flow: a movement into frame 1 alone is no peak.

    Args:
        least: pixels by which a peak must rise above the flow around it (its topographic prominence); the
            published code has none, and finds peaks in the noise of a still picture.
    """
    lengths = np.concatenate([lengths[:1], lengths])
    middle = lengths[1:-1]
    peaks = np.flatnonzero((lengths[:-2] < middle) & (middle > lengths[2:])) + 1
    if not least or not len(peaks):
        return peaks
    from scipy.signal import peak_prominences  # here: SciPy takes a third of a second to import

    return peaks[peak_prominences(lengths, peaks)[0] >= least]


def alignment(onsets_s: np.ndarray, peaks: np.ndarray, fps: float) -> AVAlign | None:
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
