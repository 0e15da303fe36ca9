"""The encode job: every clip of a plan through a trained encoder, shard by shard, into latent shards.

    clips output --------------------> encode workers -> latents output       FromClips
    media -> decode tasks -> pieces -> encode workers -> latents output       FromMedia

The plan is that of the clips, and so is each shard's ledger: a clip that was filtered or failed before it
could be encoded keeps its row and its reason: planned = written + filtered + failed, from the source on.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from avprep.errors import ArgumentError
from avprep.execution import Pool, PoolConfig, WorkerLost, available_cpus, open_pool
from avprep.jobs.clip import require_output
from avprep.jobs.config import EncodeJobConfig
from avprep.jobs.encode_input import Input, MakeReader, open_input
from avprep.jobs.output import (
    REBUILDING,
    JobError,
    Stop,
    end_rebuild,
    open_output,
    stopping_in_order,
)
from avprep.jobs.progress import EncodeReport, Progress, keep_stats
from avprep.shards.integrity import forget_damaged
from avprep.shards.latents import SUMS_ENTRY, LatentSums
from avprep.shards.layout import read_header
from avprep.shards.ledger import finished_shards, read_ledger
from avprep.shards.lock import lock
from avprep.shards.plan import PlanReader
from avprep.shards.store import Store, open_store
from avprep.shards.writer import write_header
from avprep.stages.encode import EncodeResult, EncodeTask, EncodeWorker
from avprep.stages.encoder import EncoderFactory, find_batch_size
from avprep.stages.without_clips import without_clips


def run_encode_job(config: EncodeJobConfig, progress: Progress) -> EncodeReport:
    """Makes every latent shard of the plan that is not there yet.

    Raises:
        ArgumentError: the clips are not there, not finished, or not those that the encoder was trained on.
        OutputInUse: another run holds the output.
        JobError: a field differs from the one that the output was begun with.
        MediaGone: the folder of the media is empty or does not answer.
        RunnerError: no workers as asked for, or one is lost again and again.
        Stopped: after SIGINT or SIGTERM, when the shards in hand are done.
        OSError: the output cannot be written.
    """
    store, clips = open_store(config.out), open_input(config.source, config.growth)
    _check_spec(config, clips)
    with lock(store), stopping_in_order() as stop:
        if config.rebuild:
            clips.require_sources(config.out)
        header = output_header(config, clips)
        fingerprint = open_output(store, header, root=clips.root, rebuild=config.rebuild)
        for damage in forget_damaged(store):
            progress.say(f"{damage}; it is made again")
        plan = clips.plan(store, stop, progress)
        report = EncodeReport(shards=plan.shards, header=config.header)
        todo = _todo(store, plan, clips, report)
        progress.planned(plan.clips_of(todo), len(todo))
        if todo:
            making = _Making(config, store, clips, report, progress, stop)
            making.run(clips.task(making.task(fingerprint), i, plan) for i in todo)
        keep_stats(store, report)
        if report.made == len(todo):
            end_rebuild(store)
    if report.made + len(report.damaged) < len(todo):
        stop.check()
    return report


# --- the output ------------------------------------------------------------------------------------------


def output_header(config: EncodeJobConfig, clips: Input) -> dict[str, Any]:
    """spec.json without what is only remembered: everything that decides the shards' bytes."""
    return config.header.output_header(**asdict(config.options)) | {"clips": clips.header()}


def _check_spec(config: EncodeJobConfig, clips: Input) -> None:
    """Raises ArgumentError where the encoder was trained on other clips."""
    differing = clips.spec.differences(config.header.spec)
    if differing:
        raise ArgumentError(f"the encoder was trained on other clips: {clips.name} have {differing}")


def _todo(store: Store, plan: PlanReader, clips: Input, report: EncodeReport) -> list[int]:
    """The shards to make; what stands is counted. A shard whose clips were made again since is made again.
    Clips that the plan no longer has are left out of what stands."""
    stand = set()
    for index in finished_shards(store):
        rows, record = read_ledger(store, index)
        planned, there = set(plan.table(index)["key"].to_pylist()), {row.key for row in rows}
        if not clips.stands(index, record) or not planned <= there:
            continue
        if planned != there:
            rows, record = without_clips(store, index, there - planned, report.header)
        report.sums.add(rows)
        report.latents.merge(LatentSums.from_json(record.extra[SUMS_ENTRY]))
        stand.add(index)
    return sorted(set(range(plan.shards)) - stand)


