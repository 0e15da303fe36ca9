"""The ledger: a row for every planned clip. It is written last; where it is, its shard is whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace

import pyarrow as pa
import pyarrow.parquet as pq

from avprep.reasons import FILTERED, MediaError, Reason
from avprep.shards.layout import (
    CLIPS,
    LATENTS,
    LEDGER_FOLDER,
    ShardError,
    ledger_index,
    ledger_name,
    shard_name,
)
from avprep.shards.parquet import ParquetRows, opened_parquet
from avprep.shards.store import Store

MOST_ROWS = 1 << 22  # of a shard
_REMEDY = "remove it and run the command that wrote it: that shard is made again"
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


def status_of(reason: str) -> str:
    """The status of a clip that was not written for this reason."""
    return "filtered" if Reason.of(reason) in FILTERED else "failed"


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

    def lost(self, error: MediaError) -> LedgerRow:
        """The row of this clip if it is not written: filtered or failed, by the reason."""
        reason = error.reason
        return replace(
            self, status=status_of(reason), reason=reason.value, detail=error.detail, residual_ms=None
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
    ordered = sorted(rows, key=lambda row: row.key)  # as in the plan
    table = pa.Table.from_pylist([asdict(row) for row in ordered], SCHEMA.with_metadata(metadata))
    with store.write(ledger_name(index)) as file:
        pq.write_table(table, file)


def read_ledger(store: Store, index: int) -> tuple[list[LedgerRow], ShardRecord]:
    """The rows of a shard and what is known of it. Raises ShardError for a damaged ledger."""
    with _opened(store, index) as ledger:
        table = _table(ledger)
        return [LedgerRow(**row) for row in table.to_pylist()], _record(table.schema.metadata, index)


def read_outcomes(store: Store, index: int) -> Counter[tuple[str, str]]:
    """How many rows of a shard have each (status, reason): two columns are read, not all rows, as there may
    be millions. Raises ShardError for a ledger that is damaged there."""
    return outcomes_of(read_columns(store, index, "status", "reason"))


def outcomes_of(rows: pa.Table) -> Counter[tuple[str, str]]:
    return Counter(zip(rows["status"].to_pylist(), rows["reason"].to_pylist(), strict=True))


def read_columns(store: Store, index: int, *columns: str) -> pa.Table:
    """These columns of a shard's rows. Raises ShardError for a damaged ledger."""
    with _opened(store, index) as ledger:
        return _table(ledger, list(columns))


def read_table(store: Store) -> pa.Table:
    """All rows of the finished shards, ascending by shard, with the columns of SCHEMA.

    Raises:
        ShardError: a damaged ledger, or one with other columns.
    """
    tables = [SCHEMA.empty_table()]  # the first one's metadata stays: none, as each shard has its own
    for index in finished_shards(store):
        tables.append(read_shard_table(store, index)[0])
    return pa.concat_tables(tables)


def read_shard_table(store: Store, index: int) -> tuple[pa.Table, ShardRecord]:
    """As `read_ledger`, with the rows as a table: millions of rows are not made into objects."""
    with _opened(store, index) as ledger:
        table = _table(ledger)
        return table, _record(table.schema.metadata, index)


def read_record(store: Store, index: int) -> ShardRecord:
    """What the ledger knows of its shard, without the rows. Raises ShardError for a damaged ledger."""
    with _opened(store, index) as ledger:
        return _record(ledger.schema.metadata, index)


def _opened(store: Store, index: int) -> AbstractContextManager[ParquetRows]:
    return opened_parquet(store, ledger_name(index), remedy=_REMEDY, most_rows=MOST_ROWS)


def _table(ledger: ParquetRows, columns: list[str] | None = None) -> pa.Table:
    """The rows of a ledger; of these columns. Raises ShardError where they are no ledger's."""
    if not ledger.schema.equals(SCHEMA):
        raise ShardError(f"has the columns {ledger.columns()}, not those of a ledger")
    return ledger.read(columns)


def _record(metadata: Mapping[bytes, bytes] | None, index: int) -> ShardRecord:
    """Raises ShardError for entries that are missing, or a name that is not of this shard."""
    try:
        values = {k.decode(): v.decode() for k, v in (metadata or {}).items() if k != b"ARROW:schema"}
        name, sha256, size, fingerprint = (values.pop(k) for k in ("name", "sha256", "size", "fingerprint"))
        record = ShardRecord(name, sha256, int(size), fingerprint, values)
    except (KeyError, ValueError) as error:
        raise ShardError(f"is damaged: no entry of a shard's ledger ({error})") from error
    if not 0 <= record.size < 2**63:
        raise ShardError(f"is damaged: it says that its shard has {record.size} bytes")
    if name not in ("", shard_name(CLIPS, index), shard_name(LATENTS, index)):
        raise ShardError(f"is damaged: it names the shard {name[:80]!r}")
    return record


def finished_shards(store: Store) -> list[int]:
    """The indices of the shards that are whole, ascending."""
    found = (ledger_index(name) for name in store.names(LEDGER_FOLDER))
    return sorted(index for index in found if index is not None)


def read_ledgers(store: Store) -> Iterator[tuple[int, list[LedgerRow], ShardRecord]]:
    for index in finished_shards(store):
        yield index, *read_ledger(store, index)
