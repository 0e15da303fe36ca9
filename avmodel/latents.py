"""How a clip's planes lie in one latent: six planes to the padded stack and back, lossless.

    plane       shape (C, ., .)     in the stack (C, P, rows, columns)
    v_hw a_hw   (C, G, G)           rows 0..G-1          G = size / patch, tokens along a frame's side
    v_tw a_tw   (C, T, G)           rows 0..T-1          T = frames
    v_th a_th   (C, T, G)           rows 0..T-1

rows = max(T, G), columns = G; what is left is zero and masked. The paper's (4, 6, 32, 32) holds 16384 real
values in 24576.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from avmodel.config import ConfigError

PLANES = ("hw", "tw", "th")


class Planes(NamedTuple):
    """One stream's three planes: hw (B, C, G, G), tw (B, C, T, G), th (B, C, T, G)."""

    hw: Tensor
    tw: Tensor
    th: Tensor


@dataclass(frozen=True, kw_only=True)
class LatentLayout:
    """Where the planes of the streams lie in the stack.

    Raises:
        ConfigError: a size that no model of this version has: a checkpoint may ask for any.
    """

    channels: int  # C
    frames: int  # T
    grid: int  # G
    streams: tuple[str, ...]  # ('v', 'a'), or one of them

    def __post_init__(self) -> None:
        for name, largest in (("channels", 256), ("frames", 1024), ("grid", 256)):
            value = getattr(self, name)
            if type(value) is not int or not 0 < value <= largest:
                raise ConfigError(f"{name} must be whole, from 1 to {largest}, not {str(value)[:40]}")
        if self.streams not in (("v", "a"), ("v",), ("a",)):
            raise ConfigError(f"streams must be ('v', 'a') or one of them, not {str(self.streams)[:40]}")

    @property
    def planes(self) -> tuple[str, ...]:
        """v_hw v_tw v_th a_hw a_tw a_th, or one stream's three."""
        return tuple(f"{stream}_{plane}" for stream in self.streams for plane in PLANES)

    @property
    def rows(self) -> int:
        return max(self.frames, self.grid)

    @property
    def columns(self) -> int:
        return self.grid

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(C, P, rows, columns)"""
        return (self.channels, len(self.planes), self.rows, self.columns)

    @property
    def valid_rows(self) -> tuple[int, ...]:
        """Rows of each plane that are real; the rest is padding."""
        return (self.grid, self.frames, self.frames) * len(self.streams)

    @property
    def values(self) -> int:
        """Real values in a latent: 16384 for the paper's."""
        return self.channels * self.columns * sum(self.valid_rows)

    def mask(self, device: torch.device | str = "cpu") -> Tensor:
        """bool (P, rows, columns): True where a value is real."""
        rows = torch.arange(self.rows, device=device)
        valid = torch.tensor(self.valid_rows, device=device)
        return (rows < valid[:, None])[..., None].expand(-1, -1, self.columns).contiguous()

    def stack(self, streams: dict[str, Planes]) -> Tensor:
        """{stream: planes} -> (B, C, P, rows, columns), padded with zero."""
        planes = [plane for stream in self.streams for plane in streams[stream]]
        return torch.stack([F.pad(p, (0, 0, 0, self.rows - p.shape[-2])) for p in planes], dim=2)

    def unstack(self, latent: Tensor) -> dict[str, Planes]:
        """(B, C, P, rows, columns) -> {stream: planes}: undoes `stack`; the padding is not looked at."""
        if latent.shape[1:] != self.shape:
            raise ValueError(f"a latent of this layout is {self.shape}, not {tuple(latent.shape[1:])}")
        planes = [latent[:, :, p, :rows] for p, rows in enumerate(self.valid_rows)]
        return {stream: Planes(*planes[3 * s : 3 * s + 3]) for s, stream in enumerate(self.streams)}
