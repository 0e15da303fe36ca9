"""What the functions that run a job have in common: one progress callback, and a report of counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from avprep.jobs.output import JobError
from avprep.jobs.progress import JobReport, Progress, ScoreReport
from avprep.media.source import MediaGone
from avprep.shards.ledger import Sums


@dataclass(frozen=True, kw_only=True)
class RunProgress:
    """Where a run is: passed to the `progress` callback whenever something has changed.

    A run that makes clips and then scores finished shards that lack scores counts those shards anew.
    """

    headers: int = 0  # source files probed for the plan so far
    shards: int = 0  # that this run makes; 0 until the plan is there
    shards_done: int = 0
    clips: int = 0  # planned clips of those shards
    clips_done: int = 0
    failed: int = 0  # of the clips done
    message: str = ""  # '', or something to know: a worker lost, a batch size found


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """What a run did, and what the output holds after it: planned = written + filtered + failed."""

    shards: int  # of the plan
    made: int  # shards that this run made
    planned: int  # clips
    written: int
    filtered: int
    failed: int
    reasons: dict[str, int] = field(default_factory=dict)  # of what is filtered or failed: clips by reason
    elapsed_s: float = 0.0  # seconds that making took
    # Since the plan was made, and not in it:
    new_sources: int = 0  # that are listed now
    changed_sources: int = 0  # files with another size or time, other labels, captions or spans
    gone_sources: int = 0  # that are not there any more
    mended_rows: int = 0  # of a list, that named no source when the plan was made
    scored: ScoreReport | None = None  # of `clip_dataset` with `score`: what it did about scores
    damaged: tuple[str, ...] = ()  # clip shards that could not be encoded, and why: not made, not counted


def run_report(report: JobReport, **more: Any) -> RunReport:
    """`more`: fields that only one of the jobs has."""
    by_status = report.sums.by_status
    return RunReport(
        shards=report.shards,
        made=report.made,
        planned=report.sums.planned,
        written=by_status["written"],
        filtered=by_status["filtered"],
        failed=by_status["failed"],
        reasons=dict(sorted(report.sums.by_reason.items())),
        elapsed_s=report.elapsed_s,
        **more,
    )


def one_callback(progress: Callable[[RunProgress], None] | None) -> Progress:
    """The jobs' callbacks, gathered into one."""
    return Progress() if progress is None else _Gathered(progress).callbacks()


class _Gathered:
    def __init__(self, progress: Callable[[RunProgress], None]) -> None:
        self._progress = progress
        self._now = RunProgress()

    def callbacks(self) -> Progress:
        return Progress(
            planning=lambda headers: self._tell(headers=headers),
            planned=self._planned,
            shard_done=self._shard_done,
            worker_lost=lambda what: self._tell(message=f"worker lost, {what}; its shard is tried again"),
            say=lambda what: self._tell(message=what),
        )

    def _planned(self, clips: int, shards: int) -> None:
        self._tell(clips=clips, shards=shards, clips_done=0, shards_done=0)

    def _shard_done(self, sums: Sums, _busy: float | None) -> None:
        now = self._now
        self._tell(
            shards_done=now.shards_done + 1,
            clips_done=now.clips_done + sums.planned,
            failed=now.failed + sums.by_status["failed"],
        )

    def _tell(self, *, message: str = "", **changed: int) -> None:
        self._now = replace(self._now, message=message, **changed)
        self._progress(self._now)


@contextmanager
def one_job_error() -> Iterator[None]:
    """Media that are gone are a JobError, as all that keeps a job from going on."""
    try:
        yield
    except MediaGone as error:
        raise JobError(str(error)) from error
