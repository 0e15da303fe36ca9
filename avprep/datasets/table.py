"""Rows of a table: csv, tsv, JSON lines, JSON or parquet.

Only the columns that are asked for are read, as text: the type of no other column is guessed, and nothing in
it can refuse the file. The file may be damaged or hostile: every line and cell is bounded, and a row that
cannot be read is counted.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TextIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from avprep.credentials import scrubbed
from avprep.datasets.listing import is_utf8
from avprep.datasets.source import LONGEST_TEXT, DatasetError
from avprep.shards.footer import CODECS, MAGIC, RowGroup, read_footer, row_groups

Cell = str | list[str | None] | None  # a list column of parquet or JSON; None = nothing is known
Row = dict[str, Cell]


@dataclass(frozen=True)
class Columns:
    """The names, in small letters, of the columns that are read. The first must be there."""

    names: tuple[str, ...]
    lists: frozenset[str]  # those that may hold lists


@dataclass(frozen=True)
class Fault:
    """What keeps a row from being used."""

    kind: str  # of the constants below, and of the manifest's: the subject of a count
    detail: str  # of this row


NumberedRow = tuple[int, Row | Fault]  # and the line that it ends at

MAX_CELL = LONGEST_TEXT  # characters
_MAX_LINE = 16 << 20  # characters
_MAX_JSON = 256 << 20  # bytes of a file that is parsed at once
_ROWS_AT_ONCE = 1 << 14  # of parquet
_ALWAYS_READ, _ROWS_PER_BYTE, _ITEMS_PER_ROW = 1 << 20, 4, 16  # rows of parquet, and items of lists in them
_TEXT_ALWAYS_READ, _TEXT_PER_BYTE = 256 << 20, 100  # bytes of text that a file may decode to, by its size
_LONGEST_COLUMN = 64 << 20  # bytes that a column of parquet may have, besides 4 per character of its cells
_NAMES_SHOWN = 10
_LONGEST_NAME = 4096  # characters that are looked at

UNREADABLE_ROWS = "rows that cannot be read"
OVERFULL_ROWS = "rows with more or fewer cells than the header"
LONG_ROWS = f"rows with a cell of more than {MAX_CELL:,} characters"
NO_UTF8_ROWS = "rows that are no UTF-8"


def read_table(path: Path, columns: Columns, notes: Counter[str]) -> Iterator[NumberedRow]:
    """The rows with their line numbers. Each has exactly these columns, None where there is no such column or
    an empty cell; or it is a fault. `notes` counts what else there is to say of the file.

    A column's name is found whatever its case and the blanks around it. Cells of csv and tsv come without
    blanks around them. Lines are counted from 1, and so are rows of JSON and parquet.

    Raises:
        DatasetError: the file cannot be read as what its suffix says, does not have the first of the columns,
            has one of them twice, or holds in one what is neither text nor numbers.
    """
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise DatasetError(f"{path} has none of the suffixes {', '.join(_READERS)}")
    try:
        for line, row in read(path, columns, notes):
            yield line, row if isinstance(row, Fault) else _fault(row) or row
    except (pa.ArrowException, csv.Error, OSError, ValueError) as error:
        why = scrubbed(" ".join(str(error).split())[:_LONGEST_NAME])[:500]
        raise DatasetError(f"{path} cannot be read: {why}") from error


def _fault(row: Row) -> Fault | None:
    """What keeps a row from being used, whatever its cells say."""
    for name, cell in row.items():
        if cell is None:
            continue
        text = "".join(part or "" for part in cell) if isinstance(cell, list) else cell
        if len(text) > MAX_CELL:
            return Fault(LONG_ROWS, f"the cell {name!r} has {len(text):,} characters, more than {MAX_CELL:,}")
        if not text.isascii() and not is_utf8(text):  # bytes that are no UTF-8 were read as lone surrogates
            return Fault(NO_UTF8_ROWS, f"the cell {name!r} is no UTF-8")
    return None


def _places(found: Iterable[str], columns: Columns, path: Path, notes: Counter[str]) -> dict[str, int]:
    """The position of each column among those found."""
    names = [name.strip().lower() for name in found]
    # Without a header, this is the first row of data.
    shown = ", ".join(f"'{_shown(name)}'" for name in names[:_NAMES_SHOWN])
    for column in columns.names:
        if names.count(column) > 1:
            raise DatasetError(f"{path} has the column {column!r} {names.count(column)} times ({shown})")
    if columns.names[0] not in names:
        raise DatasetError(f"{path} has no column {columns.names[0]!r} (it has {shown or 'none'})")
    _note_unread((name for name in names if name not in columns.names), notes)
    return {name: names.index(name) for name in columns.names if name in names}


def _note_unread(names: Iterable[str], notes: Counter[str]) -> None:
    unread = list(dict.fromkeys(names))
    if unread:
        more = ", ..." if len(unread) > _NAMES_SHOWN else ""
        shown = ", ".join(map(_shown, unread[:_NAMES_SHOWN]))
        notes[f"columns that are not read ({shown}{more})"] = len(unread)


def _shown(name: str) -> str:
    """A column's name in a message: short, on one line, without credentials."""
    return repr(scrubbed(name[:_LONGEST_NAME], {})[:50])[1:-1]


