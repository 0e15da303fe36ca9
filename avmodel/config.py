"""What decides the models' shapes: two frozen dataclasses and one aligned table of presets for each.

`dim` is the dial of the MDSA: head sizes and MLP widths that the paper takes from PVDM follow from it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from avprep.errors import AvprepError, shown
from avprep.spec import ClipSpec

if TYPE_CHECKING:
    from avmodel.latents import LatentLayout

Streams = Literal["av", "v", "a"]
KlTerm = Literal["latent", "data", "none"]
PlanePositions = Literal["rotary", "learned", "none"]
STREAMS: tuple[Streams, ...] = ("av", "v", "a")
KL_TERMS: tuple[KlTerm, ...] = ("latent", "data", "none")
PLANE_POSITIONS: tuple[PlanePositions, ...] = ("rotary", "learned", "none")
CHANNELS = {"v": 3, "a": 1}  # of a stream's frames: RGB, and one mel spectrogram


class ConfigError(AvprepError, ValueError):
    """A config that cannot be: the message names the field and the value."""


@dataclass(frozen=True, kw_only=True)
class MDSAConfig:
    """The autoencoder (paper section 3.2; docs/model.md 2). The defaults of the switches are the paper's.

    Raises:
        ConfigError: a field out of range, sizes that do not divide, or a switch of no known value.
    """

    frames: int  # T
    size: int  # pixels, height and width; also of the mel stack as the model sees it
    patch: int  # pixels, height and width of a token
    dim: int  # width of the TimeSformers and of the plane features
    depth: int  # TimeSformer layers, in the encoder and in the decoder
    heads: int  # of the TimeSformers
    head_dim: int
    projector_depth: int  # Transformer layers of a projector
    block: tuple[int, int, int]  # (t, h, w) tokens in a block of the Bi-Block CrossAttn
    latent_channels: int = 4
    scales: tuple[int, ...] = (1, 2, 4)  # pooling over T of the MT-SelfAttn, eq 4
    # Of q and k in the attention on planes and in blocks; the paper is silent, and `none` is its letter.
    plane_positions: PlanePositions = "none"
    # The paper's ablations (Table 5).
    streams: Streams = "av"
    mt_self_attn: bool = True
    gcm_attn: bool = True
    bi_block: bool = True
    kl: KlTerm = "latent"
    adversarial: bool = True

    def __post_init__(self) -> None:
        _check_fields(self, _MDSA_RANGES)
        for name, known in (("streams", STREAMS), ("kl", KL_TERMS), ("plane_positions", PLANE_POSITIONS)):
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"{name} must be one of {', '.join(known)}, not {shown(getattr(self, name), 40)!r}"
                )
        if self.plane_positions == "rotary" and self.plane_head_dim < 6:
            raise ConfigError(
                f"plane_positions = 'rotary' needs dim of at least 24, not {self.dim}: in each of 4 heads, a "
                f"pair of values for time, row and column"
            )
        if len(self.block) != 3:
            raise ConfigError(f"block must be the tokens along t, h and w, not {self.block}")
        if self.size % self.patch:
            raise ConfigError(f"size {self.size} is no multiple of patch {self.patch}")
        if self.dim % 8:
            raise ConfigError(f"dim {self.dim} is no multiple of 8")
        if self.head_dim % 4:
            raise ConfigError(f"head_dim {self.head_dim} is no multiple of 4 (axial rotary embedding)")
        for name, length, step in zip("thw", (self.frames, self.grid, self.grid), self.block, strict=True):
            if length % step:
                raise ConfigError(f"block {self.block}: {step} does not divide {length} tokens along {name}")
        if any(self.frames % scale for scale in self.scales):
            raise ConfigError(f"scales {self.scales}: each must divide the {self.frames} frames")

    @property
    def grid(self) -> int:
        """Tokens along a frame's height and width."""
        return self.size // self.patch

    @property
    def channels(self) -> dict[str, int]:
        """Channels of each stream's frames, in the order of the latent's planes: v before a."""
        return {stream: count for stream, count in CHANNELS.items() if stream in self.streams}

    @property
    def projector_heads(self) -> int:
        return 4

    @property
    def projector_head_dim(self) -> int:
        """48 at dim 384, as in PVDM."""
        return self.dim // 8

    @property
    def plane_heads(self) -> int:
        """Heads of every attention on planes and blocks."""
        return 4

    @property
    def plane_head_dim(self) -> int:
        return self.dim // self.plane_heads

    @property
    def mlp(self) -> int:
        """Hidden width of the projectors' and plane blocks' MLPs: 512 at dim 384."""
        return self.dim * 4 // 3

    @property
    def layout(self) -> LatentLayout:
        from avmodel.latents import LatentLayout  # torch: the command line shows the presets without it

        return LatentLayout(
            channels=self.latent_channels, frames=self.frames, grid=self.grid, streams=tuple(self.channels)
        )

    @property
    def clips_it_takes(self) -> str:
        """The options of `avprep clip` whose clips fit, for a message."""
        bands = f", n_mels = {self.size}" if self.size % ClipSpec().n_mels else ""
        return f"`avprep clip` makes clips that fit with frames = {self.frames}, size = {self.size}{bands}"

    def check_spec(self, spec: ClipSpec) -> None:
        """Raises ConfigError where clips of this spec do not fit the model."""
        for name in ("frames", "size"):
            if getattr(spec, name) != getattr(self, name):
                raise ConfigError(
                    f"the model takes clips of {self.frames} frames at {self.size} px; these have "
                    f"{spec.frames} frames at {spec.size} px. {self.clips_it_takes}"
                )
        if self.size % spec.n_mels or self.size % spec.columns:
            raise ConfigError(
                f"the mel stack's {spec.n_mels} bands and {spec.columns} columns a frame must divide the "
                f"model's {self.size} px. {self.clips_it_takes}"
            )

    def to_dict(self) -> dict[str, Any]:
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> MDSAConfig:
        return _from_dict(cls, values)


