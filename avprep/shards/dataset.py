"""Finished outputs as map-style datasets: any clip by its position or its key, as NumPy arrays.

`torch.utils.data.DataLoader` takes them as they are; torch is not needed. An item is a dict:

    clips     key str | frames uint8 (T, H, W, RGB) | mel float16 (T, n_mels, W) | waveform float32 (samples,)
    latents   key str | latent float16 (C, P, rows, columns) | logvar, of the same kind (where stored)
    both      json, the clip's header: source, start_s, stop_s, labels, caption, ...
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import index as as_index
from typing import Any

import numpy as np

from avprep.errors import ArgumentError, ClipNotFound
from avprep.shards.clips import Members, ShardError, load_npy, load_waveform, unpack_frames
from avprep.shards.index import ClipReader, ShardIndex, index_shards
from avprep.shards.latents import KIND as LATENTS_KIND
from avprep.shards.latents import EncoderHeader, unpack
from avprep.shards.store import open_store
from avprep.shards.verify import kind_of, read_header
from avprep.spec import ClipSpec

CLIP_FIELDS = ("frames", "mel", "waveform", "json")
LATENT_FIELDS = ("latent", "logvar", "json")
# What json, numpy, Pillow (SyntaxError, OSError, struct.error), soundfile (RuntimeError) and an H.264 decoder
# (ValueError) raise on bytes that are no such file.
_DAMAGE = (ValueError, KeyError, OSError, EOFError, SyntaxError, RuntimeError, struct.error)

DecodeH264 = Callable[[bytes], np.ndarray]
# A clip's fields by name.
Item = dict[str, Any]


@dataclass(frozen=True)
class ClipDecoder:
    """A clip's files to its fields. Raises ShardError for files that are not of the spec."""

    spec: ClipSpec
    fields: tuple[str, ...]
    decode_h264: DecodeH264

    def __call__(self, members: Members) -> Item:
        return {field: getattr(self, field)(members) for field in self.fields}

    def frames(self, members: Members) -> np.ndarray:
        return _checked("frames", unpack_frames(members, self.decode_h264), self.spec.frames_shape, np.uint8)

    def mel(self, members: Members) -> np.ndarray:
        return _checked("mel", load_npy(members["mel.npy"]), self.spec.mel_shape, np.float16)

    def waveform(self, members: Members) -> np.ndarray:
        return _checked("waveform", load_waveform(members["audio.flac"]), (self.spec.samples,), np.float32)

    def json(self, members: Members) -> dict[str, Any]:
        return json.loads(members["json"])


@dataclass(frozen=True)
class LatentDecoder:
    """A latent's files to its fields. Raises ShardError for files that are not of the header."""

    encoder: EncoderHeader
    fields: tuple[str, ...]

    def __call__(self, members: Members) -> Item:
        return {field: getattr(self, field)(members) for field in self.fields}

    def latent(self, members: Members) -> np.ndarray:
        return self._stack("latent", members["latent.npy"])

    def logvar(self, members: Members) -> np.ndarray:
        return self._stack("logvar", members["logvar.npy"])

    def json(self, members: Members) -> dict[str, Any]:
        return json.loads(members["json"])

    def _stack(self, name: str, data: bytes) -> np.ndarray:
        return _checked(name, unpack(load_npy(data), self.encoder), self.encoder.shape, np.float16)


class _MapStyle:
    """What both datasets share: an index, a reader per process, and a decoder."""

    def __init__(self, out: str, index: ShardIndex, decode: Callable[[Members], Item]) -> None:
        self._out, self.index, self._decode = out, index, decode
        self._reader: ClipReader | None = None
        self._positions: dict[str, int] | None = None

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, position: int) -> Item:
        """The clip at a position; -1 is the last.

        Raises:
            IndexError: no such position.
            ShardError: the shard has changed since it was indexed, or the clip's files are damaged.
        """
        position = self._position(position)
        members, key = self.members(position), self.index.keys[position]
        return {"key": key} | decoded(f"{self._out}: clip {key}", self._decode, members)

    @property
    def keys(self) -> tuple[str, ...]:
        """The clips' keys, by position: ascending by shard, and by key in a shard."""
        return self.index.keys

    def by_key(self, key: str) -> Item:
        """The clip of a key. Raises ClipNotFound, a KeyError, where there is none."""
        if self._positions is None:
            self._positions = {known: i for i, known in enumerate(self.keys)}
        if key not in self._positions:
            raise ClipNotFound(f"{self._out} holds no finished clip with key {key!r}")
        return self[self._positions[key]]

    def members(self, position: int) -> Members:
        """A clip's files as they lie in the shard: suffix ('mel.npy') to bytes."""
        if self._reader is None:  # one per process: opened where it is used
            self._reader = ClipReader(self.index)
        return self._reader[self._position(position)]

    def order(self, *, seed: int, epoch: int = 0, position: int = 0) -> Iterator[int]:
        """Positions of clips without end: shuffled epochs in a row, from the `position`-th of `epoch` on.

        Nothing but (seed, epoch, position) and the length decides them, so that a run that counts what it has
        taken goes on exactly where it was.
        """
        for name, value in (("seed", seed), ("epoch", epoch), ("position", position)):
            if value < 0:
                raise ArgumentError(f"{name} must be at least 0, not {value}")
        return _endless(len(self), seed, epoch * len(self) + position)

    def _position(self, position: int) -> int:
        position = as_index(position)
        if not -len(self) <= position < len(self):
            raise IndexError(f"position {position} of {len(self)} clips")
        return position % len(self)

    def __getstate__(self) -> dict[str, Any]:
        """Without the reader: its open files are this process's."""
        return self.__dict__ | {"_reader": None}


