"""The STDiT as one would write it first, with nn.Conv3d and nn.MultiheadAttention: always dense, with an
optional key mask. The tests hold `avmodel.dit.model` against it and the benchmark measures against it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from avmodel.config import STDiTConfig
from avmodel.dit.model import Captions, STDiT
from avmodel.latents import LatentLayout


def positions_of(length: int, dim: int) -> Tensor:
    rows = []
    for position in range(length):
        angles = [position / 10000 ** (i / (dim // 2)) for i in range(dim // 2)]
        rows.append([math.sin(a) for a in angles] + [math.cos(a) for a in angles])
    return torch.tensor(rows)


class PlainBlock(nn.Module):
    def __init__(self, dim: int, heads: int, ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.spatial = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.temporal = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.cross = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(dim, ratio * dim), nn.GELU(approximate="tanh"), nn.Linear(ratio * dim, dim)
        )
        self.table = nn.Parameter(torch.randn(6, dim) / dim**0.5)

    def forward(self, x, e, y, y_padding, planes, padding):
        """x (B, P, S, D), time e (B, P, 6, D); padding bool (P, S) or None: True where no token is seen."""
        b, p, s, d = x.shape
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.table + e)[:, :, :, None].unbind(2)
        m = (self.norm1(x) * (1 + scale1) + shift1).reshape(b * p, s, d)
        unseen = None if padding is None else padding.repeat(b, 1)
        m = self.spatial(m, m, m, key_padding_mask=unseen, need_weights=False)[0]
        x = x + gate1 * m.reshape(b, p, s, d)
        m = (x if planes is None else x + planes[:, None]).transpose(1, 2).reshape(b * s, p, d)
        unseen = None if padding is None else padding.T.repeat(b, 1)
        m = self.temporal(m, m, m, key_padding_mask=unseen, need_weights=False)[0]
        x = x + gate1 * m.reshape(b, s, p, d).transpose(1, 2)
        m = x.reshape(b, p * s, d)
        x = x + self.cross(m, y, y, key_padding_mask=y_padding, need_weights=False)[0].reshape(b, p, s, d)
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)


class PlainSTDiT(nn.Module):
    """For caption embeddings and for labels; every caption must have a real token."""

    def __init__(self, config: STDiTConfig, layout: LatentLayout, *, key_mask: bool = False) -> None:
        super().__init__()
        dim, (high, wide) = config.hidden, config.patch
        self.config, self.layout = config, layout
        self.grid = (len(layout.planes), layout.rows // high, layout.columns // wide)
        self.patch_in = nn.Conv3d(layout.channels, dim, (1, high, wide), stride=(1, high, wide))
        self.time = nn.Sequential(nn.Linear(256, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_to_table = nn.Linear(dim, 6 * dim)
        self.caption = nn.Sequential(
            nn.Linear(config.caption_dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim)
        )
        self.labels = nn.Embedding(config.classes, config.caption_dim) if config.classes else None
        self.blocks = nn.ModuleList(
            PlainBlock(dim, config.heads, config.mlp_ratio) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.table = nn.Parameter(torch.randn(2, dim) / dim**0.5)
        self.patch_out = nn.Linear(dim, layout.channels * high * wide)
        planes, rows, columns = self.grid
        column = positions_of(columns, dim // 2).repeat(rows, 1)
        row = positions_of(rows, dim // 2).repeat_interleave(columns, 0)
        self.register_buffer("positions", torch.cat((column, row), -1))
        self.register_buffer("planes", positions_of(planes, dim))
        real = layout.mask()[:, ::high, ::wide].flatten(1)
        self.register_buffer("padding", ~real if key_mask else None)

    def forward(self, z: Tensor, t: Tensor, captions: Captions) -> Tensor:
        b, (p, rows, columns), (high, wide) = len(z), self.grid, self.config.patch
        x = self.patch_in(z).flatten(3).permute(0, 2, 3, 1) + self.positions
        times = t[:, None] if t.ndim == 1 else t  # one of all planes, or one per stream
        angles = 1000 * times[..., None] * 10000 ** (-torch.arange(128, device=t.device) / 128)
        e = self.time(torch.cat((angles.cos(), angles.sin()), -1).to(z.dtype))
        e = e.repeat_interleave(p // times.shape[1], dim=1)
        e6 = self.time_to_table(nn.functional.silu(e)).view(b, p, 6, -1)
        y = self.caption(captions.tokens if self.labels is None else self.labels(captions.tokens))
        for i, block in enumerate(self.blocks):
            x = block(x, e6, y, ~captions.mask, self.planes if i == 0 else None, self.padding)
        shift, scale = (self.table + e[:, :, None])[:, :, :, None].unbind(2)
        v = self.patch_out(self.norm(x) * (1 + scale) + shift)
        v = v.reshape(b, p, rows, columns, self.layout.channels, high, wide)
        return v.permute(0, 4, 1, 2, 5, 3, 6).reshape(z.shape)

    def load(self, model: STDiT) -> PlainSTDiT:
        """Takes over an STDiT's weights; returns itself."""
        weights = {k: v for k, v in model.state_dict().items() if k != "null"}
        own = {"positions": self.positions, "planes": self.planes}
        if self.padding is not None:
            own["padding"] = self.padding
        for name, value in weights.items():
            if name == "patch_in.weight":
                own[name] = value.reshape(self.patch_in.weight.shape)
            elif ".qkv." in name:
                own[name.replace("qkv.", "in_proj_")] = value
            elif ".kv." in name:
                query = weights[name.replace(".kv.", ".q.")]
                own[name.replace("kv.", "in_proj_")] = torch.cat((query, value))
            elif ".q." not in name:
                own[name.replace(".proj.", ".out_proj.")] = value
        self.load_state_dict(own)
        return self
