"""A stand-in for a trained encoder, for the jobs' tests: average pooling, and faults on demand.

frames (B, T, H, W, RGB) -> (B, 3, T, G, G) -> hw (mean over T), tw (over h), th (over w); a 4th channel
mel    (B, T, n_mels, W) -> (B, 1, T, G, G) -> the same three planes, the channel scaled four ways
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from avprep.shards.latents import EncoderHeader
from avprep.spec import ClipSpec

GRID = 4
PLANES = ("v_hw", "v_tw", "v_th", "a_hw", "a_tw", "a_th")


@dataclass(frozen=True, kw_only=True)
class Faults:
    """What goes wrong, and when."""

    fits: int = 1000  # clips; more at once run out of memory
    nan_above: float = 256.0  # clips brighter than this on average become NaN
    kill_at: str = ""  # a file: where it is not, the first batch makes it and kills its process
    kill_always: bool = False
    error: str = ""  # raised at the first batch
    slow_s: float = 0.0  # a batch
    scale: float = 0.9


@dataclass(frozen=True)
class FakeLatents:
    mean: Tensor
    logvar: Tensor


def fake_header(spec: ClipSpec, weights: str = "fake") -> EncoderHeader:
    rows = max(spec.frames, GRID)
    return EncoderHeader(
        spec=spec,
        channels=4,
        planes=PLANES,
        rows=rows,
        columns=GRID,
        valid_rows=(GRID, spec.frames, spec.frames) * 2,
        weights=weights,
        config={"fake": True, "widths": (4, 4)},
    )


@dataclass(frozen=True)
class OpenFake:
    """The factory: picklable, as the real one must be."""

    spec: ClipSpec
    faults: Faults = Faults()
    weights: str = "fake"

    @property
    def header(self) -> EncoderHeader:
        return fake_header(self.spec, self.weights)

    def but(self, **faults: object) -> OpenFake:
        return replace(self, faults=Faults(**faults))

    def __call__(self, *, device: str, batch_size: int, compile: bool) -> FakeEncoder:
        return FakeEncoder(self.header, self.faults, batch_size)


class FakeEncoder:
    def __init__(self, header: EncoderHeader, faults: Faults, batch_size: int) -> None:
        self.header, self._faults, self.batch_size = header, faults, batch_size

    def encode(self, frames: Tensor, mel: Tensor) -> FakeLatents:
        assert len(frames) == len(mel) <= self.batch_size
        self._misbehave()
        bright = frames.float().mean((1, 2, 3, 4)) > self._faults.nan_above
        video = frames.float().permute(0, 4, 1, 2, 3) / 127.5 - 1
        sound = mel.float()[:, None]
        video = torch.cat([video, video.mean(1, keepdim=True)], 1)
        sound = torch.cat([sound * scale for scale in (1, 0.5, -0.5, 0.25)], 1)
        planes = [*self._planes(video), *self._planes(sound)]
        mean = torch.stack(planes, 2) * self._faults.scale
        mean[bright, 0, 0, 0, 0] = torch.nan
        return FakeLatents(mean, mean.abs() - 6)

    def decode(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        spec = self.header.spec
        latents = latents / self._faults.scale
        frames = F.interpolate(latents[:, :3, 0, :GRID], (spec.size, spec.size))  # (B, 3, H, W)
        frames = ((frames + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        mel = F.interpolate(latents[:, :1, 3, :GRID], (spec.n_mels, spec.columns))  # (B, 1, n_mels, W)
        return (
            frames[:, None].repeat(1, spec.frames, 1, 1, 1),
            mel.clamp(-1, 1).repeat(1, spec.frames, 1, 1),
        )

    def _planes(self, volume: Tensor) -> list[Tensor]:
        """(B, C, T, H, W) -> three planes (B, C, rows, GRID), zero under their own rows."""
        pooled = F.adaptive_avg_pool3d(volume, (volume.shape[2], GRID, GRID))
        planes = [pooled.mean(2), pooled.mean(3), pooled.mean(4)]
        return [F.pad(plane, (0, 0, 0, self.header.rows - plane.shape[2])) for plane in planes]

    def _misbehave(self) -> None:
        faults = self._faults
        time.sleep(faults.slow_s)
        if self.batch_size > faults.fits:
            raise torch.OutOfMemoryError(f"{self.batch_size} clips do not fit")
        if faults.error:
            raise ValueError(faults.error)
        if faults.kill_at and not Path(faults.kill_at).exists():
            Path(faults.kill_at).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if faults.kill_always:
            os.kill(os.getpid(), signal.SIGKILL)
