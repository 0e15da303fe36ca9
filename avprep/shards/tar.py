"""The tar of a shard, read without trust: a row of members, a header block before each.

    | header KEY.audio.flac | data | header KEY.json | data | ... | header KEY2.audio.flac | ... | zeros |

Only what `ShardWriter` writes is a member: USTAR, a regular file, a plain size, a name KEY.SUFFIX without a
path, keys ascending and suffixes of a clip all different. Python's `tarfile` takes much more (sparse files of
any size, links, names with a path), and some sizes make it read for ever.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from avprep.shards.layout import ShardError
from avprep.shards.store import Store
from avprep.spec import ClipSpec

BLOCK = 512  # bytes: tar's unit
LARGEST_CLIP = 1 << 30  # bytes of a clip's files, where no spec says what they can be
_TEXT_BYTES = 16 << 20  # of a clip: its KEY.json, and what small files have besides their values

# The files of a clip: suffix ('mel.npy') to bytes.
Members = dict[str, bytes]

_NAME = re.compile(rb"([0-9A-Za-z_-]{1,60})\.([0-9A-Za-z_]+(?:\.[0-9A-Za-z_]+)*)")
_SIZE = re.compile(rb" *([0-7]{1,11})[ \0]*")
_CHECKSUM = slice(148, 156)


class Member(NamedTuple):
    """What a header block says of the member after it."""

    key: str
    suffix: str
    size: int  # bytes

    @property
    def padded(self) -> int:
        """Bytes until the next header."""
        return -(-self.size // BLOCK) * BLOCK


def largest_clip(spec: ClipSpec) -> int:
    """The most bytes that the files of a clip can have: twice the raw ones, and its texts."""
    raw = _product(spec.frames_shape) + 2 * _product(spec.mel_shape) + 2 * spec.samples
    return 2 * raw + _TEXT_BYTES


def largest_latent(shape: tuple[int, ...]) -> int:
    """The most bytes that the files of a latent of this shape can have: two float16 stacks and text."""
    return 4 * _product(shape) + _TEXT_BYTES


def _product(shape: tuple[int, ...]) -> int:
    product = 1
    for length in shape:
        product *= length
    return product


class MemberCheck:
    """Takes the header blocks of a tar in order.

    Args:
        is_summed: headers' checksums are compared. An index, which sees every header of a dataset before the
            first clip is read, leaves that to the reading: it takes half of the time.
    """

    def __init__(self, *, is_summed: bool = True) -> None:
        self._key, self._is_summed = "", is_summed
        self._suffixes: set[str] = set()

    def __call__(self, block: bytes) -> Member | None:
        """The member of a header block; None at the end of the tar, which is a block of zeros.

        Raises:
            ShardError: a block that `ShardWriter` does not write, or not after the one before it.
        """
        if not any(block):
            return None
        if self._is_summed and not _has_its_sum(block):
            raise ShardError(f"no header of a tar member: {block[:24]!r}")
        member = _parsed(block)
        if member.key < self._key:
            raise ShardError(f"member {member.key}.{member.suffix} comes after those of clip {self._key}")
        if member.key != self._key:
            self._key, self._suffixes = member.key, set()
        if member.suffix in self._suffixes:
            raise ShardError(f"member {member.key}.{member.suffix} is there twice")
        self._suffixes.add(member.suffix)
        return member


def _parsed(block: bytes) -> Member:
    if block[257:263] != b"ustar\0":
        raise ShardError(f"no header of a tar member: {block[:24]!r}")
    raw_name = block[:100].rstrip(b"\0")
    name, size = _NAME.fullmatch(raw_name), _SIZE.fullmatch(block[124:136])
    if name is None or block[345:500].strip(b"\0") or block[156:157] not in (b"0", b"\0"):
        raise ShardError(f"member {raw_name!r} of type {block[156:157]!r} is no file of a clip")
    if size is None:
        raise ShardError(f"member {raw_name!r} has the size {block[124:136]!r}")
    return Member(name[1].decode(), name[2].decode(), int(size[1], 8))


def _has_its_sum(block: bytes) -> bool:
    """Whether its checksum is the sum of its bytes, the checksum's own counted as spaces."""
    stated = _SIZE.fullmatch(block[_CHECKSUM])
    return stated is not None and int(stated[1], 8) == sum(block) - sum(block[_CHECKSUM]) + 8 * ord(" ")


