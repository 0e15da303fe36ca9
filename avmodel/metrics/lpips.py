"""LPIPS of reconstructed frames, 0 for equal ones, lower is nearer (Zhang et al., 2018)."""

from __future__ import annotations

import torch
from torch import Tensor

from avmodel.mdsa.lpips import LPIPS


@torch.no_grad()
def lpips(net: LPIPS, frames: Tensor, decoded: Tensor) -> Tensor:
    """The mean over frames: float64 (B,), of uint8 frames (B, T, H, W, RGB).

    Args:
        net: with its learned weights (`avmodel.mdsa.lpips.load_lpips`); its backbone belongs to the
            number's name.

    Raises:
        ValueError: shapes that differ, or frames below the backbone's smallest size.
    """
    pairs = zip(frames, decoded, strict=True)
    return torch.stack([net(_to_unit(a), _to_unit(b)).double().mean() for a, b in pairs])


def _to_unit(frames: Tensor) -> Tensor:
    """uint8 (T, H, W, RGB) -> float32 (T, 3, H, W) in [-1, 1]"""
    return frames.permute(0, 3, 1, 2).float() / 127.5 - 1