# --- csv and tsv -------------------------------------------------------------------------------------------


def _csv_rows(
    path: Path, columns: Columns, notes: Counter[str], delimiter: str = ","
) -> Iterator[NumberedRow]:
    with _opened(path) as file:
        rows = csv.reader(_lines(file), delimiter=delimiter, skipinitialspace=True)
        header = next(rows, [])
        places = _places(header, columns, path, notes)
        try:
            for cells in rows:
                if len(cells) == len(header):
                    yield (
                        rows.line_num,
                        {
                            name: cells[places[name]].strip() or None if name in places else None
                            for name in columns.names
                        },
                    )
                elif any(cells):
                    detail = f"it has {len(cells)} cells, the header has {len(header)}"
                    yield rows.line_num, Fault(OVERFULL_ROWS, detail)
        except csv.Error as error:
            raise DatasetError(
                f"{path}, line {rows.line_num}: {error} (a quotation mark that is not closed?)"
            ) from error


def _tsv_rows(path: Path, columns: Columns, notes: Counter[str]) -> Iterator[NumberedRow]:
    return _csv_rows(path, columns, notes, "\t")


def _opened(path: Path) -> TextIO:
    return open(path, encoding="utf-8-sig", errors="surrogateescape", newline="")


def _lines(file: TextIO) -> Iterator[str]:
    """Lines with their ends. Raises ValueError at one that is too long to be one."""
    for number, line in enumerate(iter(lambda: file.readline(_MAX_LINE), ""), 1):
        if len(line) == _MAX_LINE:
            raise ValueError(f"line {number} has {_MAX_LINE:,} characters or more")
        yield line


# --- JSON --------------------------------------------------------------------------------------------------


def _json_list_rows(path: Path, columns: Columns, notes: Counter[str]) -> Iterator[NumberedRow]:
    if path.stat().st_size > _MAX_JSON:
        raise ValueError(f"it has more than {_MAX_JSON:,} bytes; JSON lines (.jsonl) may have any number")
    unread: dict[str, None] = {}
    with _opened(path) as file:
        try:
            found = json.load(file, object_pairs_hook=_Object)
        except RecursionError as error:
            raise ValueError("it is nested too deeply") from error
    if not isinstance(found, list) or isinstance(found, _Object):
        raise ValueError("it is not a list of objects, [{...}, {...}]")
    for number, item in enumerate(found, 1):
        try:
            yield number, _json_row(item, columns, unread)
        except ValueError as error:
            yield number, Fault(UNREADABLE_ROWS, f"it cannot be read: {error}")
    _note_unread(unread, notes)


def _json_lines_rows(path: Path, columns: Columns, notes: Counter[str]) -> Iterator[NumberedRow]:
    unread: dict[str, None] = {}
    with _opened(path) as file:
        for number, line in enumerate(_lines(file), 1):
            if line.isspace():
                continue
            try:
                yield number, _json_row(json.loads(line, object_pairs_hook=_Object), columns, unread)
            except RecursionError:
                yield number, Fault(UNREADABLE_ROWS, "it is nested too deeply")
            except ValueError as error:
                yield number, Fault(UNREADABLE_ROWS, f"it cannot be read: {error}")
    _note_unread(unread, notes)


class _Object(list):
    """A JSON object as its (name, value) pairs in order: a name may come twice."""


def _json_row(found: object, columns: Columns, unread: dict[str, None]) -> Row:
    """Raises ValueError for what is no object, names a column twice or has one of another kind."""
    if not isinstance(found, _Object):
        raise ValueError("no object")
    row: Row = {}
    for name, value in found:
        name = name.strip().lower()
        if name in row:
            raise ValueError("a column twice")
        if name in columns.names:
            is_list = type(value) is list and name in columns.lists
            row[name] = [_json_text(item) for item in value] if is_list else _json_text(value)
        elif len(unread) <= _NAMES_SHOWN:
            unread[name] = None
    return dict.fromkeys(columns.names) | row


def _json_text(value: object) -> str | None:
    if value is None or value == "" or value != value:  # NaN, as pandas writes nothing
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(value)
    raise ValueError(f"neither text nor a number: {type(value).__name__}")


# --- parquet -----------------------------------------------------------------------------------------------


