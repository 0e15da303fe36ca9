"""PatchGAN discriminators on frames (2-D) and on clips (3-D), as in PVDM and TATS.

    input -> conv s2 -> [conv s2, BN] x (n_layers - 1) -> conv s1, BN -> conv s1 -> logits, one a patch
             '------------- features, each after its LeakyReLU -------'

A layer of stride 2 takes an axis of length n to n // 2 + 1, one of stride 1 to n + 1 (kernel 4, padding 2).
With 3 layers of stride 2, 256 pixels give 35 logits along their axis, 16 frames give 5 and 4 frames give 4.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

KERNEL = 4
PADDING = 2
WIDEST = 512  # channels at most, however many layers
SMALLEST = 2  # along every axis: from 2 on, every layer keeps at least 2 values for BatchNorm to normalise


class PatchGAN(nn.Module):
    """Patch discriminator (Isola et al. 2017), with the layers of PVDM's losses/perceptual.py.

    Args:
        dims: 2 for frames (B,C,H,W), 3 for clips (B,C,T,H,W).
        channels: C.
        ndf: channels of the first layer, doubled by each later one up to 512.
        n_layers: layers of stride 2.

    Raises:
        ValueError: dims is neither 2 nor 3, or n_layers is below 1.
    """

    def __init__(self, *, dims: Literal[2, 3], channels: int = 3, ndf: int = 64, n_layers: int = 3) -> None:
        super().__init__()
        if dims not in (2, 3):
            raise ValueError(f"dims must be 2 or 3, not {dims!r}")
        if n_layers < 1:
            raise ValueError(f"n_layers must be at least 1, not {n_layers}")
        self.dims = dims
        self.channels = channels
        conv, norm = (nn.Conv2d, nn.BatchNorm2d) if dims == 2 else (nn.Conv3d, nn.BatchNorm3d)
        widths = [min(ndf * 2**i, WIDEST) for i in range(n_layers + 1)]
        strides = [2] * n_layers + [1]
        layers = []
        for i, (width, stride) in enumerate(zip(widths, strides, strict=True)):
            before = widths[i - 1] if i else channels
            layer: list[nn.Module] = [conv(before, width, KERNEL, stride, PADDING)]
            if i:
                # Always in training mode: running statistics are never read, and one NaN would stay in them.
                layer.append(norm(width, track_running_stats=False))
            layers.append(nn.Sequential(*layer, nn.LeakyReLU(0.2, inplace=True)))
        self.layers = nn.ModuleList(layers)
        self.to_logits = conv(widths[-1], 1, KERNEL, 1, PADDING)
        self.apply(_init_weights)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits (B,1,...) in float32, and the n_layers + 1 features before them, for feature matching.

        Args:
            x: (B,C,H,W) where dims is 2, (B,C,T,H,W) where it is 3; in [-1,1].

        Raises:
            ValueError: another number of axes or channels, or an axis of fewer than 2 values.
        """
        self._check(x)
        features = []
        for layer in self.layers:
            x = layer(x)
            features.append(x)
        return self.to_logits(x).float(), features

    def _check(self, x: Tensor) -> None:
        name = f"the {self.dims}-D discriminator"
        axes = "B,C,H,W" if self.dims == 2 else "B,C,T,H,W"
        shape = tuple(x.shape)
        if x.ndim != self.dims + 2 or shape[1] != self.channels:
            raise ValueError(f"{name} takes ({axes}) with C = {self.channels}, not {shape}")
        if min(shape[2:]) < SMALLEST:
            raise ValueError(f"{name} takes {SMALLEST} values along every axis at the least, not {shape[2:]}")


class Discriminators(nn.Module):
    """The two discriminators of one modality: D2 sees one frame of each clip, D3 the whole clip."""

    def __init__(self, *, channels: int = 3, ndf: int = 64, n_layers: int = 3) -> None:
        super().__init__()
        self.d2 = PatchGAN(dims=2, channels=channels, ndf=ndf, n_layers=n_layers)
        self.d3 = PatchGAN(dims=3, channels=channels, ndf=ndf, n_layers=n_layers)

    def forward(self, frame: Tensor, clip: Tensor) -> list[tuple[Tensor, list[Tensor]]]:
        """(logits, features) of D2 on frame (B,C,H,W), then of D3 on clip (B,C,T,H,W)."""
        return [self.d2(frame), self.d3(clip)]


def _init_weights(module: nn.Module) -> None:
    """pix2pix: convolutions N(0, 0.02), BatchNorm N(1, 0.02) and no shift; torch's convolution biases."""
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
