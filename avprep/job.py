"""The clip job: an output is opened or begun, planned once, and its missing shards are made.

To resume, run the same command again: what decides the bytes is in spec.json and must be the same; the plan
is kept; a shard whose ledger is there is done.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from pathlib import Path

from avprep.datasets.source import Source
from avprep.media.probe import Header
from avprep.plan import PROBE_BATCH, PlanOptions, needs_header, plan_shards
from avprep.reasons import MediaError, Reason
from avprep.runner import Quarantine, Runner, RunnerConfig, WorkerLost, open_runner, watchdog
from avprep.shards.ledger import STATUSES, Sums, finished_shards, read_ledger
from avprep.shards.plan import NAME as PLAN_NAME
from avprep.shards.plan import PlanReader, PlanRow, write_plan
from avprep.shards.store import LocalStore, Store, open_store
from avprep.stages.clip import ClipOptions, PlannedSource, ShardResult, ShardTask, make_shard
from avprep.stages.probe import ProbeTask, probe_batch

FORMAT_VERSION = 1
# The watchdog ends a worker this much later than the time limit that the decoder itself looks at.
_WATCHDOG_FACTOR, _WATCHDOG_SLACK_S = 1.5, 10.0


class JobError(Exception):
    """The job cannot be begun or go on; the message is a sentence for the person who runs it."""


class Stopped(Exception):
    """A signal asked the job to stop; what was in hand is finished."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


@dataclass(frozen=True, kw_only=True)
class JobConfig:
    """All that `avprep clip` was told, one hop from the command line."""

    dataset: str
    split: str | None
    root: Path
    out: str
    plan: PlanOptions
    clip: ClipOptions
    runner: RunnerConfig
    source_timeout_s: float
    rebuild: bool = False
    only_failed: bool = False


@dataclass
class JobReport:
    """What a run did, and what the output holds after it."""

    shards: int = 0             # of the plan
    made: int = 0               # by this run
    sums: Sums = field(default_factory=Sums)        # of the whole output
    made_sums: Sums = field(default_factory=Sums)   # of this run
    seconds: Counter[str] = field(default_factory=Counter)
    elapsed_s: float = 0.0
    new_sources: int = 0        # listed now and not in the plan


@dataclass(frozen=True)
class Progress:
    """What the job tells its caller as it goes; the CLI draws a bar from it."""

    planned: Callable[[int, int], None]             # clips, shards of the plan
    shard_done: Callable[[Sums], None]
    worker_lost: Callable[[str], None]
    planning: Callable[[int], None]                 # sources looked at so far


def run_clip_job(sources: list[Source], config: JobConfig, progress: Progress) -> JobReport:
    """Makes every shard of the plan that is not there yet.

    Raises:
        JobError: another run holds the output, or a field differs from the one it was begun with.
        Stopped: after SIGINT or SIGTERM, when the shards in hand are done.
        OSError: the output cannot be written.
    """
    store = open_store(config.out)
    with _lock(store), _stop_on_signal() as stop, ExitStack() as stack:
        runner = _Lazy(stack, config.runner)  # a run with nothing to do does not wait for Ray
        fingerprint = _open_output(store, config)
        if not store.exists(PLAN_NAME):
            headers = _headers(runner, config, stop, progress)
            write_plan(store, plan_shards(sources, config.plan, headers))
        plan = PlanReader(store)
        report = JobReport(shards=plan.shards)
        if config.plan.limit is None:  # a limited plan leaves sources out by design
            report.new_sources = len({source.path for source in sources} - plan.sources())
        done = set(finished_shards(store))
        for index in done:
            report.sums.add(read_ledger(store, index)[0])
        todo = _failed_shards(store, done) if config.only_failed else sorted(set(range(plan.shards)) - done)
        progress.planned(sum(plan.clips_of(i) for i in todo), len(todo))
        started = time.monotonic()
        tasks = (_shard_task(plan.rows(index), index, config, fingerprint) for index in todo)
        for result in _make_shards(runner, tasks, config, stop, progress):
            report.made += 1
            report.seconds.update(result.seconds)
            _count(report, result)
            progress.shard_done(result.sums)
        report.elapsed_s = time.monotonic() - started
        if report.made:
            _write_stats(store, report)
    if stop.signal_number is not None and report.made < len(todo):
        raise Stopped(stop.signal_number)
    return report


