"""The TimeSformer of PVDM (Yu et al. 2023): patches to tokens, layers of divided attention, tokens to pixels.

B  clips    C  channels    T  frames    S  pixels a side    p  pixels a patch's side
G = S/p  tokens a side     N = G*G  tokens a frame          D  width of a token
"""

from __future__ import annotations

from torch import Tensor, nn

from avmodel.config import MDSAConfig
from avmodel.mdsa.layers import GEGLU, SelfAttention, run_layer
from avmodel.mdsa.positions import RotaryPositions, space_rotary, time_rotary


class PatchEmbedding(nn.Module):
    """Each p x p patch of a frame to a token, by one linear map."""

    def __init__(self, config: MDSAConfig, channels: int) -> None:
        super().__init__()
        self.patch, self.grid = config.patch, config.grid
        self.linear = nn.Linear(config.patch**2 * channels, config.dim)

    def forward(self, clip: Tensor) -> Tensor:  # (B,C,T,S,S)
        patches = clip.unflatten(4, (self.grid, self.patch)).unflatten(3, (self.grid, self.patch))
        patches = patches.permute(0, 2, 3, 5, 4, 6, 1).flatten(4)  # (B,T,G,G,p*p*C)
        return self.linear(patches)  # (B,T,G,G,D)


class PixelHead(nn.Module):
    """Each token to its p x p pixels in [-1,1]."""

    def __init__(self, config: MDSAConfig, channels: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(config.dim, channels, config.patch, stride=config.patch)

    def forward(self, tokens: Tensor) -> Tensor:  # (B,T,G,G,D)
        pixels = self.conv(tokens.flatten(0, 1).permute(0, 3, 1, 2))  # (B*T,C,S,S)
        pixels = pixels.float().unflatten(0, tokens.shape[:2]).transpose(1, 2)  # (B,C,T,S,S)
        return (2 * pixels.sigmoid() - 1).contiguous()  # (B,C,T,S,S)


class TimeSformerLayer(nn.Module):
    """Attention over time, attention over space, feed-forward; each pre-norm and residual."""

    def __init__(
        self, dim: int, heads: int, head_dim: int, *, time: RotaryPositions, space: RotaryPositions
    ) -> None:
        super().__init__()
        self.time_norm = nn.LayerNorm(dim)
        self.time = SelfAttention(dim, heads, head_dim, time)
        self.space_norm = nn.LayerNorm(dim)
        self.space = SelfAttention(dim, heads, head_dim, space)
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp = GEGLU(dim)

    def forward(self, x: Tensor) -> Tensor:  # (B,T,N,D)
        # Transposed before q, k and v are made: a copy of D values a token, not of 3*heads*head_dim.
        tracks = self.time_norm(x).transpose(1, 2)  # (B,N,T,D)
        moved = self.time(tracks.flatten(0, 1)).view(tracks.shape)
        x = x + moved.transpose(1, 2)
        x = x + self.space(self.space_norm(x).flatten(0, 1)).view(x.shape)
        return x + self.mlp(self.mlp_norm(x))  # (B,T,N,D)


class TimeSformer(nn.Module):
    """`depth` layers and the rotary tables they share. No norm at the end, as in PVDM."""

    def __init__(self, config: MDSAConfig, *, recompute: bool) -> None:
        super().__init__()
        self.recompute = recompute
        dim, heads, head_dim = config.dim, config.heads, config.head_dim
        time = RotaryPositions(time_rotary(config.frames, head_dim))
        space = RotaryPositions(space_rotary(config.grid, head_dim))
        self.layers = nn.ModuleList(
            TimeSformerLayer(dim, heads, head_dim, time=time, space=space) for _ in range(config.depth)
        )

    def forward(self, tokens: Tensor) -> Tensor:  # (B,T,G,G,D)
        x = tokens.flatten(2, 3)  # (B,T,N,D)
        for layer in self.layers:
            x = run_layer(layer, x, recompute=self.recompute)
        return x.view(tokens.shape)  # (B,T,G,G,D)
