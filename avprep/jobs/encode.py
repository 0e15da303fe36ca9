"""The encode job: every clip of a plan through a trained encoder, shard by shard, into latent shards.

    clips output --------------------> encode workers -> latents output       avprep encode --clips
    media -> decode tasks -> pieces -> encode workers -> latents output       avprep encode --dataset

The plan is that of the clips, and so is each shard's ledger: a clip that was filtered or failed before it
could be encoded keeps its row and its reason: planned = written + filtered + failed, from the source on.
"""

from __future__ import annotations

import errno
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

from avprep.datasets.source import Source
from avprep.execution import Pool, PoolConfig, WorkerLost, available_cpus, open_pool
from avprep.execution.quarantine import watchdog
from avprep.execution.ray import map_in_order
from avprep.jobs.clip import (
    JobConfig,
    LazyRunner,
    check_rebuild,
    clip_quarantine,
    plan_once,
    shard_task,
    watchdog_s,
)
from avprep.jobs.clip import output_header as clips_header
from avprep.jobs.output import (
    REBUILDING,
    JobError,
    Stop,
    end_rebuild,
    ignore,
    open_output,
    stop_on_signal,
)
from avprep.shards.integrity import forget_damaged, sha256_of
from avprep.shards.latents import CLIPS_ENTRY, SUMS_ENTRY, EncoderHeader, LatentSums
from avprep.shards.layout import CLIPS, HEADER_FILE, PLAN_FILE, ShardError, kind_of, read_header
from avprep.shards.ledger import STATUSES, LedgerRow, Sums, finished_shards, read_ledger, read_record
from avprep.shards.lock import lock
from avprep.shards.plan import PlanReader
from avprep.shards.store import Store, open_store
from avprep.shards.writer import write_header, write_stats
from avprep.spec import ClipSpec
from avprep.stages.clip_input import (
    PIECE_CLIPS,
    ClipShard,
    InputClip,
    clips_of,
    decode_piece,
    pieces,
    read_clip_shard,
)
from avprep.stages.encode import EncodeOptions, EncodeResult, EncodeTask, EncodeWorker
from avprep.stages.encoder import EncoderFactory, find_batch_size
from avprep.stages.tasks import ShardTask


@dataclass(frozen=True, kw_only=True)
class EncodeConfig:
    """All that `avprep encode` was told, one hop from the command line."""

    source: str | JobConfig  # an output of `avprep clip`, or what it would be made of
    out: str
    header: EncoderHeader  # of the checkpoint
    open_encoder: EncoderFactory
    options: EncodeOptions = EncodeOptions()
    pool: PoolConfig = PoolConfig(workers=None)
    batch_size: int | None = None  # None = found by trying
    compile: bool | None = None  # None = where there is a GPU
    rebuild: bool = False


@dataclass
class EncodeReport:
    """What a run did, and what the output holds after it."""

    shards: int = 0  # of the plan
    made: int = 0  # by this run
    workers: int = 0
    device: str = ""
    batch_size: int = 0
    sums: Sums = field(default_factory=Sums)  # of the whole output
    latents: LatentSums = field(default_factory=LatentSums)
    made_sums: Sums = field(default_factory=Sums)  # of this run
    seconds: Counter[str] = field(default_factory=Counter)
    elapsed_s: float = 0.0
    damaged: list[str] = field(default_factory=list)  # clip shards that were left alone, and why
    notes: list[str] = field(default_factory=list)

    @property
    def busy(self) -> float:
        """Share of the run in which the model worked, over all workers."""
        return self.seconds["model"] / max(self.elapsed_s * self.workers, 1e-9)


@dataclass(frozen=True)
class EncodeProgress:
    """What the job tells its caller as it goes; the CLI draws a bar from it."""

    planned: Callable[[int, int], None] = ignore  # clips, shards to make
    shard_done: Callable[[EncodeResult, float], None] = ignore  # and the model's busy share so far
    worker_lost: Callable[[str], None] = ignore
    planning: Callable[[int], None] = ignore  # sources looked at so far
    say: Callable[[str], None] = ignore


@dataclass(frozen=True)
class _Clips:
    """The output of `avprep clip` that is encoded."""

    uri: str
    store: Store
    header: dict[str, Any]
    plan: PlanReader


