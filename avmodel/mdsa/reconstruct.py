"""Clips beside their reconstructions: what an autoencoder keeps, to be seen, heard and measured.

In OUT: KEY.mp4 (original left, reconstruction right, in picture and sound), and reconstructions.jsonl: what
was asked for, then a line of measures per finished clip. The same command continues where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from avmodel.data import ClipData, collate
from avmodel.mdsa.checkpoint import Codec, open_codec
from avmodel.mdsa.options import ReconstructOptions
from avmodel.training.errors import CheckpointError
from avmodel.training.source import shards_identity
from avprep.dsp.griffin_lim import invert
from avprep.dsp.mel import mel_stack, pad_with_silence
from avprep.dsp.psnr import psnr_a, psnr_v
from avprep.media.mux import write_mp4
from avprep.shards.clips import load_waveform
from avprep.shards.layout import AUDIO
from avprep.shards.lock import lock
from avprep.shards.store import open_store
from avprep.shards.whole import whole_path

RECORD_FILE = "reconstructions.jsonl"


@dataclass(frozen=True)
class Reconstructed:
    """How near one clip's reconstruction is, in dB."""

    key: str
    psnr_v: float
    psnr_a: float  # of the mel stack
    mel_psnr: float  # of the mel stack after Griffin-Lim: what is heard


@contextmanager
def open_reconstruction(options: ReconstructOptions) -> Iterator[Reconstruction]:
    """Loads the model and the clips, and takes the lock of `options.out`.

    Raises:
        CheckpointError: a bad checkpoint, or one trained on clips of another spec.
        ShardError: bad shards, or another run writes into `out`.
    """
    codec = open_codec(options.ckpt, device=options.device, batch_size=options.batch_size, compile=False)
    data = ClipData(options.clips)
    if data.spec != codec.header.spec:
        raise CheckpointError(
            f"{options.ckpt} was trained on other clips: those of {options.clips} have "
            f"{data.spec.differences(codec.header.spec)}"
        )
    with lock(open_store(options.out)):
        yield Reconstruction(options, codec, data)


class Reconstruction:
    """Up to `options.limit` clips, spread over all. Iterating reconstructs those in `waiting`."""

    def __init__(self, options: ReconstructOptions, codec: Codec, data: ClipData) -> None:
        self._options, self._codec, self._data = options, codec, data
        count = min(options.limit or len(data), len(data))
        chosen = [int(i * len(data) / count) for i in range(count)]
        self._request = {"ckpt": codec.header.weights, "clips": shards_identity(data.index)}
        known = self._known()
        keys = data.index.keys
        self.done = [known[keys[position]] for position in chosen if keys[position] in known]
        self.waiting = [position for position in chosen if keys[position] not in known]

    def __iter__(self) -> Iterator[Reconstructed]:
        size = self._options.batch_size
        if not self.done:
            self._begin_record()
        for first in range(0, len(self.waiting), size):
            yield from self._reconstruct(self.waiting[first : first + size])

    def _reconstruct(self, positions: list[int]) -> Iterator[Reconstructed]:
        data, codec = self._data, self._codec
        batch = collate([data[i] for i in positions])
        frames, mel = codec.decode(codec.encode(batch.frames, batch.mel).mean)
        heard = invert(mel, data.spec)
        again = mel_stack(pad_with_silence(heard.waveform, data.spec), data.spec)
        near = (psnr_v(batch.frames, frames), psnr_a(batch.mel, mel), psnr_a(batch.mel, again))
        for i, position in enumerate(positions):
            key = data.index.keys[position]
            original = load_waveform(data.members(position)[AUDIO], data.spec)
            sound = np.stack([original, heard.waveform[i].numpy()])
            _write_pair(self._options.out, key, batch.frames[i], frames[i], sound, data)
            row = Reconstructed(key, *(float(values[i]) for values in near))
            self._record(row)
            yield row

    def _known(self) -> dict[str, Reconstructed]:
        """The clips that an earlier run of this request finished, by key. A cut-off line is not one."""
        out = self._options.out
        try:
            lines = (out / RECORD_FILE).read_text().splitlines()
        except FileNotFoundError:
            return {}
        entries = [value for value in map(_parsed, lines) if value is not None]
        if not entries or entries[0] != self._request:
            return {}
        rows = (Reconstructed(**entry) for entry in entries[1:] if set(entry) == _FIELDS)
        return {row.key: row for row in rows if (out / f"{row.key}.mp4").exists()}

    def _begin_record(self) -> None:
        with open_store(self._options.out).write(RECORD_FILE) as file:
            file.write(f"{json.dumps(self._request)}\n".encode())

    def _record(self, row: Reconstructed) -> None:
        with open(self._options.out / RECORD_FILE, "a") as file:
            file.write(f"{json.dumps(asdict(row))}\n")


_FIELDS = set(Reconstructed.__dataclass_fields__)


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _write_pair(
    out: Path, key: str, original: Tensor, frames: Tensor, sound: np.ndarray, data: ClipData
) -> None:
    """Writes KEY.mp4 whole or not at all. sound: (2, samples)."""
    pair = torch.cat([original, frames], dim=2).numpy()
    with whole_path(out / f"{key}.mp4") as path:
        write_mp4(path, pair, sound, fps=data.spec.fps, sample_rate=data.spec.sample_rate)
