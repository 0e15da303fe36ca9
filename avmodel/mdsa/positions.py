"""Position embeddings of q and k: rotary along one or more axes, or a learned table.

    L  tokens of a sequence    H  heads    d  width of a head    p  pairs of values that turn with one axis

Coordinates are the clip's in every sequence: time counts frames, space runs from -pi to pi across a frame.
The streams share the frames and the grid, so that equal places have equal angles in both.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from avmodel.config import MDSAConfig

TIME_BASE = 10000.0
SPACE_MAX_FREQUENCY = 10  # as in PVDM: the fastest turns 5 times from edge to edge of a frame


class Rotary(NamedTuple):
    """Angles by which pairs of q's and k's values turn: cosine and sine, both (L,d/2) float32."""

    cos: Tensor
    sin: Tensor

    @classmethod
    def of_angles(cls, angles: Tensor) -> Rotary:
        return cls(angles.cos(), angles.sin())


def time_angles(times: Tensor, pairs: int) -> Tensor:
    """(L,p) of the times (L,), in frames (Su et al. 2021)."""
    frequencies = TIME_BASE ** -(torch.arange(pairs).float() / pairs)
    return torch.outer(times.float(), frequencies)


def space_angles(grid: int, pairs: int) -> Tensor:
    """(grid,p) of a frame's rows or columns, as in PVDM."""
    # The device is named: transformers 5 exchanges torch.linspace while it loads a model, and if that is the
    # first use of a device context in a process, none has an effect on the real linspace after it.
    places = torch.linspace(-1, 1, grid, device=torch.get_default_device()) * math.pi
    frequencies = torch.logspace(0, math.log2(SPACE_MAX_FREQUENCY / 2), pairs, base=2)
    return torch.outer(places, frequencies)


def axial(*axes: Tensor) -> Tensor:
    """The angles (L1*L2*..., p1+p2+...) of a grid's tokens, the last axis fastest: each axis (Li,pi) turns
    pairs of its own."""
    lengths = [len(angles) for angles in axes]
    spread = []
    for i, angles in enumerate(axes):
        shape = [1] * len(axes) + [angles.shape[1]]
        shape[i] = lengths[i]
        spread.append(angles.view(shape).expand(*lengths, -1))
    return torch.cat(spread, dim=-1).flatten(0, -2)


def time_rotary(frames: int, head_dim: int) -> Rotary:
    """1-D rotary embedding over a clip's frames."""
    return Rotary.of_angles(time_angles(torch.arange(frames), head_dim // 2))


def space_rotary(grid: int, head_dim: int) -> Rotary:
    """Axial rotary embedding over a frame's grid x grid tokens, row by row: half the pairs turn with the row,
    half with the column."""
    angles = space_angles(grid, head_dim // 4)
    return Rotary.of_angles(axial(angles, angles))


def rotate(x: Tensor, rotary: Rotary) -> Tensor:
    """Turns the pairs (x0,x1), (x2,x3), ... of x (S,L,...,d), in float32 whatever autocast says.

    Each frequency stands once and turns both values of its pair, which is what repeat_interleave(2) of the
    tables gives. PVDM's temporal tables are repeated end to end instead, so that a pair's two values turn by
    different angles: not a rotation.
    """
    ones = (1,) * (x.ndim - 3)
    cos, sin = (table.view(len(table), *ones, -1) for table in rotary)  # (L,...,d/2)
    pairs = x.float().unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():  # fused into one kernel; complex numbers are not
        even, odd = pairs.unbind(-1)
        turned = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1)
    else:  # one pass over memory, a quarter of the time on a CPU
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.complex(cos, sin))
    return turned.flatten(-2).to(x.dtype)


class RotaryPositions(nn.Module):
    """Turns q and k. No parameters; the tables are not saved."""

    cos: Tensor
    sin: Tensor

    def __init__(self, rotary: Rotary) -> None:
        super().__init__()
        self.register_buffer("cos", rotary.cos, persistent=False)
        self.register_buffer("sin", rotary.sin, persistent=False)

    def forward(self, x: Tensor) -> Tensor:  # (S,L,...,d)
        return rotate(x, Rotary(self.cos, self.sin))


class LearnedPositions(nn.Module):
    """Adds one learned table to q and to k: equal places of the two streams have equal entries."""

    def __init__(self, length: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(length, heads, head_dim))

    def forward(self, x: Tensor) -> Tensor:  # (S,L,...,H,d)
        ones = (1,) * (x.ndim - 4)
        return x + self.table.view(len(self.table), *ones, *self.table.shape[1:])


def _positions(config: MDSAConfig, angles: Tensor) -> nn.Module:
    """As `config.plane_positions` says, for a sequence whose tokens turn by `angles` (L,d/2)."""
    if config.plane_positions == "rotary":
        return RotaryPositions(Rotary.of_angles(angles))
    if config.plane_positions == "learned":
        return LearnedPositions(len(angles), config.plane_heads, config.plane_head_dim)
    return nn.Identity()


def frame_positions(config: MDSAConfig, scale: int = 1) -> nn.Module:
    """Of a column of tw or th: its frames, or the means of `scale` frames each, at their middle."""
    times = torch.arange(config.frames // scale) * scale + (scale - 1) / 2
    return _positions(config, time_angles(times, config.plane_head_dim // 2))


def plane_positions(config: MDSAConfig, plane: str) -> nn.Module:
    """Of all tokens of a plane: rows and columns of hw, frames of tw and th."""
    pairs = config.plane_head_dim // 2
    if plane == "hw":
        rows, columns = (space_angles(config.grid, n) for n in _shares(pairs, 2))
        return _positions(config, axial(rows, columns))
    times = time_angles(torch.arange(config.frames), pairs)
    return _positions(config, times.repeat_interleave(config.grid, dim=0))


def block_positions(config: MDSAConfig) -> nn.Module:
    """Of the tokens of a block: frames, rows and columns."""
    t, h, w = config.block
    pairs = _shares(config.plane_head_dim // 2, 3)
    times = time_angles(torch.arange(t), pairs[0])
    rows, columns = (
        space_angles(config.grid, n)[:length] for n, length in zip(pairs[1:], (h, w), strict=True)
    )
    return _positions(config, axial(times, rows, columns))


def _shares(pairs: int, axes: int) -> list[int]:
    """The pairs of each axis; the first axes take what is left over."""
    return [pairs // axes + (axis < pairs % axes) for axis in range(axes)]
