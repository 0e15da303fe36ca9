"""The latent diffusion transformer: the velocity of every value in the stack of planes (paper section 3.3).

    z (B, C, P, rows, columns) -> tokens (B, N, hidden) -> depth x Block -> v, shaped as z

It is Open-Sora v1.0's STDiT with planes where that has frames. A block, with shift, scale and gate g from
the time (adaLN-single), which with `stream_times` is the time of the token's own stream:

    x += g1 * spatial(modulate(LN x))     among the tokens of a plane
    x += g1 * temporal(x)                 among the planes, at one position; of LN x with `temporal_norm`
    x += cross(x, caption)
    x += g2 * mlp(modulate(LN x))

B samples, C channels, P planes, S positions in the tallest plane, N tokens a sample, L tokens a caption.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avmodel.config import ConfigError, STDiTConfig
from avmodel.latents import LatentLayout

TIME_SCALE = 1000  # the sinusoids below were made for time steps 0..1000
TIME_FREQUENCIES = 128  # a sine and a cosine of each


class Captions(NamedTuple):
    """What the clips of a batch show: text, or several labels a clip.

    A clip whose mask is all False has no caption: it gets the learned null.
    """

    tokens: Tensor  # (B, L, caption_dim) embeddings; int (B, L) labels where the config has `classes`
    mask: Tensor  # bool (B, L): True where a token is real; what stands in the others is not looked at


class ParameterCount(NamedTuple):
    network: int  # without the learned null caption and the label table
    total: int


class TokenGrid:
    """Which of a stack's tokens the model runs on, in which order, and their two groupings.

        position  0 1 2 3   4 5 6 7
        tall      x x x x   x x x x     the planes with most rows, first
        short     x x x x               the others hold the first, `common` positions alone

    Every sequence of a grouping has the same tokens in it, so attention needs no mask. Dense, all planes
    are tall; packed, what is padding is left out.
    """

    def __init__(self, layout: LatentLayout, patch: tuple[int, int], packed: bool) -> None:
        for rows in layout.valid_rows:
            if rows % patch[0] or layout.columns % patch[1]:
                raise ConfigError(
                    f"patch {patch[0]}x{patch[1]} does not divide a plane of {rows}x{layout.columns}"
                )
        self.rows, self.columns = layout.rows // patch[0], layout.columns // patch[1]
        self.positions = self.rows * self.columns
        tokens = [rows // patch[0] * self.columns for rows in layout.valid_rows]
        if not packed:
            tokens = [self.positions] * len(tokens)
        self.streams = len(layout.streams)
        self.common = min(tokens)
        self.tall = tokens.count(self.positions)
        self.short = len(tokens) - self.tall
        # Tokens of the stack, plane by plane and row by row, in the order in which the model holds them.
        order = sorted(range(len(tokens)), key=lambda plane: -tokens[plane])
        self.index = torch.tensor([p * self.positions + s for p in order for s in range(tokens[p])])

    def by_plane(self, x: Tensor) -> list[Tensor]:
        """(B, N, D) -> sequences [(B * tall, S, D), (B * short, common, D)]"""
        if not self.short:
            return [x.reshape(-1, self.positions, x.shape[-1])]
        tall, short = self._tall_and_short(x)
        return [tall.reshape(-1, self.positions, x.shape[-1]), short.reshape(-1, self.common, x.shape[-1])]

    def from_planes(self, groups: list[Tensor], batch: int) -> Tensor:
        """Undoes `by_plane`."""
        groups = [g.reshape(batch, -1, g.shape[-1]) for g in groups]
        return torch.cat(groups, dim=1) if self.short else groups[0]

    def by_position(self, x: Tensor) -> list[Tensor]:
        """(B, N, D) -> sequences [(B * common, P, D), (B * (S - common), tall, D)]"""
        if not self.short:
            groups = [x.unflatten(1, (self.tall, self.positions))]
        else:
            tall, short = self._tall_and_short(x)
            tall = tall.unflatten(1, (self.tall, self.positions))
            short = short.unflatten(1, (self.short, self.common))
            groups = [torch.cat((tall[:, :, : self.common], short), dim=1), tall[:, :, self.common :]]
        return [g.transpose(1, 2).flatten(0, 1) for g in groups]

    def from_positions(self, groups: list[Tensor], batch: int) -> Tensor:
        """Undoes `by_position`."""
        groups = [g.unflatten(0, (batch, -1)).transpose(1, 2) for g in groups]
        if not self.short:
            return groups[0].flatten(1, 2)
        common, rest = groups
        tall = torch.cat((common[:, : self.tall], rest), dim=2)
        return torch.cat((tall.flatten(1, 2), common[:, self.tall :].flatten(1, 2)), dim=1)

    def addcmul(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        """a + b * c (B, N, D). Each operand is (B, N, D); (B, 1, D), one for all tokens;
        or (B, streams, 1, D), one for all tokens of a stream."""
        operands = (a, b, c)
        if all(x.ndim == 3 for x in operands):
            return torch.addcmul(a, b, c)
        # Broadcast, not repeated for each token: autograd would keep a copy per shift, scale and gate.
        if not self.short:
            return torch.addcmul(*map(self._by_stream, operands)).flatten(1, 2)
        groups = zip(*(self._tall_and_short(x) if x.ndim == 3 else (x, x) for x in operands), strict=True)
        return torch.cat([torch.addcmul(*map(self._by_stream, g)).flatten(1, 2) for g in groups], dim=1)

    def _by_stream(self, x: Tensor) -> Tensor:
        """(B, n, D) -> (B, streams, n / streams, D), of all planes, the tall or the short ones: in each the
        planes of a stream are neighbours, and the streams have equally many."""
        return x if x.ndim == 4 else x.unflatten(1, (self.streams, -1))

    def _tall_and_short(self, x: Tensor) -> Sequence[Tensor]:
        return x.split((self.tall * self.positions, self.short * self.common), dim=1)


def sincos(dim: int, positions: Tensor) -> Tensor:
    """(n,) -> (n, dim): the fixed sines and cosines of Vaswani et al."""
    angles = positions[:, None] * 10000 ** (-torch.arange(dim // 2).double() / (dim // 2))
    return torch.cat((angles.sin(), angles.cos()), dim=-1).float()


def modulate(x: Tensor, shift: Tensor, scale: Tensor, grid: TokenGrid) -> Tensor:
    """LN(x) * (1 + scale) + shift; x (B, N, D), shift and scale (B, 1, D) or (B, streams, 1, D)."""
    return grid.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-6), 1 + scale)


def mlp(width: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, out))


class QKNorm(nn.Module):
    """RMSNorm of q and of k over a head's values (Henry et al. 2020): what they multiply to stays bounded."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.q = nn.RMSNorm(head_dim, eps=1e-6)
        self.k = nn.RMSNorm(head_dim, eps=1e-6)

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:  # (..., d) each
        return self.q(q).to(q.dtype), self.k(k).to(k.dtype)


