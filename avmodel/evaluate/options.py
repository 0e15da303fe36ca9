"""The options of an evaluation.

Light: the command line reads the defaults here without torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from avmodel.config import DEFAULT_PRESET
from avmodel.metrics import MetricError
from avmodel.training.options import Device
from avprep.credentials import require_no_credentials_in

ProtocolName = Literal["mm-diffusion", "stylegan-v"]
PROTOCOLS: tuple[ProtocolName, ...] = ("mm-diffusion", "stylegan-v")
Crop = Literal["center", "pad"]
TABLES = (1, 2, 3, 4, 5, 6, 7)  # of the paper
MOST_CLIPS = 2048  # on a side, in both protocols


@dataclass(frozen=True, kw_only=True)
class Features:
    """A network to compare through, and its file; None: without the file, its numbers are not computed."""

    name: str
    weights: Path | None

    @classmethod
    def parse(cls, text: str) -> Features:
        """'NAME=PATH' or 'NAME'."""
        name, _, path = text.partition("=")
        return cls(name=name, weights=Path(path) if path else None)


@dataclass(frozen=True, kw_only=True)
class LpipsFiles:
    """SqueezeNet LPIPS: both files."""

    backbone: Path
    heads: Path


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """What is measured and how.

    Raises:
        MetricError: a value out of range, or arguments that do not go together.
    """

    reference: Path  # clip shards, latents, samples, or a folder of video files
    generated: Path | None = None  # likewise; None with `recon`
    recon: bool = False  # reconstructions of the reference by `mdsa` are measured
    mdsa: Path | None = None  # decodes sides that are latents
    features: tuple[Features, ...] = ()
    lpips: LpipsFiles | None = None  # with `recon`
    protocol: ProtocolName = "mm-diffusion"
    size: int | None = None  # pixels that networks of features see; None: the protocol's
    n: int = MOST_CLIPS  # clips per side, at most
    seeds: int = 1  # selections of clips, each measured
    bootstrap: int = 50  # resamples behind an interval; 0: none
    table: int | None = None  # of the paper, to print its rows
    out: Path | None = None  # folder for evaluation.json, .csv and .md
    workers: int = 1  # processes
    device: Device = "auto"  # of the MDSA

    def __post_init__(self) -> None:
        require_no_credentials_in(self)
        for name, least in (("n", 2), ("seeds", 1), ("bootstrap", 0), ("workers", 1)):
            if getattr(self, name) < least:
                raise MetricError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if self.size is not None and not 16 <= self.size <= 4096:
            raise MetricError(f"size must be from 16 to 4096 pixels, not {self.size}")
        if self.protocol not in PROTOCOLS:
            raise MetricError(f"protocol must be one of {', '.join(PROTOCOLS)}, not {self.protocol!r}")
        names = [features.name for features in self.features]
        if len(set(names)) != len(names):
            raise MetricError(f"features must be different networks, not {', '.join(names)}")
        if self.recon and self.generated is not None:
            raise MetricError(f"generated = {self.generated}: with `recon` the MDSA makes the other side")
        if self.recon and self.mdsa is None:
            raise MetricError("mdsa needs a checkpoint with `recon`: its reconstructions are measured")
        if not self.recon and self.generated is None:
            raise MetricError("generated needs a path, unless `recon` is set")
        if self.lpips is not None and not self.recon:
            raise MetricError("lpips needs `recon`: LPIPS compares a clip with its reconstruction")


@dataclass(frozen=True, kw_only=True)
class TimingOptions:
    """What is timed (the paper's Table 3)."""

    preset: str = DEFAULT_PRESET
    batch_size: int = 2  # of a training step
    sampling_steps: int = 30
    repeats: int = 5
    device: Device = "auto"
