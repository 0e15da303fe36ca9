"""Plain float64 attention, written anew for the tests: loops over sequences and heads, no fused kernel."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Every weight drawn anew, so that nothing is hidden by a start at zero or one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 0.3, generator=generator)
    return module


def linear(x: Tensor, layer: nn.Linear) -> Tensor:
    out = x @ layer.weight.double().T
    return out if layer.bias is None else out + layer.bias.double()


def norm(x: Tensor, layer: nn.LayerNorm) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scale = (centred.square().mean(-1, keepdim=True) + layer.eps).sqrt()
    return centred / scale * layer.weight.double() + layer.bias.double()


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """(L,H*d), (M,H*d), (M,H*d) of one sequence -> (L,H*d)."""
    out = []
    for q_head, k_head, v_head in zip(*(x.chunk(heads, dim=-1) for x in (q, k, v)), strict=True):
        scores = q_head @ k_head.T / q_head.shape[-1] ** 0.5
        weights = torch.exp(scores - scores.max(dim=-1, keepdim=True).values)
        out.append(weights / weights.sum(-1, keepdim=True) @ v_head)
    return torch.cat(out, dim=-1)


def turn(x: Tensor, angles: Tensor, heads: int) -> Tensor:
    """(L,H*d) with each pair turned by angles (L,d/2), by the product of complex numbers."""
    turned = []
    for head in x.chunk(heads, dim=-1):
        pairs = torch.view_as_complex(head.reshape(*head.shape[:-1], -1, 2))
        turned.append(torch.view_as_real(pairs * torch.exp(1j * angles)).flatten(-2))
    return torch.cat(turned, dim=-1)


def self_attention(x: Tensor, layer: nn.Module, angles: Tensor | None = None) -> Tensor:
    """(S,L,D) through the weights of an avmodel.mdsa.layers.SelfAttention."""
    out = []
    for sequence in x.double():
        q, k, v = linear(sequence, layer.qkv).chunk(3, dim=-1)
        if angles is not None:
            q, k = turn(q, angles.double(), layer.heads), turn(k, angles.double(), layer.heads)
        out.append(linear(attention(q, k, v, layer.heads), layer.out))
    return torch.stack(out)


def cross_attention(x: Tensor, context: Tensor, layer: nn.Module) -> Tensor:
    """(S,L,D), (S,M,D) through the weights of an avmodel.mdsa.layers.CrossAttention."""
    out = []
    for sequence, other in zip(x.double(), context.double(), strict=True):
        q = linear(norm(sequence, layer.norm), layer.q)
        k, v = linear(norm(other, layer.context_norm), layer.kv).chunk(2, dim=-1)
        out.append(linear(attention(q, k, v, layer.heads), layer.out))
    return torch.stack(out)


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / 2**0.5))


def transformer_layer(x: Tensor, layer: nn.Module) -> Tensor:
    """(S,L,D) through the weights of an avmodel.mdsa.layers.TransformerLayer."""
    x = x.double()
    x = x + self_attention(norm(x, layer.attention_norm), layer.attention)
    hidden = gelu(linear(norm(x, layer.mlp_norm), layer.mlp[0]))
    return x + linear(hidden, layer.mlp[2])
