"""The clip spec: the few numbers that decide what a clip is, and everything that follows from them.

Every length in the project is derived here; nobody retypes 16000 or 1600. All of time is counted in
samples of `sample_rate` since the source's time 0, so a clip's start, its frames' instants and its mel
columns are integers on one grid:

    sample      0        1600       3200                25600
    frame       |    0    |    1    |    2    |  ...  15  |        16 frames at 10 fps
    column      |0 1 .. 15|16  .. 31|                     |        W = 16 columns a frame, hop 100
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from avprep.errors import AvprepError

# Amplitude to the [-1, 1] of the mel stack (docs/model.md 1): 20*log10(max(m, 1e-5)) lies in
# [-100, ...] dB; -80 dB maps to -1 and +20 dB to +1, so that the floor and clipping are both reachable.
AMPLITUDE_FLOOR = 1e-5
MIN_DB = -80.0
RANGE_DB = 100.0


class SpecError(AvprepError, ValueError):
    """A spec that cannot be: the message names the field, the value and what would work."""


@dataclass(frozen=True, kw_only=True)
class ClipSpec:
    """What a clip is. The defaults are the paper's: 16 frames at 10 fps, 256 x 256, 16 kHz mono.

    Raises:
        SpecError: a field out of range, or `W = sample_rate / (fps * hop)` not a whole number.
    """

    fps: int = 10  # frames per second
    frames: int = 16  # frames in a clip
    size: int = 256  # pixels, height and width of a frame
    sample_rate: int = 16000  # samples per second, mono
    n_fft: int = 1024  # samples, STFT window and FFT length
    hop: int = 100  # samples between mel columns
    n_mels: int = 128  # mel bands, 0 Hz to sample_rate / 2

    def __post_init__(self) -> None:
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise SpecError(f"{name} must be a whole number from {low} to {high}, not {value!r}")
        if self.size % 2:
            raise SpecError(f"size must be even (4:2:0 video), not {self.size}")
        if self.hop > self.n_fft:
            raise SpecError(f"hop {self.hop} is longer than the window n_fft {self.n_fft}: samples are lost")
        if self.n_mels > self.n_fft // 2:
            raise SpecError(f"n_mels {self.n_mels} is more than half of n_fft {self.n_fft}")
        if self.sample_rate % (self.fps * self.hop):
            raise SpecError(
                f"W = sample_rate / (fps * hop) = {self.sample_rate} / ({self.fps} * {self.hop}) = "
                f"{self.sample_rate / (self.fps * self.hop):.3f} must be whole: mel columns a frame. "
                f"The nearest that work: {_nearest_specs(self.fps, self.hop, self.sample_rate)}"
            )

    @property
    def samples_per_frame(self) -> int:
        return self.sample_rate // self.fps

    @property
    def samples(self) -> int:
        """Samples in a clip."""
        return self.frames * self.samples_per_frame

    @property
    def seconds(self) -> Fraction:
        return Fraction(self.samples, self.sample_rate)

    @property
    def columns(self) -> int:
        """W: mel columns in one frame's spectrogram."""
        return self.samples_per_frame // self.hop

    @property
    def frames_shape(self) -> tuple[int, int, int, int]:
        """(frames, height, width, RGB)"""
        return (self.frames, self.size, self.size, 3)

    @property
    def mel_shape(self) -> tuple[int, int, int]:
        """(frames, n_mels, W)"""
        return (self.frames, self.n_mels, self.columns)

    @property
    def samples_before(self) -> int:
        """Samples before a clip that its first mel column's window reaches."""
        return self.n_fft // 2

    @property
    def samples_after(self) -> int:
        """Samples after a clip that its last mel column's window reaches (0 where it ends inside)."""
        return max(0, self.n_fft - self.n_fft // 2 - self.hop)

    def differences(self, other: ClipSpec) -> str:
        """For people: 'size = 64, not 256' for each field of this spec that the other has otherwise."""
        theirs = other.to_dict()
        return "; ".join(
            f"{name} = {value}, not {theirs[name]}"
            for name, value in self.to_dict().items()
            if value != theirs[name]
        )

    def to_dict(self) -> dict[str, int]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ClipSpec:
        """The spec of a header. Raises SpecError for a field that is unknown or missing."""
        if not isinstance(values, dict):
            raise SpecError(f"a spec is an object of numbers, not {values!r:.80}")
        names = {field.name for field in dataclasses.fields(cls)}
        if set(values) != names:
            raise SpecError(f"a spec has the fields {sorted(names)}; this one has {sorted(values)}")
        return cls(**values)


_RANGES = (
    ("fps", 1, 240),
    ("frames", 1, 1024),
    ("size", 16, 4096),
    ("sample_rate", 4000, 192000),
    ("n_fft", 16, 65536),
    ("hop", 1, 65536),
    ("n_mels", 1, 4096),
)


_COMMON_RATES = (8000, 16000, 22050, 24000, 32000, 44100, 48000)


def _nearest_specs(fps: int, hop: int, sample_rate: int) -> str:
    """The nearest value of each of the three fields, the other two kept, as the text of an error.

    A sample rate that sound is commonly stored at stands first: it changes nothing but the sound's band.
    """
    per_frame = Fraction(sample_rate, fps)
    common = [r for r in _COMMON_RATES if r % (fps * hop) == 0]
    hops = [h for h in range(1, max(2, int(per_frame) + 1)) if sample_rate % (fps * h) == 0]
    fpss = [f for f in range(1, 241) if sample_rate % (f * hop) == 0]
    rates = [fps * hop * w for w in range(1, 192000 // (fps * hop) + 1) if fps * hop * w >= 4000]
    found = []
    if common:
        found.append(f"sample_rate {min(common, key=lambda rate: abs(rate - sample_rate))}")
        rates = []
    for name, now, values in (("hop", hop, hops), ("fps", fps, fpss), ("sample_rate", sample_rate, rates)):
        nearest = sorted(sorted(values, key=lambda v: abs(v - now))[:2])
        if nearest:
            found.append(f"{name} {' or '.join(map(str, nearest))}")
    return "; ".join(found) if found else "none with these fps, hop and sample_rate"
