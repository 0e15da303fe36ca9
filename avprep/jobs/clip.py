"""The clip job: an output is opened or begun, planned once, and its missing shards are made.

To resume, run the same command again: what decides the bytes is in spec.json and must be the same; the plan
is kept; a shard whose ledger is there is done.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Hashable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from itertools import groupby

from avprep.datasets.cut_list import CutList
from avprep.errors import ArgumentError
from avprep.jobs.config import ClipJobConfig, FromMedia
from avprep.jobs.cuts import require_elsewhere
from avprep.jobs.faults import FaultWatch
from avprep.jobs.growth import update_plan
from avprep.jobs.output import Stop, end_rebuild, open_output, stopping_in_order
from avprep.jobs.planner import Planner
from avprep.jobs.progress import ClipReport, Progress, keep_stats
from avprep.jobs.score import ScoreRun
from avprep.jobs.workers import ClipStage, LazyRunner, clip_quarantine, tell_lost, watchdog_s
from avprep.media.crop import Bars
from avprep.media.source import require_media
from avprep.reasons import MediaError, Reason
from avprep.shards.integrity import forget_damaged
from avprep.shards.layout import HEADER_FILE, PLAN_FILE, VideoCodec, clips_header
from avprep.shards.ledger import finished_shards, outcomes_of, read_columns
from avprep.shards.lock import lock
from avprep.shards.plan import PlanReader, PlanRow
from avprep.shards.store import Store, open_store
from avprep.stages.tasks import ClipText, PlannedSource, Remake, Scoring, ShardResult, ShardTask


def run_clip_job(config: ClipJobConfig, progress: Progress) -> ClipReport:
    """Makes every shard of the plan that is not there yet, and every score that is asked for and not there.

    Raises:
        ArgumentError: there is no score of a name that is asked for.
        ScoreUnavailable: none of the scores that are asked for can run here.
        ShardError: a damaged file of the output.
        OutputInUse: another run holds the output.
        JobError: a field differs from the one that the output was begun with, or every clip fails by a fault
            of avprep.
        MediaGone: the folder of the media is empty or does not answer.
        Stopped: after SIGINT or SIGTERM, when the shards in hand are done.
        OSError: the output cannot be written.
    """
    store = open_store(config.out)
    scores = score_run(store, config)
    with lock(store), stopping_in_order() as stop, ExitStack() as stack:
        runner = LazyRunner(stack, config.source.runner)
        fingerprint = _open(store, config)
        for damage in forget_damaged(store):
            progress.say(f"{damage}; it is made again")
        planner = Planner(config.source, runner, stop, progress, kept_in=store)
        plan, report = _planned(store, planner, config, progress)
        report.scored = scores.report if scores else None
        todo = _todo(store, plan, config, report)
        progress.planned(plan.clips_of(todo), len(todo))
        tasks = _tasks(plan, todo, config, fingerprint, scores.scoring if scores else None)
        _make_shards(store, _results(runner, tasks, config.source, stop, progress), report, progress)
        keep_stats(store, report)
        if report.made == len(todo):
            end_rebuild(store)
            if scores:
                _complete(scores, config.source, runner, stop, progress)
    if report.made < len(todo):
        stop.check()
    return report


# --- the output ------------------------------------------------------------------------------------------

_AS_BEFORE = (("max_residual_ms", None), ("at_events", False))


def output_header(config: ClipJobConfig) -> dict[str, object]:
    """spec.json without its fingerprint: everything that decides the shards' bytes."""
    source = config.source
    return clips_header(
        spec=source.clip.spec.to_dict(),
        options=source_options(source) | {"video_codec": config.video_codec},
        dataset=source_dataset(source),
    )


def source_options(source: FromMedia) -> dict[str, object]:
    """Of spec.json: how clips are planned and cut, however they are stored."""
    options = asdict(source.clip)
    del options["spec"]
    options |= asdict(source.plan) | {"stride_samples": source.plan.stride(source.clip.spec)}
    if source.cuts is not None:
        options["cuts"] = source.cuts.identity
    # As in outputs that are older than these options.
    return {name: value for name, value in options.items() if (name, value) not in _AS_BEFORE}


def source_dataset(source: FromMedia) -> dict[str, str | None]:
    """Of spec.json: where the sources are listed."""
    return {"name": source.dataset, "split": source.split}


def require_sources(source: FromMedia, out: str) -> None:
    """Before a rebuild removes the output: that it can be made anew.

    Raises:
        MediaGone: the folder of the media is empty or does not answer.
        ArgumentError: the list of cuts lies in the output.
    """
    if isinstance(source.cuts, CutList):
        require_elsewhere(source.cuts, out)
    if not all(os.path.isabs(given.path) for given in source.sources):
        require_media(str(source.root))


def _open(store: Store, config: ClipJobConfig) -> str:
    """Checks or begins the output. Returns its fingerprint."""
    if config.only_failed and not store.exists(HEADER_FILE):
        raise ArgumentError(f"only_failed = True: {config.out} holds no finished run to try again")
    if config.rebuild:
        require_sources(config.source, config.out)
    root = str(config.source.root)
    return open_output(store, output_header(config), root=root, rebuild=config.rebuild)


# --- the plan --------------------------------------------------------------------------------------------


def _planned(
    store: Store, planner: Planner, config: ClipJobConfig, progress: Progress
) -> tuple[PlanReader, ClipReport]:
    """The plan: made now, kept, or brought up to date as far as the config asks for it."""
    before = PlanReader(store).shards if store.exists(PLAN_FILE) else None
    if before is not None and config.only_failed:
        planner.plan_again(store)
        before = PlanReader(store).shards
    plan, left = update_plan(store, planner, config.source, config.growth, progress)
    added = 0 if before is None else plan.shards - before
    return plan, ClipReport(shards=plan.shards, changes=left, added_shards=added)


