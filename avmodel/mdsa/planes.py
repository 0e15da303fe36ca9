"""Between tokens and planes: projectors, attention on the planes, their expansion, attention between streams.

    tokens  (B,T,G,G,D)  axes clip, time t, height h, width w, values
    hw (B,G,G,D)    tw (B,T,G,D)    th (B,T,G,D)      a plane's features: the axis that its name lacks is gone

Channels stand last until the latent is made, so that a 1x1 convolution is a linear map.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from avmodel.config import MDSAConfig
from avmodel.latents import PLANES
from avmodel.mdsa.layers import CrossAttention, SelfAttention, TransformerLayer, run_layer
from avmodel.mdsa.positions import block_positions, frame_positions, plane_positions

REDUCED_AXIS = {"hw": 1, "tw": 2, "th": 3}  # of the tokens
Features = dict[str, Tensor]


class Projector(nn.Module):
    """Sequences to one vector each: a Transformer in which a learned token gathers the sequence (PVDM).

    The token stands first and is read there. PVDM appends it at the end and reads index 0, which is the
    sequence's first element.
    """

    def __init__(self, config: MDSAConfig, length: int, *, recompute: bool) -> None:
        super().__init__()
        self.recompute = recompute
        self.token = nn.Parameter(torch.empty(1, 1, config.dim))
        self.positions = nn.Parameter(torch.empty(1, length + 1, config.dim))
        self.layers = nn.ModuleList(
            TransformerLayer(config.dim, config.projector_heads, config.projector_head_dim, config.mlp)
            for _ in range(config.projector_depth)
        )

    def forward(self, sequences: Tensor) -> Tensor:  # (S,L,D)
        token = self.token.expand(len(sequences), -1, -1)
        x = torch.cat([token, sequences], dim=1) + self.positions  # (S,1+L,D)
        for number, layer in enumerate(self.layers, 1):
            is_last = number == len(self.layers)  # only the learned token is read behind it
            x = run_layer(layer, x, is_last, recompute=self.recompute)
        return x[:, 0]  # (S,D)


class Projectors(nn.Module):
    """A stream's tokens to its three planes."""

    def __init__(self, config: MDSAConfig, *, recompute: bool) -> None:
        super().__init__()
        lengths = {"hw": config.frames, "tw": config.grid, "th": config.grid}
        self.planes = nn.ModuleDict({p: Projector(config, lengths[p], recompute=recompute) for p in PLANES})

    def forward(self, tokens: Tensor) -> Features:  # (B,T,G,G,D)
        features = {}
        for plane, projector in self.planes.items():
            sequences = tokens.movedim(REDUCED_AXIS[plane], 3)  # (B,rows,columns,L,D)
            vectors = projector(sequences.flatten(0, 2))  # (B*rows*columns,D)
            features[plane] = vectors.unflatten(0, sequences.shape[:3])
        return features  # (B,rows,columns,D)


