"""plan.parquet: a row a clip, and row group i is shard i, so that a shard's plan is read alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from avprep.shards.store import Store

NAME = "plan.parquet"
SCHEMA = pa.schema([
    ("key", pa.string()),
    ("shard", pa.int32()),
    ("source", pa.string()),
    ("start", pa.int64()),                # samples of the spec's rate since the source's time 0
    ("labels", pa.list_(pa.string())),
    ("caption", pa.string()),
    ("reason", pa.string()),              # '' = to be made; else known when the plan was made
    ("detail", pa.string()),
])


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


def write_plan(store: Store, shards: Iterable[list[PlanRow]]) -> tuple[int, int]:
    """Writes the plan shard by shard, as it comes. Returns (shards, clips)."""
    count = clips = 0
    with store.write(NAME) as file, pq.ParquetWriter(file, SCHEMA) as writer:
        for rows in shards:
            columns = {name: [getattr(row, name) for row in rows] for name in SCHEMA.names}
            writer.write_table(pa.table(columns, SCHEMA), row_group_size=len(rows))
            count, clips = count + 1, clips + len(rows)
    return count, clips


class PlanReader:
    """The plan of an output, one shard at a time."""

    def __init__(self, store: Store) -> None:
        self._file = pq.ParquetFile(store.open(NAME))
        self.shards: int = self._file.metadata.num_row_groups
        self.clips: int = self._file.metadata.num_rows

    def rows(self, shard: int) -> list[PlanRow]:
        return [PlanRow(**row) for row in self._file.read_row_group(shard).to_pylist()]

    def clips_of(self, shard: int) -> int:
        return self._file.metadata.row_group(shard).num_rows

    def unmade(self) -> dict[str, tuple[int, str]]:
        """Key to (shard, reason) of every row for which there was nothing to make when the plan was made."""
        found: dict[str, tuple[int, str]] = {}
        for shard in range(self.shards):
            table = self._file.read_row_group(shard, ["key", "reason"])
            table = table.filter(pc.not_equal(table["reason"], ""))
            keys, reasons = table.to_pydict().values()
            found.update((key, (shard, reason)) for key, reason in zip(keys, reasons, strict=True))
        return found

    def keys_of(self, sources: set[str]) -> set[str]:
        """The keys of all rows of these sources."""
        found: set[str] = set()
        values = pa.array(sorted(sources), pa.string())
        for shard in range(self.shards):
            table = self._file.read_row_group(shard, ["key", "source"])
            found.update(table.filter(pc.is_in(table["source"], values))["key"].to_pylist())
        return found

    def texts(self) -> Iterator[tuple[str, tuple[str, ...], str]]:
        """(source, labels, caption) of every row, as often as neighbouring rows differ."""
        last = None
        for shard in range(self.shards):
            table = self._file.read_row_group(shard, ["source", "labels", "caption"])
            columns = (column.to_pylist() for column in table.columns)
            for source, labels, caption in zip(*columns, strict=True):
                row = (source, tuple(labels), caption)
                if row != last:
                    yield row
                last = row
