"""The clip job: an output is opened or begun, planned once, and its missing shards are made.

To resume, run the same command again: what decides the bytes is in spec.json and must be the same; the plan
is kept; a shard whose ledger is there is done.
"""

from __future__ import annotations

import errno
import os
import time
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, groupby, islice
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

from avprep.datasets.source import Source
from avprep.execution import Runner, RunnerConfig, WorkerLost, available_cpus, open_runner
from avprep.execution.quarantine import Quarantine, verdict, watchdog
from avprep.execution.quarantine import watchdog_s as watchdog_seconds
from avprep.jobs.output import (
    JobError,
    Stop,
    end_rebuild,
    ignore,
    open_output,
    stop_on_signal,
)
from avprep.jobs.planning import (
    PROBE_BATCH,
    PlanOptions,
    broken_key,
    plan_shards,
    replanned,
    rows_again,
)
from avprep.media.source import require_media
from avprep.reasons import FILTERED, MediaError, Reason
from avprep.shards.integrity import forget_damaged
from avprep.shards.layout import HEADER_FILE, PLAN_FILE, clips_header, ledger_name
from avprep.shards.ledger import STATUSES, Sums, finished_shards, read_outcomes
from avprep.shards.lock import lock
from avprep.shards.plan import PlanReader, PlanRow, write_plan
from avprep.shards.store import Store, open_store
from avprep.shards.writer import write_stats
from avprep.stages.tasks import ClipOptions, PlannedSource, ProbeTask, ShardResult, ShardTask

if TYPE_CHECKING:
    from avprep.media.probe import MediaInfo


@dataclass(frozen=True, kw_only=True)
class JobConfig:
    """All that `avprep clip` was told, one hop from the command line."""

    dataset: str
    root: Path
    out: str
    split: str | None = None
    plan: PlanOptions = PlanOptions()
    clip: ClipOptions = ClipOptions()
    runner: RunnerConfig = field(default_factory=lambda: RunnerConfig(workers=available_cpus()))
    source_timeout_s: float = 600.0  # for the clips of one source in a shard
    rebuild: bool = False
    only_failed: bool = False

    def __post_init__(self) -> None:
        if self.plan.spec != self.clip.spec:
            differing = self.plan.spec.differences(self.clip.spec)
            raise JobError(f"the plan's spec is not that of the clips: {differing}")


@dataclass
class JobReport:
    """What a run did, and what the output holds after it."""

    shards: int = 0  # of the plan
    made: int = 0  # by this run
    sums: Sums = field(default_factory=Sums)  # of the whole output
    made_sums: Sums = field(default_factory=Sums)  # of this run
    seconds: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    elapsed_s: float = 0.0
    new_sources: int = 0  # listed now and not in the plan
    changed_sources: int = 0  # in the plan with other labels or captions than they are listed with now


@dataclass(frozen=True)
class Progress:
    """What the job tells its caller as it goes; the CLI draws a bar from it."""

    planned: Callable[[int, int], None] = ignore  # clips, shards to make
    shard_done: Callable[[Sums], None] = ignore
    worker_lost: Callable[[str], None] = ignore
    planning: Callable[[int], None] = ignore  # sources looked at so far
    damaged: Callable[[str], None] = ignore  # a shard that is missing or cut, and is made again