def run_encode_job(sources: list[Source], config: EncodeConfig, progress: EncodeProgress) -> EncodeReport:
    """Makes every latent shard of the plan that is not there yet. `sources`: [] where clips are encoded.

    Raises:
        JobError: another run holds the output, a field differs from the one it was begun with, or the
            clips are not there or not those that the checkpoint was trained on.
        RunnerError: no workers as asked for, or one is lost again and again.
        Stopped: after SIGINT or SIGTERM, when the shards in hand are done.
        OSError: the output cannot be written.
    """
    store = open_store(config.out)
    clips = _open_clips(config.source) if isinstance(config.source, str) else None
    _check_spec(config, clips)
    with lock(store), stop_on_signal() as stop:
        root = clips.uri if clips else str(config.source.root)
        header = output_header(config, clips)
        if not clips:
            check_rebuild(sources, config.source)
        fingerprint = open_output(store, header, root=root, rebuild=config.rebuild)
        for damage in forget_damaged(store):
            progress.say(f"{damage}; it is made again")
        plan = _plan(store, clips, sources, config, stop, progress)
        report = EncodeReport(shards=plan.shards)
        todo = _todo(store, plan, clips, report)
        progress.planned(plan.clips_of(todo), len(todo))
        if todo:
            _make_shards(store, plan, clips, todo, fingerprint, config, report, stop, progress)
        if report.made:
            _write_stats(store, report, config.header)
        if report.made == len(todo):
            end_rebuild(store)
    if report.made + len(report.damaged) < len(todo):
        stop.check()
    return report


# --- the output ------------------------------------------------------------------------------------------


def output_header(config: EncodeConfig, clips: _Clips | None) -> dict[str, Any]:
    """spec.json without what is only remembered: everything that decides the shards' bytes."""
    if clips:
        # The plan too: clips planned anew from other sources have the same fingerprint.
        made_of = {"fingerprint": clips.header["fingerprint"], "plan": _sha256(clips.store, PLAN_FILE)}
    else:
        made_of = clips_header(config.source)
        made_of = {name: made_of[name] for name in ("options", "dataset")}
        made_of["options"].pop("video_codec")
    return config.header.output_header(**asdict(config.options)) | {"clips": made_of}


def _sha256(store: Store, name: str) -> str:
    with store.open(name) as file:
        return sha256_of(file)


def _open_clips(uri: str) -> _Clips:
    store = open_store(uri)
    try:
        header = read_header(store)
        if kind_of(header) != CLIPS:
            raise JobError(f"--clips {uri} holds {kind_of(header)}; encode takes an output of avprep clip")
        plan = PlanReader(store)
    except (ShardError, FileNotFoundError) as error:
        raise JobError(f"--clips {uri}: {error}") from error
    missing = plan.shards - len(finished_shards(store))
    if missing:
        raise JobError(
            f"--clips {uri}: {missing} of its {plan.shards} shards are not made yet; "
            f"run the same avprep clip command to its end first"
        )
    return _Clips(uri, store, header, plan)


def _check_spec(config: EncodeConfig, clips: _Clips | None) -> None:
    """Raises JobError where the checkpoint was trained on other clips."""
    spec = ClipSpec.from_dict(clips.header["spec"]) if clips else config.source.clip.spec
    differing = spec.differences(config.header.spec)
    if differing:
        where = f"--clips {clips.uri}" if clips else "the clips of --dataset"
        raise JobError(f"--ckpt was trained on other clips: {where} have {differing}")


def _plan(
    store: Store,
    clips: _Clips | None,
    sources: list[Source],
    config: EncodeConfig,
    stop: Stop,
    progress: EncodeProgress,
) -> PlanReader:
    if clips is None:
        with ExitStack() as stack:  # the Ray of the planning ends before the encoders' begins
            runner = LazyRunner(stack, config.source.runner)
            return plan_once(store, sources, runner, config.source, stop, progress)
    if not store.exists(PLAN_FILE):
        with clips.store.open(PLAN_FILE) as theirs, store.write(PLAN_FILE) as ours:
            ours.write(theirs.read())
    return PlanReader(store)


