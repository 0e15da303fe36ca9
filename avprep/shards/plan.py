"""plan.parquet: a row a clip, ascending by shard; a row group holds whole shards, so that a plan of millions
of clips is read a piece at a time."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from avprep.shards.layout import PLAN_FILE, ShardError
from avprep.shards.parquet import ParquetRows, naming
from avprep.shards.store import Store

MOST_ROWS = 1 << 32
ROWS_A_GROUP = 1 << 14  # at least: each group costs memory in every reader and writer
_REMEDY = "a rebuild plans anew"
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.int32()),
        ("source", pa.string()),
        ("start", pa.int64()),  # samples of the spec's rate since the source's time 0
        ("labels", pa.list_(pa.string())),
        ("caption", pa.string()),
        ("reason", pa.string()),  # '' = to be made; else known when the plan was made
        ("detail", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRow:
    key: str
    shard: int
    source: str
    start: int
    labels: tuple[str, ...]
    caption: str
    reason: str = ""
    detail: str = ""


def write_plan(store: Store, shards: Iterable[list[PlanRow]]) -> None:
    """Writes the plan as it comes, shard by shard."""
    with store.write(PLAN_FILE) as file, pq.ParquetWriter(file, SCHEMA, write_statistics=["shard"]) as writer:
        for rows in _groups(shards):
            columns = {name: [getattr(row, name) for row in rows] for name in SCHEMA.names}
            writer.write_table(pa.table(columns, SCHEMA), row_group_size=len(rows))


def _groups(shards: Iterable[list[PlanRow]]) -> Iterator[list[PlanRow]]:
    group: list[PlanRow] = []
    for rows in shards:
        group += rows
        if len(group) >= ROWS_A_GROUP:
            yield group
            group = []
    if group:
        yield group


class PlanReader:
    """The plan of an output, one row group in memory at a time. Raises ShardError for a damaged one."""

    def __init__(self, store: Store) -> None:
        self._errors = partial(naming, store, PLAN_FILE)
        with self._errors():
            self._file = ParquetRows(store.open(PLAN_FILE), remedy=_REMEDY, most_rows=MOST_ROWS)
            if not self._file.schema.equals(SCHEMA):
                raise ShardError(f"has the columns {self._file.columns()}, not those of a plan")
            spans = _shards_of_groups(self._file.metadata)
        self._firsts = [first for first, _ in spans]
        self.shards: int = spans[-1][1] + 1 if spans else 0
        self.clips: int = self._file.metadata.num_rows
        self._held: tuple[int, pa.Table, np.ndarray] | None = None  # a group, its rows and their shards

    def rows(self, shard: int) -> list[PlanRow]:
        return [PlanRow(**row) for row in self.table(shard).to_pylist()]

    def table(self, shard: int) -> pa.Table:
        """The rows of a shard, with the columns of SCHEMA; empty where the plan has no such shard."""
        group = bisect_right(self._firsts, shard) - 1
        if self._held is None or self._held[0] != group:
            table = self._read(group)
            self._held = group, table, table["shard"].to_numpy()
        _, table, numbers = self._held
        first, stop = np.searchsorted(numbers, [shard, shard + 1]).tolist()
        return table.slice(first, stop - first)

    def clips_of(self, shards: Iterable[int]) -> int:
        """How many clips these shards have together."""
        counts = np.zeros(self.shards, np.int64)
        for table in self._tables("shard"):
            counts += np.bincount(table["shard"].to_numpy(), minlength=self.shards)
        return int(counts[list(shards)].sum())

    def unmade(self) -> dict[str, tuple[int, str]]:
        """Key to (shard, reason) of every row for which there was nothing to make when the plan was made."""
        found: dict[str, tuple[int, str]] = {}
        for table in self._tables("key", "shard", "reason"):
            rows = table.filter(pc.not_equal(table["reason"], "")).to_pydict()
            found.update(zip(rows["key"], zip(rows["shard"], rows["reason"], strict=True), strict=True))
        return found

    def keys_of(self, sources: set[str]) -> set[str]:
        """The keys of all rows of these sources."""
        found: set[str] = set()
        values = pa.array(sorted(sources), pa.string())
        for table in self._tables("key", "source"):
            found.update(table.filter(pc.is_in(table["source"], values))["key"].to_pylist())
        return found

    def labels_of(self, keys: set[str]) -> dict[str, tuple[str, ...]]:
        """The labels of the rows with these keys."""
        ordered = sorted(keys)
        labels = self.values_of("labels", pa.array(ordered, pa.string())).to_pylist()
        return {key: tuple(own) for key, own in zip(ordered, labels, strict=True) if own is not None}

    def values_of(self, column: str, keys: pa.Array) -> pa.Array:
        """The value of a column in the rows with these keys, in their order; null where there is no row."""
        empty = pa.schema([SCHEMA.field("key"), SCHEMA.field(column)]).empty_table()
        rows = pa.concat_tables([empty, *self._tables("key", column)])
        places = pc.index_in(keys, value_set=rows["key"].combine_chunks())
        return rows[column].combine_chunks().take(places)

    def texts(self) -> Iterator[tuple[str, tuple[str, ...], str]]:
        """(source, labels, caption) of every row, as often as neighbouring rows differ."""
        last = None
        for table in self._tables("source", "labels", "caption"):
            columns = (column.to_pylist() for column in table.columns)
            for source, labels, caption in zip(*columns, strict=True):
                row = (source, tuple(labels), caption)
                if row != last:
                    yield row
                last = row

    def _tables(self, *columns: str) -> Iterator[pa.Table]:
        for group in range(self._file.metadata.num_row_groups):
            yield self._read(group, columns)

    def _read(self, group: int, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of a group. Raises ShardError where their shards are none of the plan's."""
        with self._errors():
            table = self._file.read_groups([group], columns)
            if "shard" in table.column_names and len(table):
                numbers = table["shard"].to_numpy()
                if numbers.min() < 0 or numbers.max() >= self.shards:
                    raise ShardError(f"is damaged (shards that it does not have); {_REMEDY}")
        return table


def _shards_of_groups(metadata: pq.FileMetaData) -> list[tuple[int, int]]:
    """(first, last) shard of each row group, ascending. Raises ShardError where they are no plan's."""
    column = SCHEMA.get_field_index("shard")
    stated = [metadata.row_group(i).column(column).statistics for i in range(metadata.num_row_groups)]
    if not all(span is not None and span.has_min_max for span in stated):
        raise ShardError(f"does not say which shards its row groups hold; {_REMEDY}")
    spans = [(span.min, span.max) for span in stated]
    if spans and (spans[0][0] != 0 or spans != sorted(spans) or spans[-1][1] >= metadata.num_rows):
        raise ShardError(f"is damaged (shards in no order, or more of them than rows); {_REMEDY}")
    return spans
