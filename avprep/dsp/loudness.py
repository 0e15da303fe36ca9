"""Loudness of a mono waveform by ITU-R BS.1770-4: K-weighting, 400 ms blocks, two gates.

waveform -> high shelf -> high pass -> mean square of blocks of 400 ms, one every 100 ms
loudness of a block   -0.691 + 10 log10(mean square), in LUFS
gates                 blocks above -70 LUFS; then of those, blocks above their mean less 10 LU
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

_BLOCK_S, _OVERLAP = 0.4, 4  # a block begins every quarter of a block
_OFFSET = -0.691  # LUFS: a sine of 997 Hz and amplitude 1 in one channel has -3.01
_ABSOLUTE_GATE, _RELATIVE_GATE = -70.0, -10.0  # LUFS, LU
# The analogue prototypes of BS.1770-4's two filters, from its coefficients at 48 kHz (De Man, "Evaluation of
# implementations of the EBU R128 loudness measurement", AES 145, 2018): Hz, quality, dB.
_SHELF_HZ, _SHELF_Q, _SHELF_DB = 1681.9744509555319, 0.7071752369554193, 3.99984385397
_PASS_HZ, _PASS_Q = 38.13547087613982, 0.5003270373253953


def integrated_loudness(waveform: np.ndarray, sample_rate: int) -> float | None:
    """Gated loudness in LUFS of a mono waveform, float (samples,), full scale 1.

    None where no block passes the absolute gate of -70 LUFS (digital silence among others), and where the
    waveform is shorter than one block of 400 ms.
    """
    from scipy.signal import sosfilt  # here: SciPy takes a third of a second to import

    squares = block_mean_squares(sosfilt(k_weighting(sample_rate), waveform.astype(np.float64)), sample_rate)
    loud = squares[squares > _mean_square(_ABSOLUTE_GATE)]
    if not len(loud):
        return None
    gate = loud.mean() * 10 ** (_RELATIVE_GATE / 10)
    return float(_OFFSET + 10 * np.log10(loud[loud > gate].mean()))


def block_mean_squares(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """float64 (blocks,): of each whole block of 400 ms, one every 100 ms."""
    length = round(_BLOCK_S * sample_rate)
    starts = [round(i * _BLOCK_S / _OVERLAP * sample_rate) for i in range(_blocks(len(samples), sample_rate))]
    sums = np.concatenate([[0.0], np.cumsum(samples**2)])
    return np.array([(sums[start + length] - sums[start]) / length for start in starts])


@lru_cache(maxsize=16)
def k_weighting(sample_rate: int) -> np.ndarray:
    """float64 (2, 6): the two filters as second-order sections: the bilinear transform of their prototypes.

    At 48 kHz they are the standard's coefficients.
    """
    k = np.tan(np.pi * _SHELF_HZ / sample_rate)
    high = 10 ** (_SHELF_DB / 20)
    band = high**0.4996667741545416
    a0 = 1 + k / _SHELF_Q + k * k
    shelf = [
        (high + band * k / _SHELF_Q + k * k) / a0,
        2 * (k * k - high) / a0,
        (high - band * k / _SHELF_Q + k * k) / a0,
        *_poles(k, _SHELF_Q),
    ]
    k = np.tan(np.pi * _PASS_HZ / sample_rate)
    return np.array([shelf, [1.0, -2.0, 1.0, *_poles(k, _PASS_Q)]])


def _poles(k: float, q: float) -> tuple[float, float, float]:
    a0 = 1 + k / q + k * k
    return 1.0, 2 * (k * k - 1) / a0, (1 - k / q + k * k) / a0


def _blocks(samples: int, sample_rate: int) -> int:
    """Whole blocks in so many samples."""
    block_steps = samples / sample_rate / _BLOCK_S * _OVERLAP
    return max(0, int(block_steps + 1e-9) - _OVERLAP + 1)


def _mean_square(loudness: float) -> float:
    return 10 ** ((loudness - _OFFSET) / 10)
