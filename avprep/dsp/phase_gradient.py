"""Phases from magnitudes: phase gradient heap integration (PGHI).

Prusa, Balazs, Sondergaard 2017, "A noniterative method for reconstruction of phase from STFT magnitude".
For a Gaussian window the gradient of an STFT's phase follows from that of its log magnitude; for a Hann
window nearly so. The gradient is integrated from the loudest bin outwards, loud bins first, so that errors
made in quiet bins do not reach loud ones.

The paper's heap is a bucket queue here: levels of 1/8 neper, last in, first out within a level. Its steps
take the same time however many bins wait, and finer levels bring Griffin-Lim no nearer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np

HANN_GAMMA = 0.25645  # of n_fft^2: the Gaussian that is nearest to a Hann window
TOLERANCE = 1e-6  # of the largest magnitude: bins below it keep the phase given
LEVELS_PER_NEPER = 8
_TAU = 2 * math.pi


def integrate_phase(magnitude: np.ndarray, *, n_fft: int, hop: int, start: np.ndarray) -> np.ndarray:
    """Phases of an STFT with a periodic Hann window that is as long as the FFT.

    Args:
        magnitude: float32 (columns, bins).
        start: float32 (columns, bins) in radians. Each connected region above `TOLERANCE` takes the phase
            of its loudest bin from here; so do all bins below it.

    Returns:
        float32 (columns, bins) in radians, of columns whose phase counts from their window's first sample,
        as `torch.stft(center=False)` has it.
    """
    log_magnitude = _log_magnitude(magnitude)
    levels = np.ceil(LEVELS_PER_NEPER * log_magnitude).astype(np.uint8)
    levels = np.pad(levels, 1)  # the border's 0 is what no bin spreads to: no index leaves the array
    gradient = np.zeros((2, *levels.shape), np.float32)
    gradient[:, 1:-1, 1:-1] = phase_gradient(log_magnitude, n_fft=n_fft, hop=hop)
    phase = np.pad(start.astype(np.float32), 1)
    loudest_first = np.argsort(255 - levels, axis=None, kind="stable")  # of bytes: a radix sort
    spread = compiled_spread()
    spread(phase.ravel(), levels.ravel(), loudest_first, gradient.reshape(2, -1), levels.shape[1])
    return phase[1:-1, 1:-1]


def phase_gradient(log_magnitude: np.ndarray, *, n_fft: int, hop: int) -> tuple[np.ndarray, np.ndarray]:
    """Radians from each column to the next and from each bin to the next, both (columns, bins) as given.

    Both are known up to whole turns.
    """
    stretch = hop / (HANN_GAMMA * n_fft)
    bins = np.arange(log_magnitude.shape[1])
    carrier = (_TAU / n_fft * (hop * bins % n_fft)).astype(np.float32)  # of a bin's own frequency
    to_next_column = stretch * _slope(log_magnitude, axis=1) + carrier
    # pi: the paper counts a column's phase from its window's middle, which is n_fft / 2 samples in
    to_next_bin = _slope(log_magnitude, axis=0) / -stretch + math.pi
    return to_next_column, to_next_bin


def _slope(x: np.ndarray, *, axis: int) -> np.ndarray:
    return np.gradient(x, axis=axis) if x.shape[axis] > 1 else np.zeros_like(x)


def _log_magnitude(magnitude: np.ndarray) -> np.ndarray:
    """Nepers above `TOLERANCE` of the largest magnitude, 0 below it."""
    largest = max(float(magnitude.max()), np.finfo(np.float32).tiny)
    return np.log(np.maximum(magnitude / largest, TOLERANCE)) - math.log(TOLERANCE)


def _spread(
    phase: np.ndarray, levels: np.ndarray, loudest_first: np.ndarray, gradient: np.ndarray, stride: int
) -> None:
    """Integrates `gradient` (2, n) into `phase` (n,), over all bins whose level is not 0.

    `levels` (n,) is used up: it is 0 where a bin is done. `newest` and `older` hold a stack of waiting bins
    for each level.
    """
    level_of = levels.copy()
    newest = np.full(256, -1, np.int32)
    older = np.empty(len(levels), np.int32)
    for first in loudest_first:
        highest = level_of[first]
        if levels[first] == 0:
            continue
        levels[first] = 0
        newest[highest], older[first] = first, -1
        while highest > 0:
            here = newest[highest]
            if here < 0:
                highest -= 1
                continue
            newest[highest] = older[here]
            for axis in range(2):
                step = stride if axis == 0 else 1
                for sign in (-1, 1):
                    there = here + sign * step
                    level = levels[there]
                    if level == 0:
                        continue
                    levels[there] = 0
                    change = sign * (gradient[axis, here] + gradient[axis, there]) / 2
                    turned = phase[here] + change
                    phase[there] = turned - _TAU * np.rint(turned / _TAU)
                    older[there], newest[level] = newest[level], there
                    highest = max(highest, level)


@lru_cache(maxsize=1)
def compiled_spread() -> Callable[..., None]:
    """`_spread` in machine code, kept on disk from the first call on.

    numba keeps it beside this file or else in the user's cache folder (NUMBA_CACHE_DIR names another).
    Where neither can be written or what was kept is damaged, each process compiles it anew.
    """
    import numba  # costs a start 0.2 s that only those who invert should pay

    signature = "void(float32[::1], uint8[::1], int64[::1], float32[:, ::1], int64)"
    try:
        return numba.njit(signature, cache=True, nogil=True)(_spread)
    except (OSError, EOFError, RuntimeError):
        return numba.njit(signature, nogil=True)(_spread)
