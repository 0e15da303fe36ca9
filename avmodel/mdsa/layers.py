"""What the MDSA is made of: attention and feed-forwards.

    S  sequences that do not see each other    L  tokens of a sequence    D  width of a token
    H  heads                                   d  width of a head

All attention goes through `scaled_dot_product_attention`, so that flash kernels run where there are any.
Weights have PyTorch's initial values, as in PVDM; what differs is set in `avmodel.mdsa.model.init_weights`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

# Flash kernels index a call's values by int32 in backward: sequences * heads * (L rounded up to 128) * d may
# not exceed 2**31, and CUDA takes 65535 sequences at most. At 8 heads of 64 and L <= 128 that is 2**15.
SEQUENCES_PER_CALL = 2**15


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
    """Multi-head self-attention; q, k and v without bias.

    Args:
        positions: what is applied to q and k (S,L,2,H,d), see avmodel.mdsa.positions.
    """

    def __init__(self, dim: int, heads: int, head_dim: int, positions: nn.Module | None = None) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        self.positions = positions or nn.Identity()
        self.qkv = nn.Linear(dim, 3 * heads * head_dim, bias=False)
        self.out = nn.Linear(heads * head_dim, dim)

    def forward(self, x: Tensor) -> Tensor:  # (S,L,D)
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, self.head_dim))  # (S,L,3,H,d)
        (q, k), v = self.positions(qkv[:, :, :2]).unbind(2), qkv[:, :, 2]
        return self.out(attend(q, k, v))  # (S,L,D)

    def first(self, x: Tensor) -> Tensor:
        """What `forward` gives for the first token, (S,1,D), of x (S,L,D), without the work for the others.
        For layers without positions."""
        assert isinstance(self.positions, nn.Identity)
        inner = self.heads * self.head_dim
        q_weight, kv_weight = self.qkv.weight.split((inner, 2 * inner))
        q = F.linear(x[:, :1], q_weight).unflatten(-1, (self.heads, self.head_dim))  # (S,1,H,d)
        k, v = F.linear(x, kv_weight).unflatten(-1, (2, self.heads, self.head_dim)).unbind(2)
        return self.out(attend(q, k, v))  # (S,1,D)


class CrossAttention(nn.Module):
    """Multi-head attention from x to a context, both normalised first; q, k and v without bias.

    Args:
        positions: what is applied to q (S,L,H,d) and to k (S,M,H,d): the same, so that L = M unless it is
            None.
    """

    def __init__(self, dim: int, heads: int, head_dim: int, positions: nn.Module | None = None) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        self.positions = positions or nn.Identity()
        self.norm = nn.LayerNorm(dim)
        self.context_norm = nn.LayerNorm(dim)
        self.q = nn.Linear(dim, heads * head_dim, bias=False)
        self.kv = nn.Linear(dim, 2 * heads * head_dim, bias=False)
        self.out = nn.Linear(heads * head_dim, dim)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:  # (S,L,D), (S,M,D)
        q = self.q(self.norm(x)).unflatten(-1, (self.heads, self.head_dim))  # (S,L,H,d)
        kv = self.kv(self.context_norm(context)).unflatten(-1, (2, self.heads, self.head_dim))
        k, v = kv.unbind(2)  # (S,M,H,d)
        return self.out(attend(self.positions(q), self.positions(k), v))  # (S,L,D)


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

    def __init__(
        self, dim: int, heads: int, head_dim: int, mlp: int, positions: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = SelfAttention(dim, heads, head_dim, positions)
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, mlp), nn.GELU(), nn.Linear(mlp, dim))

    def forward(self, x: Tensor, first: bool = False) -> Tensor:
        """(S,L,D) -> (S,L,D); with `first` (S,1,D): the first token, without the work for the others."""
        attention = self.attention.first if first else self.attention
        attended = attention(self.attention_norm(x))
        x = (x[:, :1] if first else x) + attended
        return x + self.mlp(self.mlp_norm(x))


def run_layer(layer: nn.Module, *inputs: Any, recompute: bool) -> Any:
    """layer(*inputs); with `recompute` its activations are not kept but computed again in backward."""
    if recompute and torch.is_grad_enabled():
        return checkpoint(layer, *inputs, use_reentrant=False)
    return layer(*inputs)
