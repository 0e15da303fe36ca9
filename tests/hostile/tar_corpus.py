"""Hostile tars, made from the sound tar of a shard."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable

import numpy as np

from avprep.shards.tar import BLOCK, read_shard
from avprep.shards.writer import ShardWriter

ChangeTar = Callable[[bytes], bytes]


def _header(at: int, value: bytes, *, is_summed: bool = True) -> ChangeTar:
    """Overwrites bytes of the first member's header; its checksum is made to agree."""

    def change(data: bytes) -> bytes:
        block = bytearray(data[:BLOCK])
        block[at : at + len(value)] = value
        return _summed(block) + data[BLOCK:] if is_summed else bytes(block) + data[BLOCK:]

    return change


def _summed(block: bytearray) -> bytes:
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def _name(name: bytes) -> ChangeTar:
    return _header(0, name.ljust(100, b"\0"))


def _first_member(data: bytes) -> bytes:
    size = int(data[124:135], 8)
    return data[: BLOCK + -(-size // BLOCK) * BLOCK]


def _second_clip_first(data: bytes) -> bytes:
    file = io.BytesIO(data)
    clips = list(read_shard(file))
    swapped = io.BytesIO()
    for key, members in reversed(clips):
        writer = ShardWriter(part := io.BytesIO())
        writer.add(key, members)
        writer.close()
        swapped.write(part.getvalue().rstrip(b"\0") + bytes(-len(part.getvalue().rstrip(b"\0")) % BLOCK))
    return swapped.getvalue() + bytes(2 * BLOCK)


def _pax(data: bytes) -> bytes:
    record = b"22 GNU.sparse.major=1\n" + b"32 GNU.sparse.realsize=8589934592\n"
    block = bytearray(BLOCK)
    block[:8], block[100:108], block[124:136] = b"pax.json", b"0000644\0", b"%011o\0" % len(record)
    block[156:157], block[257:265] = b"x", b"ustar\x0000"
    return _summed(block) + record.ljust(BLOCK, b"\0") + data


def _cut(data: bytes, to: int) -> bytes:
    return data[:to]


TARS: dict[str, ChangeTar] = {
    "size -1": _header(124, b"-0000000001\0"),
    "size -1000 blocks": _header(124, b"-0000764000\0"),
    "size negative in base 256": _header(124, b"\xff" * 12),
    "size of 2**63 in base 256": _header(124, b"\x80\0\0\0\x80" + bytes(7)),
    "size in digits that are not octal": _header(124, b"99999999999\0"),
    "size blank": _header(124, b" " * 12),
    "size of NUL bytes": _header(124, bytes(12)),
    "size of 8 GB": _header(124, b"77777777777\0"),
    "size one block too long": lambda data: _header(124, b"%011o\0" % (len(data) + BLOCK))(data),
    "size with a sign": _header(124, b"+0000000100\0"),
    "size with an underscore": _header(124, b"0000_000100\0"),
    "a sparse member of 8 GB": lambda data: _header(483, b"77777777777\0")(_header(156, b"S")(data)),
    "a sparse member by pax": _pax,
    "a pax header for all": _header(156, b"g"),
    "a long name": _header(156, b"L"),
    "a long link": _header(156, b"K"),
    "a hard link": _header(156, b"1"),
    "a symbolic link": lambda data: _header(157, b"/etc/passwd\0")(_header(156, b"2")(data)),
    "a character device": _header(156, b"3"),
    "a block device": _header(156, b"4"),
    "a folder": _header(156, b"5"),
    "a pipe": _header(156, b"6"),
    "a type of no kind": _header(156, b"Z"),
    "a name with ..": _name(b"../evil.json"),
    "an absolute name": _name(b"/etc/evil.json"),
    "a name in a folder": _name(b"a/b.json"),
    "a name with a prefix": _header(345, b"etc"),
    "a name without a suffix": _name(b"evil"),
    "a name without a key": _name(b".json"),
    "a name with a line break": _name(b"a\nb.json"),
    "a name that is not text": _name(b"\xff\xfe.json"),
    "a name with a NUL byte": _name(b"a\0b.json"),
    "a name with two dots": _name(b"a..json"),
    "no name": _name(b""),
    "a member twice": lambda data: _first_member(data) + data,
    "a clip twice": lambda data: data.rstrip(b"\0") + bytes(-len(data.rstrip(b"\0")) % BLOCK) + data,
    "clips in the wrong order": _second_clip_first,
    "a checksum that is wrong": _header(148, b"000000\0 ", is_summed=False),
    "a flipped bit of a size": lambda data: data[:134] + bytes([data[134] ^ 1]) + data[135:],
    "an old tar without a magic": _header(257, bytes(8)),
    "a GNU tar": _header(257, b"ustar  \0"),
    "cut in a header": lambda data: _cut(data, 300),
    "cut in data": lambda data: _cut(data, BLOCK + 10),
    "cut before its end": lambda data: _cut(data, len(_first_member(data))),
    "empty": lambda data: b"",
    "only zeros": lambda data: bytes(len(data)),
    "noise": lambda data: np.random.default_rng(0).bytes(len(data)),
    "compressed": lambda data: gzip.compress(data, mtime=0),
}
