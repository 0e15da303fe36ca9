"""Hostile parquet files of an output: the plan, a ledger, scores, a selection.

Each is made from a sound file and keeps its schema and metadata.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq

Change = Callable[[bytes], bytes]
_COPIES = 2_000_000
_FLIPS = 12  # files with flipped bytes


def _table(data: bytes) -> pa.Table:
    return pq.read_table(io.BytesIO(data))


def _written(table: pa.Table, **options: object) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    return file.getvalue()


def _repeated(data: bytes) -> bytes:
    """The first row two million times, in a few kilobytes."""
    return _written(_table(data).take(pa.array([0] * _COPIES)))


def _long_text(codec: str, characters: int) -> Change:
    """The first row's key is a long text."""

    def change(data: bytes) -> bytes:
        table = _table(data).slice(0, 1)
        return _written(table.set_column(0, "key", pa.array(["x" * characters])), compression=codec)

    return change


def _dictionary_bomb(data: bytes) -> bytes:
    """20,000 rows of different keys, each with the same text of 200 kB: 4 GB decoded."""
    first, rows = _table(data).slice(0, 1), 20_000
    keys = pa.array([random.Random(i).randbytes(16).hex() for i in range(rows)])
    text = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["x" * 200_000]))
    columns = {"key": keys}
    for name, column in zip(first.column_names[1:], first.columns[1:], strict=True):
        if column.type == pa.list_(pa.string()):
            columns[name] = pa.ListArray.from_arrays(pa.array(range(rows + 1), pa.int32()), text)
        else:
            columns[name] = text if pa.types.is_string(column.type) else column.take(pa.array([0] * rows))
    table, file = pa.table(columns), io.BytesIO()
    with pq.ParquetWriter(file, table.schema, store_schema=False) as writer:  # as texts, not as dictionaries
        writer.write_table(table)
        writer.add_key_value_metadata(first.schema.metadata or {})
    return file.getvalue()


def _claims_rows(rows: int, *, in_groups: bool) -> Change:
    """The footer claims that many rows; its row groups do too, or do not."""

    def change(data: bytes) -> bytes:
        size = int.from_bytes(data[-8:-4], "little")
        pages, footer = data[: -8 - size], data[-8 - size : -8]
        found = pq.ParquetFile(io.BytesIO(data)).metadata.num_rows
        # Fields of Thrift's compact protocol: type i64, two fields on.
        footer = footer.replace(b"\x16" + _varint(found), b"\x16" + _varint(rows), -1 if in_groups else 1)
        return pages + footer + len(footer).to_bytes(4, "little") + data[-4:]

    return change


def _of_codec(number: int) -> Change:
    """The footer says that the columns are compressed by another codec."""

    def change(data: bytes) -> bytes:
        size = int.from_bytes(data[-8:-4], "little")
        pages, footer = data[: -8 - size], data[-8 - size :]
        snappy = b"\x15" + _varint(1) + b"\x16"  # i32, and the number of values, an i64, behind it
        assert snappy in footer
        return pages + footer.replace(snappy, b"\x15" + _varint(number) + b"\x16", 1)

    return change


def _varint(value: int) -> bytes:
    """Zigzag, as Thrift writes whole numbers."""
    value, out = value << 1, b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def _flipped(seed: int) -> Change:
    def change(data: bytes) -> bytes:
        rng, changed = random.Random(seed), bytearray(data)
        size = int.from_bytes(data[-8:-4], "little")
        for _ in range(3):
            changed[rng.randrange(len(data) - 8 - size, len(data))] ^= 1 << rng.randrange(8)
        return bytes(changed)

    return change


def _other_columns(data: bytes) -> bytes:
    table = _table(data)
    return _written(table.rename_columns([f"{name}\n{'x' * 5000}" for name in table.column_names]))


# Those that every reader has to refuse.
REFUSED: dict[str, Change] = {
    "2,000,000 equal rows": _repeated,
    "10^12 rows claimed": _claims_rows(10**12, in_groups=False),
    "10^12 rows claimed by its groups too": _claims_rows(10**12, in_groups=True),
    "2^62 rows claimed": _claims_rows(2**62, in_groups=True),
    "a key of 64 MB in zstd": _long_text("zstd", 64 << 20),
    "a key of 32 MB in gzip": _long_text("gzip", 32 << 20),
    "a codec that there is not": _of_codec(9),
    "a codec that it is not": _of_codec(2),
    "other columns": _other_columns,
    "empty": lambda data: b"",
    "without its end": lambda data: data[: len(data) // 2],
    "its end alone": lambda data: data[-200:],
    "a footer of 2 GB": lambda data: data[:-8] + b"\xff\xff\xff\x7fPAR1",
    "a footer of no bytes": lambda data: data[:-8] + b"\0\0\0\0PAR1",
    "zeros": lambda data: bytes(len(data)),
    "text": lambda data: b"key,shard\n" * 100,
}
# Of files with texts besides the keys.
REFUSED_WITH_TEXTS: dict[str, Change] = {"a text of 200 kB in 20,000 rows": _dictionary_bomb}
# These may be readable after all; then with as many rows as before.
DAMAGED: dict[str, Change] = {f"bits flipped in the footer, {i}": _flipped(i) for i in range(_FLIPS)}
