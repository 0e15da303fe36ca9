"""Parquet files of an output, read without trust.

A few bytes of parquet can stand for any number of rows (run lengths), or for as many copies of a long text
(dictionaries). All files of an output have a column of keys, which are hashes and do not repeat, and are
compressed by Snappy: both bound what a file of a given size can hold.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from avprep.shards.footer import CODECS, MAGIC, FooterError, RowGroup, read_footer, row_groups
from avprep.shards.layout import ShardError
from avprep.shards.store import Store

_CODECS = frozenset(number for number, name in CODECS.items() if name in ("SNAPPY", "UNCOMPRESSED"))
_SNAPPY = 22  # bytes that one byte of Snappy may stand for
_VALUES_PER_BYTE = 8  # of lists: a row, which takes 20 bytes, has fewer than 160 labels
_MOST_NAMES, _LONGEST_NAME = 12, 30  # in a message
_FEW_BYTES = 256 << 20  # decoded; where a file cannot have more, its texts are not looked at before
_MOST_TEXT, _TEXT_PER_BYTE = 1 << 30, 4  # bytes of text that are read at once, in small files and in large


@contextmanager
def opened_parquet(store: Store, name: str, *, remedy: str, most_rows: int) -> Iterator[ParquetRows]:
    """The file, for reading in the block. ShardErrors that the block raises get the file's name.

    Args:
        remedy: what to do about a damaged file, for the message.
        most_rows: that such a file may have.

    Raises:
        ShardError: the file is damaged, or claims more than it can hold.
        OSError: it cannot be opened.
    """
    with store.open(name) as file, naming(store, name):
        yield ParquetRows(file, remedy=remedy, most_rows=most_rows)


@contextmanager
def naming(store: Store, name: str) -> Iterator[None]:
    """ShardErrors that the block raises get the file's name."""
    try:
        yield
    except ShardError as error:
        raise ShardError(f"{store.uri}/{name} {error}") from error


class ParquetRows:
    """The rows of a parquet file. What is decoded is bounded by the file's size, or by `_MOST_TEXT`.

    Raises:
        ShardError: at any call: the file is damaged, or claims more than it can hold. The message begins with
            what follows a file's name.
        OSError: the machine cannot read it.
    """

    def __init__(self, file: BinaryIO, *, remedy: str, most_rows: int) -> None:
        self._file, self._remedy = file, remedy
        with self._errors():
            self._size = file.seek(0, os.SEEK_END)
            footer = read_footer(file)
            self.groups: list[RowGroup] = row_groups(footer)
            self._check_codecs()
            self.metadata: pq.FileMetaData = pq.read_metadata(pa.BufferReader(MAGIC + footer))
            self._plain = pq.ParquetFile(file, metadata=self.metadata, pre_buffer=False)
            self.schema: pa.Schema = self._plain.schema_arrow
            self._check_claims(most_rows)
        self._as_dictionaries: pq.ParquetFile | None = None

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows, with the columns of the schema or with these."""
        return self.read_groups(range(len(self.groups)), columns)

    def read_groups(self, groups: Sequence[int], columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of these row groups."""
        with self._errors():
            table = self._decode(groups, None if columns is None else list(columns))
            table.validate(full=True)  # its texts are UTF-8
            return table

    def _decode(self, groups: Sequence[int], names: list[str] | None) -> pa.Table:
        if self._most_values(groups) * self._size * _SNAPPY <= _FEW_BYTES:
            # On this thread: one that Arrow still has when the process ends can take it down, exit code
            # and all.
            return self._plain.read_row_groups(groups, names, use_threads=False)
        table = self._dictionaries().read_row_groups(groups, names, use_threads=False)
        text, most = sum(map(_text_bytes, table.columns)), max(_MOST_TEXT, _TEXT_PER_BYTE * self._size)
        if text > most:
            raise ShardError(f"holds {text:,} bytes of text; at most {most:,} are read at once")
        schema = pa.schema([self.schema.field(name) for name in table.column_names], self.schema.metadata)
        return table.cast(schema)

    def _check_codecs(self) -> None:
        """Raises ShardError for a codec that no file written here has."""
        if others := {chunk.codec for group in self.groups for chunk in group.columns} - _CODECS:
            names = ", ".join(CODECS.get(codec, f"codec {codec}") for codec in sorted(others)[:_MOST_NAMES])
            raise ShardError(f"is compressed by {names}, not Snappy; {self._remedy}")

    def _check_claims(self, most_rows: int) -> None:
        """Raises ShardError for rows or values that no file of this size, written here, has."""
        rows = self.metadata.num_rows
        if rows > min(most_rows, self._size):
            raise ShardError(f"claims {rows:,} rows in {self._size:,} bytes; {self._remedy}")
        if sum(group.rows for group in self.groups) != rows or any(
            len(group.columns) != self._columns for group in self.groups
        ):
            raise ShardError(f"is damaged (its row groups do not have its {rows:,} rows); {self._remedy}")
        if (values := self._most_values(range(len(self.groups)))) > _VALUES_PER_BYTE * self._size:
            raise ShardError(f"claims {values:,} values in {self._size:,} bytes; {self._remedy}")

    @property
    def _columns(self) -> int:
        return self.metadata.num_columns

    def _most_values(self, groups: Sequence[int]) -> int:
        """Of the column that has the most: a list has any number of them per row."""
        return max(
            (sum(self.groups[i].columns[j].values for i in groups) for j in range(self._columns)), default=0
        )

    def _dictionaries(self) -> pq.ParquetFile:
        """The file with its texts as dictionaries: what they take decoded is known before they are."""
        if self._as_dictionaries is None:
            names = [self.metadata.schema.column(j).path for j in range(self._columns)]
            self._as_dictionaries = pq.ParquetFile(
                self._file, metadata=self.metadata, read_dictionary=names, pre_buffer=False
            )
        return self._as_dictionaries

    def columns(self) -> str:
        """The names of the columns, for a message: the first, and not all of a long one."""
        return ", ".join(repr(name[:_LONGEST_NAME]) for name in self.schema.names[:_MOST_NAMES])

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError, OverflowError, UnicodeDecodeError, FooterError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the machine's; Arrow's own OSErrors, of damaged files, have no number
            raise ShardError(f"is damaged ({' '.join(str(error).split())[:300]}); {self._remedy}") from error


def _text_bytes(column: pa.ChunkedArray) -> int:
    """What the column's texts take decoded."""
    found = 0
    for chunk in column.chunks:
        values = chunk.values if pa.types.is_list(chunk.type) else chunk
        if pa.types.is_dictionary(values.type):
            found += pc.sum(pc.binary_length(values.dictionary).take(values.indices)).as_py() or 0
    return found
