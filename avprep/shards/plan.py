"""plan.parquet: a row a clip, ascending by shard; a row group holds whole shards, so that a plan of millions
of clips is read a piece at a time."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from avprep.reasons import Reason
from avprep.shards.footer import RowGroup
from avprep.shards.integrity import sha256_of
from avprep.shards.layout import PLAN_FILE, ShardError
from avprep.shards.parquet import ParquetRows, naming
from avprep.shards.store import Store

MOST_ROWS = 1 << 32
MOST_EMPTY_SHARDS = 1 << 20  # a plan may have more shards than rows: what changed sources leave is empty
BARS_GRID = 256
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
        # Of the source as it was when the plan was made. Plans of earlier versions lack these columns.
        ("span_start_s", pa.float64()),  # of the span that the dataset names; null = not known
        ("span_stop_s", pa.float64()),  # null = to the end of the video
        # The file's size and time (`avprep.media.source.file_version`); '' = not known
        ("version", pa.string()),
        # Of the file, as its header says; null = not known.
        ("source_width", pa.int32()),  # pixels as stored, before rotation and sample aspect ratio
        ("source_height", pa.int32()),
        ("source_fps", pa.float64()),  # on average
        ("source_s", pa.float64()),  # seconds of video
        # 'source': the dataset gives the caption; 'labels': it is made from them; '' = there is none. Null =
        # not marked: the clips of an output that an earlier version began have no such field.
        ("caption_from", pa.string()),
        # Of a source whose clips start at events: a digest of what is listed of it. '' = they do not.
        ("events", pa.string()),
        # Of a source whose black bars are cut away: top, bottom, left and right, in 256ths of its picture's
        # height and width. Null = they were not looked for.
        ("bars", pa.list_(pa.int32())),
    ]
)
_COLUMNS_OF_VERSIONS = (
    8,
    11,
    15,
    17,
    len(SCHEMA),
)  # a plan has the first columns, as many as its version knew
_HISTORY = b"history"  # of the metadata


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
    span_start_s: float | None = None
    span_stop_s: float | None = None
    version: str = ""
    source_width: int | None = None
    source_height: int | None = None
    source_fps: float | None = None
    source_s: float | None = None
    caption_from: str | None = None
    events: str = ""
    bars: tuple[int, int, int, int] | None = None


class PlannedSpan(NamedTuple):
    """A source as the plan has it: a file, or a span of it."""

    path: str
    start_s: float | None  # None: not known
    stop_s: float | None
    labels: tuple[str, ...]
    caption: str
    version: str
    events: str  # '' = its clips do not start at events; elsewhere labels and caption are empty
    fault: str  # of a row of a list that names no source: why


@dataclass(frozen=True)
class PlanHistory:
    """What became of a plan since it was first made."""

    identity: str  # of the plan as it was first made: what is made of its clips belongs to all that follow
    generations: tuple[int, ...] = (0,)  # the first shard of each: the first plan, then what was added
    revision: int = 0  # how often the plan was rewritten

    def grown(self, first_shard: int) -> PlanHistory:
        """The history of the plan that adds shards from this one on."""
        return replace(self.rewritten(), generations=(*self.generations, first_shard))

    def rewritten(self) -> PlanHistory:
        """The history of the plan with other rows in the place of some."""
        return replace(self, revision=self.revision + 1)


def write_plan(store: Store, shards: Iterable[list[PlanRow]], history: PlanHistory | None = None) -> None:
    """Writes the plan as it comes, shard by shard. `history`: of a plan that takes another's place; None: a
    new plan begins its own."""
    identity = _Identity()
    with store.write(PLAN_FILE) as file, pq.ParquetWriter(file, SCHEMA, write_statistics=["shard"]) as writer:
        for rows in _groups(shards):
            columns = {name: [getattr(row, name) for row in rows] for name in SCHEMA.names}
            writer.write_table(pa.table(columns, SCHEMA), row_group_size=len(rows))
            if history is None:
                identity.add(rows)
        history = history or PlanHistory(identity.digest())
        writer.add_key_value_metadata({_HISTORY: json.dumps(asdict(history)).encode()})


class _Identity:
    """A digest of what is planned. The files' versions are no part of it: a copy of the media gives the same
    clips."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, rows: Iterable[PlanRow]) -> None:
        lines = (f"{row.key} {row.reason} {'|'.join(row.labels)} {row.caption}\n" for row in rows)
        self._digest.update("".join(lines).encode())

    def digest(self) -> str:
        return self._digest.hexdigest()


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
        self._store = store
        self._errors = partial(naming, store, PLAN_FILE)
        with self._errors():
            self._file = ParquetRows(store.open(PLAN_FILE), remedy=_REMEDY, most_rows=MOST_ROWS)
            self._there = SCHEMA.names[: len(self._file.schema)]
            known = [pa.schema(list(SCHEMA)[:count]) for count in _COLUMNS_OF_VERSIONS]
            if not any(self._file.schema.equals(schema) for schema in known):
                raise ShardError(f"has the columns {self._file.columns()}, not those of a plan")
            spans = _shards_of_groups(self._file.groups)
        self._firsts = [first for first, _ in spans]
        self.shards: int = spans[-1][1] + 1 if spans else 0
        self.clips: int = self._file.metadata.num_rows
        self._held: tuple[int, pa.Table, np.ndarray] | None = None  # a group, its rows and their shards

    def history(self) -> PlanHistory:
        """What became of the plan. One of an earlier version does not know: its file is its identity.

        Raises:
            ShardError: a damaged history.
        """
        found = (self._file.metadata.metadata or {}).get(_HISTORY)
        if found is not None:
            with self._errors():
                return _history(found, self.shards)
        with self._store.open(PLAN_FILE) as file:
            return PlanHistory(sha256_of(file))

    def marks_captions(self) -> bool:
        """Whether the clips say where their captions are from."""
        return all(table["caption_from"].null_count == 0 for table in islice(self._tables("caption_from"), 1))

    def rows(self, shard: int) -> list[PlanRow]:
        rows = self.table(shard).to_pylist()
        with self._errors():
            return [PlanRow(**row | {"bars": _bars(row["bars"])}) for row in rows]

    def table(self, shard: int) -> pa.Table:
        """The rows of a shard, with the columns of SCHEMA; empty where the plan has no such shard."""
        group = max(0, bisect_right(self._firsts, shard) - 1)  # the first shards may have lost all their rows
        if self._held is None or self._held[0] != group:
            table = self._read(group, SCHEMA.names)
            self._held = group, table, table["shard"].to_numpy()
        _, table, numbers = self._held
        first, stop = np.searchsorted(numbers, [shard, shard + 1]).tolist()
        return table.slice(first, stop - first)

    def holds(self, shard: int, keys: pa.ChunkedArray) -> bool:
        """Whether these are the keys of a shard, in any order."""
        planned = self.table(shard)["key"]
        return planned.equals(keys) or sorted(planned.to_pylist()) == sorted(keys.to_pylist())

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

    def keys(self) -> Iterator[str]:
        """The keys of all rows, in order."""
        for table in self._tables("key"):
            yield from table["key"].to_pylist()

    def keys_of(self, sources: AbstractSet[str]) -> set[str]:
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

    def spans(self) -> Iterator[PlannedSpan]:
        """The sources, as often as neighbouring rows differ: more than once where the clips of a source lie
        in several shards."""
        last = None
        columns = ("source", "span_start_s", "span_stop_s", "labels", "caption", "version", "events")
        for table in self._tables(*columns, "reason", "detail"):
            rows = (column.to_pylist() for column in table.columns)
            for *place, labels, caption, version, events, reason, detail in zip(*rows, strict=True):
                labels, caption = ((), "") if events else (tuple(labels), caption)
                fault = detail if reason == Reason.BAD_ROW else ""
                span = PlannedSpan._make((*place, labels, caption, version, events, fault))
                if span != last:
                    yield span
                last = span

    def _tables(self, *columns: str) -> Iterator[pa.Table]:
        for group in range(len(self._file.groups)):
            yield self._read(group, columns)

    def _read(self, group: int, columns: Sequence[str]) -> pa.Table:
        """These columns of SCHEMA, in its order, of a group; those that the plan lacks hold 'not known'.

        Raises:
            ShardError: the shards are none of the plan's.
        """
        there = [name for name in columns if name in self._there]
        with self._errors():
            table = self._file.read_groups([group], there)
            if "shard" in there and len(table):
                numbers = table["shard"].to_numpy()
                if numbers.min() < 0 or numbers.max() >= self.shards:
                    raise ShardError(f"is damaged (shards that it does not have); {_REMEDY}")
        for name in sorted(set(columns) - set(there)):
            field = SCHEMA.field(name)
            is_text = name in ("version", "events")
            unknown = pa.repeat("", len(table)) if is_text else pa.nulls(len(table), field.type)
            table = table.append_column(field, unknown)
        return table.select(columns)


