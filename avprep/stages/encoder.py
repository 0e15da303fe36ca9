"""What the jobs know of a model: a Protocol, and how many clips at once it can take here."""

from __future__ import annotations

import gc
import time
from typing import Protocol

import torch
from torch import Tensor

from avprep.errors import AvprepError
from avprep.shards.latents import EncoderHeader
from avprep.spec import ClipSpec

MAX_BATCH = 256  # clips: beyond it nothing is gained, and a shard has no more
_GROWTH = 1.05  # a larger batch must be this much faster, where memory is not the limit
_OUT_OF_MEMORY = (torch.OutOfMemoryError, MemoryError)
_CPU_OUT_OF_MEMORY = "can't allocate memory"  # torch's CPU allocator raises a plain RuntimeError


class Latents(Protocol):
    """float32 (B, C, P, rows, columns) on the CPU; `mean` in [-1, 1]."""

    @property
    def mean(self) -> Tensor: ...

    @property
    def logvar(self) -> Tensor: ...


class Encoder(Protocol):
    """A trained model, open on one device for one batch size."""

    header: EncoderHeader

    def encode(self, frames: Tensor, mel: Tensor) -> Latents:
        """frames uint8 (B, T, H, W, RGB), mel float16 (B, T, n_mels, W), on the CPU; B up to batch_size.

        Raises:
            torch.OutOfMemoryError, MemoryError: the batch is too large.
        """

    def decode(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, P, rows, columns) -> frames uint8 (B, T, H, W, RGB), mel float32 (B, T, n_mels, W)."""


class EncoderFactory(Protocol):
    """Opens the encoder in the process that uses it; travels there, so it holds no weights."""

    def __call__(self, *, device: str, batch_size: int, compile: bool) -> Encoder: ...


class EncodeError(AvprepError):
    """The encoder cannot do what it is asked for: a sentence."""


def try_encode(encoder: Encoder, frames: Tensor, mel: Tensor, batch_size: int) -> list[Latents] | None:
    """The latents in batches of that size, or None where memory ran out; what ran out is let go of."""
    try:
        return [
            encoder.encode(frames[i : i + batch_size], mel[i : i + batch_size])
            for i in range(0, len(frames), batch_size)
        ]
    except _OUT_OF_MEMORY:
        return None
    except RuntimeError as error:
        if _CPU_OUT_OF_MEMORY not in str(error):
            raise
        return None


def release(device: str) -> None:
    """Gives back what dropped tensors held."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def find_batch_size(open_encoder: EncoderFactory, spec: ClipSpec, device: str) -> int:
    """The batch size to use here: doubled until memory runs out or, on a CPU, until it is no faster.

    The clips are noise, and the model is not compiled: that takes more memory, and compiling for each size
    would take minutes.

    Raises:
        EncodeError: not even one clip fits.
    """
    if device == "cpu":
        torch.set_num_threads(1)
    best, best_rate, size = 0, 0.0, 1
    while size <= MAX_BATCH:
        rate = _clips_per_s(open_encoder, spec, device, size)
        release(device)
        if rate is None:
            break
        if device == "cpu" and rate < best_rate * _GROWTH:
            break
        best, best_rate, size = size, max(rate, best_rate), size * 2
    if not best:
        raise EncodeError(f"out of memory on {device} with a single clip")
    return best


def _clips_per_s(open_encoder: EncoderFactory, spec: ClipSpec, device: str, size: int) -> float | None:
    """None where memory runs out."""
    frames = torch.randint(0, 256, (size, *spec.frames_shape), dtype=torch.uint8)
    mel = torch.rand(size, *spec.mel_shape).to(torch.float16)
    try:
        encoder = open_encoder(device=device, batch_size=size, compile=False)
    except _OUT_OF_MEMORY:
        return None
    if try_encode(encoder, frames, mel, size) is None:  # the first is slower than the rest
        return None
    started = time.perf_counter()
    if try_encode(encoder, frames, mel, size) is None:
        return None
    return size / (time.perf_counter() - started)
