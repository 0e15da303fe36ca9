"""Mel stacks back to sound: from a clips directory, one shard or a .npy file to .wav files, in batches.

KEY.wav            16 bit, the spec's rate
inverted.jsonl     a line per wav that is whole: its PSNRs, and the hash of all that it was made of
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from avprep.dsp.griffin_lim import invert
from avprep.dsp.mel import mel_stack, pad_with_silence
from avprep.dsp.psnr import psnr_a
from avprep.shards.clips import load_npy
from avprep.shards.layout import HEADER_FILE, MEL, SHARDS_FOLDER, ShardError, read_header, spec_of
from avprep.shards.lock import lock
from avprep.shards.store import LocalStore, Store, open_store
from avprep.shards.tar import largest_clip, read_named_shard
from avprep.shards.whole import whole_path
from avprep.spec import ClipSpec
from avprep.stages.options import InvertOptions

RECORD = "inverted.jsonl"
_LARGEST = 2.0  # a model's output may lie a little beyond [-1, 1]; decibels and NaN are a mistake


@dataclass(frozen=True)
class InvertedClip:
    """How near a clip's sound came, as mel PSNR in dB, peak 2 on the [-1, 1] stack."""

    key: str
    solution_psnr: float  # of the solution with the context that its edge columns reach into
    file_psnr: float  # of the samples in the file, between silence
    is_silent: bool  # nothing to come near to: both are the highest that PSNR-A gives
    is_kept: bool = False  # an earlier run made the file


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
        return spec, _checked(_from_store(open_store(where.parent), where.name, spec), spec)
    store = open_store(path)
    spec = spec_of(read_header(store))
    shards = (stack for name in store.names(SHARDS_FOLDER) for stack in _from_store(store, name, spec))
    return spec, _checked(shards, spec)


def invert_to_wav(
    stacks: Iterator[tuple[str, np.ndarray]], spec: ClipSpec, out: Path, options: InvertOptions
) -> Iterator[InvertedClip]:
    """Writes KEY.wav for each stack; yields how near its mel came. A wav that an earlier run made of the same
    stack with the same options is kept.

    An edge column's window is half outside the file, so `file_psnr` is the lower of the two; even the
    samples that a stack was made from come to no more than about 48 dB without their context.

    Raises:
        OutputInUse: another run writes into `out`.
    """
    stacks = islice(stacks, options.limit)
    with lock(LocalStore(str(out))):
        record = _Record(out, spec, options)
        while batch := list(islice(stacks, options.batch_size)):
            found = [record.kept(key, mel) for key, mel in batch]
            missing = [clip for clip, kept in zip(batch, found, strict=True) if kept is None]
            made = _inverted(missing, spec, out, options) if missing else iter(())
            for (_, mel), kept in zip(batch, found, strict=True):
                clip = kept or next(made)
                if kept is None:
                    record.add(clip, mel)
                yield clip


def _inverted(
    batch: list[tuple[str, np.ndarray]], spec: ClipSpec, out: Path, options: InvertOptions
) -> Iterator[InvertedClip]:
    """Inverts the stacks at once; each wav is whole when its clip is yielded."""
    stack = torch.from_numpy(np.stack([s for _, s in batch]).astype(np.float32)).to(options.device)
    inverted = invert(
        stack, spec, iterations=options.iterations, momentum=options.momentum, seed=options.seed
    )
    samples = _as_int16(inverted.waveform)
    file_psnrs = _file_psnr(stack, samples, spec).tolist()
    waves = samples.cpu().numpy()
    psnrs = zip(inverted.psnr_a.tolist(), file_psnrs, strict=True)
    for (key, mel), wave, (solution, file) in zip(batch, waves, psnrs, strict=True):
        with whole_path(out / f"{key}.wav") as path:
            soundfile.write(path, wave, spec.sample_rate, subtype="PCM_16", format="WAV")
        yield InvertedClip(key, solution, file, is_silent=bool((mel <= -1).all()))