@dataclass(frozen=True, kw_only=True)
class STDiTConfig:
    """The latent diffusion transformer (paper section 3.3; docs/model.md 4).

    Text comes as caption embeddings of `caption_dim` or, if `classes` is not 0, as learned tokens, one per
    label.

    Raises:
        ConfigError: a field out of range, or sizes that do not divide.
    """

    patch: tuple[int, int]  # (rows, columns) of a plane's values in a token
    hidden: int
    heads: int
    depth: int  # blocks
    caption_dim: int  # width of a caption's token embeddings
    caption_tokens: int  # the most a clip can have: 77 for CLIP
    classes: int = 0  # labels in the learned table; 0 = cached caption embeddings
    mlp_ratio: int = 4
    caption_dropout: float = 0.1  # share of training clips whose caption becomes the learned null
    packed: bool = False  # run on the real tokens only
    # The paper and Open-Sora v1.0 have neither; bf16 training is steadier with both.
    qk_norm: bool = False  # RMSNorm of q and k per head, in the three attentions
    temporal_norm: bool = False  # LayerNorm before the attention across planes
    # Each stream has a time of its own, so that the model also learns a stream given the other. The
    # parameters are those of the model without.
    stream_times: bool = False

    def __post_init__(self) -> None:
        _check_fields(self, _STDIT_RANGES)
        if len(self.patch) != 2:
            raise ConfigError(f"patch must be (rows, columns), not {self.patch}")
        if self.hidden % self.heads or self.hidden // self.heads % 2:
            raise ConfigError(f"hidden {self.hidden} does not split into {self.heads} heads of even width")
        if self.hidden % 4:
            raise ConfigError(f"hidden {self.hidden} is no multiple of 4 (2-D positions)")
        dropout = self.caption_dropout
        if type(dropout) not in (int, float) or not 0 <= dropout < 1:
            raise ConfigError(f"caption_dropout must be in [0, 1), not {shown(dropout, 40)}")

    def to_dict(self) -> dict[str, Any]:
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> STDiTConfig:
        return _from_dict(cls, values)