class _Lazy:
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
    with _stop_on_signal() as stop, ExitStack() as stack:
        runner = _Lazy(stack, config.runner)
        yield from plan_shards(sources, config.plan, _headers(runner, config, stop, progress))


# --- the output ------------------------------------------------------------------------------------------


def output_header(config: JobConfig) -> dict[str, object]:
    """spec.json without its fingerprint: everything that decides the shards' bytes."""
    options = asdict(config.clip)
    plan = asdict(config.plan)
    return {
        "format": FORMAT_VERSION,
        "spec": options.pop("spec"),
        "options": options | {k: v for k, v in plan.items() if k != "spec"},
        "dataset": {"name": config.dataset, "split": config.split},
    }


def fingerprint_of(header: dict[str, object]) -> str:
    text = json.dumps(header, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _open_output(store: Store, config: JobConfig) -> str:
    """Checks an output that was begun, or begins one. Returns the fingerprint."""
    header = output_header(config)
    fingerprint = fingerprint_of(header)
    if store.exists("spec.json") and not config.rebuild:
        with store.open("spec.json") as file:
            found = json.load(file)
        for name in ("fingerprint", "root"):
            found.pop(name, None)
        for field_name, then, now in _differences(found, header):
            raise JobError(
                f"{config.out} was begun with {field_name} = {then!r}; this run says {now!r}. "
                f"Give the same value to go on, another --out to keep both, or --rebuild to start over."
            )
        return fingerprint
    if config.only_failed:
        raise JobError(f"--only-failed: {config.out} holds no finished run to try again")
    if not store.exists("spec.json") and store.names("ledger"):
        raise JobError(f"{config.out} holds a ledger and no spec.json; it is not this tool's to write into")
    _clear(store)
    with store.write("spec.json") as file:
        # The root may move between runs; it is written for `status` and not compared.
        where = {"fingerprint": fingerprint, "root": str(config.root)}
        file.write(json.dumps(header | where, indent=2, sort_keys=True).encode())
    return fingerprint


def _clear(store: Store) -> None:
    """What a rebuild starts from: ledgers first, so that no shard ever looks whole that is not."""
    for name in [*store.names("ledger"), *store.names("shards"), PLAN_NAME, "stats.json", "spec.json"]:
        store.remove(name)


def _differences(then: dict, now: dict, prefix: str = "") -> Iterator[tuple[str, object, object]]:
    # The spec first: other fields follow from it.
    for key in sorted({*then, *now}, key=lambda k: (k not in ("format", "spec"), k)):
        a, b = then.get(key), now.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            yield f"{prefix}{key}", a, b


@contextmanager
def _lock(store: Store) -> Iterator[None]:
    """One run an output. The lock of a local output ends with its process, however that ends."""
    if not isinstance(store, LocalStore):
        yield  # an object store has no lock to offer; the README says so
        return
    store.root.mkdir(parents=True, exist_ok=True)
    with open(store.root / ".lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise JobError(f"--out {store.uri}: {holder} is writing there; wait for it or stop it") from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {os.uname().nodename}")
        file.flush()
        store.sweep()
        yield
        file.truncate(0)


class _Stop:
    """Whether a signal has asked to stop."""

    signal_number: int | None = None

    def __call__(self) -> bool:
        return self.signal_number is not None


@contextmanager
def _stop_on_signal() -> Iterator[_Stop]:
    """The first SIGINT or SIGTERM lets the shards in hand finish; the second drops them."""
    stop = _Stop()

    def handle(number: int, _frame: object) -> None:
        if stop.signal_number is not None:
            raise KeyboardInterrupt
        stop.signal_number = number

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- planning ----------------------------------------------------------------------------------------------


def _headers(runner: Runner, config: JobConfig, stop: _Stop, progress: Progress):
    """For `plan_shards`: headers of the sources, in order, probed in batches by the runner."""

    def headers(sources: list[Source]) -> Iterator[tuple[Source, Header | MediaError | None]]:
        found = _probe_all(runner, [s for s in sources if needs_header(s)], config, stop, progress)
        for source in sources:
            yield source, found.get(source.path) if needs_header(source) else None

    return headers


def _probe_all(
    runner: Runner, sources: list[Source], config: JobConfig, stop: _Stop, progress: Progress
) -> dict[str, Header | MediaError]:
    paths = iter(dict.fromkeys(source.path for source in sources))
    batches = iter(lambda: tuple(islice(paths, PROBE_BATCH)), ())
    tasks = (ProbeTask(i, str(config.root), batch) for i, batch in enumerate(batches))
    quarantine = Quarantine(
        parts=lambda task: task.paths,
        trial=lambda task, paths: task.trial(paths),
        without=lambda task, lost: task.without({path: _verdict(was, config) for path, was in lost.items()}),
    )
    stage = _ProbeStage(_watchdog_s(config, PROBE_BATCH))
    found: dict[str, Header | MediaError] = {}
    lost = _tell_lost(progress)
    for task, headers in quarantine.map(runner, stage, tasks, stop, lost):
        found.update(zip(task.paths, headers, strict=True))
        progress.planning(len(found))
    if stop():
        raise Stopped(stop.signal_number)
    return found


@dataclass(frozen=True)
class _ProbeStage:
    watchdog_s: float | None

    def __call__(self, task: ProbeTask) -> list[Header | MediaError]:
        with watchdog(self.watchdog_s):
            return probe_batch(task)


# --- the shards --------------------------------------------------------------------------------------------


def _make_shards(
    runner: Runner, tasks: Iterable[ShardTask], config: JobConfig, stop: _Stop, progress: Progress
) -> Iterator[ShardResult]:
    quarantine = Quarantine(
        parts=lambda task: task.sources,
        trial=lambda task, sources: task.trial(sources),
        without=lambda task, lost: task.without({s.path: _verdict(was, config) for s, was in lost.items()}),
    )
    in_worker = config.runner.workers > 0 or config.runner.address is not None
    stage = ClipStage(_watchdog_s(config, 1) if in_worker else None)
    for _, result in quarantine.map(runner, stage, tasks, stop, _tell_lost(progress)):
        yield result


@dataclass(frozen=True)
class ClipStage:
    """`make_shard` under a watchdog a source."""

    watchdog_s: float | None

    def __call__(self, task: ShardTask) -> ShardResult:
        return make_shard(task, guard=lambda: watchdog(self.watchdog_s))


def _watchdog_s(config: JobConfig, sources: int) -> float | None:
    in_worker = config.runner.workers > 0 or config.runner.address is not None
    return config.source_timeout_s * _WATCHDOG_FACTOR * sources + _WATCHDOG_SLACK_S if in_worker else None


def _verdict(lost: WorkerLost, config: JobConfig) -> MediaError:
    """Why a source that was lost even alone is quarantined."""
    limit_s = _watchdog_s(config, 1)
    if limit_s is not None and lost.seconds >= limit_s:
        detail = f"the decoder did not return; its process was ended {limit_s:g} s after it began"
        return MediaError(Reason.TIMEOUT, detail)
    return MediaError(Reason.CRASHED, f"decoding it alone ended the process ({lost.detail})")


def _tell_lost(progress: Progress) -> Callable[[object, WorkerLost], None]:
    def tell(task: ShardTask | ProbeTask, lost: WorkerLost) -> None:
        progress.worker_lost(f"task {task.index}: {lost.detail} after {lost.seconds:.0f} s")

    return tell


def _shard_task(rows: list[PlanRow], index: int, config: JobConfig, fingerprint: str) -> ShardTask:
    """A shard's rows, grouped by source again."""
    sources: dict[tuple[str, str], list[PlanRow]] = {}
    for row in rows:
        sources.setdefault((row.source, row.reason), []).append(row)
    return ShardTask(
        index=index,
        sources=tuple(_planned_source(group) for group in sources.values()),
        root=str(config.root),
        out=config.out,
        options=config.clip,
        fingerprint=fingerprint,
        source_timeout_s=config.source_timeout_s,
        only_failed=config.only_failed,
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


def _failed_shards(store: Store, done: set[int]) -> list[int]:
    return [i for i in sorted(done) if any(row.status == "failed" for row in read_ledger(store, i)[0])]


def _count(report: JobReport, result: ShardResult) -> None:
    for sums in (report.sums, report.made_sums):
        sums.by_status.update(result.sums.by_status)
        sums.by_reason.update(result.sums.by_reason)


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
        },
    }
    with store.write("stats.json") as file:
        file.write(json.dumps(stats, indent=2).encode())


