"""Peak signal-to-noise ratio a clip: PSNR-V of its frames, PSNR-A of its mel stack (docs/model.md 6)."""

from __future__ import annotations

import torch
from torch import Tensor

HIGHEST_DB = 120.0  # of equal arrays: more than the last bit of uint8 or float16 values can show


def psnr(a: Tensor, b: Tensor, *, peak: float) -> Tensor:
    """dB (B,) of a and b (B, ...), which span `peak`; at most `HIGHEST_DB`."""
    error = (a.double() - b.double()).flatten(1).square().mean(dim=1)
    return 10 * torch.log10(peak**2 / error.clamp_min(peak**2 * 10 ** (-HIGHEST_DB / 10)))


def psnr_v(frames: Tensor, decoded: Tensor) -> Tensor:
    """PSNR-V in dB (B,) of uint8 frames (B, T, H, W, RGB)."""
    return psnr(frames, decoded, peak=255)


def psnr_a(mel: Tensor, decoded: Tensor) -> Tensor:
    """PSNR-A in dB (B,) of mel stacks (B, T, n_mels, W) in [-1, 1]."""
    return psnr(mel, decoded, peak=2)
