"""The stages as a job's workers run them: under a watchdog, without sources that end their process."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from avprep.execution import Runner, RunnerConfig, WorkerLost, open_runner, quarantine
from avprep.execution.quarantine import Quarantine, verdict, watchdog
from avprep.jobs.config import FromMedia
from avprep.jobs.progress import Progress
from avprep.shards.ledger import LedgerRow
from avprep.stages.tasks import Cost, Probed, ProbeTask, ScoreResult, ScoreTask, ShardResult, ShardTask

if TYPE_CHECKING:
    from avprep.stages.clip_input import InputClip


class LazyRunner:
    """A runner that is opened at its first task: a run with nothing to do does not wait for Ray."""

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


@dataclass(frozen=True)
class ProbeStage:
    """`probe_batch` with a watchdog per file."""

    watchdog_s: float | None

    def __call__(self, task: ProbeTask) -> list[Probed]:
        from avprep.stages.probe import probe_batch  # av, in the worker alone

        limit_s = self.watchdog_s
        return probe_batch(task, guard=lambda times: watchdog(None if limit_s is None else limit_s * times))


@dataclass(frozen=True)
class ClipStage:
    """`make_shard` with a watchdog per clip."""

    watchdog_s: float | None

    def __call__(self, task: ShardTask) -> ShardResult:
        from avprep.stages.clip import make_shard  # torch and av, in the worker alone

        return make_shard(task, guard=lambda: watchdog(self.watchdog_s))


@dataclass(frozen=True)
class MeasureStage:
    """`measure_shard` with a watchdog per clip."""

    watchdog_s: float | None

    def __call__(self, task: ShardTask) -> Cost:
        from avprep.stages.clip import measure_shard

        return measure_shard(task, guard=lambda: watchdog(self.watchdog_s))


@dataclass(frozen=True)
class DecodeStage:
    """`decode_piece` with a watchdog per clip."""

    watchdog_s: float | None

    def __call__(self, piece: ShardTask) -> list[InputClip | LedgerRow]:
        from avprep.stages.clip_input import decode_piece

        return decode_piece(piece, guard=lambda: watchdog(self.watchdog_s))


@dataclass(frozen=True)
class ScoreStage:
    """`score_shard` with a watchdog per clip."""

    watchdog_s: float | None

    def __call__(self, task: ScoreTask) -> ScoreResult:
        from avprep.stages.score import score_shard  # torch and av, in the worker alone

        return score_shard(task, guard=lambda: watchdog(self.watchdog_s))


def watchdog_s(source: FromMedia) -> float | None:
    """Seconds after which a worker process is ended over one source; None where there is no such process."""
    return quarantine.watchdog_s(source.source_timeout_s, source.runner)


def probe_quarantine(limit_s: float | None) -> Quarantine:
    """Finds the file of a batch that takes its process down."""
    return Quarantine(
        parts=lambda task: task.paths,
        trial=lambda task, paths: task.trial(paths),
        without=lambda task, lost: task.without({path: verdict(was, limit_s) for path, was in lost.items()}),
    )


def clip_quarantine(limit_s: float | None) -> Quarantine:
    """Finds the source of a shard that takes its process down."""
    return Quarantine(
        parts=lambda task: task.sources,
        trial=lambda task, sources: task.trial(sources),
        without=lambda task, lost: task.without({s.path: verdict(was, limit_s) for s, was in lost.items()}),
    )


def score_quarantine(limit_s: float | None) -> Quarantine:
    """Finds the clip of a shard that takes its process down."""
    return Quarantine(
        parts=lambda task: task.keys,
        trial=lambda task, keys: task.trial(keys),
        without=lambda task, lost: task.without({key: verdict(was, limit_s) for key, was in lost.items()}),
    )


def tell_lost(progress: Progress) -> Callable[[ShardTask | ProbeTask | ScoreTask, WorkerLost], None]:
    def tell(task: ShardTask | ProbeTask | ScoreTask, lost: WorkerLost) -> None:
        progress.worker_lost(f"task {task.index}: {lost.detail} after {lost.seconds:.0f} s")

    return tell