def run_clip_job(sources: list[Source], config: JobConfig, progress: Progress) -> JobReport:
    """Makes every shard of the plan that is not there yet.

    Raises:
        JobError: another run holds the output, or a field differs from the one it was begun with.
        Stopped: after SIGINT or SIGTERM, when the shards in hand are done.
        OSError: the output cannot be written.
    """
    store = open_store(config.out)
    with lock(store), stop_on_signal() as stop, ExitStack() as stack:
        runner = LazyRunner(stack, config.runner)  # a run with nothing to do does not wait for Ray
        if config.only_failed and not store.exists(HEADER_FILE):
            raise JobError(f"--only-failed: {config.out} holds no finished run to try again")
        check_rebuild(sources, config)
        fingerprint = open_output(store, output_header(config), root=str(config.root), rebuild=config.rebuild)
        for damage in forget_damaged(store):
            progress.damaged(damage)
        if config.only_failed:
            _plan_again(store, sources, runner, config, stop, progress)
        plan = plan_once(store, sources, runner, config, stop, progress)
        report = JobReport(shards=plan.shards)
        report.new_sources, report.changed_sources = _changes(sources, plan, config)
        done = set(finished_shards(store))
        again = _failed_shards(store, done) if config.only_failed else set()
        todo = sorted(again | (set(range(plan.shards)) - done))
        for index in done - again:
            report.sums.count(read_outcomes(store, index))
        progress.planned(plan.clips_of(todo), len(todo))
        started = time.monotonic()
        tasks = (
            replace(shard_task(plan.rows(index), index, config, fingerprint), only_failed=index in again)
            for index in todo
        )
        for result in _make_shards(runner, tasks, config, stop, progress):
            report.made += 1
            report.seconds.update(result.seconds)
            report.counts.update(result.counts)
            report.sums.merge(result.sums)
            report.made_sums.merge(result.sums)
            progress.shard_done(result.sums)
            if not store.exists(HEADER_FILE):  # removed, or another disk is mounted there
                raise FileNotFoundError(errno.ENOENT, "its spec.json is gone", config.out)
        report.elapsed_s = time.monotonic() - started
        if report.made:
            _write_stats(store, report)
        if report.made == len(todo):
            end_rebuild(store)
    if report.made < len(todo):
        stop.check()
    return report


class LazyRunner:
    """A runner that is opened at its first task."""

    def __init__(self, stack: ExitStack, config: RunnerConfig) -> None:
        self._stack, self._config = stack, config
        self._runner: Runner | None = None

    def map(self, stage, tasks, should_stop):
        tasks = iter(tasks)
        for task in tasks:
            if self._runner is None:
                self._runner = self._stack.enter_context(open_runner(self._config))
            yield from self._runner.map(stage, chain([task], tasks), should_stop)
            return


def dry_run(sources: list[Source], config: JobConfig, progress: Progress) -> Iterator[list[PlanRow]]:
    """The plan's shards, made as the job would make them, with nothing written."""
    with stop_on_signal() as stop, ExitStack() as stack:
        runner = LazyRunner(stack, config.runner)
        yield from plan_shards(sources, config.plan, _headers(runner, config, stop, progress))


# --- the output ------------------------------------------------------------------------------------------


def check_rebuild(sources: list[Source], config: JobConfig) -> None:
    """Before --rebuild takes away what is there: that it can be made anew.

    Raises:
        JobError: --only-failed, which keeps what is there, is asked for too.
        MediaGone: the folder of the media is empty or does not answer.
    """
    if config.rebuild and config.only_failed:
        raise JobError("--only-failed keeps what was written and --rebuild starts over; give one of them")
    if config.rebuild and not all(os.path.isabs(source.path) for source in sources):
        require_media(str(config.root))


def output_header(config: JobConfig) -> dict[str, object]:
    """spec.json without its fingerprint: everything that decides the shards' bytes."""
    options = asdict(config.clip)
    if options["max_residual_ms"] is None:  # as in outputs that are older than this option
        del options["max_residual_ms"]
    plan = asdict(config.plan) | {"stride_samples": config.plan.stride}
    return clips_header(
        spec=options.pop("spec"),
        options=options | {k: v for k, v in plan.items() if k != "spec"},
        dataset={"name": config.dataset, "split": config.split},
    )


# --- planning ----------------------------------------------------------------------------------------------


