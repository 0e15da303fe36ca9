"""What the MDSA is made of: attention, feed-forwards, rotary position embeddings.

    S  sequences that do not see each other    L  tokens of a sequence    D  width of a token
    H  heads                                   d  width of a head

All attention goes through `scaled_dot_product_attention`, so that flash kernels run where there are any.
Weights have PyTorch's initial values, as in PVDM; what differs is set in `avmodel.mdsa.model.init_weights`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

# Flash kernels index a call's values by int32 in backward: sequences * heads * (L rounded up to 128) * d may
# not exceed 2**31, and CUDA takes 65535 sequences at most. At 8 heads of 64 and L <= 128 that is 2**15.
SEQUENCES_PER_CALL = 2**15
SPACE_MAX_FREQUENCY = 10  # as in PVDM: the fastest turns 5 times from edge to edge of a frame


class Rotary(NamedTuple):
    """Angles by which pairs of q's and k's values turn: cosine and sine, both (L, d/2) float32."""

    cos: Tensor
    sin: Tensor

    @classmethod
    def of_angles(cls, angles: Tensor) -> Rotary:
        return cls(angles.cos(), angles.sin())


def time_rotary(frames: int, head_dim: int) -> Rotary:
    """1-D rotary embedding (Su et al. 2021) over a clip's frames."""
    frequencies = 10000.0 ** -(torch.arange(0, head_dim, 2).float() / head_dim)
    return Rotary.of_angles(torch.outer(torch.arange(frames).float(), frequencies))


def space_rotary(grid: int, head_dim: int) -> Rotary:
    """Axial rotary embedding over a frame's grid x grid tokens, row by row: half the pairs turn with the row,
    half with the column."""
    position = torch.linspace(-1, 1, grid) * math.pi
    frequencies = torch.logspace(0, math.log2(SPACE_MAX_FREQUENCY / 2), head_dim // 4, base=2)
    angles = torch.outer(position, frequencies)
    rows = angles[:, None].expand(grid, grid, -1)
    columns = angles[None, :].expand(grid, grid, -1)
    return Rotary.of_angles(torch.cat([rows, columns], dim=-1).flatten(0, 1))


def rotate(x: Tensor, rotary: Rotary) -> Tensor:
    """Turns the pairs (x0,x1), (x2,x3), ... of x (S,L,...,d), in float32 whatever autocast says.

    Each frequency stands once and turns both values of its pair, which is what repeat_interleave(2) of the
    tables gives. PVDM's temporal tables are repeated end to end instead, so that a pair's two values turn by
    different angles: not a rotation.
    """
    ones = (1,) * (x.ndim - 3)
    cos, sin = (table.view(len(table), *ones, -1) for table in rotary)  # (L,...,d/2)
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2).to(x.dtype)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v for q (S,L,H,d), k and v (S,M,H,d); gives (S,L,H*d)."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (S,H,L,d), no copy
    if len(q) <= SEQUENCES_PER_CALL:
        out = F.scaled_dot_product_attention(q, k, v)
    else:
        parts = zip(*(x.split(SEQUENCES_PER_CALL) for x in (q, k, v)), strict=True)
        out = torch.cat([F.scaled_dot_product_attention(*part) for part in parts])
    return out.transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Multi-head self-attention; q, k and v without bias."""

    def __init__(self, dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        self.qkv = nn.Linear(dim, 3 * heads * head_dim, bias=False)
        self.out = nn.Linear(heads * head_dim, dim)

    def forward(self, x: Tensor, rotary: Rotary | None = None) -> Tensor:  # (S,L,D)
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, self.head_dim))  # (S,L,3,H,d)
        qk, v = qkv[:, :, :2], qkv[:, :, 2]
        if rotary is not None:
            qk = rotate(qk, rotary)
        return self.out(attend(*qk.unbind(2), v))  # (S,L,D)


class CrossAttention(nn.Module):
    """Multi-head attention from x to a context, both normalised first; q, k and v without bias."""

    def __init__(self, dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        self.norm = nn.LayerNorm(dim)
        self.context_norm = nn.LayerNorm(dim)
        self.q = nn.Linear(dim, heads * head_dim, bias=False)
        self.kv = nn.Linear(dim, 2 * heads * head_dim, bias=False)
        self.out = nn.Linear(heads * head_dim, dim)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:  # (S,L,D), (S,M,D)
        q = self.q(self.norm(x)).unflatten(-1, (self.heads, self.head_dim))  # (S,L,H,d)
        kv = self.kv(self.context_norm(context)).unflatten(-1, (2, self.heads, self.head_dim))
        return self.out(attend(q, *kv.unbind(2)))  # (S,L,D)


class GEGLU(nn.Module):
    """Feed-forward with a GELU gate (Shazeer 2020), 4 times as wide inside."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.up = nn.Linear(dim, 2 * 4 * dim)
        self.down = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.up(x).chunk(2, dim=-1)
        return self.down(value * F.gelu(gate))


class TransformerLayer(nn.Module):
    """A pre-norm Transformer layer with a GELU MLP: the projectors' layer, and the SelfAttn on hw."""

    def __init__(self, dim: int, heads: int, head_dim: int, mlp: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = SelfAttention(dim, heads, head_dim)
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, mlp), nn.GELU(), nn.Linear(mlp, dim))

    def forward(self, x: Tensor) -> Tensor:  # (S,L,D)
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))  # (S,L,D)


def run_layer(layer: nn.Module, *inputs: Any, recompute: bool) -> Any:
    """layer(*inputs); with `recompute` its activations are not kept but computed again in backward."""
    if recompute and torch.is_grad_enabled():
        return checkpoint(layer, *inputs, use_reentrant=False)
    return layer(*inputs)