# The range of every whole number: far beyond any model of use, and small enough that a checkpoint's config
# can be built on the meta device in seconds, whatever it says. For a tuple, of each of its items.
_MDSA_RANGES = {
    "frames":          (1, 1024),
    "size":            (1, 4096),
    "patch":           (1, 4096),
    "dim":             (8, 8192),
    "depth":           (1, 64),
    "heads":           (1, 256),
    "head_dim":        (4, 1024),
    "projector_depth": (1, 32),
    "block":           (1, 1024),
    "latent_channels": (1, 256),
    "scales":          (1, 1024),
}  # fmt: skip
_STDIT_RANGES = {
    "patch":          (1, 1024),
    "hidden":         (4, 16384),
    "heads":          (1, 256),
    "depth":          (1, 128),
    "caption_dim":    (1, 16384),
    "caption_tokens": (1, 4096),
    "classes":        (0, 1_000_000),
    "mlp_ratio":      (1, 64),
}  # fmt: skip
_LONGEST = 16  # items of a tuple


def _check_fields(config: MDSAConfig | STDiTConfig, ranges: dict[str, tuple[int, int]]) -> None:
    """Raises ConfigError for a field that is of another type than the dataclass says, or out of its range."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.type == "bool" and not isinstance(value, bool):
            raise ConfigError(f"{field.name} must be True or False, not {shown(value, 40)!r}")
        if field.name not in ranges:
            continue
        low, high = ranges[field.name]
        items = value if field.type.startswith("tuple") else (value,)
        is_sized = isinstance(items, tuple) and 0 < len(items) <= _LONGEST
        if not is_sized or any(type(n) is not int or not low <= n <= high for n in items):
            raise ConfigError(f"{field.name} must be whole, from {low} to {high}, not {shown(value, 40)}")


# Fields that came later, and what a checkpoint without them was trained with: not the default of today.
_ADDED: dict[type, dict[str, Any]] = {
    MDSAConfig: {"plane_positions": "none"},
    STDiTConfig: {"qk_norm": False, "temporal_norm": False, "stream_times": False},
}


def with_added_fields(cls: type[MDSAConfig | STDiTConfig], values: dict[str, Any]) -> dict[str, Any]:
    """The values of a config that an earlier version wrote, with the fields that were added since."""
    return _ADDED[cls] | values


def _from_dict(cls: type, values: dict[str, Any]) -> Any:
    names = {field.name for field in dataclasses.fields(cls)}
    values = with_added_fields(cls, values)
    if set(values) != names:
        odd = sorted(map(str, names ^ set(values)))
        raise ConfigError(
            f"the config has other fields than this version's {cls.__name__}: {', '.join(odd[:5])}"
        )
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def _mdsa(
    frames, size, patch, dim, depth, heads, head_dim, projector_depth, block, latent_channels
) -> MDSAConfig:
    return MDSAConfig(
        frames=frames,
        size=size,
        patch=patch,
        dim=dim,
        depth=depth,
        heads=heads,
        head_dim=head_dim,
        projector_depth=projector_depth,
        block=block,
        latent_channels=latent_channels,
    )


DEFAULT_PRESET = "small"  # of a training
MDSA_PRESETS = {
    #               frames size patch  dim depth heads head_dim projector_depth  block   latent_channels
    "paper": _mdsa(     16, 256,    8, 384,    8,    8,      64,              4, (4, 8, 8),             4),
    "small": _mdsa(     16,  64,    8,  96,    1,    3,      32,              1, (4, 4, 4),            16),
    "tiny":  _mdsa(      4,  16,    4,  16,    1,    2,       8,              1, (2, 2, 2),             4),
}  # fmt: skip


def _stdit(patch, hidden, heads, depth, caption_dim, caption_tokens) -> STDiTConfig:
    return STDiTConfig(
        patch=patch,
        hidden=hidden,
        heads=heads,
        depth=depth,
        caption_dim=caption_dim,
        caption_tokens=caption_tokens,
    )


STDIT_PRESETS = {
    #                 patch  hidden heads depth caption_dim caption_tokens
    "paper": _stdit((4, 4),   1152,   16,   16,         768,            77),
    "small": _stdit((2, 2),    192,    6,    6,         192,             8),
    "tiny":  _stdit((2, 2),     32,    2,    2,          16,             4),
}  # fmt: skip