class _Record:
    """inverted.jsonl: what each wav was made of, so that the same command makes only what is missing."""

    def __init__(self, out: Path, spec: ClipSpec, options: InvertOptions) -> None:
        self._out, self._path = out, out / RECORD
        deciding = asdict(options)
        for name in ("limit", "batch_size"):  # a clip's samples do not depend on them
            del deciding[name]
        self._made_of = json.dumps([spec.to_dict(), deciding]).encode()
        self._clips = dict(self._read())

    def kept(self, key: str, mel: np.ndarray) -> InvertedClip | None:
        """What is known of the wav of that stack, if it is there."""
        made_of, clip = self._clips.get(key, ("", None))
        if clip is None or made_of != self._hash(mel) or not (self._out / f"{key}.wav").is_file():
            return None
        return replace(clip, is_kept=True)

    def add(self, clip: InvertedClip, mel: np.ndarray) -> None:
        entry = asdict(clip) | {"made_of": self._hash(mel)}
        del entry["is_kept"]
        with open(self._path, "a") as file:
            file.write(json.dumps(entry) + "\n")

    def _hash(self, mel: np.ndarray) -> str:
        return hashlib.blake2b(self._made_of + mel.tobytes(), digest_size=16).hexdigest()

    def _read(self) -> Iterator[tuple[str, tuple[str, InvertedClip]]]:
        """The entries by key. A line that a killed run left unfinished is ended, and says nothing."""
        text = self._path.read_text() if self._path.is_file() else ""
        if text and not text.endswith("\n"):
            with open(self._path, "a") as file:
                file.write("\n")
        for line in text.splitlines():
            try:
                entry = json.loads(line)
                made_of = entry.pop("made_of")
                yield entry["key"], (made_of, InvertedClip(**entry))
            except (ValueError, TypeError, KeyError, AttributeError):
                continue


def _as_int16(waveform: Tensor) -> Tensor:
    return (waveform * 32768).round().clamp(-32768, 32767).to(torch.int16)


def _file_psnr(stack: Tensor, samples: Tensor, spec: ClipSpec) -> Tensor:
    """dB (B,) of the mel stack that the int16 samples (B, samples) of a file give."""
    return psnr_a(stack, mel_stack(pad_with_silence(samples.float() / 32768, spec), spec))


def _spec_near(path: Path) -> ClipSpec:
    for folder in (path.parent, path.parent.parent):
        if (folder / HEADER_FILE).is_file():
            return spec_of(read_header(open_store(folder)))
    return ClipSpec()


def _from_npy(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    try:
        array = np.load(path, allow_pickle=False)  # anybody's file: any layout that numpy knows
    except (ValueError, EOFError, SyntaxError) as error:
        raise ShardError(f"{path} holds no mel stack: {error}") from error
    stacks = array[None] if array.ndim == 3 else array
    for i, stack in enumerate(stacks):
        yield (path.stem if len(stacks) == 1 else f"{path.stem}_{i:05d}"), stack


def _from_store(store: Store, name: str, spec: ClipSpec) -> Iterator[tuple[str, np.ndarray]]:
    for key, members in read_named_shard(store, name, largest_clip(spec)):
        if MEL not in members:
            raise ShardError(f"{name} {key} holds no mel stack: is it an output of avprep clip?")
        yield key, load_npy(members[MEL])


def _checked(stacks: Iterator[tuple[str, np.ndarray]], spec: ClipSpec) -> Iterator[tuple[str, np.ndarray]]:
    for key, stack in stacks:
        if stack.shape != spec.mel_shape:
            raise ShardError(f"{key}: a mel stack of {stack.shape}; the spec says {spec.mel_shape}")
        if stack.dtype.kind not in "fiu":
            raise ShardError(f"{key}: a mel stack of {stack.dtype}; real numbers are wanted")
        farthest = stack.flat[np.abs(stack.astype(np.float32)).argmax()]  # NaN, where there is one
        if not abs(float(farthest)) <= _LARGEST:
            raise ShardError(f"{key}: a mel stack lies in [-1, 1]; this one holds {farthest:g}")
        yield key, stack