def _bars(found: list[int | None] | None) -> tuple[int, int, int, int] | None:
    """Raises ShardError for bars that leave nothing of a picture."""
    if found is None:
        return None
    bars = [bar for bar in found if bar is not None and 0 <= bar < BARS_GRID]
    if len(bars) != 4 or len(found) != 4 or max(bars[0] + bars[1], bars[2] + bars[3]) >= BARS_GRID:
        raise ShardError(f"is damaged (bars {str(found)[:80]}); {_REMEDY}")
    top, bottom, left, right = bars
    return top, bottom, left, right


def _shards_of_groups(groups: Sequence[RowGroup]) -> list[tuple[int, int]]:
    """(first, last) shard of each row group, ascending. Raises ShardError where they are no plan's."""
    stated = [group.columns[SCHEMA.get_field_index("shard")] for group in groups]
    spans = [(_stored_int32(chunk.least), _stored_int32(chunk.most)) for chunk in stated]
    most = max(sum(group.rows for group in groups), MOST_EMPTY_SHARDS)
    if spans and (spans[0][0] < 0 or spans != sorted(spans) or spans[-1][1] >= most):
        raise ShardError(f"is damaged (shards in no order, or more of them than rows); {_REMEDY}")
    return spans


def _stored_int32(value: bytes | None) -> int:
    if value is None or len(value) != 4:
        raise ShardError(f"does not say which shards its row groups hold; {_REMEDY}")
    return int.from_bytes(value, "little", signed=True)


def _history(found: bytes, shards: int) -> PlanHistory:
    """Raises ShardError for what is no history of a plan with so many shards."""
    try:
        values = json.loads(found)
        history = PlanHistory(values["identity"], tuple(values["generations"]), values["revision"])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ShardError(f"is damaged (no history: {error}); {_REMEDY}") from error
    firsts = history.generations
    are_shards = all(type(first) is int and 0 <= first <= shards for first in firsts)
    if not are_shards or list(firsts) != sorted(firsts) or firsts[:1] != (0,):
        raise ShardError(f"is damaged (generations {str(firsts)[:80]} of {shards} shards); {_REMEDY}")
    if type(history.identity) is not str or type(history.revision) is not int:
        raise ShardError(f"is damaged (no history); {_REMEDY}")
    return history
