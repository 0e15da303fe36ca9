"""Mel stacks back to sound: from a clips directory, one shard or a .npy file to .wav files, in batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import soundfile
import torch

from avprep.media.griffin_lim import invert
from avprep.shards.clips import ShardError, load_npy, read_shard
from avprep.shards.store import Store, open_store
from avprep.shards.verify import read_header
from avprep.spec import ClipSpec


@dataclass(frozen=True, kw_only=True)
class InvertOptions:
    iterations: int
    momentum: float
    batch_size: int
    device: str
    seed: int


@dataclass(frozen=True)
class InvertedClip:
    key: str
    mel_psnr: float   # dB of the round trip, peak 2 on the [-1, 1] stack


def mel_stacks(path: str, spec: ClipSpec | None) -> tuple[ClipSpec, Iterator[tuple[str, np.ndarray]]]:
    """The spec of what lies at `path`, and its stacks by key.

    A clips directory brings its spec; a single shard or .npy takes the spec.json two folders up or beside
    it, else `spec`.

    Raises:
        ShardError: nothing there that holds mel stacks, or stacks of another shape than the spec's.
    """
    where = Path(path)
    if where.suffix == ".npy" and where.is_file():
        spec = spec or _spec_near(where)
        return spec, _checked(_from_npy(where), spec)
    if where.suffix == ".tar" and where.is_file():
        spec = spec or _spec_near(where)
        return spec, _checked(_from_store(open_store(where.parent), where.name), spec)
    store = open_store(path)
    spec = ClipSpec.from_dict(read_header(store)["spec"])
    shards = (stack for name in store.names("shards") for stack in _from_store(store, name))
    return spec, _checked(shards, spec)


def invert_to_wav(
    stacks: Iterator[tuple[str, np.ndarray]], spec: ClipSpec, out: Path, options: InvertOptions
) -> Iterator[InvertedClip]:
    """Writes KEY.wav (16 bit, the spec's rate) for each stack; yields how near its mel came."""
    out.mkdir(parents=True, exist_ok=True)
    while batch := list(islice(stacks, options.batch_size)):
        stack = torch.from_numpy(np.stack([s for _, s in batch]).astype(np.float32)).to(options.device)
        inverted = invert(
            stack, spec, iterations=options.iterations, momentum=options.momentum, seed=options.seed
        )
        waveforms, psnrs = inverted.waveform.cpu().numpy(), inverted.mel_psnr.cpu().tolist()
        for (key, _), waveform, psnr in zip(batch, waveforms, psnrs, strict=True):
            soundfile.write(out / f"{key}.wav", waveform, spec.sample_rate, subtype="PCM_16")
            yield InvertedClip(key, psnr)


def _spec_near(path: Path) -> ClipSpec:
    for folder in (path.parent, path.parent.parent):
        if (folder / "spec.json").is_file():
            return ClipSpec.from_dict(read_header(open_store(folder))["spec"])
    return ClipSpec()


def _from_npy(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    try:
        array = np.load(path, allow_pickle=False)  # anybody's file: any layout that numpy knows
    except (ValueError, EOFError, SyntaxError) as error:
        raise ShardError(f"{path} holds no mel stack: {error}") from error
    stacks = array[None] if array.ndim == 3 else array
    for i, stack in enumerate(stacks):
        yield (path.stem if len(stacks) == 1 else f"{path.stem}_{i:05d}"), stack


def _from_store(store: Store, name: str) -> Iterator[tuple[str, np.ndarray]]:
    with store.open(name) as file:
        for key, members in read_shard(file):
            if "mel.npy" not in members:
                raise ShardError(f"{name} {key} holds no mel stack: is it an output of avprep clip?")
            yield key, load_npy(members["mel.npy"])


def _checked(stacks: Iterator[tuple[str, np.ndarray]], spec: ClipSpec) -> Iterator[tuple[str, np.ndarray]]:
    for key, stack in stacks:
        if stack.shape != spec.mel_shape:
            raise ShardError(f"{key}: a mel stack of {stack.shape}; the spec says {spec.mel_shape}")
        yield key, stack
