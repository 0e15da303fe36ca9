"""What a job reports: on the way through callbacks, and at its end as a report and stats.json."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from avprep.jobs.changes import Changes
from avprep.seconds import Seconds
from avprep.shards.latents import EncoderHeader, LatentSums
from avprep.shards.layout import STATS_FILE
from avprep.shards.ledger import STATUSES, Sums
from avprep.shards.store import Store
from avprep.shards.writer import write_stats
from avprep.stages.tasks import ScoreResult


def ignore(*_: object) -> None:
    """In the place of a callback that is not given."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The callbacks of a run, called in the thread that runs the job."""

    planning: Callable[[int], None] = ignore  # source files probed so far
    planned: Callable[[int, int], None] = ignore  # clips, shards to make
    shard_done: Callable[[Sums, float | None], None] = ignore  # and the model's busy share so far, if any
    worker_lost: Callable[[str], None] = ignore
    say: Callable[[str], None] = ignore  # something to know


@dataclass(kw_only=True)
class JobReport:
    """What a run did, and what the output holds after it."""

    shards: int = 0  # of the plan
    made: int = 0  # by this run
    sums: Sums = field(default_factory=Sums)  # of the whole output
    made_sums: Sums = field(default_factory=Sums)  # of this run
    seconds: Seconds = field(default_factory=Seconds)  # of the workers, by what was done
    elapsed_s: float = 0.0

    def stats(self) -> dict[str, Any]:
        """The entries of stats.json that follow from the ledgers alone."""
        return {
            "clips": {status: self.sums.by_status.get(status, 0) for status in STATUSES},
            "reasons": dict(sorted(self.sums.by_reason.items())),
            "shards": self.shards,
        }

    def last_run(self) -> dict[str, Any]:
        """The entry of stats.json about this run."""
        made = self.made_sums.planned
        return {
            "clips": made,
            "elapsed_s": round(self.elapsed_s, 3),
            "clips_per_s": round(made / self.elapsed_s, 3) if self.elapsed_s else None,
            "worker_seconds": {k: round(v, 3) for k, v in sorted(self.seconds.items())},
        }


@dataclass(kw_only=True)
class ScoreReport:
    """What a run did about scores."""

    shards: int = 0  # finished ones that hold a clip
    made: int = 0  # of which this run wrote scores
    clips: int = 0  # in those
    problems: int = 0  # clips of those, of which a score could not be computed
    scores: tuple[str, ...] = ()  # that were asked for and can run here
    left_out: tuple[str, ...] = ()  # the others: why, and what to install or to give
    damaged: list[str] = field(default_factory=list)  # clip shards that were left alone, and why
    elapsed_s: float = 0.0  # of reading and scoring finished shards

    def add(self, result: ScoreResult) -> None:
        """Counts a shard."""
        if result.damage:
            self.damaged.append(result.damage)
        elif result.clips:
            self.made += 1
            self.clips += result.clips
            self.problems += result.problems


@dataclass(kw_only=True)
class ClipReport(JobReport):
    counts: Counter[str] = field(default_factory=Counter)  # of rare events in decoding
    changes: Changes = field(default_factory=Changes)  # of the sources since the plan was made
    added_shards: int = 0  # by this run, to a plan that was there
    scored: ScoreReport | None = None  # None: no scores were asked for

    def last_run(self) -> dict[str, Any]:
        return super().last_run() | dict(sorted(self.counts.items()))


@dataclass(kw_only=True)
class EncodeReport(JobReport):
    header: EncoderHeader
    workers: int = 0
    device: str = ""
    batch_size: int = 0
    latents: LatentSums = field(default_factory=LatentSums)
    damaged: list[str] = field(default_factory=list)  # clip shards that were left alone, and why
    notes: list[str] = field(default_factory=list)

    @property
    def busy(self) -> float:
        """Share of the run in which the model worked, over all workers."""
        return self.seconds["model"] / max(self.elapsed_s * self.workers, 1e-9)

    def stats(self) -> dict[str, Any]:
        return super().stats() | {
            "latents": self.latents.statistics(self.header),
            "labels": dict(sorted(self.latents.labels.items())),
        }

    def last_run(self) -> dict[str, Any]:
        return super().last_run() | {
            "workers": self.workers,
            "device": self.device,
            "batch_size": self.batch_size,
            "busy": round(self.busy, 4),
            "notes": self.notes,
        }


def keep_stats(store: Store, report: JobReport) -> None:
    """Writes stats.json where this run made shards, or where it is missing, damaged or not of the ledgers: a
    run may have been killed between its last ledger and stats.json."""
    stats, found = report.stats(), _read_stats(store)
    last_run = report.last_run() if report.made else found.pop("last_run", None)
    if not report.made and found == stats:
        return
    write_stats(store, stats | ({} if last_run is None else {"last_run": last_run}))


def _read_stats(store: Store) -> dict[str, Any]:
    """stats.json; {} where there is none that can be read."""
    try:
        with store.open(STATS_FILE) as file:
            stats = json.load(file)
    except (FileNotFoundError, ValueError):
        return {}
    return stats if isinstance(stats, dict) else {}
