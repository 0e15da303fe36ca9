"""Clips as still pictures: what a person looks at to see whether a model works.

frames        | 0 | 1 | 2 | ... | T-1 |     one clip: its frames in a row,
spectrogram   |~~~~~~~~~~~~~~~~~~~~~~~|     and the sound under each, low tones at the bottom
"""

from __future__ import annotations

import torch
from torch import Tensor

SHOWN = 4  # clips in a comparison, at most


def strips(clips: dict[str, Tensor]) -> list[Tensor]:
    """Clips {v: (B,3,T,S,S), a: (B,1,T,S,S)} in [-1,1] -> a picture each, uint8 (., T*S, RGB)."""
    rows = []
    if "v" in clips:
        rows.append(clips["v"].permute(0, 3, 2, 4, 1).flatten(2, 3))  # (B,S,T*S,3)
    if "a" in clips:
        spectrogram = clips["a"].flip(3).permute(0, 3, 2, 4, 1).flatten(2, 3)  # (B,S,T*S,1)
        rows.append(spectrogram.expand(-1, -1, -1, 3))
    pictures = torch.cat(rows, dim=1)
    return list(((pictures.float().cpu().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8))


def comparison(originals: dict[str, Tensor], reconstructions: dict[str, Tensor]) -> Tensor:
    """Originals above their reconstructions, for the first few clips: uint8 (H, W, RGB)."""
    pairs = list(zip(strips(originals), strips(reconstructions), strict=True))[:SHOWN]
    return torch.cat([strip for pair in pairs for strip in pair])


def sheet(pictures: list[Tensor], *, gap: int = 4) -> Tensor:
    """Pictures of one width under each other, white between them: uint8 (H, W, RGB)."""
    white = torch.full((gap, *pictures[0].shape[1:]), 255, dtype=torch.uint8)
    rows = [part for picture in pictures for part in (picture, white)]
    return torch.cat(rows[:-1])