# --- the shards --------------------------------------------------------------------------------------------


def _todo(
    store: Store, plan: PlanReader, config: ClipJobConfig, report: ClipReport
) -> dict[int, Remake | None]:
    """The shards to make, ascending, and what of those that stand; the others are counted."""
    todo: dict[int, Remake | None] = dict.fromkeys(range(plan.shards))
    for index in finished_shards(store):
        rows = read_columns(store, index, "key", "status", "reason")
        outcomes = outcomes_of(rows)
        if config.only_failed and index in todo and any(status == "failed" for status, _ in outcomes):
            todo[index] = "failed"
        elif index in todo and not plan.holds(index, rows["key"]):
            todo[index] = "missing"
        else:
            todo.pop(index, None)
            report.sums.count(outcomes)
    return todo


def _tasks(
    plan: PlanReader,
    todo: dict[int, Remake | None],
    config: ClipJobConfig,
    fingerprint: str,
    scoring: Scoring | None,
) -> Iterator[ShardTask]:
    for index, remake in todo.items():
        task = shard_task(plan, index, config.source, config.out, fingerprint, config.video_codec)
        yield replace(task, remake=remake, scoring=scoring)


def shard_task(
    plan: PlanReader,
    index: int,
    source: FromMedia,
    out: str,
    fingerprint: str,
    video_codec: VideoCodec = "raw",
) -> ShardTask:
    """A shard's rows, grouped by source again."""
    return ShardTask(
        index=index,
        sources=tuple(planned_sources(plan.rows(index))),
        root=str(source.root),
        out=out,
        options=source.clip,
        fingerprint=fingerprint,
        source_timeout_s=source.source_timeout_s,
        video_codec=video_codec,
        is_verdict_final=source.cuts is not None,  # what was not planned may contain a cut
    )


def planned_sources(rows: Iterable[PlanRow]) -> Iterator[PlannedSource]:
    """Of a source, the clips that are to be made are one, so that it is read once, whatever lies between
    them."""
    for _, of_source in groupby(rows, source_of):
        by_verdict: dict[tuple[str, str], list[PlanRow]] = {}
        for row in of_source:
            by_verdict.setdefault((row.reason, row.detail), []).append(row)
        yield from map(planned_source, by_verdict.values())


def source_of(row: PlanRow) -> Hashable:
    """Equal for the rows of one source; two spans of a file that are named otherwise stay apart."""
    return row.source, row.events or (row.labels, row.caption)


def planned_source(rows: list[PlanRow]) -> PlannedSource:
    """Rows of one source, ascending, as a task has them."""
    first = rows[0]
    return PlannedSource(
        path=first.source,
        starts=tuple(row.start for row in rows),
        texts=tuple(ClipText(tuple(row.labels), row.caption, row.caption_from) for row in rows),
        verdict=MediaError(Reason.of(first.reason), first.detail) if first.reason else None,
        bars=None if first.bars is None else Bars(*first.bars),
    )


def _results(
    runner: LazyRunner, tasks: Iterable[ShardTask], source: FromMedia, stop: Stop, progress: Progress
) -> Iterator[ShardResult]:
    limit_s = watchdog_s(source)
    run = clip_quarantine(limit_s).map
    for _, result in run(runner, ClipStage(limit_s), tasks, stop, tell_lost(progress)):
        yield result


def _make_shards(
    store: Store, results: Iterator[ShardResult], report: ClipReport, progress: Progress
) -> None:
    started, watch = time.monotonic(), FaultWatch("clips")
    for result in results:
        report.made += 1
        report.seconds.add(result.seconds)
        report.counts.update(result.counts)
        report.sums.merge(result.sums)
        report.made_sums.merge(result.sums)
        if report.scored and result.scored:
            report.scored.add(result.scored)
        progress.shard_done(result.sums, None)
        require_output(store)
        faults = result.sums.by_reason[Reason.UNFORESEEN]
        watch.count(result.sums.planned, faults, f"avprep status {store.uri} names the place in the code")
    report.elapsed_s = time.monotonic() - started


def require_output(store: Store) -> None:
    """Raises FileNotFoundError where the output was removed in mid-run, or another disk is mounted there."""
    if not store.exists(HEADER_FILE):
        raise FileNotFoundError(errno.ENOENT, "its spec.json is gone", store.uri)


# --- the scores --------------------------------------------------------------------------------------------


def score_run(store: Store, config: ClipJobConfig) -> ScoreRun | None:
    """The scores that are written with the shards; None where none are asked for.

    Raises:
        ArgumentError: there is no score of a name that is asked for.
        ScoreUnavailable: none of the scores that are asked for can run here.
    """
    if config.score is None:
        return None
    return ScoreRun.chosen(store, config.source.clip.spec, "score", config.score, config.weights_yamnet)


def _complete(
    scores: ScoreRun, source: FromMedia, runner: LazyRunner, stop: Stop, progress: Progress
) -> None:
    """Scores the finished shards that lack scores: they stood before this run, the process ended between a
    shard and its scores, or the shard was made without them after its worker was lost."""
    todo = scores.lacking()
    if todo:
        progress.say(f"{len(todo):,} finished shards lack scores: they are read again")
        scores.complete(todo, runner, watchdog_s(source), stop, progress)
