"""The dry run: the plan, or what is added to one, as the job would make it, counted; and what a few of its
clips cost.

Nothing is written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from operator import itemgetter
from statistics import fmean

import numpy as np

from avprep.jobs.clip import output_header, planned_source, score_run, source_of
from avprep.jobs.config import ClipJobConfig
from avprep.jobs.growth import find_update
from avprep.jobs.output import Stop, require_same, stopping_in_order
from avprep.jobs.planner import Planner
from avprep.jobs.progress import Progress
from avprep.jobs.workers import LazyRunner, MeasureStage, clip_quarantine, tell_lost, watchdog_s
from avprep.shards.layout import PLAN_FILE
from avprep.shards.ledger import Sums, status_of
from avprep.shards.plan import PlanReader, PlanRow
from avprep.shards.store import open_store
from avprep.stages.tasks import Cost, ShardTask

_SAMPLED = 8  # clips, each with others of its source
_CLIPS_EACH = 16  # of a source, at most
_SEED = 0


@dataclass(frozen=True)
class DryRun:
    """What a job would make, and what clips of its sources cost."""

    counts: PlanCounts
    costs: tuple[Cost, ...]  # of sources that were sampled, each as often as it has clips
    dropped: int | None = None  # rows that leave the plan that is there; None = a plan of its own was counted

    @property
    def seconds_per_clip(self) -> list[float]:
        """Of one core, for each of the sampled sources."""
        return [cost.cpu_s / cost.clips for cost in self.costs if cost.clips]

    @property
    def core_hours(self) -> float | None:
        """Of the whole job; None where no clip was measured."""
        seconds = self.seconds_per_clip
        return self.counts.clips * fmean(seconds) / 3600 if seconds else None

    @property
    def bytes(self) -> float | None:
        """Of all shards; None where no clip was measured."""
        sizes = [cost.size / cost.clips for cost in self.costs if cost.clips]
        return self.counts.clips * fmean(sizes) if sizes else None


def dry_run(config: ClipJobConfig, progress: Progress) -> DryRun:
    """Plans as the job would, and clips a few of the sources in memory. Where the config has growth, and the
    output a plan, only what would be added to it is counted.

    Raises:
        JobError: the output was begun with another field.
        MediaGone: the folder of the media is empty or does not answer.
        Stopped: after SIGINT or SIGTERM.
    """
    with stopping_in_order() as stop, ExitStack() as stack:
        runner = LazyRunner(stack, config.source.runner)
        sample = _Sample()
        shards, dropped = _shards(config, Planner(config.source, runner, stop, progress), progress)
        counts = PlanCounts(sample.watched(shards))
        costs = tuple(_measured(sample.sources, config, runner, stop, progress))
        stop.check()
    return DryRun(counts, costs, dropped)


def _shards(
    config: ClipJobConfig, planner: Planner, progress: Progress
) -> tuple[Iterator[list[PlanRow]], int | None]:
    """The rows that the job would plan, and how many of those that are there would go."""
    store = open_store(config.out)
    if not config.growth or not store.exists(PLAN_FILE):
        return planner.shards(), None
    require_same(store, output_header(config))
    plan = PlanReader(store)
    update = find_update(plan, config.source, config.growth, store.uri)
    for message in update.left.messages():
        progress.say(message)
    return planner.grown(plan, update.new, update.dropped), len(plan.keys_of(update.dropped))


class PlanCounts:
    """What there is to say of a plan, counted shard by shard."""

    def __init__(self, shards: Iterable[list[PlanRow]]) -> None:
        self.shards = self.clips = self.files = 0
        self.sums = Sums()  # of the rows for which the ledger will say why there is no clip
        self.longest = ("", 0)  # source, clips
        here: Counter[str] = Counter()
        names: set[str] = set()
        for rows in shards:
            self.shards += 1
            names, last = {row.source for row in rows}, names
            self.files += len(names - last)
            before, here = here, Counter(row.source for row in rows if not row.reason)
            self.clips += here.total()
            here.update({source: before[source] for source in here})  # a long source spans shards
            self.longest = max([self.longest, *here.most_common(1)], key=itemgetter(1))
            self.sums.count(Counter((status_of(row.reason), row.reason) for row in rows if row.reason))


class _Sample:
    """A few of the clips that pass, drawn with a fixed seed, each with those of its source in the shard."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(_SEED)
        self._drawn: list[tuple[float, list[PlanRow]]] = []  # by rank, ascending

    def watched(self, shards: Iterable[list[PlanRow]]) -> Iterator[list[PlanRow]]:
        for rows in shards:
            self._offer([row for row in rows if not row.reason])
            yield rows

    @property
    def sources(self) -> list[list[PlanRow]]:
        return [rows for _, rows in self._drawn]

    def _offer(self, rows: list[PlanRow]) -> None:
        ranks = self._random.random(len(rows))
        for i in ranks.argsort()[:_SAMPLED]:
            drawn = rows[i]
            source = [row for row in rows if source_of(row) == source_of(drawn)]
            self._drawn.append((float(ranks[i]), source[:_CLIPS_EACH]))
        self._drawn.sort(key=itemgetter(0))
        del self._drawn[_SAMPLED:]


def _measured(
    sources: list[list[PlanRow]], config: ClipJobConfig, runner: LazyRunner, stop: Stop, progress: Progress
) -> Iterator[Cost]:
    source, scores = config.source, score_run(open_store(config.out), config)
    tasks = [
        ShardTask(
            index=index,
            sources=(planned_source(rows),),
            root=str(source.root),
            out="",
            options=source.clip,
            fingerprint="",
            source_timeout_s=source.source_timeout_s,
            video_codec=config.video_codec,
            scoring=scores.scoring if scores else None,
        )
        for index, rows in enumerate(sources)
    ]
    limit_s = watchdog_s(source)
    run, on_lost = clip_quarantine(limit_s).map, tell_lost(progress)
    for _, cost in run(runner, MeasureStage(limit_s), tasks, stop, on_lost):
        yield cost
