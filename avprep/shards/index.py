"""Where each clip lies in finished shards: a training loop reads any clip at random with one read.

A shard's tar is a row of members, a header block of 512 bytes before each; a clip's members lie together,
so a clip is one range of bytes:

    | hdr KEY.audio.flac | data | hdr KEY.json | data | ... | hdr KEY2.audio.flac | ...
    ^-- offset           --------- size ----------------->
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
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
    """The clips of finished shards of one or several outputs, ascending by output, shard and key."""

    outputs: tuple[str, ...]
    paths: tuple[str, ...]  # of the shards
    output_of: tuple[int, ...]  # of the shards: which output
    records: tuple[ShardRecord, ...]  # of the shards, from their ledgers
    keys: tuple[str, ...]
    shard: np.ndarray  # int32 (clips,): which path
    offset: np.ndarray  # int64 (clips,), bytes
    size: np.ndarray  # int64 (clips,), bytes
    left_out: tuple[str, ...] = ()  # what is wrong with each damaged shard, whose clips are not here
    is_checked: bool = False  # every shard's checksum was taken

    def __len__(self) -> int:
        return len(self.keys)

    def output(self, position: int) -> str:
        """The output of the clip at a position."""
        return self.outputs[self.output_of[self.shard[position]]]

    def clips_by_output(self) -> np.ndarray:
        """int64 (outputs,): how many clips each output has here."""
        of_clips = np.array(self.output_of, np.int64)[self.shard]
        return np.bincount(of_clips, minlength=len(self.outputs))

    def subset(self, chosen: np.ndarray) -> ShardIndex:
        """The clips at these positions, which ascend, and the shards that hold them. All outputs stay."""
        shards, shard = np.unique(self.shard[chosen], return_inverse=True)
        return replace(
            self,
            paths=tuple(self.paths[i] for i in shards),
            output_of=tuple(self.output_of[i] for i in shards),
            records=tuple(self.records[i] for i in shards),
            keys=tuple(self.keys[i] for i in chosen),
            shard=shard.astype(np.int32),
            offset=self.offset[chosen],
            size=self.size[chosen],
        )


def join_indexes(indexes: Sequence[ShardIndex]) -> ShardIndex:
    """The clips of all of them, in their order.

    Raises:
        ShardError: two outputs have a clip of the same key.
    """
    outputs = tuple(out for index in indexes for out in index.outputs)
    first_output = np.cumsum([0, *(len(index.outputs) for index in indexes)])
    first_shard = np.cumsum([0, *(len(index.paths) for index in indexes)])
    joined = ShardIndex(
        outputs,
        paths=tuple(path for index in indexes for path in index.paths),
        output_of=tuple(
            int(first + of)
            for first, index in zip(first_output, indexes, strict=False)
            for of in index.output_of
        ),
        records=tuple(record for index in indexes for record in index.records),
        keys=tuple(key for index in indexes for key in index.keys),
        shard=np.concatenate(
            [index.shard + first for first, index in zip(first_shard, indexes, strict=False)]
        ).astype(np.int32),
        offset=np.concatenate([index.offset for index in indexes]),
        size=np.concatenate([index.size for index in indexes]),
        left_out=tuple(damage for index in indexes for damage in index.left_out),
        is_checked=all(index.is_checked for index in indexes),
    )
    if len(indexes) > 1:
        _refuse_equal_keys(joined)
    return joined


def _refuse_equal_keys(index: ShardIndex) -> None:
    """A key is a hash of a source's path under its root: equal ones are of equal paths."""
    first: dict[str, int] = {}
    for position, key in enumerate(index.keys):
        if first.setdefault(key, position) != position:
            raise ShardError(
                f"{index.output(first[key])} and {index.output(position)} both hold a clip of the key {key}: "
                f"a source of each has the same path under its root. Clip one of them from the folder above "
                f"its root, so that the paths differ"
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
    output_of = (0,) * len(paths)
    return ShardIndex(
        (store.uri,),
        tuple(paths),
        output_of,
        tuple(records),
        tuple(keys),
        *places,
        tuple(left_out),
        is_checked,
    )


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
