"""Where each clip lies in finished shards: a training loop reads any clip at random with one read.

A shard's tar is a row of members, a header block of 512 bytes before each; a clip's members lie together,
so a clip is one range of bytes:

    | hdr KEY.audio.flac | data | hdr KEY.json | data | ... | hdr KEY2.audio.flac | ...
    ^-- offset           --------- size ----------------->
"""

from __future__ import annotations

import mmap
import os
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from avprep.shards.clips import Members, ShardError
from avprep.shards.ledger import finished_shards, read_record
from avprep.shards.store import LocalStore, Store

BLOCK = 512  # bytes: tar's unit
MAX_OPEN = 256  # shards of a reader: a process may often have 1024 files open, and a dataset has more shards


@dataclass(frozen=True)
class ShardIndex:
    """Every clip of an output's finished shards, ascending by shard and key."""

    paths: tuple[str, ...]  # of the shards
    keys: tuple[str, ...]
    shard: np.ndarray  # int32 (clips,): which path
    offset: np.ndarray  # int64 (clips,), bytes
    size: np.ndarray  # int64 (clips,), bytes

    def __len__(self) -> int:
        return len(self.keys)

    def subset(self, chosen: np.ndarray) -> ShardIndex:
        """The clips at these positions."""
        keys = tuple(self.keys[i] for i in chosen)
        return ShardIndex(self.paths, keys, self.shard[chosen], self.offset[chosen], self.size[chosen])


def index_shards(store: Store) -> ShardIndex:
    """Indexes the shards whose ledger is there.

    Raises:
        ShardError: an output that is not a local folder, without a finished clip, or with a damaged shard.
    """
    if not isinstance(store, LocalStore):
        raise ShardError(f"{store.uri}: training reads clips at random from a local folder; copy it there")
    paths, keys, rows = [], [], []
    for number in finished_shards(store):
        record = read_record(store, number)
        if not record.name:
            continue
        path = str(store.root / record.name)
        for key, offset, size in _clips_of(path, record.size):
            keys.append(key)
            rows.append((len(paths), offset, size))
        paths.append(path)
    if not keys:
        raise ShardError(f"{store.uri} holds no finished clip")
    shard, offset, size = np.array(rows, np.int64).T
    return ShardIndex(tuple(paths), tuple(keys), shard.astype(np.int32), offset.copy(), size.copy())


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
        data = os.pread(self._descriptor(shard), size, offset)
        members = {}
        for name, start, size in _members(memoryview(data), self._index.paths[shard]):
            found, _, suffix = name.partition(".")
            if found != key:
                raise ShardError(
                    f"{self._index.paths[shard]} has changed since it was indexed: it holds "
                    f"clip {found!r} where {key} was"
                )
            members[suffix] = data[start : start + size]
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


def _clips_of(path: str, size: int) -> Iterator[tuple[str, int, int]]:
    """(key, offset, size) of each clip of a shard."""
    try:
        found = os.path.getsize(path)
    except FileNotFoundError:
        raise ShardError(f"{path} is not there, though its ledger says it is whole") from None
    if found != size:
        raise ShardError(f"{path} has {found} bytes, not the {size} its ledger says")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as tar:
        key, begin, end = "", 0, 0
        for name, start, length in _members(tar, path):
            found_key = name.partition(".")[0]
            if found_key != key:
                if key:
                    yield key, begin, end - begin
                key, begin = found_key, start - BLOCK
            end = start + -(-length // BLOCK) * BLOCK
        if key:
            yield key, begin, end - begin


def _members(tar: mmap.mmap | memoryview, path: str) -> Iterator[tuple[str, int, int]]:
    """(name, data offset, data size) of each member, headers as `ShardWriter` writes them (USTAR)."""
    at = 0
    while at + BLOCK <= len(tar):
        header = bytes(tar[at : at + BLOCK])
        if not header[0]:  # the end is blocks of zeros
            return
        if header[257:262] != b"ustar" or header[156:157] not in (b"0", b"\0"):
            raise ShardError(f"{path}: no shard of avprep's (an odd header at byte {at})")
        size = int(header[124:136].rstrip(b"\0 "), 8)
        if at + BLOCK + size > len(tar):
            raise ShardError(f"{path}: cut off at byte {len(tar)}")
        yield header[:100].rstrip(b"\0").decode(), at + BLOCK, size
        at += BLOCK + -(-size // BLOCK) * BLOCK
