from __future__ import annotations

from math import gcd

import numpy as np
import pytest
from scipy.signal import firwin, resample_poly

from avprep.dsp.resample import _low_pass, resample


def reference(native: np.ndarray, up: int, down: int) -> np.ndarray:
    half = 32 * max(up, down)
    taps = firwin(2 * half + 1, 0.95 / max(up, down), window=("kaiser", 10.0))
    return resample_poly(native.astype(np.float64), up, down, window=taps)


@pytest.mark.parametrize("rate", [7350, 8000, 11025, 12000, 22050, 32000, 44100, 48000, 88200, 96000, 44056])
@pytest.mark.parametrize("length", [1, 100, 4001])
def test_it_is_the_polyphase_filter_of_scipy(rate, length):
    common = gcd(rate, 16000)
    up, down = 16000 // common, rate // common
    native = np.random.default_rng(length).uniform(-1, 1, length).astype(np.float32)
    expected = reference(native, up, down)
    found = resample(native, up, down)
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 2e-6


@pytest.mark.parametrize(
    ("up", "down"), [(1, 3), (1, 6), (160, 441), (2, 1), (640, 441), (49, 150), (16000, 44101)]
)
def test_the_filter_is_firwin_to_the_bit(up, down):
    """Shards of earlier versions were made with `scipy.signal.firwin`."""
    expected = firwin(64 * max(up, down) + 1, 0.95 / max(up, down), window=("kaiser", 10.0))
    assert np.array_equal(_low_pass(up, down), expected.astype(np.float32))


def test_an_impulse_stays_at_its_instant():
    for up, down in ((1, 3), (160, 441), (2, 1), (640, 441)):
        native = np.zeros(20 * down + 1, np.float32)
        native[10 * down] = 1  # sounds with new sample 10 * up
        assert int(np.abs(resample(native, up, down)).argmax()) == 10 * up


def test_equal_rates_change_nothing():
    native = np.arange(5, dtype=np.float32)
    assert np.array_equal(resample(native, 1, 1), native)