def plan_once(
    store: Store, sources: list[Source], runner: Runner, config: JobConfig, stop: Stop, progress: Progress
) -> PlanReader:
    """The output's plan, made now where there is none."""
    if not store.exists(PLAN_FILE):
        write_plan(store, plan_shards(sources, config.plan, _headers(runner, config, stop, progress)))
    return PlanReader(store)


def _changes(sources: list[Source], plan: PlanReader, config: JobConfig) -> tuple[int, int]:
    """(new, changed): how many listed sources the plan, which is kept, does not have, or has otherwise."""
    listed = sorted(sources, key=attrgetter("path"))  # and looked up by halving: sources are millions
    planned, changed = bytearray(len(listed)), set()
    for path, labels, caption in plan.texts():
        first = bisect_left(listed, path, key=attrgetter("path"))
        now = listed[first : bisect_right(listed, path, lo=first, key=attrgetter("path"))]
        planned[first : first + len(now)] = b"\1" * len(now)
        if now and not any((source.labels, source.caption) == (labels, caption) for source in now):
            changed.add(path)
    new = {source.path for source, is_planned in zip(listed, planned, strict=True) if not is_planned}
    return len(new) if config.plan.limit is None else 0, len(changed)  # a limit leaves some out by design


def _plan_again(
    store: Store, sources: list[Source], runner: Runner, config: JobConfig, stop: Stop, progress: Progress
) -> None:
    """Plans the clips of sources that could not be opened when the plan was made and can be now.

    Their shards are unfinished from then on: ledgers go first, so that a plan and a ledger never disagree.
    """
    plan, options = PlanReader(store), config.plan
    broken = {key: shard for key, (shard, reason) in plan.unmade().items() if Reason(reason) not in FILTERED}
    again = [source for source in sources if broken_key(source, options.spec) in broken]
    if not again:
        return
    planned = plan.keys_of({source.path for source in again}) - broken.keys()
    room = None if options.limit is None else options.limit - plan.clips
    found: dict[str, list[PlanRow]] = {}
    for source, header in _headers(runner, config, stop, progress)(again):
        if isinstance(header, MediaError):
            continue
        rows = rows_again(source, header, options, planned)
        if room is not None:
            rows = rows[: 1 + room]
            room -= max(0, len(rows) - 1)
        found[broken_key(source, options.spec)] = rows
    if not found:
        return
    for key in found:
        store.remove(ledger_name(broken[key]))
    write_plan(store, replanned((plan.rows(i) for i in range(plan.shards)), found, options.shard_size))


def _headers(runner: Runner, config: JobConfig, stop: Stop, progress: Progress):
    """For `plan_shards`: headers of sources that stand beside the others of their file, in their order."""

    def headers(sources: list[Source]) -> Iterator[tuple[Source, MediaInfo | MediaError]]:
        paths = (path for path, _ in groupby(sources, attrgetter("path")))
        probed = _probed(paths, runner, config, stop, progress)
        for _, spans in groupby(sources, attrgetter("path")):
            header = next(probed)
            yield from ((source, header) for source in spans)

    return headers


def _probed(
    paths: Iterator[str], runner: Runner, config: JobConfig, stop: Stop, progress: Progress
) -> Iterator[MediaInfo | MediaError]:
    """The headers in the order of the paths. In memory are those that wait for one before them."""
    batches = iter(lambda: tuple(islice(paths, PROBE_BATCH)), ())
    root, limit_s = str(config.root), config.source_timeout_s
    tasks = (ProbeTask(i, root, batch, limit_s) for i, batch in enumerate(batches))
    quarantine = Quarantine(
        parts=lambda task: task.paths,
        trial=lambda task, paths: task.trial(paths),
        without=lambda task, lost: task.without(
            {path: verdict(was, watchdog_s(config)) for path, was in lost.items()}
        ),
    )
    stage = ProbeStage(watchdog_s(config))
    waiting: dict[int, list[MediaInfo | MediaError]] = {}
    count = following = 0
    for task, headers in quarantine.map(runner, stage, tasks, stop, tell_lost(progress)):
        waiting[task.index] = headers
        count += len(headers)
        progress.planning(count)
        while following in waiting:
            yield from waiting.pop(following)
            following += 1
    stop.check()


