from __future__ import annotations

import numpy as np
import pyloudnorm
import pytest

from avprep.dsp.loudness import block_mean_squares, integrated_loudness, k_weighting

STANDARD_48K = [  # BS.1770-4, tables 1 and 2
    [1.53512485958697, -2.69169618940638, 1.19839281085285, 1, -1.69065929318241, 0.73248077421585],
    [1, -2, 1, 1, -1.99004745483398, 0.99007225036621],
]


def sounds(rate: int, seconds: float) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    t = np.arange(round(seconds * rate)) / rate
    hiss = 0.1 * rng.standard_normal(len(t))
    return {
        "tone": 0.1 * np.sin(2 * np.pi * 997 * t),
        "bass": 0.3 * np.sin(2 * np.pi * 60 * t),
        "noise": hiss,
        "loud then quiet": hiss * np.where(t < seconds / 2, 1, 0.05),  # the relative gate
        "noise then nothing": hiss * (t < seconds / 2),  # the absolute gate
    }


def test_the_filters_at_48_khz_are_the_standard_s():
    np.testing.assert_allclose(k_weighting(48000), STANDARD_48K, atol=1e-7)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize("seconds", [0.4, 1.6, 5.03])
def test_as_pyloudnorm(rate: int, seconds: float):
    meter = pyloudnorm.Meter(rate, filter_class="DeMan")
    for name, sound in sounds(rate, seconds).items():
        assert integrated_loudness(sound, rate) == pytest.approx(
            meter.integrated_loudness(sound), abs=1e-3
        ), name


def test_the_quiet_half_is_gated_out():
    quiet, silent = (
        integrated_loudness(sounds(48000, 10)[name], 48000) for name in list(sounds(48000, 1))[3:]
    )
    steady = integrated_loudness(sounds(48000, 10)["noise"], 48000)
    assert quiet == pytest.approx(steady, abs=0.5) and silent == pytest.approx(steady, abs=0.5)


@pytest.mark.parametrize("samples, blocks", [(6399, 0), (6400, 1), (7999, 1), (8000, 2), (25600, 13)])
def test_whole_blocks_of_400_ms(samples: int, blocks: int):
    assert len(block_mean_squares(np.ones(samples), 16000)) == blocks


def test_a_waveform_shorter_than_a_block_has_no_loudness():
    assert integrated_loudness(np.full(6399, 0.5), 16000) is None
