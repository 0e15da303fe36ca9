"""Phase gradient heap integration, against a plain heap in Python and sounds whose phases are known."""

from __future__ import annotations

import heapq
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from avprep.dsp import phase_gradient
from avprep.dsp.phase_gradient import integrate_phase

N_FFT, HOP = 1024, 100
TURN = 2 * math.pi


def wrapped(angle: np.ndarray) -> np.ndarray:
    return (angle + math.pi) % TURN - math.pi


def plain_integration(levels: np.ndarray, magnitude: np.ndarray, start: np.ndarray, n_fft: int, hop: int):
    """The paper's algorithm word for word, in Python's floats: a heap, gradients by hand.

    `levels` are the heap's priorities, 0 for never; the last bin pushed comes first among equals.
    """
    gamma = 0.25645 * n_fft**2
    columns, bins = magnitude.shape
    log = [[math.log(value) for value in row] for row in magnitude.tolist()]
    phase = start.astype(float)
    waiting = {(c, b) for c in range(columns) for b in range(bins) if levels[c, b]}

    def in_time(c, b):
        low, high = max(b - 1, 0), min(b + 1, bins - 1)
        return hop * n_fft / gamma * (log[c][high] - log[c][low]) / (high - low) + TURN * hop * b / n_fft

    def in_frequency(c, b):
        low, high = max(c - 1, 0), min(c + 1, columns - 1)
        return -gamma / (hop * n_fft) * (log[high][b] - log[low][b]) / (high - low) + math.pi

    pushed = 0
    while waiting:
        first = max(waiting, key=lambda at: (levels[at], -at[0], -at[1]))
        waiting.remove(first)
        heap = [(-int(levels[first]), 0, first)]
        while heap:
            c, b = heapq.heappop(heap)[-1]
            for there, gradient, sign in (
                ((c - 1, b), in_time, -1),
                ((c + 1, b), in_time, 1),
                ((c, b - 1), in_frequency, -1),
                ((c, b + 1), in_frequency, 1),
            ):
                if there in waiting:
                    waiting.remove(there)
                    phase[there] = phase[c, b] + sign * (gradient(c, b) + gradient(*there)) / 2
                    pushed += 1
                    heapq.heappush(heap, (-int(levels[there]), -pushed, there))
    return phase


@pytest.mark.parametrize("shape", [(9, 12), (2, 30), (14, 2)])
@pytest.mark.parametrize("levels_in_use", [4, 99])  # with few, order within a level counts
@pytest.mark.parametrize("share_of_silence", [0.0, 0.4])
def test_it_is_the_plain_heap_on_magnitudes_of_chance(shape, levels_in_use, share_of_silence):
    """Random magnitudes have a gradient with curl everywhere, so another order gives other phases."""
    rng = np.random.default_rng(0)
    levels = rng.integers(1, levels_in_use + 1, shape)
    levels[0, 0] = 110
    levels[rng.random(shape) < share_of_silence] = 0
    # in the middle of their level, an eighth of a neper wide, down from the largest
    magnitude = np.where(levels, np.exp((levels - levels.max()) / 8), 1e-9).astype(np.float32)
    start = rng.uniform(0, TURN, shape).astype(np.float32)
    made = integrate_phase(magnitude, n_fft=64, hop=7, start=start)
    floored = np.maximum(magnitude, magnitude.max() * 1e-6)
    expected = plain_integration(levels, floored, start, 64, 7)
    assert np.abs(wrapped(made - expected)).max() < 2e-3


def spectrum_of(waveform: np.ndarray) -> np.ndarray:
    """complex (columns, bins)"""
    made = torch.stft(
        torch.from_numpy(waveform),
        N_FFT,
        HOP,
        window=torch.hann_window(N_FFT).double(),
        center=False,
        return_complex=True,
    )
    return made.mT.numpy()


def recovered(spectrum: np.ndarray) -> np.ndarray:
    magnitude = np.abs(spectrum).astype(np.float32)
    return integrate_phase(magnitude, n_fft=N_FFT, hop=HOP, start=np.zeros_like(magnitude))


def agreement(spectrum: np.ndarray, phase: np.ndarray) -> float:
    """1 where phases are the true ones up to a constant, 0 where they are chance; by energy."""
    weight = np.abs(spectrum) ** 2
    return float(np.abs((weight * np.exp(1j * (phase - np.angle(spectrum)))).sum()) / weight.sum())


@pytest.mark.parametrize("bins", [40.0, 123.3, 301.5])
def test_a_tones_phase_advances_by_its_frequency(bins):
    """In every column and every bin of the main lobe, though the tone lies between two bins."""
    spectrum = spectrum_of(np.sin(TURN * bins / N_FFT * np.arange(8000)))
    lobe = slice(math.ceil(bins - 1), math.floor(bins + 1) + 1)
    advances = np.diff(recovered(spectrum)[:, lobe].astype(float), axis=0)
    assert np.abs(wrapped(advances - TURN * bins * HOP / N_FFT)).max() < 0.03
    assert agreement(spectrum, recovered(spectrum)) > 0.98