class ClipDataset(_MapStyle):
    """The clips of an output of `avprep clip`: those of its finished shards.

    Args:
        out: the output, a local folder.
        fields: what an item holds besides its key, of 'frames', 'mel', 'waveform' and 'json'; what is left
            out is not decoded.
        decode_h264: of frames that are stored as H.264; bytes to uint8 (T, H, W, RGB).
        index: which clips of the output, if not all; an empty one is no error.

    Raises:
        ArgumentError: an unknown field.
        ShardError: no such output, or nothing finished in it.
    """

    def __init__(
        self,
        out: str | os.PathLike[str],
        *,
        fields: Sequence[str] = ("frames", "mel", "json"),
        decode_h264: DecodeH264,
        index: ShardIndex | None = None,
    ) -> None:
        store = open_store(out)
        self.header = header_of(out, "clips")
        self.spec = ClipSpec.from_dict(self.header["spec"])
        decode = ClipDecoder(self.spec, checked_fields(fields, CLIP_FIELDS), decode_h264)
        super().__init__(store.uri, index_shards(store) if index is None else index, decode)


class LatentDataset(_MapStyle):
    """The latents of an output of `avprep encode`: those of its finished shards.

    `encoder` says what made them: spec, planes, rows, and the SHA-256 of the weights.

    Args:
        out: the output, a local folder.
        fields: what an item holds besides its key, of 'latent', 'logvar' and 'json'. 'logvar' is there where
            the output was made with `posterior`.

    Raises:
        ArgumentError: an unknown field, or 'logvar' where it is not stored.
        ShardError: no such output, or nothing finished in it.
    """

    def __init__(self, out: str | os.PathLike[str], *, fields: Sequence[str] = ("latent", "json")) -> None:
        store = open_store(out)
        self.header = header_of(out, LATENTS_KIND)
        self.encoder = EncoderHeader.from_dict(self.header)
        self.spec = self.encoder.spec
        fields = checked_fields(fields, latent_fields(self.header))
        super().__init__(store.uri, index_shards(store), LatentDecoder(self.encoder, fields))


def latent_fields(header: dict[str, Any]) -> tuple[str, ...]:
    """The fields that the latents of an output have."""
    has_logvar = header.get("options", {}).get("posterior", False)
    return tuple(field for field in LATENT_FIELDS if has_logvar or field != "logvar")


def checked_fields(fields: Sequence[str], known: tuple[str, ...]) -> tuple[str, ...]:
    """Raises ArgumentError for a field that the output does not have, and for a string in place of a list."""
    unknown = [fields] if isinstance(fields, str) else [name for name in fields if name not in known]
    if unknown:
        raise ArgumentError(f"fields must be of {', '.join(known)}; not {', '.join(map(repr, unknown))}")
    return tuple(fields)


def header_of(out: str | os.PathLike[str], kind: str | None) -> dict[str, Any]:
    """spec.json of an output. Raises ShardError where there is none or it is of another kind."""
    header = read_header(open_store(out))
    found = kind_of(header)
    if kind is not None and found != kind:
        made_by = "avprep encode" if kind == LATENTS_KIND else "avprep clip"
        raise ShardError(f"{os.fspath(out)} holds {found}, not {kind}: {made_by} makes them")
    return header


def decoded(name: str, decode: Callable[[Members], Item], members: Members) -> Item:
    """The fields of a clip. Raises ShardError with the clip's `name` where its files are damaged."""
    try:
        return decode(members)
    except _DAMAGE as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else f"cannot be read: {error}"
        raise ShardError(f"{name} {what}") from error


def shuffled(clips: int, seed: int, epoch: int) -> np.ndarray:
    """int64 (clips,): the order of an epoch."""
    return np.random.default_rng([seed, epoch]).permutation(clips)


def _endless(clips: int, seed: int, first: int) -> Iterator[int]:
    epoch, position = divmod(first, clips)
    while True:
        yield from shuffled(clips, seed, epoch)[position:].tolist()
        epoch, position = epoch + 1, 0


def _checked(name: str, array: np.ndarray, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    if array.shape != shape or array.dtype != dtype:
        raise ShardError(f"{name} of {array.dtype} {array.shape}, not {np.dtype(dtype)} {shape}")
    return array
