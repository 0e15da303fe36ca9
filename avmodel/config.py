"""What decides a model: its geometry, its widths, its ablations; and the constants of its losses.

`MDSAConfig` decides the weights and goes into the checkpoint. `LossConfig` and `OptimConfig` decide how
they are trained. The presets at the end are the one place where sizes are written down. Sources of the
numbers: [P] the paper, arXiv 2511.12072; [U] the code of the work it builds on, PVDM; [R] both are silent,
and the field is there so that the choice can be ablated.
"""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass, field
from typing import Any, Literal, Self, get_args

from avprep.spec import ClipSpec

Streams = Literal["av", "v", "a"]
PlaneAttentionAt = Literal["features", "latent"]
KL = Literal["latent", "data", "none"]
LPIPSNet = Literal["vgg", "squeeze", "alex", "none"]
Rank = Literal["2d", "3d"]

CHANNELS = {"v": 3, "a": 1}  # of each stream's clip: RGB, and the mel stack


class ConfigError(ValueError):
    """A configuration that cannot be: the message names the field, the value and what would work."""


class _Config:
    """To and from the plain values of a checkpoint's header, and the checks that all configs share."""

    def to_dict(self) -> dict[str, Any]:
        """Values that JSON knows: a tuple becomes a list, the spec a dict."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of to_dict. Raises ConfigError for a field that is unknown or missing."""
        names = {f.name for f in dataclasses.fields(cls)}
        unknown, missing = sorted(set(values) - names), sorted(names - set(values))
        if unknown or missing:
            raise ConfigError(f"{cls.__name__}: unknown fields {unknown}, missing fields {missing}")
        return cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})

    def _check_types(self) -> None:
        for name, kind in typing.get_type_hints(type(self)).items():
            value = getattr(self, name)
            if typing.get_origin(kind) is Literal and value not in get_args(kind):
                raise ConfigError(f"{name} must be one of {', '.join(get_args(kind))}, not {value!r}")
            if kind is bool and not isinstance(value, bool):
                raise ConfigError(f"{name} must be true or false, not {value!r}")
            if kind is int and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ConfigError(f"{name} must be a whole number of at least 1, not {value!r}")
            if kind is float and (not isinstance(value, int | float) or isinstance(value, bool)):
                raise ConfigError(f"{name} must be a number, not {value!r}")