def _todo(store: Store, plan: PlanReader, clips: _Clips | None, report: EncodeReport) -> list[int]:
    """The shards to make; what stands is counted. A shard whose clips were made again since is made again."""
    stand = set()
    for index in finished_shards(store):
        rows, record = read_ledger(store, index)
        if clips and record.extra[CLIPS_ENTRY] != read_record(clips.store, index).sha256:
            continue
        report.sums.add(rows)
        report.latents.merge(LatentSums.from_json(record.extra[SUMS_ENTRY]))
        stand.add(index)
    return sorted(set(range(plan.shards)) - stand)


def _write_stats(store: Store, report: EncodeReport, header: EncoderHeader) -> None:
    made = report.made_sums.planned
    write_stats(
        store,
        {
            "clips": {status: report.sums.by_status.get(status, 0) for status in STATUSES},
            "reasons": dict(sorted(report.sums.by_reason.items())),
            "shards": report.shards,
            "latents": report.latents.statistics(header),
            "labels": dict(sorted(report.latents.labels.items())),
            "last_run": {
                "clips": made,
                "elapsed_s": round(report.elapsed_s, 3),
                "clips_per_s": round(made / report.elapsed_s, 3) if report.elapsed_s else None,
                "workers": report.workers,
                "device": report.device,
                "batch_size": report.batch_size,
                "busy": round(report.busy, 4),
                "worker_seconds": {k: round(v, 3) for k, v in sorted(report.seconds.items())},
                "notes": report.notes,
            },
        },
    )


# --- the shards --------------------------------------------------------------------------------------------


def _make_shards(
    store: Store,
    plan: PlanReader,
    clips: _Clips | None,
    todo: list[int],
    fingerprint: str,
    config: EncodeConfig,
    report: EncodeReport,
    stop: Stop,
    progress: EncodeProgress,
) -> None:
    media = None if clips else config.source
    make_worker = _MakeWorker(config.open_encoder, config.compile, media)
    with open_pool(_pool_config(config), make_worker) as pool:
        report.workers, report.device = pool.workers, pool.device
        _keep_to_device(store, pool.device)
        report.batch_size = _batch_size(store, pool, config, stop, progress)
        task = EncodeTask(
            index=-1,
            out=config.out,
            fingerprint=fingerprint,
            options=config.options,
            weights=config.header.weights,
            batch_size=report.batch_size,
            source=None,
        )
        tasks = (_task(task, index, plan, clips, media) for index in todo)
        started = time.monotonic()

        def tell_lost(task: EncodeTask, lost: WorkerLost) -> None:
            progress.worker_lost(f"shard {task.index}: {lost.detail} after {lost.seconds:.0f} s")

        for _, result in pool.map(tasks, stop, tell_lost):
            report.elapsed_s = time.monotonic() - started
            _count(report, result)
            for note in result.notes:
                progress.say(note)
            progress.shard_done(result, report.busy)
            if not store.exists(HEADER_FILE):  # removed, or another disk is mounted there
                raise FileNotFoundError(errno.ENOENT, "its spec.json is gone", config.out)


def _task(
    task: EncodeTask, index: int, plan: PlanReader, clips: _Clips | None, media: JobConfig | None
) -> EncodeTask:
    if clips is None:
        source = shard_task(plan.rows(index), index, media, task.fingerprint)
        return replace(task, index=index, source=source)
    source = ClipShard(clips.uri, index, ClipSpec.from_dict(clips.header["spec"]))
    sha256 = read_record(clips.store, index).sha256
    return replace(task, index=index, source=source, clips_sha256=sha256)


def _count(report: EncodeReport, result: EncodeResult) -> None:
    if result.damaged:
        report.damaged.append(result.damaged)
        return
    report.made += 1
    report.seconds.update(result.seconds)
    report.sums.merge(result.sums)
    report.made_sums.merge(result.sums)
    report.latents.merge(result.latents)
    report.notes += result.notes


def _keep_to_device(store: Store, device: str) -> None:
    """One output, one arithmetic: bf16 on a GPU and float32 on a CPU give latents that differ."""
    header = read_header(store)
    begun_on = header.setdefault("device", device)
    if begun_on != device:
        # A --rebuild that was interrupted is gone on with by the next one.
        anew = f"to start over remove {store.uri}" if header.get(REBUILDING) else "--rebuild starts over"
        raise JobError(
            f"{store.uri} was begun with device = {begun_on!r}; this run has {device!r}, whose "
            f"latents differ in their last bits. --device {begun_on} goes on, another --out keeps "
            f"both, {anew}."
        )
    write_header(store, header)