# --- the shards --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Making:
    """The making of shards by a pool of encoders."""

    config: EncodeJobConfig
    store: Store
    clips: Input
    report: EncodeReport
    progress: Progress
    stop: Stop

    def task(self, fingerprint: str) -> EncodeTask:
        """What the tasks of all shards have in common."""
        return EncodeTask(
            index=-1,
            out=self.config.out,
            fingerprint=fingerprint,
            options=self.config.options,
            weights=self.config.header.weights,
            batch_size=self.report.batch_size,
            source=None,
        )

    def run(self, tasks: Iterable[EncodeTask]) -> None:
        """`tasks` is asked for its first one when the batch size is known."""
        config, report = self.config, self.report
        make_worker = _MakeWorker(config.open_encoder, config.compile, self.clips.reader())
        with open_pool(self._pool_config(), make_worker) as pool:
            report.workers, report.device = pool.workers, pool.device
            _keep_to_device(self.store, pool.device)
            report.batch_size = self._batch_size(pool)
            started = time.monotonic()
            for _, result in pool.map(tasks, self.stop, self._tell_lost):
                report.elapsed_s = time.monotonic() - started
                self._count(result)
                require_output(self.store)

    def _pool_config(self) -> PoolConfig:
        workers = self.config.pool.workers or available_cpus()
        return replace(self.config.pool, store_bytes=self.clips.store_bytes(workers))

    def _batch_size(self, pool: Pool) -> int:
        """The one asked for; else as it was found when the output was begun, so that resuming gives equal
        bytes."""
        if self.config.batch_size is not None:
            return self.config.batch_size
        header = read_header(self.store)
        if "batch_size" not in header:
            question = partial(find_batch_size, self.config.open_encoder, self.config.header.spec)
            header["batch_size"] = pool.ask(question, self.stop.check)
            write_header(self.store, header)
            self.progress.say(f"batch_size = {header['batch_size']}: found by trying on {pool.device}")
        return header["batch_size"]

    def _count(self, result: EncodeResult) -> None:
        report = self.report
        if result.damaged:
            report.damaged.append(result.damaged)
        else:
            report.made += 1
            report.seconds.add(result.seconds)
            report.sums.merge(result.sums)
            report.made_sums.merge(result.sums)
            report.latents.merge(result.latents)
            report.notes += result.notes
        for note in result.notes:
            self.progress.say(note)
        self.progress.shard_done(result.sums, report.busy)

    def _tell_lost(self, task: EncodeTask, lost: WorkerLost) -> None:
        self.progress.worker_lost(f"shard {task.index}: {lost.detail} after {lost.seconds:.0f} s")


def _keep_to_device(store: Store, device: str) -> None:
    """One output, one arithmetic: bf16 on a GPU and float32 on a CPU give latents that differ."""
    header = read_header(store)
    begun_on = header.setdefault("device", device)
    if begun_on != device:
        # A rebuild that was interrupted goes on with the next one.
        anew = f"to start over remove {store.uri}" if header.get(REBUILDING) else "rebuild=True starts over"
        raise JobError(
            f"out = {store.uri}: it was begun with device = {begun_on!r}; this run has {device!r}, whose "
            f"latents differ in their last bits. device={begun_on} goes on, another folder keeps both, "
            f"{anew}."
        )
    write_header(store, header)


@dataclass(frozen=True)
class _MakeWorker:
    """Travels to the worker's process and makes it there."""

    open_encoder: EncoderFactory
    compile: bool | None
    make_reader: MakeReader

    def __call__(self, device: str, count: int, in_process: bool) -> EncodeWorker:
        read, turn = self.make_reader(count, in_process)
        is_compiled = device == "cuda" if self.compile is None else self.compile
        return EncodeWorker(self.open_encoder, read, device=device, compile=is_compiled, turn=turn)