class TimeScale(nn.Module):
    """One term of eq 5: attention over T at 1/scale of the frame rate, brought back to T frames."""

    def __init__(self, config: MDSAConfig, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.norm = nn.LayerNorm(config.dim)
        self.attention = SelfAttention(
            config.dim, config.plane_heads, config.plane_head_dim, frame_positions(config, scale)
        )
        self.up = nn.ConvTranspose1d(config.dim, config.dim, scale, stride=scale)

    def forward(self, columns: Tensor) -> Tensor:  # (S,T,D)
        pooled = columns.unflatten(1, (-1, self.scale)).mean(2)  # (S,T/scale,D), eq 4
        return self.up(self.attention(self.norm(pooled)).mT).mT  # (S,T,D)


class MultiScaleTimeAttention(nn.Module):
    """MT-SelfAttn on tw or th, eq 4-5: for each column, attention along T at several scales, summed.

    z~ = z + sum_k ConvTranspose_k(MHA_k(LN(AvgPool_k z))). The ConvTransposes start at zero, so that it
    starts as the identity.
    """

    def __init__(self, config: MDSAConfig) -> None:
        super().__init__()
        self.scales = nn.ModuleList(TimeScale(config, scale) for scale in config.scales)

    def forward(self, z: Tensor) -> Tensor:  # (B,T,G,D)
        columns = z.transpose(1, 2).flatten(0, 1)  # (B*G,T,D)
        update = sum(scale(columns) for scale in self.scales)
        return z + update.unflatten(0, (z.shape[0], z.shape[2])).transpose(1, 2)  # (B,T,G,D)


class PlaneAttention(nn.Module):
    """Within one stream: SelfAttn over all of hw, MT-SelfAttn on tw and th."""

    def __init__(self, config: MDSAConfig, *, recompute: bool) -> None:
        super().__init__()
        self.recompute = recompute
        positions = plane_positions(config, "hw")
        self.hw = TransformerLayer(
            config.dim, config.plane_heads, config.plane_head_dim, config.mlp, positions
        )
        time_planes = ("tw", "th") if config.mt_self_attn else ()
        self.time = nn.ModuleDict({plane: MultiScaleTimeAttention(config) for plane in time_planes})

    def forward(self, features: Features) -> Features:
        hw = features["hw"]
        attended = run_layer(self.hw, hw.flatten(1, 2), recompute=self.recompute)
        features = features | {"hw": attended.view(hw.shape)}
        for plane, attention in self.time.items():
            features[plane] = run_layer(attention, features[plane], recompute=self.recompute)
        return features


class StreamCrossAttention(nn.Module):
    """Both streams attend to each other, each to the other's values before the update (eq 6 and eq 8).

    Args:
        make_positions: called once per direction, as learned positions are a direction's own.
    """

    def __init__(self, config: MDSAConfig, make_positions: Callable[[], nn.Module]) -> None:
        super().__init__()
        size = (config.dim, config.plane_heads, config.plane_head_dim)
        self.v_from_a = CrossAttention(*size, make_positions())
        self.a_from_v = CrossAttention(*size, make_positions())

    def forward(self, v: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:  # (S,L,D) each
        return v + self.v_from_a(v, a), a + self.a_from_v(a, v)  # (S,L,D) each


class GCMAttention(nn.Module):
    """GCM-Attn, eq 6: all tokens of a plane attend to all of the other stream's same plane."""

    def __init__(self, config: MDSAConfig, *, recompute: bool) -> None:
        super().__init__()
        self.recompute = recompute
        self.planes = nn.ModuleDict(
            {plane: StreamCrossAttention(config, partial(plane_positions, config, plane)) for plane in PLANES}
        )

    def forward(self, v: Features, a: Features) -> tuple[Features, Features]:
        v_out, a_out = {}, {}
        for plane, attention in self.planes.items():
            tokens = v[plane].flatten(1, 2), a[plane].flatten(1, 2)  # (B,rows*columns,D)
            new_v, new_a = run_layer(attention, *tokens, recompute=self.recompute)
            v_out[plane], a_out[plane] = new_v.view(v[plane].shape), new_a.view(a[plane].shape)
        return v_out, a_out  # as v and a


def expand(features: Features) -> Tensor:
    """Eq 7: hw repeated over t, tw over h, th over w, and summed: (B,T,G,G,D)."""
    hw, tw, th = (features[plane].unsqueeze(REDUCED_AXIS[plane]) for plane in PLANES)
    return hw + tw + th


def to_blocks(tokens: Tensor, block: tuple[int, int, int]) -> Tensor:
    """(B,T,G,G,D) -> (B*blocks, t*h*w, D): non-overlapping blocks of (t,h,w) tokens."""
    t, h, w = block
    x = tokens.unflatten(3, (-1, w)).unflatten(2, (-1, h)).unflatten(1, (-1, t))  # (B,T/t,t,G/h,h,G/w,w,D)
    return x.permute(0, 1, 3, 5, 2, 4, 6, 7).flatten(4, 6).flatten(0, 3)


def from_blocks(blocks: Tensor, block: tuple[int, int, int], shape: torch.Size) -> Tensor:
    """Undoes `to_blocks`; `shape` is the tokens' (B,T,G,G,D)."""
    t, h, w = block
    B, T, G, _, D = shape
    x = blocks.view(B, T // t, G // h, G // w, t, h, w, D)
    return x.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(shape)


class BiBlockAttention(nn.Module):
    """Bi-Block CrossAttn, eq 8: the streams attend to each other inside blocks of tokens."""

    def __init__(self, config: MDSAConfig, *, recompute: bool) -> None:
        super().__init__()
        self.recompute = recompute
        self.block = config.block
        self.attention = StreamCrossAttention(config, partial(block_positions, config))

    def forward(self, v: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:  # (B,T,G,G,D) each
        blocks = to_blocks(v, self.block), to_blocks(a, self.block)  # (B*blocks,t*h*w,D)
        new_v, new_a = run_layer(self.attention, *blocks, recompute=self.recompute)
        return from_blocks(new_v, self.block, v.shape), from_blocks(new_a, self.block, a.shape)