def qk_norm(config: STDiTConfig) -> QKNorm | None:
    return QKNorm(config.hidden // config.heads) if config.qk_norm else None


class Attention(nn.Module):
    """Self-attention over sequences (n, s, D)."""

    def __init__(self, config: STDiTConfig) -> None:
        super().__init__()
        dim, self.heads = config.hidden, config.heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.norm = qk_norm(config)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
        if self.norm is not None:
            q, k = self.norm(q, k)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """From tokens x (B, N, D) to a caption y (B, L, D) with mask (B, 1, 1, L)."""

    def __init__(self, config: STDiTConfig) -> None:
        super().__init__()
        dim, self.heads = config.hidden, config.heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.norm = qk_norm(config)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
        q = self.q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        kv = self.kv(y).unflatten(-1, (2, self.heads, -1))
        k, v = (part.transpose(1, 2) for part in kv.unbind(2))
        if self.norm is not None:
            q, k = self.norm(q, k)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.proj(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, config: STDiTConfig) -> None:
        super().__init__()
        dim = config.hidden
        self.spatial = Attention(config)
        self.temporal_norm = nn.LayerNorm(dim, eps=1e-6) if config.temporal_norm else nn.Identity()
        self.temporal = Attention(config)
        self.cross = CrossAttention(config)
        self.mlp = mlp(dim, config.mlp_ratio * dim, dim)
        self.table = nn.Parameter(torch.empty(6, dim))

    def forward(
        self, x: Tensor, e: Tensor, y: Tensor, mask: Tensor, grid: TokenGrid, planes: Tensor | None
    ) -> Tensor:
        """x (B, N, D), time e (B, 6, D) or (B, streams, 6, D), caption y (B, L, D) and mask (B, 1, 1, L)
        -> (B, N, D)

        `planes` (N, D) tells the planes apart in the temporal branch: in the first block alone.
        """
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.table + e).unsqueeze(-2).unbind(-3)
        sequences = grid.by_plane(modulate(x, shift1, scale1, grid))
        x = grid.addcmul(x, gate1, grid.from_planes([self.spatial(s) for s in sequences], len(x)))
        sequences = grid.by_position(x if planes is None else x + planes)
        x = grid.addcmul(
            x, gate1, grid.from_positions([self.temporal(self.temporal_norm(s)) for s in sequences], len(x))
        )
        x = x + self.cross(x, y, mask)
        return grid.addcmul(x, gate2, self.mlp(modulate(x, shift2, scale2, grid)))


