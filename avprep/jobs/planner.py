"""Planning as a job does it: the sources are probed on the runner, and the plan is kept in the output."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from operator import attrgetter
from typing import TYPE_CHECKING

from avprep.datasets.source import Source
from avprep.execution import Runner
from avprep.jobs.config import FromMedia
from avprep.jobs.output import Stop
from avprep.jobs.planning import PROBE_BATCH, broken_key, plan_shards, replanned, rows_again
from avprep.jobs.progress import Progress
from avprep.jobs.workers import ProbeStage, probe_quarantine, tell_lost, watchdog_s
from avprep.reasons import FILTERED, MediaError, Reason
from avprep.shards.layout import PLAN_FILE
from avprep.shards.ledger import ledger_name
from avprep.shards.plan import PlanReader, PlanRow, write_plan
from avprep.shards.store import Store
from avprep.stages.tasks import ProbeTask

if TYPE_CHECKING:
    from avprep.media.probe import MediaInfo


class Planner:
    """Plans the clips of media."""

    def __init__(self, source: FromMedia, runner: Runner, stop: Stop, progress: Progress) -> None:
        self._source, self._runner, self._stop, self._progress = source, runner, stop, progress
        self._spec, self._options = source.clip.spec, source.plan

    def shards(self) -> Iterator[list[PlanRow]]:
        """The plan's rows, shard by shard, as they are planned."""
        return plan_shards(self._source.sources, self._spec, self._options, self._headers)

    def plan_once(self, store: Store) -> PlanReader:
        """The output's plan, made now where there is none."""
        if not store.exists(PLAN_FILE):
            write_plan(store, self.shards())
        return PlanReader(store)

    def plan_again(self, store: Store) -> None:
        """Plans the clips of sources that could not be opened when the plan was made and can be now.

        Their shards are unfinished from then on: ledgers go first, so that plan and ledger never disagree.
        """
        plan = PlanReader(store)
        broken = {
            k: shard for k, (shard, reason) in plan.unmade().items() if Reason.of(reason) not in FILTERED
        }
        again = [source for source in self._source.sources if broken_key(source, self._spec) in broken]
        found = self._found_now(again, plan, broken.keys()) if again else {}
        if not found:
            return
        for key in found:
            store.remove(ledger_name(broken[key]))
        shards = (plan.rows(i) for i in range(plan.shards))
        write_plan(store, replanned(shards, found, self._options.shard_size))

    def _found_now(self, again: list[Source], plan: PlanReader, broken: Iterable[str]) -> dict:
        """The rows of those sources that open now, by the key of the one row that each has in the plan."""
        limit = self._options.limit
        planned = plan.keys_of({source.path for source in again}) - set(broken)
        room = None if limit is None else limit - plan.clips
        found: dict[str, list[PlanRow]] = {}
        for source, header in self._headers(again):
            if isinstance(header, MediaError):
                continue
            rows = rows_again(source, header, self._spec, self._options, planned)
            if room is not None:
                rows = rows[: 1 + room]
                room -= max(0, len(rows) - 1)
            found[broken_key(source, self._spec)] = rows
        return found

    def _headers(self, sources: list[Source]) -> Iterator[tuple[Source, MediaInfo | MediaError]]:
        """For `plan_shards`: headers of sources that stand beside others of their file, in their order."""
        probed = self._probed(path for path, _ in groupby(sources, attrgetter("path")))
        for _, spans in groupby(sources, attrgetter("path")):
            header = next(probed)
            yield from ((source, header) for source in spans)

    def _probed(self, paths: Iterator[str]) -> Iterator[MediaInfo | MediaError]:
        """The headers in the order of the paths. In memory are those that wait for one before them."""
        batches = iter(lambda: tuple(islice(paths, PROBE_BATCH)), ())
        root, timeout_s = str(self._source.root), self._source.source_timeout_s
        tasks = (ProbeTask(i, root, batch, timeout_s) for i, batch in enumerate(batches))
        limit_s = watchdog_s(self._source)
        run, on_lost = probe_quarantine(limit_s).map, tell_lost(self._progress)
        waiting: dict[int, list[MediaInfo | MediaError]] = {}
        count = following = 0
        for task, headers in run(self._runner, ProbeStage(limit_s), tasks, self._stop, on_lost):
            waiting[task.index] = headers
            count += len(headers)
            self._progress.planning(count)
            while following in waiting:
                yield from waiting.pop(following)
                following += 1
        self._stop.check()


def changes(source: FromMedia, plan: PlanReader) -> tuple[int, int]:
    """(new, changed): how many listed sources the plan, which is kept, does not have, or has otherwise."""
    listed = sorted(source.sources, key=attrgetter("path"))  # looked up by bisection: there may be millions
    planned, changed = bytearray(len(listed)), set()
    for path, labels, caption in plan.texts():
        first = bisect_left(listed, path, key=attrgetter("path"))
        now = listed[first : bisect_right(listed, path, lo=first, key=attrgetter("path"))]
        planned[first : first + len(now)] = b"\1" * len(now)
        if now and not any((source.labels, source.caption) == (labels, caption) for source in now):
            changed.add(path)
    new = {source.path for source, is_planned in zip(listed, planned, strict=True) if not is_planned}
    return len(new) if source.plan.limit is None else 0, len(changed)  # a limit leaves some out by design