def _parquet_rows(path: Path, columns: Columns, notes: Counter[str]) -> Iterator[NumberedRow]:
    with open(path, "rb") as file:
        footer = read_footer(file)
        metadata = pq.read_metadata(pa.BufferReader(MAGIC + footer))
        _check_claims(metadata, row_groups(footer), path.stat().st_size)
        schema = pq.ParquetFile(file, metadata=metadata, pre_buffer=False).schema_arrow
        places = _places(schema.names, columns, path, notes)
        wanted = {name: schema.field(place) for name, place in places.items()}
        as_text = {
            name: _caster(field, path, may_be_list=name in columns.lists) for name, field in wanted.items()
        }
        names = [field.name for field in wanted.values()]
        # Texts as dictionaries: a few bytes may stand for a long text in each of a million rows.
        texts = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
        rows = pq.ParquetFile(file, metadata=metadata, read_dictionary=texts, pre_buffer=False)
        number, left = 0, _TEXT_ALWAYS_READ + _TEXT_PER_BYTE * path.stat().st_size
        for batch in rows.iter_batches(_ROWS_AT_ONCE, columns=names, use_threads=False):
            left -= sum(map(_text_bytes, batch.columns))
            if left < 0:
                raise ValueError("it repeats long texts more often than any list does")
            read = {name: _cells(batch.column(field.name), as_text[name]) for name, field in wanted.items()}
            for i in range(len(batch)):
                number += 1
                yield (
                    number,
                    {name: read[name][i] or None if name in read else None for name in columns.names},
                )


def _check_claims(metadata: pq.FileMetaData, groups: Sequence[RowGroup], size: int) -> None:
    """Raises ValueError for rows, list items, texts or codecs that no list in a file of `size` bytes has:
    paths differ, so that a row takes more than a fraction of a byte, however it is compressed."""
    most_rows = _ALWAYS_READ + _ROWS_PER_BYTE * size
    if metadata.num_rows > most_rows:
        raise ValueError(f"it claims {metadata.num_rows:,} rows in {size:,} bytes")
    for group in groups:
        for j, chunk in enumerate(group.columns):
            if chunk.codec not in CODECS:
                raise ValueError(f"its codec {chunk.codec} is none of parquet's")
            if chunk.values > _ITEMS_PER_ROW * most_rows:
                raise ValueError(f"it claims {chunk.values:,} values in {size:,} bytes")
            if chunk.uncompressed_size > _LONGEST_COLUMN + 4 * MAX_CELL * chunk.values:
                raise ValueError(f"its column {j + 1} holds texts that are too long")


def _text_bytes(column: pa.Array) -> int:
    """What the texts of a column take, those that are dictionaries."""
    values = column.flatten() if pa.types.is_list(column.type) else column
    if not pa.types.is_dictionary(values.type):
        return 0
    return pc.sum(pc.binary_length(values.dictionary).take(values.indices)).as_py() or 0


def _cells(column: pa.Array, as_text: Callable[[pa.Array], pa.Array]) -> list[Cell]:
    """The cells as text."""
    if pa.types.is_list(column.type) and pa.types.is_dictionary(column.type.value_type):
        items, ends = _shared_texts(column.flatten(), _plain_text), [0, *accumulate(_lengths(column))]
        is_null = column.is_null().to_pylist()
        return [None if no else items[a:b] for no, (a, b) in zip(is_null, pairwise(ends), strict=True)]
    if pa.types.is_dictionary(column.type):
        return list(_shared_texts(column, as_text))
    return as_text(column).to_pylist()


def _shared_texts(column: pa.DictionaryArray, as_text: Callable[[pa.Array], pa.Array]) -> list[str | None]:
    """The texts; equal ones are one object."""
    texts = as_text(column.dictionary).to_pylist()
    return [None if i is None else texts[i] for i in column.indices.to_pylist()]


def _lengths(column: pa.ListArray) -> list[int]:
    return pc.fill_null(pc.list_value_length(column), 0).to_pylist()


def _plain_text(column: pa.Array) -> pa.Array:
    return column.cast(pa.string())


def _caster(field: pa.Field, path: Path, *, may_be_list: bool) -> Callable[[pa.Array], pa.Array]:
    """What turns a column into text, or into lists of text. Raises DatasetError where it holds neither."""
    kind = field.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    item, target = (kind.value_type, pa.list_(pa.string())) if is_list else (kind, pa.string())
    if pa.types.is_nested(item) or pa.types.is_boolean(item) or is_list and not may_be_list:
        raise DatasetError(f"{path}: the column {field.name!r} holds {str(kind)[:100]}, not text or numbers")
    if pa.types.is_floating(kind):
        return lambda column: pc.if_else(pc.is_nan(column), None, column).cast(target)
    return lambda column: column.cast(target)


_READERS = {
    ".csv": _csv_rows,
    ".txt": _csv_rows,
    ".tsv": _tsv_rows,
    ".jsonl": _json_lines_rows,
    ".ndjson": _json_lines_rows,
    ".json": _json_list_rows,
    ".parquet": _parquet_rows,
}
