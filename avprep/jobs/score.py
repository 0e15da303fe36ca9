"""The score job: the scores of each finished clip shard that are not stored yet, or are stale, are computed.

To resume, or to add a score, run it again: a score that is stored for a shard is computed again only where
the shard was made again, with other weights, or by another edition of the score.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from avprep.errors import ArgumentError
from avprep.execution.quarantine import watchdog_s
from avprep.jobs.config import ScoreJobConfig
from avprep.jobs.output import Stop, stopping_in_order
from avprep.jobs.progress import Progress, ScoreReport
from avprep.jobs.workers import LazyRunner, ScoreStage, score_quarantine, tell_lost
from avprep.scores.base import LeftOut, Score, ScoreUnavailable, WeightPaths
from avprep.scores.catalogue import SCORES
from avprep.shards.layout import CLIPS, spec_of
from avprep.shards.ledger import ShardRecord, Sums, finished_shards, read_ledger, read_outcomes, read_record
from avprep.shards.lock import lock
from avprep.shards.outputs import header_of
from avprep.shards.scores import read_scores_record
from avprep.shards.store import Store, open_store
from avprep.spec import ClipSpec
from avprep.stages.stored_scores import stored_scores
from avprep.stages.tasks import ScoreTask, Scoring

_SCORES = {score.name: score for score in SCORES}


@dataclass(frozen=True)
class LackingShard:
    """A shard that lacks scores."""

    index: int
    record: ShardRecord
    scores: tuple[str, ...]  # to compute
    kept: Mapping[str, str]  # stored ones that stay, by name: see `Score.identity`


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
    spec = spec_of(header_of(config.clips, CLIPS))
    run = ScoreRun.chosen(open_store(config.clips), spec, "only", config.only, config.weights_yamnet)
    with lock(run.store), stopping_in_order() as stop, ExitStack() as stack:
        todo = run.lacking(is_rebuilt=config.rebuild)
        limit_s = watchdog_s(config.clip_timeout_s, config.runner)
        run.complete(todo, LazyRunner(stack, config.runner), limit_s, stop, progress)
    return run.report


@dataclass(frozen=True)
class ScoreRun:
    """Completes the scores of an output of clips; the caller holds its lock."""

    store: Store
    spec: ClipSpec
    scoring: Scoring  # of the scores that are asked for, those that can run here
    report: ScoreReport

    @classmethod
    def chosen(
        cls, store: Store, spec: ClipSpec, argument: str, names: tuple[str, ...], weights_yamnet: Path | None
    ) -> ScoreRun:
        """Of the scores of these names, all without a name. `argument`: by which the caller names them.

        Raises:
            ArgumentError: there is no score of one of the names.
            ScoreUnavailable: none of them can run here.
        """
        yamnet = weights_yamnet.absolute() if weights_yamnet else None
        scores, left_out = available(_asked(argument, names), WeightPaths(yamnet=yamnet))
        if not scores:
            raise ScoreUnavailable("; ".join(left.why for left in left_out))
        chosen = tuple(score.name for score in scores)
        scoring = Scoring(scores=chosen, weights_yamnet=yamnet, weights_sha256=_weights_of(scores, yamnet))
        report = ScoreReport(scores=chosen, left_out=tuple(left.why for left in left_out))
        return cls(store, spec, scoring, report)

    def lacking(self, *, is_rebuilt: bool = False) -> list[LackingShard]:
        """The finished shards that lack some of the scores, ascending; all that hold a clip are counted.

        Raises:
            ShardError: a damaged ledger or file of scores.
        """
        found = []
        for index in finished_shards(self.store):
            record = read_record(self.store, index)
            if not record.name:
                continue
            self.report.shards += 1
            stored = stored_scores(read_scores_record(self.store, index), record)
            missing = tuple(
                n for n in self.scoring.scores if is_rebuilt or stored.get(n) != self._identity(n)
            )
            if missing:
                kept = {name: digest for name, digest in stored.items() if name not in missing}
                found.append(LackingShard(index, record, missing, kept))
        return found

    def complete(
        self,
        todo: list[LackingShard],
        runner: LazyRunner,
        limit_s: float | None,
        stop: Stop,
        progress: Progress,
    ) -> None:
        """Computes what the shards lack. `limit_s`: after which a worker process is ended over one clip.

        Raises:
            Stopped: after SIGINT or SIGTERM, when the shards in hand are done.
            OSError: the output cannot be written.
        """
        progress.planned(sum(_written(self.store, shard.index) for shard in todo), len(todo))
        started, done = time.monotonic(), 0
        results = score_quarantine(limit_s).map(
            runner, ScoreStage(limit_s), map(self._task, todo), stop, tell_lost(progress)
        )
        for task, result in results:
            self.report.add(result)
            done += 1
            failed = len(task.keys) if result.damage else result.problems
            by_status = Counter(written=len(task.keys) - failed, failed=failed)
            progress.shard_done(Sums(by_status), None)
        self.report.elapsed_s = time.monotonic() - started
        if done < len(todo):
            stop.check()

    def _task(self, shard: LackingShard) -> ScoreTask:
        rows, _ = read_ledger(self.store, shard.index)
        return ScoreTask(
            index=shard.index,
            clips=self.store.uri,
            spec=self.spec,
            name=shard.record.name,
            sha256=shard.record.sha256,
            keys=tuple(row.key for row in rows if row.status == "written"),
            scores=shard.scores,
            kept=shard.kept,
            weights_yamnet=self.scoring.weights_yamnet,
            weights_sha256=self.scoring.weights_sha256,
        )

    def _identity(self, name: str) -> str:
        return _SCORES[name].identity(self.scoring.weights_sha256)


def _written(store: Store, index: int) -> int:
    return sum(rows for (status, _), rows in read_outcomes(store, index).items() if status == "written")


# --- which scores ----------------------------------------------------------------------------------------


def _asked(argument: str, names: tuple[str, ...]) -> list[Score]:
    """The scores of these names in the catalogue's order; all without a name. Raises ArgumentError."""
    for name in names:
        if name not in _SCORES:
            raise ArgumentError(f"{argument} must be of {', '.join(_SCORES)}; not {name!r}")
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
