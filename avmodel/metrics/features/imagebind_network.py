"""ImageBind's towers of pictures and of sound, under the names of the published file.

    pictures (B,3,2,224,224) -> patches (B,256,D)
    sound      (B,1,128,204) -> patches (B,228,D)
        -> class token before them, positions on all -> blocks -> the class token, projected (B,1024)

The sound's attention has one more key and value, which are learned. The sound's embedding has the length
`exp(log_logit_scale)`, which is 20 in the published file; that of pictures has length 1.

Source: Girdhar et al., "ImageBind: One Embedding Space To Bind Them All", 2023.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avmodel.mdsa.lpips import WeightsError, read_weights

PIXELS = 224
PICTURES = 2  # of one input
MEL_BINS, MEL_FRAMES = 128, 204
_PICTURE_PATCH = (PICTURES, 14, 14)  # pictures and pixels
_SOUND_PATCH, _SOUND_STRIDE = 16, 10  # mel bins and frames: patches overlap
_EPS = 1e-6  # of all layer norms but the sound patches'
_MLP_RATIO = 4
_MOST_SCALE = 100.0


@dataclass(frozen=True, kw_only=True)
class TowerSizes:
    width: int
    blocks: int
    heads: int


@dataclass(frozen=True, kw_only=True)
class ImageBindSizes:
    """imagebind_huge's."""

    embedding: int = 1024
    vision: TowerSizes = TowerSizes(width=1280, blocks=32, heads=16)
    audio: TowerSizes = TowerSizes(width=768, blocks=12, heads=12)


HUGE = ImageBindSizes()


class ImageBindNetwork(nn.Module):
    """Both towers. Modules are named as in the published file; `load_network` fills them."""

    def __init__(self, sizes: ImageBindSizes) -> None:
        super().__init__()
        self.sizes = sizes
        vision, audio = sizes.vision.width, sizes.audio.width
        cut_pictures = nn.Conv3d(3, vision, _PICTURE_PATCH, _PICTURE_PATCH, bias=False)
        cut_sound = nn.Conv2d(1, audio, _SOUND_PATCH, _SOUND_STRIDE, bias=False)
        sound_rows, sound_columns = (
            (length - _SOUND_PATCH) // _SOUND_STRIDE + 1 for length in (MEL_BINS, MEL_FRAMES)
        )
        self.modality_preprocessors = nn.ModuleDict(
            {
                "vision": _Tokens(
                    _Stem(nn.Sequential(nn.Identity(), cut_pictures), nn.Identity()),
                    (PIXELS // _PICTURE_PATCH[1]) ** 2,
                    vision,
                ),
                "audio": _Tokens(_Stem(cut_sound, nn.LayerNorm(audio)), sound_rows * sound_columns, audio),
            }
        )
        self.modality_trunks = nn.ModuleDict(
            {
                "vision": _Trunk(sizes.vision, nn.LayerNorm(vision, eps=_EPS), add_bias_kv=False),
                "audio": _Trunk(sizes.audio, nn.Identity(), add_bias_kv=True),
            }
        )
        self.modality_heads = nn.ModuleDict(
            {"vision": _head(vision, sizes.embedding), "audio": _head(audio, sizes.embedding)}
        )
        self.modality_postprocessors = nn.ModuleDict({"audio": nn.Sequential(nn.Identity(), _Scale())})

    def pictures(self, x: Tensor) -> Tensor:
        """Normalized RGB (B,3,2,224,224) -> embeddings of length 1, (B,embedding)."""
        return self._embedding("vision", x)

    def sound(self, x: Tensor) -> Tensor:
        """Normalized mel spectrograms (B,1,128,204) -> embeddings of the scale's length, (B,embedding)."""
        return self.modality_postprocessors["audio"](self._embedding("audio", x))

    def _embedding(self, modality: str, x: Tensor) -> Tensor:
        tokens = self.modality_trunks[modality](self.modality_preprocessors[modality](x))
        return F.normalize(self.modality_heads[modality](tokens[:, 0]), dim=-1)


class _Stem(nn.Module):
    """Patches: (B,C,...) -> (B,L,D)."""

    def __init__(self, proj: nn.Module, norm_layer: nn.Module) -> None:
        super().__init__()
        self.proj, self.norm_layer = proj, norm_layer

    def forward(self, x: Tensor) -> Tensor:
        return self.norm_layer(self.proj(x).flatten(2).transpose(1, 2))


class _Positions(nn.Module):
    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, width))

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + self.pos_embed


class _Tokens(nn.Module):
    """Patches behind a class token, with their positions: (B,C,...) -> (B,1+L,D)."""

    def __init__(self, stem: _Stem, patches: int, width: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.rgbt_stem = stem
        self.pos_embedding_helper = _Positions(1 + patches, width)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.rgbt_stem(x)
        first = self.cls_token.expand(len(patches), -1, -1)
        return self.pos_embedding_helper(torch.cat([first, patches], dim=1))


class _Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, _MLP_RATIO * width)
        self.fc2 = nn.Linear(_MLP_RATIO * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class _Block(nn.Module):
    """Attention and MLP, each behind its norm and beside a residual: (L,B,D) -> (L,B,D)."""

    def __init__(self, sizes: TowerSizes, *, add_bias_kv: bool) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(sizes.width, sizes.heads, add_bias_kv=add_bias_kv)
        self.norm_1 = nn.LayerNorm(sizes.width, eps=_EPS)
        self.mlp = _Mlp(sizes.width)
        self.norm_2 = nn.LayerNorm(sizes.width, eps=_EPS)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norm_2(x))


class _Trunk(nn.Module):
    """(B,L,D) -> (B,L,D)"""

    def __init__(self, sizes: TowerSizes, first: nn.Module, *, add_bias_kv: bool) -> None:
        super().__init__()
        self.pre_transformer_layer = nn.Sequential(first)
        self.blocks = nn.Sequential(*(_Block(sizes, add_bias_kv=add_bias_kv) for _ in range(sizes.blocks)))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.blocks(self.pre_transformer_layer(tokens).transpose(0, 1)).transpose(0, 1)


class _Scale(nn.Module):
    log_logit_scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("log_logit_scale", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.log_logit_scale.exp().clip(max=_MOST_SCALE) * x


def _head(width: int, embedding: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(width, eps=_EPS), nn.Identity(), nn.Linear(width, embedding, bias=False)
    )


def load_network(weights: Path, sizes: ImageBindSizes) -> ImageBindNetwork:
    """The network with the weights of this file, which stay mapped: other towers take no memory.

    Raises:
        WeightsError: the file cannot be read, or a tensor of the two towers is missing or of another shape.
    """
    with torch.device("meta"):  # no random weights are made
        net = ImageBindNetwork(sizes)
    held, state = read_weights(weights, mmap=True), {}
    for name, wanted in net.state_dict().items():
        found = tuple(held[name].shape) if name in held else "missing"
        if found != tuple(wanted.shape):
            raise WeightsError(
                f"{weights} does not hold ImageBind: {name} is {found}, not {tuple(wanted.shape)}"
            )
        state[name] = held[name]
    net.load_state_dict(state, assign=True)
    return net.eval().requires_grad_(False)