def test_a_clicks_phase_falls_with_its_place():
    """The slope over bins tells where in its window a click lies."""
    clicks = np.zeros(3000)
    clicks[1500] = 1
    spectrum = spectrum_of(clicks)
    loud = [c for c in range(len(spectrum)) if abs(1500 - c * HOP - N_FFT // 2) < N_FFT // 4]
    phase = recovered(spectrum).astype(float)
    for column in loud:
        slopes = np.diff(phase[column, 20:-20])
        assert np.abs(wrapped(slopes + TURN * (1500 - column * HOP) / N_FFT)).max() < 0.1


def test_a_chirps_phases_come_back_up_to_a_constant():
    t = np.arange(16000) / 16000
    spectrum = spectrum_of(np.sin(TURN * (300 * t + 1500 * t**2)))
    assert agreement(spectrum, recovered(spectrum)) > 0.9
    chance = np.random.default_rng(0).uniform(0, TURN, spectrum.shape)
    assert agreement(spectrum, chance) < 0.1


@given(exponent=st.integers(-60, 60), seed=st.integers(0, 9))
def test_only_ratios_of_magnitudes_count(exponent, seed):
    magnitude = np.random.default_rng(seed).exponential(1, (7, 9)).astype(np.float32)
    start = np.zeros_like(magnitude)
    one = integrate_phase(magnitude, n_fft=64, hop=8, start=start)
    other = integrate_phase(magnitude * np.float32(2.0**exponent), n_fft=64, hop=8, start=start)
    assert np.array_equal(one, other)


def test_what_is_too_quiet_keeps_the_phase_given():
    rng = np.random.default_rng(0)
    magnitude = rng.uniform(0.5, 1, (8, 20)).astype(np.float32)
    magnitude[:, 10:] = 0.5e-6 * magnitude.max()
    start = rng.uniform(-3, 3, magnitude.shape).astype(np.float32)
    phase = integrate_phase(magnitude, n_fft=64, hop=8, start=start)
    assert np.array_equal(phase[:, 10:], start[:, 10:])
    assert (phase[:, :10] == start[:, :10]).sum() == 1  # the loudest bin, which the others follow
    silence = integrate_phase(np.zeros_like(magnitude), n_fft=64, hop=8, start=start)
    assert np.array_equal(silence, start)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38, 1e-45])
@pytest.mark.parametrize("shape", [(1, 9), (9, 1), (1, 1), (6, 9)])
def test_odd_values_and_shapes_stay_inside_the_arrays(shape, value):
    """Machine code without bounds checks: whatever comes in, only levels of one byte index anything."""
    magnitude = np.ones(shape, np.float32)
    magnitude[-1, -1] = value
    phase = integrate_phase(magnitude, n_fft=64, hop=8, start=np.zeros(shape, np.float32))
    assert phase.shape == shape


CACHED = """
import numpy as np
import phase_gradient
magnitude = np.random.default_rng(0).exponential(1, (7, 9)).astype(np.float32)
phase = phase_gradient.integrate_phase(magnitude, n_fft=64, hop=8, start=np.zeros_like(magnitude))
spread = phase_gradient.compiled_spread()
print(sum(spread.stats.cache_hits.values()), phase.tobytes().hex())
"""


def test_numba_is_loaded_by_those_who_invert_alone():
    code = "import sys, avprep.dsp.griffin_lim; sys.exit('numba' in sys.modules)"
    top = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=top, check=False).returncode == 0


def run_copy(folder: Path, **environment: str) -> tuple[int, str]:
    """How many times the copy in `folder` found its machine code on disk, and the phases that it made."""
    environment = {**os.environ, "PYTHONPATH": str(folder), **environment}
    command = [sys.executable, "-c", CACHED]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    hits, phases = done.stdout.split()
    return int(hits), phases


@pytest.mark.slow
def test_machine_code_is_kept_and_made_anew_where_it_cannot_be(tmp_path):
    """Kept beside the module; with a damaged cache, or nowhere to keep it, compiled again."""
    shutil.copy(phase_gradient.__file__, tmp_path)
    nowhere = {"HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null", "NUMBA_CACHE_DIR": ""}
    hits, phases = run_copy(tmp_path, **nowhere)
    assert hits == 0
    assert run_copy(tmp_path, **nowhere) == (1, phases)
    for index in (tmp_path / "__pycache__").glob("*.nbi"):
        index.write_bytes(b"")
    assert run_copy(tmp_path, **nowhere) == (0, phases)
    shutil.rmtree(tmp_path / "__pycache__")
    (tmp_path / "__pycache__").write_text("a read-only installation")
    assert run_copy(tmp_path, **nowhere) == (0, phases)
