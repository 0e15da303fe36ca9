"""A clip's files to its fields, checked against the output header: what every reader of shards decodes with.

    clips     frames uint8 (T, H, W, RGB) | mel float16 (T, n_mels, W) | waveform float32 (samples,)
    latents   latent float16 (C, P, rows, columns) | logvar, of the same kind
    both      labels, a list of str | caption str
              json, the clip header that has both: source, start_s, stop_s, labels, caption, has_audio, ...

Files are not trusted: lengths are compared before anything is decompressed, and values after it.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from avprep.shards.clips import DecodeH264, known_labels, load_npy, load_waveform, unpack_frames
from avprep.shards.latents import CARRIED_FIELDS, CARRIED_IF_THERE, EncoderHeader, unpack
from avprep.shards.layout import AUDIO, CLIP_HEADER, LATENT, LOGVAR, MEL, MOST_CLIP_HEADER, ShardError
from avprep.shards.tar import Members
from avprep.spec import ClipSpec

_TYPES = {
    "source": str,
    "caption": str,
    "caption_from": str,
    "labels": list,
    "start_s": float,
    "stop_s": float,
    "has_audio": bool,
}
_ONE = 0x3C00  # the bits of 1.0 in float16

# What json, NumPy, Pillow (SyntaxError, OSError, struct.error), soundfile (RuntimeError) and an H.264 decoder
# (ValueError) raise on bytes that are no such file; each is a property of the clip.
_DAMAGE = (
    ValueError,
    KeyError,
    OSError,
    EOFError,
    SyntaxError,
    RuntimeError,
    struct.error,
    MemoryError,
    OverflowError,
)

# A clip's fields by name.
Item = dict[str, Any]


class _TextFields:
    """The fields of a clip's header, which clips and latents have alike."""

    def json(self, members: Members) -> dict[str, Any]:
        return load_clip_header(members[CLIP_HEADER])

    def labels(self, members: Members) -> list[str]:
        return self.json(members)["labels"]

    def caption(self, members: Members) -> str:
        return self.json(members)["caption"]


@dataclass(frozen=True)
class ClipDecoder(_TextFields):
    """A clip's files to its fields. Raises ShardError for files that are not of the spec."""

    spec: ClipSpec
    fields: tuple[str, ...]
    decode_h264: DecodeH264 | None  # None where no frames are decoded

    def __call__(self, members: Members) -> Item:
        return {field: getattr(self, field)(members) for field in self.fields}

    def frames(self, members: Members) -> np.ndarray:
        assert self.decode_h264 is not None
        frames = unpack_frames(members, self.spec.frames_shape, self.decode_h264)
        return _checked("frames", frames, self.spec.frames_shape, np.uint8)

    def mel(self, members: Members) -> np.ndarray:
        mel = _checked("a mel stack", load_npy(members[MEL]), self.spec.mel_shape, np.float16)
        return _in_unit_range("a mel stack", mel)

    def waveform(self, members: Members) -> np.ndarray:
        return load_waveform(members[AUDIO], self.spec)


@dataclass(frozen=True)
class LatentDecoder(_TextFields):
    """A latent's files to its fields. Raises ShardError for files that are not of the header."""

    encoder: EncoderHeader
    fields: tuple[str, ...]

    def __call__(self, members: Members) -> Item:
        return {field: getattr(self, field)(members) for field in self.fields}

    def latent(self, members: Members) -> np.ndarray:
        return _in_unit_range("a latent", self._stack("a latent", members[LATENT]))

    def logvar(self, members: Members) -> np.ndarray:
        logvar = self._stack("a log-variance", members[LOGVAR])
        if not np.isfinite(logvar).all():
            raise ShardError("a log-variance with NaN or infinity")
        return logvar

    def _stack(self, name: str, data: bytes) -> np.ndarray:
        return _checked(name, unpack(load_npy(data), self.encoder), self.encoder.shape, np.float16)


def load_clip_header(data: bytes) -> dict[str, Any]:
    """The clip header in KEY.json; `labels` is empty where the file has none or the one that stands for none.

    Raises:
        ShardError: no JSON object, or one of `CARRIED_FIELDS` missing; one of them, or of `CARRIED_IF_THERE`,
            of another type.
    """
    if len(data) > MOST_CLIP_HEADER:
        raise ShardError(f"a clip header of {len(data):,} bytes; at most {MOST_CLIP_HEADER:,} are read")
    try:
        header = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ShardError(f"a clip header that is no JSON: {error}") from error
    if not isinstance(header, dict):
        raise ShardError(f"a clip header that is a {type(header).__name__}, not an object")
    for name in (*CARRIED_FIELDS, *(name for name in CARRIED_IF_THERE if name in header)):
        value, kind = header.get(name), _TYPES[name]
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
            raise ShardError(f"a clip header with {name} = {_short(value)}, which is no {kind.__name__}")
    if not all(type(label) is str for label in header["labels"]):
        raise ShardError(f"a clip header with labels = {_short(header['labels'])}, which are not all text")
    return header | {"labels": known_labels(header["labels"])}


def decoded(name: str, decode: Callable[[Members], Item], members: Members) -> Item:
    """The fields of a clip. Raises ShardError with the clip's `name` where its files are damaged."""
    try:
        return decode(members)
    except _DAMAGE as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else f"cannot be read: {error}"
        raise ShardError(f"{name} {what}") from error


def _checked(name: str, array: np.ndarray, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    if array.shape != shape or array.dtype != dtype:
        raise ShardError(f"{name} of {array.dtype} {array.shape}, not {np.dtype(dtype)} {shape}")
    return array


def _in_unit_range(name: str, array: np.ndarray) -> np.ndarray:
    """Float16 values in [-1, 1], by their bits: arithmetic in float16 takes 20 times as long."""
    if array.size and (array.view(np.uint16) & 0x7FFF).max() > _ONE:
        raise ShardError(f"{name} with values outside [-1, 1], or NaN")
    return array


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
