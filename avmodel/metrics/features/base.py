"""What a feature extractor is, and the file that it reads its weights from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from avmodel.metrics import MetricError
from avprep.dsp.resample import resample


@dataclass(frozen=True, kw_only=True)
class Clips:
    """A batch of clips."""

    frames: np.ndarray  # uint8 (n, T, H, W, RGB)
    waveform: np.ndarray  # float32 (n, samples), mono
    fps: float
    sample_rate: int


class Extractor(Protocol):
    """A network with its weights."""

    name: str  # goes into the name of every number computed on its features
    width: int
    sha256: str  # of the file of weights; stored beside every number

    @property
    def side(self) -> Literal["video", "audio"]: ...

    def __call__(self, clips: Clips) -> np.ndarray:
        """Features float32 (n, rows, width): one row per clip, or one per frame."""
        ...


@runtime_checkable
class TextExtractor(Extractor, Protocol):
    """A network that has texts and clips in one space."""

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings float32 (n, width)."""
        ...


@runtime_checkable
class PairedExtractor(Extractor, Protocol):
    """A network that has pictures and sound in one space. Distances are computed on `__call__`'s rows."""

    def frames(self, clips: Clips) -> np.ndarray:
        """Embeddings float32 (n, T, width), one per frame."""
        ...

    def sounds(self, clips: Clips) -> np.ndarray:
        """Embeddings float32 (n, width)."""
        ...


@dataclass(frozen=True)
class Published:
    """A file of weights as its authors release it."""

    file: str
    source: str
    sha256: str | None = None  # hex, whole or its first digits; None: not known here

    def __str__(self) -> str:
        checksum = f"SHA-256 {self.sha256}" if self.sha256 else "checksum not known here"
        return f"{self.file} from {self.source} ({checksum})"


def sha256_of(weights: Path, published: Published) -> str:
    """The file's SHA-256 in hex. Raises MetricError where there is no file, with where to get it."""
    if not weights.is_file():
        raise MetricError(f"no weights at {weights}: they are {published}")
    with weights.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def waveforms_at(sample_rate: int, clips: Clips) -> np.ndarray:
    """The clips' sound at this rate in Hz: float32 (n, samples)."""
    if clips.sample_rate == sample_rate:
        return clips.waveform
    common = gcd(clips.sample_rate, sample_rate)
    up, down = sample_rate // common, clips.sample_rate // common
    return np.stack([resample(row, up, down) for row in clips.waveform])
