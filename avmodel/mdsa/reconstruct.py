"""Clips beside their reconstructions: what the MDSA keeps, to watch, to hear and in decibels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from avmodel.data import ClipData, collate
from avmodel.mdsa.checkpoint import open_codec
from avmodel.training.loop import CheckpointError
from avprep.dsp.griffin_lim import invert
from avprep.dsp.mel import mel_stack, pad_with_silence
from avprep.dsp.psnr import psnr_a, psnr_v
from avprep.media.mux import write_mp4
from avprep.shards.clips import load_waveform
from avprep.shards.layout import AUDIO


@dataclass(frozen=True, kw_only=True)
class ReconstructOptions:
    ckpt: Path
    clips: str
    out: Path
    limit: int | None  # clips; spread over all
    batch_size: int
    device: str


@dataclass(frozen=True)
class Reconstructed:
    """How near one clip's reconstruction is, in dB."""

    key: str
    psnr_v: float
    psnr_a: float  # of the mel stack
    mel_psnr: float  # of the mel stack after Griffin-Lim: what is heard


def reconstruct(options: ReconstructOptions) -> Iterator[Reconstructed]:
    """Writes KEY.mp4 for each clip: original at the left, reconstruction at the right, in picture and sound.

    Raises:
        CheckpointError: a bad checkpoint, or one trained on clips of another spec.
        ShardError: bad shards.
    """
    codec = open_codec(options.ckpt, device=options.device, batch_size=options.batch_size, compile=False)
    data = ClipData(options.clips)
    if data.spec != codec.header.spec:
        raise CheckpointError(
            f"{options.ckpt} was trained on other clips: those of {options.clips} have "
            f"{data.spec.differences(codec.header.spec)}"
        )
    options.out.mkdir(parents=True, exist_ok=True)
    count = min(options.limit or len(data), len(data))
    chosen = [int(i * len(data) / count) for i in range(count)]
    for first in range(0, count, options.batch_size):
        positions = chosen[first : first + options.batch_size]
        batch = collate([data[i] for i in positions])
        frames, mel = codec.decode(codec.encode(batch.frames, batch.mel).mean)
        heard = invert(mel, data.spec)
        again = mel_stack(pad_with_silence(heard.waveform, data.spec), data.spec)
        near = (psnr_v(batch.frames, frames), psnr_a(batch.mel, mel), psnr_a(batch.mel, again))
        for i, position in enumerate(positions):
            key = data.index.keys[position]
            original = load_waveform(data.members(position)[AUDIO], data.spec)
            _write_pair(
                options.out / f"{key}.mp4",
                batch.frames[i],
                frames[i],
                original,
                heard.waveform[i].numpy(),
                data,
            )
            yield Reconstructed(key, *(float(values[i]) for values in near))


def _write_pair(
    path: Path, original: Tensor, frames: Tensor, sound: np.ndarray, heard: np.ndarray, data: ClipData
) -> None:
    pair = torch.cat([original, frames], dim=2).numpy()
    write_mp4(path, pair, np.stack([sound, heard]), fps=data.spec.fps, sample_rate=data.spec.sample_rate)