class Readable(Protocol):
    """A file, or what counts or hashes a file's bytes on the way."""

    def read(self, size: int, /) -> bytes: ...


def read_shard(file: Readable, largest: int = LARGEST_CLIP) -> Iterator[tuple[str, Members]]:
    """(key, files) of each clip of a tar, in order, one clip in memory at a time.

    Args:
        largest: bytes that the files of one clip may have together.

    Raises:
        ShardError: a member that `ShardWriter` does not write, or a tar that is cut off.
    """
    check, key, left = MemberCheck(), "", largest
    members: Members = {}
    while (member := check(_exactly(file, BLOCK))) is not None:
        if member.key != key:
            if members:
                yield key, members
            key, members, left = member.key, {}, largest
        left -= member.size
        if left < 0:
            raise ShardError(
                f"member {key}.{member.suffix} of {member.size:,} bytes: a clip of the spec has at most "
                f"{largest:,}"
            )
        members[member.suffix] = _exactly(file, member.padded)[: member.size]
    if not members:
        raise ShardError("holds no clip")
    yield key, members


def read_named_shard(store: Store, name: str, largest: int) -> Iterator[tuple[str, Members]]:
    """`read_shard` of a shard of an output. Its errors name the shard; raises FileNotFoundError too."""
    with store.open(name) as file:
        try:
            yield from read_shard(file, largest)
        except ShardError as error:
            raise ShardError(f"{store.uri}/{name}: {error}") from error


def _exactly(file: Readable, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise ShardError(f"the tar is damaged or cut off: {len(data)} bytes where {size} belong")
    return data


def clip_extents(
    read_block: Callable[[int], bytes], length: int, largest: int = LARGEST_CLIP
) -> Iterator[tuple[str, int, int]]:
    """(key, offset, size) of the range of bytes in which each clip of a tar lies, headers included.

    Args:
        read_block: the `BLOCK` bytes at an offset. Not a memory map: a file that shrinks under one ends the
            process.
        length: of the tar, bytes.

    Raises:
        ShardError: as `read_shard`.
    """
    check, key, begin, at = MemberCheck(is_summed=False), "", 0, 0
    while (member := check(_whole_block(read_block(at), at))) is not None:
        if member.key != key:
            if key:
                yield key, begin, at - begin
            key, begin = member.key, at
        at += BLOCK + member.padded
        if at > length:
            raise ShardError(f"the tar is damaged or cut off: it ends in {key}.{member.suffix}")
        if at - begin > 2 * largest:  # headers and padding may take as much as small files do
            raise ShardError(f"clip {key} has more than {largest:,} bytes: no clip of the spec has")
    if not key:
        raise ShardError("holds no clip")
    yield key, begin, at - begin


def members_of(data: bytes) -> Iterator[tuple[Member, bytes]]:
    """The members of one clip's range of bytes, as `clip_extents` gives it. Raises ShardError."""
    check, at = MemberCheck(), 0
    while at < len(data):
        member = check(_whole_block(data[at : at + BLOCK], at))
        if member is None:
            raise ShardError(f"its bytes end after {at:,} of {len(data):,}")
        at += BLOCK
        if at + member.padded > len(data):
            raise ShardError(f"member {member.key}.{member.suffix} of {member.size:,} bytes is cut off")
        yield member, data[at : at + member.size]
        at += member.padded


def _whole_block(block: bytes, at: int) -> bytes:
    if len(block) != BLOCK:
        raise ShardError(f"the tar is damaged or cut off: it ends at byte {at + len(block):,}")
    return block
