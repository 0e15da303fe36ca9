"""Where each clip lies in finished shards: a training loop reads any clip at random with one read.

A shard's tar is a row of members, a header block of 512 bytes before each; a clip's members lie together,
so a clip is one range of bytes:

    | hdr KEY.audio.flac | data | hdr KEY.json | data | ... | hdr KEY2.audio.flac | ...
    ^-- offset           --------- size ----------------->
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from avprep.shards.damage import OnDamage
from avprep.shards.integrity import damage_of, size_damage
from avprep.shards.layout import ShardError
from avprep.shards.ledger import ShardRecord, finished_shards, read_record
from avprep.shards.store import LocalStore, Store
from avprep.shards.tar import BLOCK, LARGEST_CLIP, Member, Members, clip_extents, members_of

MAX_OPEN = 256  # shards of a reader: a process may often have 1024 files open, and a dataset has more shards


@dataclass(frozen=True)
class ShardIndex:
    """Every clip of an output's finished shards, ascending by shard and key."""

    paths: tuple[str, ...]  # of the shards
    records: tuple[ShardRecord, ...]  # of the shards, from their ledgers
    keys: tuple[str, ...]
    shard: np.ndarray  # int32 (clips,): which path
    offset: np.ndarray  # int64 (clips,), bytes
    size: np.ndarray  # int64 (clips,), bytes
    left_out: tuple[str, ...] = ()  # what is wrong with each damaged shard, whose clips are not here
    is_checked: bool = False  # every shard's checksum was taken

    def __len__(self) -> int:
        return len(self.keys)

    def subset(self, chosen: np.ndarray) -> ShardIndex:
        """The clips at these positions."""
        return replace(
            self,
            keys=tuple(self.keys[i] for i in chosen),
            shard=self.shard[chosen],
            offset=self.offset[chosen],
            size=self.size[chosen],
        )


def index_shards(store: Store, *, largest: int = LARGEST_CLIP, on_damage: OnDamage = "end") -> ShardIndex:
    """Indexes the shards whose ledger is there.

    Args:
        largest: bytes that the files of one clip may have.
        on_damage: 'end' raises for a shard that is missing, of another size, or no shard; its checksum is not
            taken. 'skip' leaves such a shard out, and takes every checksum first: all of the output is read.

    Raises:
        ShardError: an output that is not a local folder, without a finished clip, or with a damaged shard.
    """
    if not isinstance(store, LocalStore):
        raise ShardError(f"{store.uri}: training reads clips at random from a local folder; copy it there")
    paths: list[str] = []
    records, keys, rows, left_out = [], [], [], []
    for number in finished_shards(store):
        try:
            record = read_record(store, number)
            if not record.name:
                continue
            path = str(store.root / record.name)
            found = _clips_of(path, record, largest, is_read_whole=on_damage == "skip")
        except ShardError as error:
            if on_damage == "end":
                raise
            left_out.append(str(error))
            continue
        keys += [key for key, _, _ in found]
        rows += [(len(paths), offset, size) for _, offset, size in found]
        paths.append(path)
        records.append(record)
    if not keys:
        raise ShardError("; ".join([f"{store.uri} holds no finished clip", *left_out[:3]]))
    shard, offset, size = np.array(rows, np.int64).T
    places = shard.astype(np.int32), offset.copy(), size.copy()
    is_checked = on_damage == "skip"
    return ShardIndex(tuple(paths), tuple(records), tuple(keys), *places, tuple(left_out), is_checked)


class ClipReader:
    """Reads clips of an index; keeps the shards read last open. One a process."""

    def __init__(self, index: ShardIndex) -> None:
        self._index = index
        self._files: OrderedDict[int, int] = OrderedDict()  # descriptor by shard, the latest last

    def __getitem__(self, position: int) -> Members:
        """The members of the clip at a position of the index.

        Raises:
            ShardError: another clip lies there: the shard was made again since it was indexed.
        """
        shard, key = int(self._index.shard[position]), self._index.keys[position]
        size, offset = int(self._index.size[position]), int(self._index.offset[position])
        data, path = os.pread(self._descriptor(shard), size, offset), self._index.paths[shard]
        try:
            members = {member.suffix: content for member, content in _of_clip(key, data)}
        except ShardError as error:
            raise ShardError(f"{path} has changed since it was indexed: clip {key}: {error}") from error
        return members

    def _descriptor(self, shard: int) -> int:
        if shard not in self._files:
            if len(self._files) == MAX_OPEN:
                os.close(self._files.popitem(last=False)[1])
            self._files[shard] = os.open(self._index.paths[shard], os.O_RDONLY)
        self._files.move_to_end(shard)
        return self._files[shard]

    def __del__(self) -> None:
        for descriptor in self._files.values():
            os.close(descriptor)


def _of_clip(key: str, data: bytes) -> Iterator[tuple[Member, bytes]]:
    """The members in a clip's range of bytes. Raises ShardError for those of another clip."""
    for member, content in members_of(data):
        if member.key != key:
            raise ShardError(f"clip {member.key} is in its place")
        yield member, content


def _clips_of(
    path: str, record: ShardRecord, largest: int, *, is_read_whole: bool
) -> list[tuple[str, int, int]]:
    """(key, offset, size) of each clip of a shard. Raises ShardError with the shard's path."""
    size = os.path.getsize(path) if os.path.isfile(path) else None
    damage = size_damage(record, size)
    if damage is None and is_read_whole:
        damage = damage_of(path, record)
    if damage is not None or size is None:
        raise ShardError(f"{path.removesuffix(record.name)}{damage}")
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return list(clip_extents(lambda at: os.pread(descriptor, BLOCK, at), size, largest))
    except ShardError as error:
        raise ShardError(f"{path}: {error}") from error
    finally:
        os.close(descriptor)
