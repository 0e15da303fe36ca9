from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avmodel.metrics import MetricError
from avmodel.metrics.av_align import (
    AVAlign,
    Events,
    audio_onsets,
    av_align,
    mean_av_align,
    motion_peaks,
    score,
    shuffled_baseline,
)

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
    assert av_align(moving(TIMES), shifted(0.2), FPS, RATE) == AVAlign(align=1, align_wide=1, iou=1)


@pytest.mark.parametrize("by_frames", [-2.7, -1.8, 2.2, 2.7])
def test_sound_out_of_the_window_scores_nothing_but_in_the_wide_one(by_frames: float):
    result = av_align(moving(TIMES), shifted(by_frames), FPS, RATE)
    assert result == AVAlign(align=0, align_wide=1, iou=0)


def test_silent_and_still_has_no_score():
    assert av_align(moving(()), np.zeros(FRAMES * RATE // FPS), FPS, RATE) is None


def test_only_one_of_both_scores_nothing():
    silence = np.zeros(FRAMES * RATE // FPS, np.float32)
    assert av_align(moving(TIMES), silence, FPS, RATE) == AVAlign(align=0, align_wide=0, iou=0)
    assert av_align(moving(()), shifted(0.2), FPS, RATE) == AVAlign(align=0, align_wide=0, iou=0)


def test_the_two_numbers_of_a_mixed_clip():
    # Frames 3, 4, 9 and 14 against peaks 4 and 9: three of four onsets have a peak near, both peaks have
    # an onset near. Pairs closer than a frame: 0.35 with 0.4, 0.92 with 0.9; the other onsets are left.
    result = score(np.array([0.35, 0.45, 0.92, 1.45]), np.array([4, 9]), FPS)
    assert result.align == pytest.approx((3 / 4 + 2 / 2) / 2)
    assert result.iou == pytest.approx(2 / (4 + 2 - 2))


@pytest.mark.parametrize("frame", range(30))
def test_the_windows_are_one_and_three_frames_to_either_side(frame: int):
    """An onset as frame n begins, whose time may round to just below it, belongs to frame n."""
    scores = [score(np.array([frame / FPS]), np.array([p]), FPS) for p in range(40)]
    for window, rates in ((1, [s.align for s in scores]), (3, [s.align_wide for s in scores])):
        near = [p for p, rate in enumerate(rates) if rate == 1]
        assert near == list(range(max(0, frame - window), frame + window + 1))


peaks = st.lists(st.integers(1, 22), max_size=8, unique=True).map(sorted).map(np.array)
onsets = st.lists(st.floats(0, 2.39), max_size=8).map(sorted).map(np.array)


@given(onsets_s=onsets, peaks=peaks)
def test_scores_lie_in_zero_to_one_and_agree_on_nothing(onsets_s: np.ndarray, peaks: np.ndarray):
    result = score(onsets_s, peaks, FPS)
    if result is None:
        assert not len(onsets_s) and not len(peaks)
        return
    assert 0 <= result.align <= result.align_wide <= 1 and 0 <= result.iou <= 1
    shown = [int(t * FPS + 1e-6) for t in onsets_s]
    for window, found in ((1, result.align), (3, result.align_wide)):
        rates = [
            np.mean([any(abs(a - b) <= window for b in others) for a in ours]) if len(ours) else 0
            for ours, others in ((shown, peaks), (peaks, shown))
        ]
        assert found == pytest.approx(np.mean(rates))


def test_means_leave_out_and_count_the_clips_without_a_score():
    found = mean_av_align(
        [AVAlign(align=1, align_wide=1, iou=0.5), None, AVAlign(align=0.5, align_wide=0, iou=0)]
    )
    assert (found.counted, found.skipped) == (2, 1)
    assert found.mean == AVAlign(align=0.75, align_wide=0.5, iou=0.25)
    assert mean_av_align(iter([None])).mean is None


def scenes(count: int, sound_later_s: float = 0.02) -> list[Events]:
    """Detected in scenes of three jumps at random frames with a click each; the sound is moved, and what
    leaves the clip comes in at its other end."""
    found = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        times = tuple(int(t) for t in np.array([3, 9, 15]) + rng.integers(0, 5, 3))
        waveform = np.roll(clicks([t / FPS for t in times]), round(sound_later_s * RATE))
        found.append(Events(audio_onsets(waveform, RATE), motion_peaks(moving(times))))
    return found


def mean_of(clips: list[Events]) -> AVAlign:
    return mean_av_align(score(clip.onsets_s, clip.peaks, FPS) for clip in clips).mean


def test_events_that_come_together_score_one_and_sound_moved_by_0_8_s_scores_its_baseline():
    together, moved = scenes(24), scenes(24, sound_later_s=0.8)
    assert mean_of(together).align == pytest.approx(1, abs=0.01)
    by_chance = shuffled_baseline(together, FPS).mean
    assert 0.2 < by_chance.align < 0.75 and by_chance.align < by_chance.align_wide
    baseline = shuffled_baseline(moved, FPS).mean
    assert mean_of(moved).align == pytest.approx(baseline.align, abs=0.12)
    assert mean_of(together).align - by_chance.align > 0.25


def test_the_baseline_never_pairs_a_clip_with_its_own_sound():
    """Two clips that match themselves alone."""
    clips = [Events(np.array([0.2]), np.array([2])), Events(np.array([1.5]), np.array([15]))]
    found = shuffled_baseline(clips, FPS, rounds=7)
    assert found.mean == AVAlign(align=0, align_wide=0, iou=0) and found.counted == 14


def test_the_baseline_is_repeatable_and_follows_the_seed():
    clips = scenes(6)
    assert shuffled_baseline(clips, FPS, seed=1) == shuffled_baseline(clips, FPS, seed=1)
    assert shuffled_baseline(clips, FPS, rounds=1, seed=1) != shuffled_baseline(clips, FPS, rounds=1, seed=2)


def test_one_clip_has_no_baseline():
    with pytest.raises(MetricError, match="2 clips"):
        shuffled_baseline(scenes(1), FPS)


def test_a_flash_of_a_flat_picture_is_no_movement():
    """A limit of the metric: brightness without texture has no optical flow."""
    frames = np.full((FRAMES, SIZE, SIZE, 3), 20, np.uint8)
    frames[10:12] = 250
    assert motion_peaks(frames).tolist() == []


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
