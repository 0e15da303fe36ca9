"""The score job: the scores of each finished clip shard that are not stored yet, or are stale, are computed.

To resume, or to add a score, run it again: a score that is stored for a shard is computed again only where
the shard was made again, or with other weights.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from avprep.errors import ArgumentError
from avprep.execution.quarantine import watchdog_s
from avprep.jobs.config import ScoreJobConfig
from avprep.jobs.output import Stop, stopping_in_order
from avprep.jobs.progress import Progress
from avprep.jobs.workers import LazyRunner, ScoreStage, score_quarantine, tell_lost
from avprep.scores.base import LeftOut, Score, ScoreUnavailable, WeightPaths
from avprep.scores.catalogue import SCORES
from avprep.shards.layout import CLIPS, spec_of
from avprep.shards.ledger import ShardRecord, Sums, finished_shards, read_ledger, read_outcomes, read_record
from avprep.shards.lock import lock
from avprep.shards.outputs import header_of
from avprep.shards.scores import TYPES, ScoresRecord, read_scores_record
from avprep.shards.store import Store, open_store
from avprep.spec import ClipSpec
from avprep.stages.tasks import ScoreResult, ScoreTask


@dataclass(kw_only=True)
class ScoreReport:
    """What a run of the score job did."""

    shards: int = 0  # finished ones that hold a clip
    made: int = 0  # of which this run wrote scores
    clips: int = 0  # in those
    problems: int = 0  # clips of those, of which a score could not be computed
    scores: tuple[str, ...] = ()  # that were asked for and can run here
    left_out: tuple[str, ...] = ()  # the others: why, and what to install or to give
    damaged: list[str] = field(default_factory=list)  # clip shards that were left alone, and why
    elapsed_s: float = 0.0


@dataclass(frozen=True)
class _Todo:
    """A shard that lacks scores."""

    index: int
    record: ShardRecord
    scores: tuple[str, ...]  # to compute
    kept: Mapping[str, str]  # stored ones that stay, and the SHA-256 of their weights


def run_score_job(config: ScoreJobConfig, progress: Progress) -> ScoreReport:
    """Computes the scores that are missing.

    Raises:
        ArgumentError: there is no score of a name that is asked for.
        OutputInUse: another run holds the output.
        ScoreUnavailable: none of the scores that are asked for can run here.
        ShardError: no output of clips, or a damaged ledger or file of scores.
        Stopped: after SIGINT or SIGTERM, when the shards in hand are done.
        OSError: the output cannot be written.
    """
    store, spec = open_store(config.clips), spec_of(header_of(config.clips, CLIPS))
    yamnet = config.weights_yamnet.absolute() if config.weights_yamnet else None
    scores, left_out = available(asked(config.only), WeightPaths(yamnet=yamnet))
    if not scores:
        raise ScoreUnavailable("; ".join(left.why for left in left_out))
    weights = _weights_of(scores, yamnet)
    report = ScoreReport(
        scores=tuple(score.name for score in scores), left_out=tuple(left.why for left in left_out)
    )
    with lock(store), stopping_in_order() as stop, ExitStack() as stack:
        todo = _todo(store, scores, weights, report, is_rebuilt=config.rebuild)
        progress.planned(sum(_written(store, shard.index) for shard in todo), len(todo))
        tasks = _tasks(store, todo, config, spec, yamnet, weights)
        _score(LazyRunner(stack, config.runner), tasks, config, stop, report, progress)
    if report.made + len(report.damaged) < len(todo):
        stop.check()
    return report


# --- which scores ----------------------------------------------------------------------------------------


def asked(names: tuple[str, ...]) -> list[Score]:
    """The scores of these names in the catalogue's order; all without a name. Raises ArgumentError."""
    known = [score.name for score in SCORES]
    for name in names:
        if name not in known:
            raise ArgumentError(f"only must be of {', '.join(known)}; not {name!r}")
    return [score for score in SCORES if not names or score.name in names]


