"""Finished outputs as map-style datasets: any clip by its position or its key, as NumPy arrays.

`torch.utils.data.DataLoader` takes them as they are; torch is not needed. An item is a dict:

    clips     key str | frames uint8 (T, H, W, RGB) | mel float16 (T, n_mels, W) | waveform float32 (samples,)
    latents   key str | latent float16 (C, P, rows, columns) | logvar, of the same kind (where stored)
    both      json, the clip's header: source, start_s, stop_s, labels, caption, ...
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from operator import index as as_index
from typing import Any

import numpy as np

from avprep.errors import ArgumentError, ClipNotFound
from avprep.shards.clips import DecodeH264
from avprep.shards.damage import ON_DAMAGE, OnDamage
from avprep.shards.decoders import ClipDecoder, Item, LatentDecoder, decoded
from avprep.shards.index import ClipReader, ShardIndex, index_shards
from avprep.shards.latents import EncoderHeader
from avprep.shards.layout import CLIPS, LATENTS, Kind, ShardError, kind_of, read_header, spec_of
from avprep.shards.store import open_store
from avprep.shards.tar import Members, largest_clip, largest_latent

CLIP_FIELDS = ("frames", "mel", "waveform", "json")
LATENT_FIELDS = ("latent", "logvar", "json")


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
        decode_h264: of frames that are stored as H.264.
        index: which clips of the output, if not all; an empty one is no error.
        on_damage: as `index_shards`; what was left out is in `index.left_out`.

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
        on_damage: OnDamage = "end",
    ) -> None:
        store = open_store(out)
        self.header = header_of(out, CLIPS)
        self.spec = spec_of(self.header)
        decode = ClipDecoder(self.spec, checked_fields(fields, CLIP_FIELDS), decode_h264)
        _check_on_damage(on_damage)
        if index is None:
            index = index_shards(store, largest=largest_clip(self.spec), on_damage=on_damage)
        super().__init__(store.uri, index, decode)


class LatentDataset(_MapStyle):
    """The latents of an output of `avprep encode`: those of its finished shards.

    `encoder` says what made them: spec, planes, rows, and the SHA-256 of the weights.

    Args:
        out: the output, a local folder.
        fields: what an item holds besides its key, of 'latent', 'logvar' and 'json'. 'logvar' is there where
            the output was made with `posterior`.
        on_damage: as `index_shards`; what was left out is in `index.left_out`.

    Raises:
        ArgumentError: an unknown field, or 'logvar' where it is not stored.
        ShardError: no such output, or nothing finished in it.
    """

    def __init__(
        self,
        out: str | os.PathLike[str],
        *,
        fields: Sequence[str] = ("latent", "json"),
        on_damage: OnDamage = "end",
    ) -> None:
        store = open_store(out)
        self.header = header_of(out, LATENTS)
        self.encoder = EncoderHeader.from_dict(self.header)
        self.spec = self.encoder.spec
        fields = checked_fields(fields, latent_fields(self.header))
        _check_on_damage(on_damage)
        index = index_shards(store, largest=largest_latent(self.encoder.shape), on_damage=on_damage)
        super().__init__(store.uri, index, LatentDecoder(self.encoder, fields))


def latent_fields(header: dict[str, Any]) -> tuple[str, ...]:
    """The fields that the latents of an output have."""
    options = header.get("options")
    has_logvar = isinstance(options, dict) and options.get("posterior") is True
    return tuple(field for field in LATENT_FIELDS if has_logvar or field != "logvar")


def checked_fields(fields: Sequence[str], known: tuple[str, ...]) -> tuple[str, ...]:
    """Raises ArgumentError for a field that the output does not have, and for a string in place of a list."""
    unknown = [fields] if isinstance(fields, str) else [name for name in fields if name not in known]
    if unknown:
        raise ArgumentError(f"fields must be of {', '.join(known)}; not {', '.join(map(repr, unknown))}")
    return tuple(fields)


def _check_on_damage(on_damage: str) -> None:
    if on_damage not in ON_DAMAGE:
        raise ArgumentError(f"on_damage must be one of {', '.join(ON_DAMAGE)}, not {on_damage!r}")


def header_of(out: str | os.PathLike[str], kind: Kind | None) -> dict[str, Any]:
    """spec.json of an output. Raises ShardError where there is none or it is of another kind."""
    header = read_header(open_store(out))
    found = kind_of(header)
    if kind is not None and found != kind:
        made_by = "avprep encode" if kind == LATENTS else "avprep clip"
        raise ShardError(f"{os.fspath(out)} holds {found}, not {kind}: {made_by} makes them")
    return header


def shuffled(clips: int, seed: int, epoch: int) -> np.ndarray:
    """int64 (clips,): the order of an epoch."""
    return np.random.default_rng([seed, epoch]).permutation(clips)


def _endless(clips: int, seed: int, first: int) -> Iterator[int]:
    epoch, position = divmod(first, clips)
    while True:
        yield from shuffled(clips, seed, epoch)[position:].tolist()
        epoch, position = epoch + 1, 0
