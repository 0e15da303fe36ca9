"""One pass over the ledgers, the plan and the scores of an output: counts, histograms, and clips to show."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from avprep.report.tally import BoundedCounter, Histogram, Lowest
from avprep.shards.integrity import size_damage
from avprep.shards.layout import SCORES_FOLDER, SHARDS_FOLDER, ShardError, scores_name
from avprep.shards.ledger import LedgerRow, Sums, finished_shards, read_shard_table
from avprep.shards.plan import PlanReader
from avprep.shards.scores import read_scores
from avprep.shards.store import Store

FAILURES_EACH = 5  # rows shown of a reason
MOST_DAMAGES = 200  # listed; all are counted
_MOST_COLUMNS = 64  # of scores
_OF_SOURCES = ("source_s", "source_fps", "source_width", "source_height")  # of the plan
_EXTREMES = 4  # clips kept at each end of a score, and at each threshold


@dataclass
class Summary:
    """What an output holds. Its size depends on neither the rows nor the shards."""

    planned: int = 0  # clips of the plan; 0 where it cannot be read
    shards: int = 0  # of the plan
    finished: int = 0
    sums: Sums = field(default_factory=Sums)
    residual_ms: Histogram = field(default_factory=Histogram)
    labels: BoundedCounter = field(default_factory=BoundedCounter)
    sources: BoundedCounter = field(default_factory=BoundedCounter)  # by written clips
    failing: BoundedCounter = field(default_factory=BoundedCounter)  # by failed clips
    failures: list[LedgerRow] = field(default_factory=list)  # the first of each reason
    of_sources: dict[str, Histogram] = field(default_factory=dict)  # by column of the plan
    scores: dict[str, Histogram] = field(default_factory=dict)
    picks: dict[str, Lowest] = field(default_factory=dict)  # why -> clips
    damages: list[str] = field(default_factory=list)
    damaged: int = 0

    def add_damage(self, what: str) -> None:
        self.damaged += 1
        if len(self.damages) < MOST_DAMAGES:
            self.damages.append(what)


def summarize(
    store: Store,
    *,
    clips: int,
    seed: int,
    thresholds: dict[str, list[float]],
    keys: frozenset[str] | None = None,
) -> Summary:
    """Reads an output's ledgers, plan and scores, one shard in memory at a time.

    Args:
        clips: how many clips to choose at random.
        seed: of the choice; equal seeds choose equal clips.
        thresholds: column of the scores -> values; the clips nearest to each are chosen too.
        keys: of the clips that are chosen from and whose values are counted; None: of all written ones. The
            sums of the ledger count all rows.

    What cannot be read is in `damages` and is left out of everything else.
    """
    return _Pass(store, clips=clips, seed=seed, thresholds=thresholds, keys=keys).run()


class _Pass:
    def __init__(
        self,
        store: Store,
        *,
        clips: int,
        seed: int,
        thresholds: dict[str, list[float]],
        keys: frozenset[str] | None,
    ) -> None:
        self._keys = None if keys is None else pa.array(sorted(keys), pa.string())
        self._store, self._seed, self._thresholds = store, seed, thresholds
        self.summary = Summary()
        self._random = self.summary.picks.setdefault("at random", Lowest(clips))
        self._shown: Counter[str] = Counter()

    def run(self) -> Summary:
        summary, plan = self.summary, self._plan()
        sizes = self._store.sizes(SHARDS_FOLDER)
        has_scores = set(self._store.names(SCORES_FOLDER))
        for index in finished_shards(self._store):
            summary.finished += 1
            try:
                ledger, record = read_shard_table(self._store, index)
            except ShardError as error:
                summary.add_damage(str(error))
                continue
            damage = None if not record.name else size_damage(record, sizes.get(record.name))
            if damage:
                summary.add_damage(damage)
            self._count(ledger, index, is_readable=damage is None)
            if plan is not None:
                self._count_planned(plan, ledger, index)
            if scores_name(index) in has_scores:
                self._count_scores(index, is_readable=damage is None)
        return summary

    def _plan(self) -> PlanReader | None:
        try:
            plan = PlanReader(self._store)
        except (ShardError, OSError) as error:
            self.summary.add_damage(f"the plan cannot be read: {error}")
            return None
        self.summary.planned, self.summary.shards = plan.clips, plan.shards
        return plan

    def _count(self, ledger: pa.Table, index: int, *, is_readable: bool) -> None:
        summary = self.summary
        groups = ledger.group_by(["status", "reason"]).aggregate([([], "count_all")]).to_pylist()
        summary.sums.count(Counter({(g["status"], g["reason"]): g["count_all"] for g in groups}))
        written = self._chosen(ledger.filter(pc.equal(ledger["status"], "written")))
        failed = ledger.filter(pc.equal(ledger["status"], "failed"))
        summary.residual_ms.add(written["residual_ms"].to_numpy())
        summary.sources.add_column(written["source"])
        summary.failing.add_column(failed["source"])
        for reason in pc.unique(failed["reason"]).to_pylist():
            self._keep_failures(failed, reason)
        if is_readable:
            ranks = np.random.default_rng([self._seed, index]).random(len(written))
            self._random.offer(ranks, index, written["key"])

    def _chosen(self, table: pa.Table) -> pa.Table:
        """The rows of the clips that are chosen from."""
        return table if self._keys is None else table.filter(pc.is_in(table["key"], self._keys))

    def _keep_failures(self, failed: pa.Table, reason: str) -> None:
        wanted = FAILURES_EACH - self._shown[reason]
        if wanted > 0:
            rows = failed.filter(pc.equal(failed["reason"], reason)).slice(0, wanted).to_pylist()
            self._shown[reason] += len(rows)
            self.summary.failures += [LedgerRow(**row) for row in rows]

    def _count_planned(self, plan: PlanReader, ledger: pa.Table, index: int) -> None:
        """Adds what the plan has of the written clips: their labels, and what their sources' headers say. A
        source with clips in several shards counts in each."""
        try:
            planned = plan.table(index)
        except (ShardError, OSError, pa.ArrowException) as error:
            self.summary.add_damage(f"the plan of shard {index} cannot be read: {error}")
            return
        chosen = self._chosen(ledger.filter(pc.equal(ledger["status"], "written")))
        keys = chosen["key"].combine_chunks()
        written = planned.filter(pc.is_in(planned["key"], keys))
        self.summary.labels.add_column(pc.list_flatten(written["labels"]))
        sources = written.group_by("source").aggregate([(name, "min") for name in _OF_SOURCES])
        for name in _OF_SOURCES:
            found = self.summary.of_sources.setdefault(name, Histogram())
            found.add(as_floats(sources[f"{name}_min"]))

    def _count_scores(self, index: int, *, is_readable: bool) -> None:
        try:
            table = self._chosen(_numbers(read_scores(self._store, index)))
        except (ShardError, OSError) as error:
            self.summary.add_damage(str(error))
            return
        for column in table.column_names[1:]:
            if column not in self.summary.scores and len(self.summary.scores) == _MOST_COLUMNS:
                continue
            values = as_floats(table[column])
            self.summary.scores.setdefault(column, Histogram()).add(values)
            if is_readable:
                self._offer(column, values, index, table["key"])

    def _offer(self, column: str, values: np.ndarray, index: int, keys: pa.ChunkedArray) -> None:
        ranks = {f"lowest {column}": values, f"highest {column}": -values}
        for threshold in self._thresholds.get(column, ()):
            ranks[f"nearest to {column} = {threshold:g}"] = np.abs(values - threshold)
        for why, rank in ranks.items():
            self.summary.picks.setdefault(why, Lowest(_EXTREMES)).offer(rank, index, keys)


def _numbers(table: pa.Table) -> pa.Table:
    """'key' and the columns of numbers and flags of a shard's scores."""
    return table.select(["key", *(entry.name for entry in table.schema if _is_number(entry.type))])


def scores_of(store: Store, shard: int, keys: set[str]) -> dict[str, dict[str, float]]:
    """Key to its scores, those that are defined; {} where the shard has no scores that can be read."""
    if not store.exists(scores_name(shard)):
        return {}
    try:
        table = _numbers(read_scores(store, shard))
    except (ShardError, OSError):
        return {}  # the pass has listed it
    rows = table.filter(pc.is_in(table["key"], pa.array(sorted(keys), pa.string()))).to_pylist()
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for row in rows:
        key = row.pop("key")
        found[key] = {name: float(value) for name, value in row.items() if value is not None}
    return dict(found)


def as_floats(column: pa.ChunkedArray) -> np.ndarray:
    """float64 (N,), NaN for null."""
    return pc.cast(column, pa.float64(), safe=False).to_numpy().astype(np.float64)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)
