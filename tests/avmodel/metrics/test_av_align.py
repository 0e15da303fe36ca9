from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avmodel.metrics import MetricError
from avmodel.metrics.av_align import AVAlign, audio_onsets, av_align, mean_av_align, motion_peaks, score

FPS, RATE, FRAMES, SIZE = 10, 16000, 24, 32
TIMES = (5, 11, 17)  # frames into which something moves


def moving(times: tuple[int, ...]) -> np.ndarray:
    """A textured square that jumps three pixels into each of the frames `times`, and is still between."""
    rng = np.random.default_rng(0)
    texture = rng.integers(60, 255, (12, 12, 3), np.uint8)
    frames = np.full((FRAMES, SIZE, SIZE, 3), 30, np.uint8)
    for k, frame in enumerate(frames):
        x = 4 + 3 * sum(k >= t for t in times)
        frame[10:22, x : x + 12] = texture
    return frames


def clicks(times_s: list[float]) -> np.ndarray:
    """Noise bursts of 30 ms over silence."""
    rng, waveform = np.random.default_rng(1), np.zeros(FRAMES * RATE // FPS, np.float32)
    for time_s in times_s:
        start = round(time_s * RATE)
        waveform[start : start + 480] += 0.5 * rng.standard_normal(480) * np.exp(-np.arange(480) / 120)
    return waveform


def shifted(by_frames: float) -> np.ndarray:
    return clicks([(t + by_frames) / FPS for t in TIMES])


def test_detectors_find_what_was_put_in():
    assert motion_peaks(moving(TIMES)).tolist() == list(TIMES)
    np.testing.assert_allclose(audio_onsets(shifted(0.0), RATE), np.array(TIMES) / FPS, atol=0.04)


def test_sound_with_the_movement_scores_one():
    assert av_align(moving(TIMES), shifted(0.2), FPS, RATE) == AVAlign(align=1, iou=1)


@pytest.mark.parametrize("by_frames", [-2.7, -1.8, 2.2, 2.7])
def test_sound_out_of_the_window_scores_nothing(by_frames: float):
    assert av_align(moving(TIMES), shifted(by_frames), FPS, RATE) == AVAlign(align=0, iou=0)


def test_silent_and_still_has_no_score():
    assert av_align(moving(()), np.zeros(FRAMES * RATE // FPS), FPS, RATE) is None


def test_only_one_of_both_scores_nothing():
    silence = np.zeros(FRAMES * RATE // FPS, np.float32)
    assert av_align(moving(TIMES), silence, FPS, RATE) == AVAlign(align=0, iou=0)
    assert av_align(moving(()), shifted(0.2), FPS, RATE) == AVAlign(align=0, iou=0)


def test_the_two_numbers_of_a_mixed_clip():
    # Frames 3, 4, 9 and 14 against peaks 4 and 9: three of four onsets have a peak near, both peaks have
    # an onset near. Pairs closer than a frame: 0.35 with 0.4, 0.92 with 0.9; the other onsets are left.
    result = score(np.array([0.35, 0.45, 0.92, 1.45]), np.array([4, 9]), FPS)
    assert result.align == pytest.approx((3 / 4 + 2 / 2) / 2)
    assert result.iou == pytest.approx(2 / (4 + 2 - 2))


@pytest.mark.parametrize("frame", range(30))
def test_the_window_is_three_frames(frame: int):
    """An onset as frame n begins, whose time may round to just below it, is near peaks n - 1 to n + 1."""
    near = [p for p in range(40) if score(np.array([frame / FPS]), np.array([p]), FPS).align == 1]
    assert near == [p for p in (frame - 1, frame, frame + 1) if p >= 0]


peaks = st.lists(st.integers(1, 22), max_size=8, unique=True).map(sorted).map(np.array)
onsets = st.lists(st.floats(0, 2.39), max_size=8).map(sorted).map(np.array)


@given(onsets_s=onsets, peaks=peaks)
def test_scores_lie_in_zero_to_one_and_agree_on_nothing(onsets_s: np.ndarray, peaks: np.ndarray):
    result = score(onsets_s, peaks, FPS)
    if result is None:
        assert not len(onsets_s) and not len(peaks)
        return
    assert 0 <= result.align <= 1 and 0 <= result.iou <= 1
    shown = [int(t * FPS + 1e-6) for t in onsets_s]
    rates = [
        np.mean([any(abs(a - b) <= 1 for b in others) for a in ours]) if len(ours) else 0
        for ours, others in ((shown, peaks), (peaks, shown))
    ]
    assert result.align == pytest.approx(np.mean(rates))


def test_means_leave_out_and_count_the_clips_without_a_score():
    found = mean_av_align([AVAlign(align=1, iou=0.5), None, AVAlign(align=0.5, iou=0)])
    assert (found.counted, found.skipped) == (2, 1)
    assert found.mean == AVAlign(align=0.75, iou=0.25)
    assert mean_av_align(iter([None])).mean is None


def test_without_opencv_a_sentence(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MetricError, match=r"OpenCV.*avprep\[metrics\]"):
        motion_peaks(moving(TIMES))


@pytest.mark.parametrize("shape, dtype", [((1, 8, 8, 3), "u1"), ((4, 8, 8, 3), "f4"), ((4, 8, 8), "u1")])
def test_frames_of_another_form(shape: tuple[int, ...], dtype: str):
    with pytest.raises(MetricError, match="T, H, W, 3"):
        motion_peaks(np.zeros(shape, dtype))


@pytest.mark.parametrize("bad", [np.zeros((1, 800)), np.zeros(0), np.zeros(800, np.int16)])
def test_a_waveform_of_another_form(bad: np.ndarray):
    with pytest.raises(MetricError, match="samples"):
        audio_onsets(bad, RATE)
