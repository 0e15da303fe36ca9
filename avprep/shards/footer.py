"""What the footer of a parquet file says of its row groups, read without trust.

pyarrow knows it, too, but ends the process where one damaged byte makes a codec or a statistic of no kind.
The footer is a FileMetaData in Thrift's compact protocol (parquet.thrift of the format's specification):

    FileMetaData   4 row_groups
    RowGroup       1 columns, 3 num_rows
    ColumnChunk    3 meta_data
    ColumnMetaData 4 codec, 5 num_values, 6 total_uncompressed_size, 12 statistics
    Statistics     5 max_value, 6 min_value

The functions take the position of what they read and return the position behind it. Past the end of the
bytes, IndexError is raised. Fields of numbers are stepped over in place: select opens thousands of files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, BinaryIO, NamedTuple

from avprep.errors import AvprepError

CODECS = {
    0: "UNCOMPRESSED",
    1: "SNAPPY",
    2: "GZIP",
    3: "LZO",
    4: "BROTLI",
    5: "LZ4",
    6: "ZSTD",
    7: "LZ4_RAW",
}
MAGIC = b"PAR1"  # at both ends of a file
_TRAILER = 8  # bytes at the end: the footer's length, and the magic
_FIRST_READ = 1 << 16  # bytes of the end that are read at once: most footers
_DEEPEST = 32  # structs and lists within one another: a footer has eight
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)
_FIXED = {_TRUE: 0, _FALSE: 0, _BYTE: 1, _DOUBLE: 8}  # bytes of a field; true and false are in its header
_KIND_OF = {int: (_I32, _I64), bytes: (_BINARY,)}


class FooterError(AvprepError, ValueError):
    """What is read is no footer."""


class ColumnChunk(NamedTuple):
    """A column of a row group."""

    codec: int  # of CODECS, or a number that there is not
    values: int
    uncompressed_size: int  # bytes, as claimed
    least: bytes | None  # the least value as it is stored; None: not said
    most: bytes | None


@dataclass
class RowGroup:
    rows: int = -1
    columns: list[ColumnChunk] = field(default_factory=list)


def read_footer(file: BinaryIO) -> bytes:
    """The end of a parquet file: the footer, its length and the magic.

    Raises:
        FooterError: the file does not end so.
    """
    size = file.seek(0, os.SEEK_END)
    end = _read_end(file, size, min(size, _FIRST_READ))
    length = int.from_bytes(end[-_TRAILER:-4], "little") + _TRAILER
    if end[-4:] != MAGIC or not _TRAILER < length <= size - len(MAGIC):
        raise FooterError("it does not end as a parquet file does")
    return end[-length:] if length <= len(end) else _read_end(file, size, length)


def _read_end(file: BinaryIO, size: int, count: int) -> bytes:
    file.seek(size - count)
    return file.read(count)


def row_groups(footer: bytes) -> list[RowGroup]:
    """The row groups that a footer, as `read_footer` gives it, describes.

    Raises:
        FooterError: the bytes are cut off, or are not those of a footer.
    """
    reading = _RowGroups()
    try:
        _read(footer[:-_TRAILER], 0, {4: reading.read_groups})
    except IndexError:
        raise FooterError("the footer is cut off") from None
    return reading.groups


Reader = Callable[[bytes, int, int], int]  # (data, position, kind) -> position behind


class _RowGroups:
    """Gathers the row groups while a footer is read."""

    def __init__(self) -> None:
        self.groups: list[RowGroup] = []
        self._found: dict[str, Any] = {}  # of the column, or of the row group, that is read
        value = partial(partial, _read_value, self._found)
        statistics = {5: value("most", bytes), 6: value("least", bytes)}
        metadata = {
            4: value("codec", int),
            5: value("values", int),
            6: value("uncompressed_size", int),
            12: partial(_read_struct, readers=statistics),
        }
        self._of_chunk = {3: partial(_read_struct, readers=metadata)}
        self._of_group = {1: partial(_read_list, read=self._read_chunk), 3: value("rows", int)}
        self.read_groups = partial(_read_list, read=self._read_group)

    def _read_group(self, data: bytes, at: int) -> int:
        self.groups.append(group := RowGroup())
        self._found.clear()
        at = _read(data, at, self._of_group)
        group.rows = self._found.pop("rows", -1)  # it stands behind the columns
        if group.rows < 0:
            raise FooterError("the footer holds a row group without its number of rows")
        return at

    def _read_chunk(self, data: bytes, at: int) -> int:
        found = self._found
        found.clear()
        at = _read(data, at, self._of_chunk)
        values, size = found.get("values", -1), found.get("uncompressed_size", -1)
        if "codec" not in found or values < 0 or size < 0:
            raise FooterError("the footer holds a column without its codec or size")
        chunk = ColumnChunk(found["codec"], values, size, found.get("least"), found.get("most"))
        self.groups[-1].columns.append(chunk)
        return at


def _read(data: bytes, at: int, readers: Mapping[int, Reader]) -> int:
    """Reads the fields of a struct that have a reader, and steps over the others."""
    number = 0
    while header := data[at]:
        at += 1
        step, kind = header >> 4, header & 15
        if step:
            number += step
        else:
            number, at = _number(data, at)
        reader = readers.get(number)
        at = reader(data, at, kind) if reader else _skip(data, at, kind, 0)
    return at + 1


def _read_struct(data: bytes, at: int, kind: int, readers: Mapping[int, Reader]) -> int:
    if kind != _STRUCT:
        raise FooterError("the footer holds a field of the wrong kind")
    return _read(data, at, readers)


def _read_list(data: bytes, at: int, kind: int, read: Callable[[bytes, int], int]) -> int:
    """A list of structs."""
    if kind != _LIST:
        raise FooterError("the footer holds a field of the wrong kind")
    size, items, at = _list_header(data, at)
    if size and items != _STRUCT:
        raise FooterError("the footer holds a list of the wrong kind")
    for _ in range(size):
        at = read(data, at)
    return at


def _read_value(
    found: dict[str, Any], name: str, of: type[int] | type[bytes], data: bytes, at: int, kind: int
) -> int:
    if kind not in _KIND_OF[of]:
        raise FooterError("the footer holds a field of the wrong kind")
    if of is int:
        found[name], at = _number(data, at)
        return at
    size, at = _varint(data, at)
    found[name] = data[at : at + size]
    return at + size


def _skip(data: bytes, at: int, kind: int, depth: int) -> int:
    if _I16 <= kind <= _I64:
        while data[at] > 127:
            at += 1
        return at + 1
    if kind == _BINARY:
        size, at = _varint(data, at)
        return at + size
    if kind == _STRUCT:
        return _skip_struct(data, at, depth + 1)
    if kind in (_LIST, _SET):
        return _skip_list(data, at, depth + 1)
    if kind == _MAP:
        return _skip_map(data, at, depth + 1)
    if kind in _FIXED:
        return at + _FIXED[kind]
    raise FooterError(f"the footer holds a field of kind {kind}")


def _skip_struct(data: bytes, at: int, depth: int) -> int:
    _check_depth(depth)
    while header := data[at]:
        at += 1
        if header < 16:
            _, at = _number(data, at)
        kind = header & 15
        if kind == _BINARY and data[at] < 128:
            at += data[at] + 1
        elif _I16 <= kind <= _I64:
            while data[at] > 127:
                at += 1
            at += 1
        else:
            at = _skip(data, at, kind, depth)
    return at + 1


def _skip_list(data: bytes, at: int, depth: int) -> int:
    _check_depth(depth)
    size, items, at = _list_header(data, at)
    if items == _STRUCT:
        for _ in range(size):
            at = _skip_struct(data, at, depth + 1)
    elif _I16 <= items <= _I64:
        for _ in range(size):
            while data[at] > 127:
                at += 1
            at += 1
    else:
        for _ in range(size):
            at = _skip_item(data, at, items, depth)
    return at


def _skip_map(data: bytes, at: int, depth: int) -> int:
    _check_depth(depth)
    size, at = _varint(data, at)
    if size:
        kinds, at = data[at], at + 1
        for _ in range(size):
            at = _skip_item(data, at, kinds >> 4, depth)
            at = _skip_item(data, at, kinds & 15, depth)
    return at


def _skip_item(data: bytes, at: int, kind: int, depth: int) -> int:
    """Of a list or map: every item takes a byte at least, so that a size beyond the bytes ends."""
    after = at + 1 if kind in (_TRUE, _FALSE) else _skip(data, at, kind, depth)
    if after > len(data):
        raise IndexError
    return after


def _check_depth(depth: int) -> None:
    if depth > _DEEPEST:
        raise FooterError("the footer is nested too deep")


def _list_header(data: bytes, at: int) -> tuple[int, int, int]:
    """(items, their kind, position behind)."""
    header, at = data[at], at + 1
    if header < 0xF0:
        return header >> 4, header & 15, at
    size, at = _varint(data, at)
    return size, header & 15, at


def _number(data: bytes, at: int) -> tuple[int, int]:
    zigzag, at = _varint(data, at)
    return zigzag >> 1 ^ -(zigzag & 1), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = data[at]
    if value < 128:
        return value, at + 1
    value &= 127
    for shift in range(7, 64, 7):
        at += 1
        value |= (data[at] & 127) << shift
        if data[at] < 128:
            return value, at + 1
    raise FooterError("the footer holds a number of more than 64 bits")
