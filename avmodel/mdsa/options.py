"""How the autoencoder is trained: numbers and names alone, for who shows them without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Backbone = Literal["vgg16", "squeezenet1_1", "alexnet"]
BACKBONES: tuple[Backbone, ...] = ("vgg16", "squeezenet1_1", "alexnet")


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """The weights of eq 10. g weighs 1, once it is on."""

    pixel: float = 4.0  # [paper]
    kl: float = 6e-6  # [paper]
    lpips: float = 4.0  # [PVDM]
    fm: float = 4.0  # [PVDM] feature matching
    modality: float = 0.5  # [paper] of all terms of one modality


@dataclass(frozen=True, kw_only=True)
class LPIPSConfig:
    """Which LPIPS, and its two files (.pth, .safetensors, .npz); None takes one from its usual source.

    Raises:
        ValueError: an unknown backbone.
    """

    backbone: Backbone = "vgg16"
    backbone_weights: Path | None = None
    heads: Path | None = None

    def __post_init__(self) -> None:
        if self.backbone not in BACKBONES:
            raise ValueError(f"backbone must be one of {', '.join(BACKBONES)}, not {self.backbone!r}")
