"""The ledger: a row for every planned clip. It is written last; where it is, its shard is whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from avprep.reasons import FILTERED, MediaError
from avprep.shards.layout import LEDGER_FOLDER, ShardError, ledger_index, ledger_name
from avprep.shards.store import Store

STATUSES = ("written", "filtered", "failed")
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.int32()),
        ("source", pa.string()),
        ("start_s", pa.float64()),
        ("status", pa.string()),  # written | filtered | failed
        ("reason", pa.string()),  # '' or one of avprep.reasons.Reason
        ("detail", pa.string()),
        ("residual_ms", pa.float32()),  # null where nothing was written
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRow:
    key: str
    shard: int
    source: str
    start_s: float
    status: str
    reason: str = ""
    detail: str = ""
    residual_ms: float | None = None

    @classmethod
    def lost(cls, error: MediaError, *, key: str, shard: int, source: str, start_s: float) -> LedgerRow:
        """The row of a clip that was not written: filtered or failed, by the reason."""
        status = "filtered" if error.reason in FILTERED else "failed"
        return cls(
            key=key,
            shard=shard,
            source=source,
            start_s=start_s,
            status=status,
            reason=error.reason.value,
            detail=error.detail,
        )


@dataclass(frozen=True)
class ShardRecord:
    """What the ledger knows of its shard as a file."""

    name: str  # '' where no clip was written: then there is no tar
    sha256: str
    size: int  # bytes
    fingerprint: str
    extra: Mapping[str, str] = field(default_factory=dict)  # what the shard's kind adds (latents.py)


@dataclass
class Sums:
    """Counts over ledgers."""

    by_status: Counter[str] = field(default_factory=Counter)
    by_reason: Counter[str] = field(default_factory=Counter)

    def add(self, rows: Iterable[LedgerRow]) -> None:
        for row in rows:
            self.by_status[row.status] += 1
            if row.reason:
                self.by_reason[row.reason] += 1

    def count(self, outcomes: Counter[tuple[str, str]]) -> None:
        """Adds the rows of a ledger as `read_outcomes` gives them."""
        for (status, reason), rows in outcomes.items():
            self.by_status[status] += rows
            if reason:
                self.by_reason[reason] += rows

    def merge(self, other: Sums) -> None:
        self.by_status.update(other.by_status)
        self.by_reason.update(other.by_reason)

    @property
    def planned(self) -> int:
        return sum(self.by_status.values())


def write_ledger(store: Store, index: int, rows: list[LedgerRow], record: ShardRecord) -> None:
    metadata = {
        "name": record.name,
        "sha256": record.sha256,
        "size": str(record.size),
        "fingerprint": record.fingerprint,
        **record.extra,
    }
    table = pa.Table.from_pylist([asdict(row) for row in rows], SCHEMA.with_metadata(metadata))
    with store.write(ledger_name(index)) as file:
        pq.write_table(table, file)


def read_ledger(store: Store, index: int) -> tuple[list[LedgerRow], ShardRecord]:
    """The rows of a shard and what is known of it. Raises ShardError for a damaged ledger."""
    with _opened(store, index) as file:
        # On this thread: one that Arrow still has when the process ends can take it down, exit code and all.
        table = pq.ParquetFile(file, pre_buffer=False).read(use_threads=False)
    return [LedgerRow(**row) for row in table.to_pylist()], _record(table.schema.metadata)


def read_outcomes(store: Store, index: int) -> Counter[tuple[str, str]]:
    """How many rows of a shard have each (status, reason): two columns are read, not all rows, as there may
    be millions. Raises ShardError for a ledger that is damaged there."""
    with _opened(store, index) as file:
        table = pq.ParquetFile(file, pre_buffer=False).read(["status", "reason"], use_threads=False)
    return Counter(zip(table["status"].to_pylist(), table["reason"].to_pylist(), strict=True))


def read_table(store: Store) -> pa.Table:
    """All rows of the finished shards, ascending by shard, with the columns of SCHEMA.

    Raises:
        ShardError: a damaged ledger, or one with other columns.
    """
    tables = [SCHEMA.empty_table()]  # the first one's metadata stays: none, as each shard has its own
    for index in finished_shards(store):
        with _opened(store, index) as file:
            table = pq.ParquetFile(file, pre_buffer=False).read(use_threads=False)
        if table.schema != SCHEMA:
            raise ShardError(
                f"{store.uri}/{ledger_name(index)} has the columns {table.column_names}, not "
                f"those of a ledger"
            )
        tables.append(table)
    return pa.concat_tables(tables)


def read_record(store: Store, index: int) -> ShardRecord:
    """What the ledger knows of its shard, without the rows."""
    with _opened(store, index) as file:
        return _record(pq.read_schema(file).metadata)


@contextmanager
def _opened(store: Store, index: int) -> Iterator[BinaryIO]:
    name = ledger_name(index)
    try:
        with store.open(name) as file:
            yield file
    except pa.ArrowInvalid as error:
        raise ShardError(
            f"{store.uri}/{name} is damaged ({error}); remove it and run the command that wrote "
            f"it: that shard is made again"
        ) from error


def _record(metadata: Mapping[bytes, bytes] | None) -> ShardRecord:
    values = {k.decode(): v.decode() for k, v in (metadata or {}).items() if k != b"ARROW:schema"}
    own = [values.pop(name) for name in ("name", "sha256", "size", "fingerprint")]
    return ShardRecord(own[0], own[1], int(own[2]), own[3], values)


def finished_shards(store: Store) -> list[int]:
    """The indices of the shards that are whole, ascending."""
    found = (ledger_index(name) for name in store.names(LEDGER_FOLDER))
    return sorted(index for index in found if index is not None)


def read_ledgers(store: Store) -> Iterator[tuple[int, list[LedgerRow], ShardRecord]]:
    for index in finished_shards(store):
        yield index, *read_ledger(store, index)