@dataclass(frozen=True, kw_only=True)
class MDSAConfig(_Config):
    """The Multi-scale Dual-stream Spatio-Temporal Autoencoder. The defaults are the paper's.

    A clip of either stream is `(frames, size, size)`; `patch` makes tokens `(frames, side, side)` of it;
    both are read from `spec`, so that a model cannot disagree with the clips it is given.

    Raises:
        ConfigError: a field out of range, or two that do not fit: the sentence names both.
    """

    spec: ClipSpec = field(default_factory=ClipSpec)
    patch: int = 8                                  # pixels, height and width of a token [P]
    latent_channels: int = 4                        # "codebook dim 4" [P]

    # TimeSformer, one encoder and one decoder a stream [P,U]
    dim: int = 384
    depth: int = 8
    heads: int = 8
    head_dim: int = 64
    ff_mult: int = 4

    # Projectors: the transformer that reduces one axis to a token [P,U]
    projector_depth: int = 4
    projector_heads: int = 4
    projector_head_dim: int = 48
    mlp_dim: int = 512                              # of the projectors and of hw_self_attn

    # Attention on the planes and between the streams
    attn_heads: int = 4                             # of dim / attn_heads each [P]
    mt_scales: tuple[int, ...] = (1, 2, 4)          # average pools over T, eq 4 [P]
    mt_residual: bool = True                        # eq 5 without `z +` if false [R]
    block: tuple[int, int, int] = (4, 8, 8)         # (t, h, w) of Bi-Block CrossAttn, in tokens [R]
    plane_attention_at: PlaneAttentionAt = "features"  # dim channels before the 1x1 conv, or its 4 after [R]

    # Posterior: squashed Gaussian where kl = latent, else deterministic as PVDM's [R]
    logvar_start: float = -6.0
    logvar_min: float = -12.0
    logvar_max: float = 4.0

    # Ablations, the paper's Table 5
    streams: Streams = "av"                         # v: MDSA-V, a: MDSA-A; they have no cross-modal modules
    hw_self_attn: bool = True
    mt_self_attn: bool = True
    gcm_attn: bool = True
    bi_block: bool = True
    kl: KL = "latent"                               # data: eq 11 read literally, between clips [R]
    adversarial: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.spec, ClipSpec):
            raise ConfigError(f"spec must be a ClipSpec, not {self.spec!r}")
        self._check_types()
        for name in ("mt_scales", "block"):
            values = getattr(self, name)
            whole = isinstance(values, tuple) and all(type(v) is int and v >= 1 for v in values)
            if not whole or not values or (name == "block" and len(values) != 3):
                raise ConfigError(f"{name} must be whole numbers of at least 1, not {values!r}")
        if not self.logvar_min <= self.logvar_start <= self.logvar_max:
            raise ConfigError(f"logvar_start {self.logvar_start} must lie between logvar_min {self.logvar_min} "
                              f"and logvar_max {self.logvar_max}")
        for what, whole, parts, part in self._divisions():
            if whole % part:
                raise ConfigError(f"{what} {whole} must be a multiple of {parts} {part}")

    def _divisions(self) -> list[tuple[str, int, str, int]]:
        """What must divide what: (name, value, divisor's name, divisor)."""
        rows = [("spec size", self.size, "patch", self.patch),
                ("head_dim", self.head_dim, "4 (rotary on two axes):", 4),
                ("dim", self.dim, "attn_heads", self.attn_heads)]
        if self.plane_attention_at == "latent":
            rows += [("latent_channels", self.latent_channels, "attn_heads", self.attn_heads)]
        if "a" in self.streams:  # the model sees the mel stack replicated to size x size
            rows += [("spec size", self.size, "n_mels", self.spec.n_mels),
                     ("spec size", self.size, "W = sample_rate / (fps * hop) =", self.spec.columns)]
        if self.mt_self_attn:
            rows += [("spec frames", self.frames, "each of mt_scales:", scale) for scale in self.mt_scales]
        if self.bi_block and self.streams == "av":
            grid = (("spec frames", self.frames), ("size / patch", self.side), ("size / patch", self.side))
            rows += [(*of, f"block {axis}", part) for of, axis, part in zip(grid, "thw", self.block, strict=True)]
        return rows

    @property
    def frames(self) -> int:
        return self.spec.frames

    @property
    def size(self) -> int:
        """Pixels: height and width of both streams' frames."""
        return self.spec.size

    @property
    def side(self) -> int:
        """Tokens along a frame's height and width."""
        return self.spec.size // self.patch

    @property
    def stream_names(self) -> tuple[str, ...]:
        """The streams in the order of the latent: ('v', 'a'), ('v',) or ('a',)."""
        return tuple(stream for stream in CHANNELS if stream in self.streams)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        spec = values.get("spec")
        if isinstance(spec, dict):
            values = values | {"spec": ClipSpec.from_dict(spec)}
        return super().from_dict(values)


@dataclass(frozen=True, kw_only=True)
class LossConfig(_Config):
    """The weights of eq 10-12 and the networks that judge (model.md section 3)."""

    modality: float = 0.5        # each of video and audio, eq 10 [P]
    pixel: float = 4.0           # L1 [P]
    kl: float = 6e-6             # stage 2 only [P]
    lpips: float = 4.0           # [U]
    feature: float = 4.0         # feature matching, within the adversarial term [U]
    lpips_net: LPIPSNet = "vgg"  # none: no perceptual term, no weights needed
    disc_start: int = 0          # step of stage 2 at which gamma goes from 0 to 1
    disc_width: int = 64         # ndf, channels of the first layer [U]
    disc_layers: int = 3         # [U]

    def __post_init__(self) -> None:
        start = self.disc_start
        if isinstance(start, bool) or not isinstance(start, int) or start < 0:
            raise ConfigError(f"disc_start must be a whole number of at least 0, not {start!r}")
        object.__setattr__(self, "disc_start", max(1, start))
        self._check_types()
        object.__setattr__(self, "disc_start", start)


@dataclass(frozen=True, kw_only=True)
class OptimConfig(_Config):
    """Adam, for the autoencoder and for the discriminators alike [P,U]."""

    lr: float = 1e-4
    beta1: float = 0.5
    beta2: float = 0.9
    batch: int = 32              # clips a step, over all devices and accumulation
    clip_norm: float = 1.0       # of each optimizer's gradients [R]

    def __post_init__(self) -> None:
        self._check_types()