class STDiT(nn.Module):
    """v(z, t, caption) of the flow (docs/model.md 4). The grids and position tables are no parameters:
    dense and packed models have the same state dict.

    Raises:
        ConfigError: a patch that does not divide the planes, or `stream_times` with latents of one stream.
    """

    index: Tensor
    positions: Tensor
    planes: Tensor
    frequencies: Tensor

    def __init__(self, config: STDiTConfig, layout: LatentLayout) -> None:
        super().__init__()
        if config.stream_times and len(layout.streams) == 1:
            raise ConfigError(
                f"stream_times = True: these latents have the stream {layout.streams[0]!r} alone"
            )
        self.config, self.layout = config, layout
        self.grid = TokenGrid(layout, config.patch, config.packed)
        dim, values = config.hidden, layout.channels * math.prod(config.patch)
        self.patch_in = nn.Linear(values, dim)
        self.time = nn.Sequential(nn.Linear(2 * TIME_FREQUENCIES, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_to_table = nn.Linear(dim, 6 * dim)
        self.caption = mlp(config.caption_dim, dim, dim)
        self.null = nn.Parameter(torch.empty(config.caption_dim))
        self.labels = nn.Embedding(config.classes, config.caption_dim) if config.classes else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.table = nn.Parameter(torch.empty(2, dim))
        self.patch_out = nn.Linear(dim, values)
        self._tables()
        self._init_weights()

    def _tables(self) -> None:
        grid, dim = self.grid, self.config.hidden
        index, frequency = grid.index, torch.arange(TIME_FREQUENCIES) / TIME_FREQUENCIES
        plane, position = index // grid.positions, index % grid.positions
        column, row = sincos(dim // 2, position % grid.columns), sincos(dim // 2, position // grid.columns)
        self.register_buffer("index", index, persistent=False)
        self.register_buffer("positions", torch.cat((column, row), dim=-1), persistent=False)
        self.register_buffer("planes", sincos(dim, plane), persistent=False)
        self.register_buffer("frequencies", 10000**-frequency, persistent=False)

    def _init_weights(self) -> None:
        """Open-Sora's, but for the caption: its N(0, 0.02) fits a hidden size of 1152 and starves a narrow
        model's labels."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for linear in (cast(nn.Linear, self.time[0]), cast(nn.Linear, self.time[2]), self.time_to_table):
            nn.init.normal_(linear.weight, std=0.02)
        blocks = [cast(Block, block) for block in self.blocks]
        for table in (self.table, *(block.table for block in blocks)):
            nn.init.normal_(table, std=self.config.hidden**-0.5)
        nn.init.normal_(self.null)  # as large as CLIP's token embeddings; nn.Embedding's default too
        for linear in (self.patch_out, *(a.proj for b in blocks for a in (b.temporal, b.cross))):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def count(self) -> ParameterCount:
        total = sum(p.numel() for p in self.parameters())
        beside = self.null.numel() + (self.labels.weight.numel() if self.labels else 0)
        return ParameterCount(total - beside, total)

    def forward(self, z: Tensor, t: Tensor, captions: Captions, drop: Tensor | None = None) -> Tensor:
        """The velocity at z and t.

        z (B, C, P, rows, columns), zero in the padding; t (B,) in [0, 1], as everywhere in `flow` (the
        factor 1000 of the time embedding is applied here), or with `stream_times` t (B, streams), of which
        (B,) are equal times; drop: bool (B,), True where the caption gives way to the learned null. Returns
        z's shape and dtype, under autocast too; what it holds in the padding means nothing.

        Raises:
            ValueError: t (B, streams), and the model was trained with one time for all streams.
        """
        if t.ndim == 2 and not self.config.stream_times:
            raise ValueError(f"t {tuple(t.shape)}: a model without stream_times takes one time per sample")
        x = self.patch_in(self._patches(z)) + self.positions
        angles = TIME_SCALE * t[..., None] * self.frequencies
        e = self.time(torch.cat((angles.cos(), angles.sin()), dim=-1))
        e6 = self.time_to_table(F.silu(e)).unflatten(-1, (6, -1))
        y, mask = self._caption(captions, drop)
        for i, block in enumerate(self.blocks):
            x = block(x, e6, y, mask, self.grid, self.planes if i == 0 else None)
        shift, scale = (self.table + e.unsqueeze(-2)).unsqueeze(-2).unbind(-3)
        return self._unpatch(self.patch_out(modulate(x, shift, scale, self.grid)).to(z.dtype))

    def _caption(self, captions: Captions, drop: Tensor | None) -> tuple[Tensor, Tensor]:
        """-> (B, L, hidden), bool (B, 1, 1, L); a null caption is one learned token in the first place."""
        tokens, mask = captions
        if self.labels is not None:
            tokens = self.labels(tokens.masked_fill(~mask, 0))
        none = ~mask.any(dim=1) if drop is None else ~mask.any(dim=1) | drop
        first = torch.arange(mask.shape[1], device=mask.device) == 0
        mask = torch.where(none[:, None], first, mask)
        tokens = torch.where((none[:, None] & first)[..., None], self.null.to(tokens.dtype), tokens)
        return self.caption(tokens.masked_fill(~mask[..., None], 0)), mask[:, None, None]

    def _patches(self, z: Tensor) -> Tensor:
        """(B, C, P, rows, columns) -> (B, N, C * patch)"""
        grid, (high, wide) = self.grid, self.config.patch
        z = z.unflatten(4, (grid.columns, wide)).unflatten(3, (grid.rows, high))
        patches = z.permute(0, 2, 3, 5, 1, 4, 6).flatten(4).flatten(1, 3)
        return patches.index_select(1, self.index) if grid.short else patches

    def _unpatch(self, patches: Tensor) -> Tensor:
        """Undoes `_patches`; tokens that the model does not hold come out zero."""
        grid, layout, (high, wide) = self.grid, self.layout, self.config.patch
        if grid.short:
            empty = patches.new_zeros(len(patches), len(layout.planes) * grid.positions, patches.shape[-1])
            patches = empty.index_copy(1, self.index, patches)
        patches = patches.unflatten(1, (len(layout.planes), grid.rows, grid.columns))
        patches = patches.unflatten(-1, (layout.channels, high, wide))
        return patches.permute(0, 4, 1, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4)
