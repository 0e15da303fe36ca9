from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avprep.scores.base import ScoreError
from avprep.scores.sound import LOUDNESS, PEAK, SILENCE
from tests.avprep.scores.made import SPEC, clip_of, noise, tone, values_of


def loudness(waveform: np.ndarray) -> float | None:
    return values_of(LOUDNESS, clip_of(waveform=waveform))["loudness_lufs"]


def test_a_tone_at_minus_23_lufs():
    """BS.1770: a sine of 997 Hz and amplitude 1 in one channel has -3.01 LUFS, at 48 kHz."""
    assert loudness(tone(997, 10 ** (-20 / 20))) == pytest.approx(-23.01, abs=0.05)


@given(gain_db=st.floats(-30, 0))
def test_loudness_follows_the_gain(gain_db: float):
    sound = noise(0.9)
    assert loudness(sound * 10 ** (gain_db / 20)) == pytest.approx(loudness(sound) + gain_db, abs=0.01)


@pytest.mark.parametrize(
    "waveform", [np.zeros(SPEC.samples), noise(1e-5)], ids=["digital silence", "-105 dB"]
)
def test_silence_has_no_loudness(waveform: np.ndarray):
    assert loudness(waveform) is None


def test_peak_and_clipping():
    found = values_of(PEAK, clip_of(waveform=tone(1000, 0.5)))
    assert found["peak_dbfs"] == pytest.approx(-6.02, abs=0.01) and found["clipped_share"] == 0
    assert values_of(PEAK, clip_of()) == {"peak_dbfs": None, "clipped_share": 0}


def test_thirty_percent_clipped():
    """|sin| is above cos(0.3 pi / 2) for 30 % of its time."""
    clipped = np.clip(tone(1000.3, 1 / math.cos(0.3 * math.pi / 2)), -1, 1)
    clipped = np.round(clipped * 32767) / 32768  # as 16-bit FLAC stores it
    assert values_of(PEAK, clip_of(waveform=clipped))["clipped_share"] == pytest.approx(0.3, abs=0.005)


def test_a_quarter_silent():
    waveform = noise(0.1)
    waveform[: SPEC.samples // 4] *= 1e-3  # -65 dBFS
    assert values_of(SILENCE, clip_of(waveform=waveform))["silent_share"] == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("level_db, share", [(-59, 0), (-61, 1), (-55, 0), (-90, 1)])
def test_silence_begins_at_minus_60_dbfs(level_db: float, share: float):
    waveform = tone(1000, 2**0.5 * 10 ** (level_db / 20))  # the RMS of a sine is 3 dB below its peak
    assert values_of(SILENCE, clip_of(waveform=waveform))["silent_share"] == share


@pytest.mark.parametrize(
    "header, share",
    [({"sounding_s": 0.4}, 0.25), ({"sounding_s": 0}, 0), ({"sounding_s": 1.6}, 1), ({}, None)],
)
def test_the_share_that_the_source_has_sound_for(header: dict, share: float | None):
    assert values_of(SILENCE, clip_of(header=header))["sounding_share"] == share


@pytest.mark.parametrize("sounding_s", ["1.6", True, [1.6], 99, float("nan")])
def test_a_header_that_lies_gives_no_value(sounding_s: object):
    with pytest.raises(ScoreError, match="sounding_s"):
        values_of(SILENCE, clip_of(header={"sounding_s": sounding_s}))