def _batch_size(store: Store, pool: Pool, config: EncodeConfig, stop: Stop, progress: EncodeProgress) -> int:
    """As it was told; else as it was found when the output was begun, so that resuming gives equal bytes."""
    if config.batch_size is not None:
        return config.batch_size
    header = read_header(store)
    if "batch_size" not in header:
        question = partial(find_batch_size, config.open_encoder, config.header.spec)
        header["batch_size"] = pool.ask(question, stop.check)
        write_header(store, header)
        progress.say(f"--batch-size auto: {header['batch_size']} clips, found by trying on {pool.device}")
    return header["batch_size"]


def _pool_config(config: EncodeConfig) -> PoolConfig:
    """With room in Ray's store for the pieces that wait between decoding and encoding."""
    if isinstance(config.source, str):
        return config.pool
    spec = config.header.spec
    piece = PIECE_CLIPS * (spec.frames * spec.size**2 * 3 + 2 * spec.frames * spec.n_mels * spec.columns)
    workers = config.pool.workers or available_cpus()
    # A source may have more clips in a shard than a piece: twice what is ahead is left for that.
    store_bytes = 2 * piece * (2 * workers + available_cpus())
    return replace(config.pool, store_bytes=store_bytes)


@dataclass(frozen=True)
class _MakeWorker:
    """Travels to the worker's process and makes it there."""

    open_encoder: EncoderFactory
    compile: bool | None
    media: JobConfig | None  # None: the clips are read from shards

    def __call__(self, device: str, count: int, in_process: bool) -> EncodeWorker:
        turn = threading.Lock() if self.media and in_process else None
        if self.media is None:
            read = _read_shard
        elif in_process:
            read = partial(_decode_here, turn)
        else:
            read = _DecodeOnRay(self.media, count)
        is_compiled = device == "cuda" if self.compile is None else self.compile
        return EncodeWorker(self.open_encoder, read, device=device, compile=is_compiled, turn=turn)


def _read_shard(task: EncodeTask, _should_stop, _tell) -> Iterator[InputClip | LedgerRow]:
    return read_clip_shard(task.source)


def _decode_here(
    turn: threading.Lock, task: EncodeTask, should_stop, _tell
) -> Iterator[InputClip | LedgerRow]:
    """A piece at a time, by turns with the model: a source's memory limit holds for the whole process."""
    for piece in pieces(task.source):
        if should_stop():
            return
        with turn:
            clips = decode_piece(piece)
        yield from clips


@dataclass(frozen=True)
class _DecodeOnRay:
    """The clips of a shard from decode tasks on any free CPU, a few pieces ahead of the model."""

    config: JobConfig
    workers: int

    def __call__(
        self, task: EncodeTask, should_stop: Callable[[], bool], tell: Callable[[str], None]
    ) -> Iterator[InputClip | LedgerRow]:
        stage = DecodeStage(watchdog_s(self.config))
        quarantine = clip_quarantine(self.config)

        def on_lost(piece: ShardTask, lost: WorkerLost) -> None:
            tell(
                f"shard {piece.index}: a decoder was lost ({lost.detail} after {lost.seconds:.0f} s); "
                f"its clips are tried again"
            )

        def recover(runner, piece: ShardTask, lost: WorkerLost) -> list[InputClip | LedgerRow] | None:
            on_lost(piece, lost)
            tried = quarantine.map(runner, stage, [piece], should_stop, on_lost)
            return next((clips for _, clips in tried), None)

        decoded = map_in_order(
            stage,
            pieces(task.source),
            weight=clips_of,
            should_stop=should_stop,
            recover=recover,
            ahead=lambda cpus: PIECE_CLIPS * (2 + cpus // self.workers),
        )
        for clips in decoded:
            yield from clips


@dataclass(frozen=True)
class DecodeStage:
    """`decode_piece` under a watchdog a clip."""

    watchdog_s: float | None

    def __call__(self, piece: ShardTask) -> list[InputClip | LedgerRow]:
        return decode_piece(piece, guard=lambda: watchdog(self.watchdog_s))
