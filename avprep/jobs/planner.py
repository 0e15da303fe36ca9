"""Planning as a job does it: the sources are probed on the runner, and the plan is kept in the output."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import replace
from itertools import chain, groupby, islice
from operator import attrgetter

from avprep.datasets.source import Source
from avprep.execution import Runner
from avprep.jobs.config import FromMedia
from avprep.jobs.cuts import cuts_of_sources
from avprep.jobs.faults import FaultWatch
from avprep.jobs.output import Stop
from avprep.jobs.planning import DETECT_BATCH, PROBE_BATCH, broken_key, plan_shards, replanned, rows_again
from avprep.jobs.progress import Progress
from avprep.jobs.workers import ProbeStage, probe_quarantine, tell_lost, watchdog_s
from avprep.reasons import FILTERED, MediaError, Reason
from avprep.shards.layout import PLAN_FILE
from avprep.shards.plan import PlanReader, PlanRow, write_plan
from avprep.shards.store import Store
from avprep.stages.tasks import Probed, ProbeTask


class Planner:
    """Plans the clips of media.

    A plan that is there is only ever replaced as a whole. What stands in the output is not touched: the job
    finds by its plan what a shard lacks, and what it has beyond it.
    """

    def __init__(
        self,
        source: FromMedia,
        runner: Runner,
        stop: Stop,
        progress: Progress,
        *,
        kept_in: Store | None = None,
    ) -> None:
        """`kept_in`: the output that keeps the cuts as they are found; None: none does."""
        self._source, self._runner, self._stop, self._progress = source, runner, stop, progress
        self._cuts = cuts_of_sources(source.cuts, kept_in)
        self._spec, self._options = source.clip.spec, source.plan

    def shards(self) -> Iterator[list[PlanRow]]:
        """The plan's rows, shard by shard, as they are planned."""
        return plan_shards(self._source.sources, self._spec, self._options, self._probe)

    def plan_once(self, store: Store) -> PlanReader:
        """The output's plan, made now where there is none."""
        if not store.exists(PLAN_FILE):
            write_plan(store, self.shards())
        return PlanReader(store)

    # --- a plan that grows ---------------------------------------------------------------

    def grow(
        self, store: Store, plan: PlanReader, new: list[Source], dropped: AbstractSet[str]
    ) -> PlanReader:
        """The plan without the rows of some files, and with the clips of sources in new shards at its end.

        Args:
            new: sources that the plan does not have, or that are planned anew.
            dropped: paths of files.
        """
        grown = _marked_as(plan, self.grown(plan, new, dropped))
        first = next(grown, None)
        if first is None and not dropped:
            return plan
        kept = ([row for row in plan.rows(i) if row.source not in dropped] for i in range(plan.shards))
        shards = chain(kept, [] if first is None else [first], grown)
        history = plan.history()
        write_plan(store, shards, history.rewritten() if first is None else history.grown(plan.shards))
        return PlanReader(store)

    def grown(
        self, plan: PlanReader, new: list[Source], dropped: AbstractSet[str]
    ) -> Iterator[list[PlanRow]]:
        """The rows that `grow` adds, shard by shard."""
        options = self._options
        if options.limit is not None:
            room = options.limit - plan.clips + len(plan.keys_of(dropped))
            if room < 1:
                return iter(())
            options = replace(options, limit=room)
        taken = plan.keys_of({source.path for source in new} - dropped)
        return plan_shards(new, self._spec, options, self._probe, first=plan.shards, taken=taken)

    def plan_again(self, store: Store) -> None:
        """Plans the clips of sources that could not be opened when the plan was made and can be now."""
        plan = PlanReader(store)
        broken = {
            k: shard for k, (shard, reason) in plan.unmade().items() if Reason.of(reason) not in FILTERED
        }
        again = [source for source in self._source.sources if broken_key(source, self._spec) in broken]
        found = self._found_now(again, plan, broken.keys()) if again else {}
        if found:
            shards = (plan.rows(i) for i in range(plan.shards))
            again_planned = replanned(shards, found, self._options.shard_size)
            write_plan(store, _marked_as(plan, again_planned), plan.history().rewritten())

    def _found_now(
        self, again: list[Source], plan: PlanReader, broken: Iterable[str]
    ) -> dict[str, list[PlanRow]]:
        """The rows of those sources that open now, by the key of the one row that each has in the plan."""
        limit = self._options.limit
        planned = plan.keys_of({source.path for source in again}) - set(broken)
        room = None if limit is None else limit - plan.clips
        found: dict[str, list[PlanRow]] = {}
        for source, probed in self._probe(again):
            if isinstance(probed.header, MediaError):
                continue
            rows = rows_again(source, probed, self._spec, self._options, planned)
            if room is not None:
                rows = rows[: 1 + room]
                room -= max(0, len(rows) - 1)
            found[broken_key(source, self._spec)] = rows
        return found

    # --- probing -------------------------------------------------------------------------

    def _probe(self, sources: Iterable[Source]) -> Iterator[tuple[Source, Probed]]:
        """What is found of sources that stand beside others of their file, in their order."""
        sources = list(sources)
        files = (source for source in sources if not source.fault)
        probed = self._probed(path for path, _ in groupby(files, attrgetter("path")))
        for (_, fault), spans in groupby(sources, attrgetter("path", "fault")):
            found = Probed("", MediaError(Reason.BAD_ROW, fault)) if fault else next(probed)
            yield from ((source, found) for source in spans)

    def _probed(self, paths: Iterator[str]) -> Iterator[Probed]:
        """What is found, in the order of the paths. In memory are those that wait for one before them."""
        size = PROBE_BATCH if self._cuts.detector is None else DETECT_BATCH
        batches = iter(lambda: tuple(islice(paths, size)), ())
        tasks = (self._task(i, batch) for i, batch in enumerate(batches))
        limit_s = watchdog_s(self._source)
        run, on_lost = probe_quarantine(limit_s).map, tell_lost(self._progress)
        waiting: dict[int, list[Probed]] = {}
        watch = FaultWatch("files")
        count = following = 0
        for task, found in run(self._runner, ProbeStage(limit_s), tasks, self._stop, on_lost):
            waiting[task.index] = self._cuts.completed(task.paths, found)
            count += len(found)
            _watch_over(found, watch)
            self._progress.planning(count)
            while following in waiting:
                yield from waiting.pop(following)
                following += 1
        self._stop.check()

    def _task(self, index: int, paths: tuple[str, ...]) -> ProbeTask:
        return ProbeTask(
            index,
            root=str(self._source.root),
            paths=paths,
            source_timeout_s=self._source.source_timeout_s,
            detector=self._cuts.detector,
            known=self._cuts.known(paths),
            with_bars=self._source.clip.crop == "auto",
        )


def _watch_over(found: list[Probed], watch: FaultWatch) -> None:
    errors = (probed.header for probed in found)
    faults = [e for e in errors if isinstance(e, MediaError) and e.reason is Reason.UNFORESEEN]
    watch.count(len(found), len(faults), faults[-1].detail if faults else "")


def _marked_as(plan: PlanReader, shards: Iterator[list[PlanRow]]) -> Iterator[list[PlanRow]]:
    """New rows for a plan. An output that was begun without `caption_from` goes on without it: readers that
    infer types want the same fields in every clip."""
    if plan.marks_captions():
        return shards
    return ([replace(row, caption_from=None) for row in rows] for rows in shards)
