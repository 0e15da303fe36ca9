from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avprep.dsp.mel import mel_stack
from avprep.media.sound import Piece, cut, mono_pieces
from avprep.media.timeline import Clock
from avprep.spec import ClipSpec

SPEC = ClipSpec()
MS = Clock(Fraction(1, 1000), Fraction(0))


def frames(stamps, samples=1024, rate=48000, value=0.5, layout="mono"):
    """Audio frames with given PTS in ms."""
    channels = av.AudioLayout(layout).nb_channels
    for pts in stamps:
        frame = av.AudioFrame.from_ndarray(np.full((channels, samples), value, np.float32), "fltp", layout)
        frame.sample_rate, frame.pts = rate, pts
        yield frame


def places(stamps, settled_s=Fraction(2, 1000), **kwargs):
    return [piece.place for piece in mono_pieces(frames(stamps, **kwargs), MS, settled_s)]


def test_rounded_stamps_leave_no_holes_and_no_drift():
    stamps = [round(i * 1024 / 48) for i in range(500)]
    found = places(stamps)
    assert np.diff(found).tolist() == [1024] * 499
    assert abs(found[0]) <= 12  # a quarter of a ms: the rounding is averaged away


def test_one_misplaced_stamp_moves_nothing():
    stamps = [round(i * 1024 / 48) for i in range(100)]
    stamps[40] += 9
    assert np.diff(places(stamps)).tolist() == [1024] * 99


@pytest.mark.parametrize("gap_ms", [5, 100, 2000])
def test_a_true_gap_stays_a_gap(gap_ms):
    stamps = [round(i * 1024 / 48) + (gap_ms if i >= 50 else 0) for i in range(100)]
    steps = np.diff(places(stamps))
    assert steps[49] - 1024 == pytest.approx(gap_ms * 48, abs=30)
    assert set(np.delete(steps, 49)) == {1024}


@pytest.mark.parametrize("layout", ["mono", "stereo", "2.1", "5.1", "quad"])
def test_equal_channels_mix_to_the_same_loudness(layout):
    pieces = list(mono_pieces(frames([0], layout=layout), MS, Fraction(1, 1000)))
    assert np.allclose(pieces[0].samples, 0.5, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([8000, 11025, 22050, 32000, 44100, 48000, 96000]), st.integers(0, 3))
def test_a_tone_keeps_its_phase_through_resampling(rate, second):
    """The sample at n/16000 s is the tone at that instant, whatever the source's rate and the start."""
    start = second * 16000 + 123
    t = np.arange(rate * 6) / rate
    tone = np.sin(2 * np.pi * 440 * t).astype(np.float32)
    pieces = [Piece(rate, i, tone[i : i + 1000]) for i in range(0, len(tone), 1000)]
    sound = cut(pieces, start, SPEC)
    n = np.arange(start - SPEC.samples_before, start + SPEC.samples + SPEC.samples_after)
    expected = np.sin(2 * np.pi * 440 * n / 16000) * (n >= 0)
    middle = slice(1200, -1200)
    assert np.abs(sound.waveform - expected)[middle].max() < 2e-3
    assert sound.sounding_s == pytest.approx(1.6, abs=2e-4)


def test_clips_beyond_the_sound_are_silent_and_say_so():
    pieces = [Piece(16000, 0, np.ones(30000, np.float32))]
    first, second, third = (cut(pieces, start, SPEC) for start in (0, 25600, 60000))
    assert first.sounding_s == pytest.approx(1.6)
    assert second.sounding_s == pytest.approx((30000 - 25600) / 16000)
    assert third.sounding_s == 0 and not third.waveform.any()


def test_damaged_samples_of_any_size_leave_a_mel_stack_of_numbers():
    damaged = frames(range(0, 3000, 21), value=3e38)
    sound = cut(list(mono_pieces(damaged, MS, Fraction(2, 1000))), 0, SPEC)
    assert np.isfinite(sound.waveform).all() and np.abs(sound.waveform).max() > 1
    assert torch.isfinite(mel_stack(torch.from_numpy(sound.waveform), SPEC)).all()


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([0.9, 0.99, 1.01, 1.0884, 1.2]), st.sampled_from([8000, 44100, 48000]))
def test_sound_whose_stamps_part_steadily_from_its_count_follows_the_stamps(factor, rate):
    stamps = [round(1000 * factor * i * 1024 / rate) for i in range(100)]
    pieces = mono_pieces(frames(stamps, rate=rate), MS, Fraction(2, 1000))
    for piece, stamp in zip(pieces, stamps, strict=True):
        assert abs(1000 * piece.place / rate - stamp) < 2
        assert len(piece.samples) == pytest.approx(1024 * factor, abs=1024 * 0.002 + 1)


def test_what_sounds_before_a_change_of_rate_is_kept():
    """Half a second at each of two rates: a tone in both, at its time."""
    t = np.arange(48000) / 48000
    tone = {rate: np.sin(2 * np.pi * 440 * t[: rate // 2] * 48000 / rate).astype(np.float32)
            for rate in (48000, 44100)}
    pieces = [Piece(48000, 0, tone[48000]), Piece(44100, 44100, tone[44100])]
    sound = cut(pieces, 0, SPEC)
    assert sound.sounding_s == pytest.approx(1.0, abs=1e-3)
    clip = sound.waveform[SPEC.samples_before :]
    loud = [float(np.abs(clip[a : a + 4000]).mean()) for a in (2000, 10000, 18000)]
    assert loud[0] > 0.6 and loud[1] < 1e-3 and loud[2] > 0.6


@pytest.mark.parametrize(("right", "is_cancelled"), [(-1, True), (-0.99, True), (-0.5, False), (1, False)])
def test_channels_that_are_each_others_opposite_are_told(right, is_cancelled):
    rng = np.random.default_rng(0)

    def stereo():
        for i in range(100):
            left = rng.standard_normal(1024).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(np.stack([left, right * left]), "fltp", "stereo")
            frame.sample_rate, frame.pts = 48000, round(i * 1024 / 48)
            yield frame

    pieces = list(mono_pieces(stereo(), MS, Fraction(2, 1000)))
    assert cut(pieces, 0, SPEC).is_cancelled is is_cancelled
