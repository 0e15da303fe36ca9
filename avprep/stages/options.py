"""The options of the stages, with their defaults. Light: the command line reads the defaults from here."""

from __future__ import annotations

import math
from dataclasses import dataclass

from avprep.checks import require_between, require_decibels, require_one_of
from avprep.dsp.defaults import ITERATIONS, MOMENTUM
from avprep.media.crop import CROPS, Crop
from avprep.spec import ClipSpec


@dataclass(frozen=True, kw_only=True)
class ClipOptions:
    """What decides a clip's frames and sound, besides its source.

    Raises:
        ArgumentError: a value out of range.
    """

    spec: ClipSpec = ClipSpec()
    crop: Crop = "center"
    # Limits of the filters; None = keep all.
    drop_silent_db: float | None = None  # RMS of the clip in dB of full scale
    drop_static: float | None = None  # mean absolute change between frames, in levels of 255
    drop_black: float | None = None  # mean of the frames, in levels of 255
    max_residual_ms: float | None = None  # of the clip's residual, whatever its sign

    def __post_init__(self) -> None:
        require_one_of("crop", self.crop, CROPS)
        for name, lowest, highest in _LIMITS:
            limit = getattr(self, name)
            if limit is not None:
                require_between(name, limit, lowest, highest)
        if self.drop_silent_db is not None:
            require_decibels("drop_silent_db", self.drop_silent_db)


_LIMITS = (
    ("drop_static", 0, 255),
    ("drop_black", 0, 255),
    ("max_residual_ms", 0, math.inf),
)


@dataclass(frozen=True, kw_only=True)
class EncodeOptions:
    """What decides a latent shard's bytes, besides its clips and the weights."""

    packed: bool = False  # the real values alone, without the planes' padding
    posterior: bool = False  # the log-variance too


@dataclass(frozen=True, kw_only=True)
class DecodeOptions:
    """How latents are decoded to mp4 files."""

    limit: int | None = None  # clips in all; None = all
    batch_size: int = 8  # clips
    device: str = "auto"  # auto | cpu | cuda


@dataclass(frozen=True, kw_only=True)
class InvertOptions:
    """How mel stacks are inverted to wav files."""

    iterations: int = ITERATIONS
    momentum: float = MOMENTUM
    batch_size: int = 8  # clips
    limit: int | None = None  # clips in all; None = all
    device: str = "cpu"  # cpu | cuda
    seed: int = 0  # of the first phases