@dataclass(frozen=True)
class ProbeStage:
    watchdog_s: float | None

    def __call__(self, task: ProbeTask) -> list[MediaInfo | MediaError]:
        from avprep.stages.probe import probe_batch  # av, in the worker alone

        return probe_batch(task, guard=lambda: watchdog(self.watchdog_s))


# --- the shards --------------------------------------------------------------------------------------------


def _make_shards(
    runner: Runner, tasks: Iterable[ShardTask], config: JobConfig, stop: Stop, progress: Progress
) -> Iterator[ShardResult]:
    stage = ClipStage(watchdog_s(config))
    for _, result in clip_quarantine(config).map(runner, stage, tasks, stop, tell_lost(progress)):
        yield result


def clip_quarantine(config: JobConfig) -> Quarantine:
    """Finds the source of a shard that takes its process down."""
    return Quarantine(
        parts=lambda task: task.sources,
        trial=lambda task, sources: task.trial(sources),
        without=lambda task, lost: task.without(
            {s.path: verdict(was, watchdog_s(config)) for s, was in lost.items()}
        ),
    )


@dataclass(frozen=True)
class ClipStage:
    """`make_shard` under a watchdog a clip."""

    watchdog_s: float | None

    def __call__(self, task: ShardTask) -> ShardResult:
        from avprep.stages.clip import make_shard  # torch and av, in the worker alone

        return make_shard(task, guard=lambda: watchdog(self.watchdog_s))


def watchdog_s(config: JobConfig) -> float | None:
    """Seconds after which a worker process is ended over one source; None where there is no such process."""
    return watchdog_seconds(config.source_timeout_s, config.runner)


def tell_lost(progress: Progress) -> Callable[[object, WorkerLost], None]:
    def tell(task: ShardTask | ProbeTask, lost: WorkerLost) -> None:
        progress.worker_lost(f"task {task.index}: {lost.detail} after {lost.seconds:.0f} s")

    return tell


def shard_task(rows: list[PlanRow], index: int, config: JobConfig, fingerprint: str) -> ShardTask:
    """A shard's rows, grouped by source again; two spans of a file that are named otherwise stay apart."""
    sources = groupby(rows, lambda row: (row.source, row.reason, row.labels, row.caption))
    return ShardTask(
        index=index,
        sources=tuple(_planned_source(list(group)) for _, group in sources),
        root=str(config.root),
        out=config.out,
        options=config.clip,
        fingerprint=fingerprint,
        source_timeout_s=config.source_timeout_s,
    )


def _planned_source(rows: list[PlanRow]) -> PlannedSource:
    first = rows[0]
    return PlannedSource(
        path=first.source,
        starts=tuple(row.start for row in rows),
        labels=tuple(first.labels),
        caption=first.caption,
        verdict=MediaError(Reason(first.reason), first.detail) if first.reason else None,
    )


def _failed_shards(store: Store, done: set[int]) -> set[int]:
    return {i for i in done if any(status == "failed" for status, _ in read_outcomes(store, i))}


def _write_stats(store: Store, report: JobReport) -> None:
    made = report.made_sums.planned
    stats = {
        "clips": {status: report.sums.by_status.get(status, 0) for status in STATUSES},
        "reasons": dict(sorted(report.sums.by_reason.items())),
        "shards": report.shards,
        "last_run": {
            "clips": made,
            "elapsed_s": round(report.elapsed_s, 3),
            "clips_per_s": round(made / report.elapsed_s, 3) if report.elapsed_s else None,
            "worker_seconds": {k: round(v, 3) for k, v in sorted(report.seconds.items())},
            **dict(sorted(report.counts.items())),
        },
    }
    write_stats(store, stats)