def available(scores: list[Score], paths: WeightPaths) -> tuple[list[Score], list[LeftOut]]:
    """Those that can run here, and the others with the reason. Given weights are loaded once, so that a file
    of another kind is known before the first shard."""
    found, left_out = [], []
    for score in scores:
        try:
            score.require(paths)
            if score.weights is not None:
                score.open(paths)
        except ScoreUnavailable as error:
            advice = f"; give weights_{score.weights}=PATH" if score.weights else ""
            left_out.append(LeftOut(score=score, why=f"{score.name} {error}{advice}"))
        else:
            found.append(score)
    return found, left_out


def _weights_of(scores: list[Score], yamnet: Path | None) -> str:
    """The SHA-256 of the weights; '' where no score needs any."""
    if yamnet is None or not any(score.weights for score in scores):
        return ""
    return hashlib.sha256(yamnet.read_bytes()).hexdigest()


# --- which shards ----------------------------------------------------------------------------------------


def _todo(
    store: Store, scores: list[Score], weights: str, report: ScoreReport, *, is_rebuilt: bool
) -> list[_Todo]:
    """The shards that lack some of the scores, ascending; all shards are counted."""
    found = []
    for index in finished_shards(store):
        record = read_record(store, index)
        if not record.name:
            continue
        report.shards += 1
        stored = stored_scores(read_scores_record(store, index), record)
        current = {
            score.name: score.name in stored and stored[score.name] == (weights if score.weights else "")
            for score in scores
        }
        missing = [name for name, is_there in current.items() if is_rebuilt or not is_there]
        if missing:
            kept = {name: digest for name, digest in stored.items() if name not in missing}
            found.append(_Todo(index, record, tuple(missing), kept))
    return found


def stored_scores(stored: ScoresRecord | None, record: ShardRecord) -> dict[str, str]:
    """The scores that are stored of this very shard with all of their columns, each with its weights'
    SHA-256. None of them is, where the shard was made again with other bytes."""
    if stored is None or stored.clips_sha256 != record.sha256:
        return {}
    return {
        score.name: stored.scores[score.name]
        for score in SCORES
        if score.name in stored.scores
        and all(stored.columns.get(column.name) == TYPES[column.kind] for column in score.columns)
    }


def _written(store: Store, index: int) -> int:
    return sum(rows for (status, _), rows in read_outcomes(store, index).items() if status == "written")


def _tasks(
    store: Store, todo: list[_Todo], config: ScoreJobConfig, spec: ClipSpec, yamnet: Path | None, weights: str
) -> Iterator[ScoreTask]:
    for shard in todo:
        rows, _ = read_ledger(store, shard.index)
        yield ScoreTask(
            index=shard.index,
            clips=config.clips,
            spec=spec,
            name=shard.record.name,
            sha256=shard.record.sha256,
            keys=tuple(row.key for row in rows if row.status == "written"),
            scores=shard.scores,
            kept=shard.kept,
            weights_yamnet=yamnet,
            weights_sha256=weights,
        )


def _score(
    runner: LazyRunner,
    tasks: Iterator[ScoreTask],
    config: ScoreJobConfig,
    stop: Stop,
    report: ScoreReport,
    progress: Progress,
) -> None:
    started = time.monotonic()
    limit_s = watchdog_s(config.clip_timeout_s, config.runner)
    run = score_quarantine(limit_s).map
    result: ScoreResult
    for task, result in run(runner, ScoreStage(limit_s), tasks, stop, tell_lost(progress)):
        if result.damage:
            report.damaged.append(result.damage)
        else:
            report.made += 1
            report.clips += result.clips
            report.problems += result.problems
        failed = len(task.keys) if result.damage else result.problems
        by_status = Counter(written=len(task.keys) - failed, failed=failed)
        progress.shard_done(Sums(by_status), None)
    report.elapsed_s = time.monotonic() - started
