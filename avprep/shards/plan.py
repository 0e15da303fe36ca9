"""plan.parquet: a row a clip, ascending by shard; a row group holds whole shards, so that a plan of millions
of clips is read a piece at a time."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from avprep.shards.layout import PLAN_FILE, ShardError
from avprep.shards.store import Store

ROWS_A_GROUP = 1 << 14  # at least: each group costs memory in every reader and writer
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
        try:
            self._file = pq.ParquetFile(store.open(PLAN_FILE), pre_buffer=False)
        except pa.ArrowInvalid as error:
            raise ShardError(f"{store.uri}/{PLAN_FILE} is damaged ({error}); a rebuild plans anew") from error
        metadata, shard = self._file.metadata, SCHEMA.get_field_index("shard")
        if not self._file.schema_arrow.equals(SCHEMA):
            columns = self._file.schema_arrow.names
            raise ShardError(f"{store.uri}/{PLAN_FILE} has the columns {columns}, not those of a plan")
        spans = [metadata.row_group(i).column(shard).statistics for i in range(metadata.num_row_groups)]
        if not all(span is not None and span.has_min_max for span in spans):
            raise ShardError(f"{store.uri}/{PLAN_FILE} does not say which shards its row groups hold")
        self._firsts = [span.min for span in spans]  # the first shard of each group
        self.shards: int = spans[-1].max + 1 if spans else 0
        self.clips: int = metadata.num_rows
        self._held: tuple[int, pa.Table, np.ndarray] | None = None  # a group, its rows and their shards

    def rows(self, shard: int) -> list[PlanRow]:
        return [PlanRow(**row) for row in self.table(shard).to_pylist()]

    def table(self, shard: int) -> pa.Table:
        """The rows of a shard, with the columns of SCHEMA; empty where the plan has no such shard."""
        group = bisect_right(self._firsts, shard) - 1
        if self._held is None or self._held[0] != group:
            table = self._file.read_row_group(group, use_threads=False)
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
        found: dict[str, tuple[str, ...]] = {}
        values = pa.array(sorted(keys), pa.string())
        for table in self._tables("key", "labels"):
            rows = table.filter(pc.is_in(table["key"], values)).to_pydict()
            found.update(zip(rows["key"], map(tuple, rows["labels"]), strict=True))
        return found

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
        for group in range(self._file.num_row_groups):
            yield self._file.read_row_group(group, list(columns), use_threads=False)
