"""Latents back to what is seen and heard: an mp4 per clip, beside its original where that is given.

The check that catches published latents that decode wrongly: they are decoded from the shards' own bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from avprep.dsp.griffin_lim import invert
from avprep.dsp.psnr import psnr_a, psnr_v
from avprep.media.mux import decode_frames, write_mp4
from avprep.shards.decoders import ClipDecoder, LatentDecoder, decoded
from avprep.shards.latents import EncoderHeader
from avprep.shards.layout import ShardError
from avprep.shards.ledger import finished_shards, read_record
from avprep.shards.lock import lock
from avprep.shards.store import LocalStore, Store
from avprep.shards.tar import Members, largest_clip, largest_latent, read_named_shard
from avprep.shards.whole import whole_path
from avprep.spec import ClipSpec
from avprep.stages.encoder import Encoder


@dataclass(frozen=True)
class Original:
    """A clip as it was encoded."""

    frames: np.ndarray  # uint8 (T, H, W, RGB)
    mel: np.ndarray  # float16 (T, n_mels, W)
    waveform: np.ndarray  # float32 (samples,)


@dataclass(frozen=True)
class StoredLatent:
    key: str
    latent: np.ndarray  # float16 (C, P, rows, columns)
    original: Original | None


@dataclass(frozen=True)
class DecodedClip:
    """What was written, and how near it came to the original, where there is one."""

    key: str
    psnr_v: float | None  # dB, of the frames
    psnr_a: float | None  # dB, of the mel stack


def stored_latents(
    latents: Store, header: EncoderHeader, clips: Store | None, *, keys: frozenset[str] | None = None
) -> Iterator[StoredLatent]:
    """The latents of an output, in order, with their clips of `clips` if that is given.

    Args:
        keys: of the clips that are decoded; None: all.

    Raises:
        ShardError: a damaged shard, or a clip that is not in `clips`.
    """
    for index in finished_shards(latents):
        record = read_record(latents, index)
        if not record.name:
            continue
        originals = _originals(clips, index, header.spec) if clips else None
        for key, members in read_named_shard(latents, record.name, largest_latent(header.shape)):
            if keys is not None and key not in keys:
                continue
            latent = decoded(f"{record.name}: clip {key}", LatentDecoder(header, ("latent",)), members)
            original = _original_of(key, originals, header.spec) if originals is not None else None
            yield StoredLatent(key, latent["latent"], original)


def decode_to_mp4(
    latents: Iterator[StoredLatent], encoder: Encoder, out: Path, *, batch_size: int, device: str
) -> Iterator[DecodedClip]:
    """Writes KEY.mp4 for each latent. With an original: it on the left, in picture and in sound.

    Raises:
        MuxError: the spec's sound or pictures do not fit an mp4.
        OutputInUse: another run writes into `out`.
    """
    spec = encoder.header.spec
    with lock(LocalStore(str(out))):
        while batch := list(islice(latents, batch_size)):
            stack = torch.from_numpy(np.stack([stored.latent for stored in batch]).astype(np.float32))
            frames, mel = encoder.decode(stack)
            waveforms = invert(mel.to(device), spec).waveform.cpu().numpy()
            for i, stored in enumerate(batch):
                yield _write(out, stored, frames[i], mel[i], waveforms[i], spec)


def _write(
    out: Path, stored: StoredLatent, frames: Tensor, mel: Tensor, waveform: np.ndarray, spec: ClipSpec
) -> DecodedClip:
    pictures, sound = frames.numpy(), waveform
    psnrs: tuple[float | None, float | None] = (None, None)
    if stored.original is not None:
        original = stored.original
        pictures = np.concatenate([original.frames, pictures], 2)
        sound = np.stack([original.waveform, waveform])
        psnrs = (
            psnr_v(frames[None], torch.from_numpy(original.frames.copy())[None]).item(),
            psnr_a(mel[None], torch.from_numpy(original.mel.copy())[None]).item(),
        )
    with whole_path(out / f"{stored.key}.mp4") as path:
        write_mp4(path, pictures, sound, fps=spec.fps, sample_rate=spec.sample_rate)
    return DecodedClip(stored.key, *psnrs)


def _originals(clips: Store, index: int, spec: ClipSpec) -> Iterator[tuple[str, Members]]:
    """The clips of the shard of that index, one in memory at a time."""
    try:
        yield from read_named_shard(clips, read_record(clips, index).name, largest_clip(spec))
    except FileNotFoundError as error:
        raise ShardError(f"shard {index} of {clips.uri} is not there: {error}") from error


def _original_of(key: str, originals: Iterator[tuple[str, Members]], spec: ClipSpec) -> Original:
    decode = ClipDecoder(spec, ("frames", "mel", "waveform"), decode_frames)
    for found, members in originals:
        if found == key:
            return Original(**decoded(f"clip {key} of the clips", decode, members))
        if found > key:
            break
    raise ShardError(f"clip {key} is not there: the latents were made of other clips")
