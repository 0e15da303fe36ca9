"""Samples at one rate -> samples at another, exact in time: sample n of the result sounds at n / new rate.

A low-pass filter is evaluated at the new samples' instants (polyphase). Its phases recur every `up` new
samples, so all of them stand in one matrix and resampling is one matrix product:

    native    |<- reach ->|<---- k * down ---->|<- reach ->|      one row a block, rows overlap
              \\_______________ width _______________________/
    new                   |<----- k * up ----->|                  row @ bank (width, k * up)
"""

from __future__ import annotations

from functools import lru_cache
from math import gcd

import numpy as np
import torch
from torch import Tensor

_BLOCK = 64  # new samples a row at least: fewer waste the product, more its zeros
_MAX_BANK = 1 << 19  # up * down: rates with less in common (44101 Hz) would need a huge matrix


def resample(native: np.ndarray, up: int, down: int) -> np.ndarray:
    """float32 (n,) -> float32 (ceil(n * up / down),), `up / down` in lowest terms; silence lies around it.

    To rounding what `scipy.signal.resample_poly` gives with the same filter, in a sixth of its time.
    """
    if up == down:
        return native
    if up * down > _MAX_BANK:
        from scipy.signal import resample_poly  # here: it takes as long to import as torch

        return resample_poly(native, up, down, window=_low_pass(up, down))
    bank, step, reach = _bank(up, down)
    length = -(-len(native) * up // down)
    blocks = -(-length // bank.shape[1])
    padded = torch.zeros((blocks - 1) * step + len(bank))
    inside = min(len(native), len(padded) - reach)  # past that the filter reaches nothing that is asked for
    padded[reach : reach + inside] = torch.from_numpy(native[:inside])
    return (padded.unfold(0, len(bank), step) @ bank).flatten()[:length].numpy()


def resample_to(native: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """float32 (n,) at one rate -> float32 (ceil(n * new_rate / rate),), both in Hz: see `resample`."""
    shared = gcd(rate, new_rate)
    return resample(native, new_rate // shared, rate // shared)


@lru_cache(maxsize=16)
def _low_pass(up: int, down: int) -> np.ndarray:
    """At the lower rate's Nyquist: 32 zero crossings, Kaiser 10 (about -100 dB)."""
    half = 32 * max(up, down)
    cutoff = 0.95 / max(up, down)
    taps = np.sinc(cutoff * np.arange(-half, half + 1)) * np.kaiser(2 * half + 1, 10.0)
    return (taps / taps.sum()).astype(np.float32)


@lru_cache(maxsize=16)
def _bank(up: int, down: int) -> tuple[Tensor, int, int]:
    """The filter at every (native sample, new sample) of a block: float32 (width, k * up); then the native
    samples from block to block, and those that a block reads on either side."""
    taps = _low_pass(up, down)
    half = len(taps) // 2
    k = max(1, _BLOCK // up)
    reach = half // up + 1
    native = np.arange(k * down + 2 * reach)[:, None] - reach
    place = half + np.arange(k * up) * down - native * up  # in ticks of the rate that both have in common
    inside = (place >= 0) & (place < len(taps))
    bank = np.where(inside, up * taps[place.clip(0, len(taps) - 1)], 0)
    return torch.from_numpy(bank.astype(np.float32)), k * down, reach
