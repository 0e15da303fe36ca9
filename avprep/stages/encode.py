"""One clip shard in, one latent shard out, the model never waiting: three threads and two short queues.

    tasks -> [reader: clips into batches] -> [model] -> [writer: tar, sums, ledger] -> results
             the next shard's clips          one batch    the last shard's latents

A task that cannot be done fails its own future; no thread waits for another without looking whether the
worker is closed, so nothing can hang.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from avprep.reasons import MediaError, Reason
from avprep.shards.clips import Members, write_shard
from avprep.shards.latents import CLIPS_ENTRY, SUMS_ENTRY, EncoderHeader, LatentSums, pack_clip_latents
from avprep.shards.ledger import LedgerRow, Sums, write_ledger
from avprep.shards.store import open_store
from avprep.stages.clip_input import ClipShard, ClipShardDamaged, InputClip
from avprep.stages.encoder import EncodeError, Encoder, EncoderFactory, release, try_encode
from avprep.stages.options import EncodeOptions
from avprep.stages.tasks import ShardTask

_AHEAD = 2  # batches between two threads
_POLL_S = 0.5  # how often a waiting thread looks whether the worker is closed


@dataclass(frozen=True, kw_only=True)
class EncodeTask:
    """One planned shard: where its clips are, never the clips."""

    index: int
    out: str
    fingerprint: str
    options: EncodeOptions
    weights: str  # of the checkpoint that the job was begun with
    batch_size: int
    source: ClipShard | ShardTask
    clips_sha256: str = ""  # of the clip shard, kept in the ledger


@dataclass(frozen=True)
class EncodeResult:
    index: int
    sums: Sums = field(default_factory=Sums)
    latents: LatentSums = field(default_factory=LatentSums)
    seconds: Counter[str] = field(default_factory=Counter)
    damaged: str = ""  # why the clip shard was left alone; then nothing was written
    notes: tuple[str, ...] = ()  # what the person who runs it should hear


def shard_name(index: int) -> str:
    return f"shards/latents-{index:06d}.tar"


# How the clips of a task are read: (task, should_stop, tell).
ReadClips = Callable[[EncodeTask, Callable[[], bool], Callable[[str], None]], Iterator[InputClip | LedgerRow]]


class _Closed(Exception):
    """The worker was closed while a thread waited."""


@dataclass(eq=False)
class _Shard:
    """A task on its way through the threads."""

    task: EncodeTask
    future: Future[EncodeResult] = field(default_factory=Future)
    seconds: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    is_lost: bool = False  # a thread has given it up; what is left of it is passed over


@dataclass
class _Batch:
    """Some of a shard's clips and rows, in order; arrays in the order of the clips."""

    shard: _Shard
    items: list[LedgerRow | tuple[LedgerRow, dict[str, Any]]]
    frames: Tensor | None = None  # uint8 (B, T, H, W, RGB), then None
    mel: Tensor | None = None  # float16 (B, T, n_mels, W), then None
    mean: np.ndarray | None = None  # float16 (B, C, P, rows, columns)
    logvar: np.ndarray | None = None


@dataclass
class _End:
    """After a shard's last batch; with an error if a thread could not go on."""

    shard: _Shard
    error: Exception | None = None


class EncodeWorker:
    """Runs tasks; opens its encoder at the first and keeps it. `run` is called from two threads at once, so
    that the next shard is read while one is encoded."""

    def __init__(
        self,
        open_encoder: EncoderFactory,
        read_clips: ReadClips,
        *,
        device: str,
        compile: bool,
        turn: AbstractContextManager | None = None,
    ) -> None:
        """`turn` is entered while the model runs: a lock where reading must not go on beside it."""
        self._open_encoder, self._read_clips = open_encoder, read_clips
        self._device, self._compile = device, compile
        self._turn = turn or nullcontext()
        self._encoder: Encoder | None = None
        self._header: EncoderHeader | None = None  # of the encoder, for the writer
        self._batch_size = 0
        self._closed = threading.Event()
        self._broken: BaseException | None = None
        self._tasks: queue.Queue[_Shard] = queue.Queue()
        self._batches: queue.Queue[_Batch | _End] = queue.Queue(_AHEAD)
        self._encoded: queue.Queue[_Batch | _End] = queue.Queue(_AHEAD)
        self._threads = [
            threading.Thread(target=self._guarded, args=(loop,), name=name, daemon=True)
            for name, loop in (("reader", self._read), ("model", self._model), ("writer", self._write))
        ]
        for thread in self._threads:
            thread.start()

    def run(self, task: EncodeTask) -> EncodeResult:
        """Makes the shard and its ledger.

        Raises:
            EncodeError, OSError, and whatever else the encoder raises; nothing is left half done.
        """
        shard = _Shard(task)
        self._tasks.put(shard)
        while not shard.future.done():
            if self._broken is not None:
                raise self._broken
            if self._closed.is_set():
                raise _Closed
            _wait(shard.future)
        try:
            return shard.future.result()
        except ClipShardDamaged as damage:
            return EncodeResult(task.index, damaged=str(damage))

    def close(self) -> None:
        """Ends the threads; what they are doing now is finished, what waits is dropped."""
        self._closed.set()
        for thread in self._threads:
            thread.join()

    def _guarded(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        except _Closed:
            return
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits for a result
            self._broken = error
            self._closed.set()

    def _get(self, source: queue.Queue) -> Any:
        while not self._closed.is_set():
            try:
                return source.get(timeout=_POLL_S)
            except queue.Empty:
                continue
        raise _Closed

    def _put(self, target: queue.Queue, item: Any) -> None:
        while not self._closed.is_set():
            try:
                return target.put(item, timeout=_POLL_S)
            except queue.Full:
                continue
        raise _Closed

    # --- reader ---------------------------------------------------------------------------------------

    def _read(self) -> None:
        while True:
            shard = self._get(self._tasks)
            try:
                for batch in self._read_batches(shard):
                    self._put(self._batches, batch)
                    if shard.is_lost:
                        break
                end = _End(shard)
            except _Closed:
                raise
            except Exception as error:  # noqa: BLE001 - the task's own, and given to its future
                end = _End(shard, error)
            self._put(self._batches, end)

    def _read_batches(self, shard: _Shard) -> Iterator[_Batch]:
        """The shard's clips, `batch_size` a batch and the rest in the last."""
        clips: list[InputClip] = []
        items: list[Any] = []
        started = time.perf_counter()
        for clip in self._read_clips(shard.task, self._closed.is_set, shard.notes.append):
            if isinstance(clip, LedgerRow):
                items.append(clip)
                continue
            items.append((clip.row, clip.header))
            clips.append(clip)
            if len(clips) == shard.task.batch_size:
                batch = self._stacked(shard, items, clips)
                clips, items = [], []
                shard.seconds["read"] += time.perf_counter() - started
                yield batch
                started = time.perf_counter()
        if items:
            yield self._stacked(shard, items, clips)
        shard.seconds["read"] += time.perf_counter() - started

    def _stacked(self, shard: _Shard, items: list[Any], clips: list[InputClip]) -> _Batch:
        if not clips:
            return _Batch(shard, items)
        pinned = self._device == "cuda"  # so that the copy to the device goes on beside the CPU
        first = clips[0]
        frames = torch.empty((len(clips), *first.frames.shape), dtype=torch.uint8, pin_memory=pinned)
        mel = torch.empty((len(clips), *first.mel.shape), dtype=torch.float16, pin_memory=pinned)
        for i, clip in enumerate(clips):
            frames.numpy()[i], mel.numpy()[i] = clip.frames, clip.mel
        return _Batch(shard, items, frames, mel)

    # --- model ----------------------------------------------------------------------------------------

    def _model(self) -> None:
        if self._device == "cpu":
            torch.set_num_threads(1)  # N workers use N cores, and the bytes do not depend on N
        while True:
            message = self._get(self._batches)
            shard = message.shard
            if shard.is_lost:
                continue
            if isinstance(message, _Batch) and message.frames is not None:
                try:
                    with self._turn:
                        self._encode(message)
                except Exception as error:  # noqa: BLE001 - given to the task's future
                    shard.is_lost = True
                    message = _End(shard, error)
            self._put(self._encoded, message)

    def _encode(self, batch: _Batch) -> None:
        """Fills in the latents and lets go of the pictures."""
        shard = batch.shard
        if self._encoder is None:
            self._open(shard, shard.task.batch_size)
        while True:
            started = time.perf_counter()
            parts = try_encode(self._encoder, batch.frames, batch.mel, self._batch_size)
            shard.seconds["model"] += time.perf_counter() - started
            if parts is not None:
                break
            if self._batch_size == 1:
                raise EncodeError(f"out of memory on {self._device} with a single clip")
            half = self._batch_size // 2
            shard.notes.append(f"out of memory with {self._batch_size} clips a batch; goes on with {half}")
            self._open(shard, half)
        batch.mean = _half([part.mean for part in parts])
        batch.logvar = _half([part.logvar for part in parts]) if shard.task.options.posterior else None
        batch.frames = batch.mel = None

    def _open(self, shard: _Shard, batch_size: int) -> None:
        """Opens the encoder for batches of that size, in the place of one that is open."""
        started = time.perf_counter()
        if self._encoder is not None:
            self._encoder = None
            release(self._device)
        self._encoder = self._open_encoder(device=self._device, batch_size=batch_size, compile=self._compile)
        self._batch_size, self._header = batch_size, self._encoder.header
        if self._encoder.header.weights != shard.task.weights:
            raise EncodeError("the checkpoint was changed while the job ran")
        shard.seconds["open"] += time.perf_counter() - started

    # --- writer ---------------------------------------------------------------------------------------

    def _write(self) -> None:
        while True:
            message = self._get(self._encoded)
            shard = message.shard
            if shard.future.done():
                continue  # the rest of one that could not be written
            try:
                result = self._write_shard(shard, message)
            except _Closed:
                raise
            except Exception as error:  # noqa: BLE001 - the task's own, and given to its future
                shard.is_lost = True
                shard.future.set_exception(error)
            else:
                shard.future.set_result(result)

    def _write_shard(self, shard: _Shard, message: _Batch | _End) -> EncodeResult:
        task, rows, latents = shard.task, [], LatentSums()
        store, name = open_store(task.out), shard_name(task.index)
        clips = self._clips(shard, message, rows, latents)
        record = write_shard(store, name, task.index, clips, task.fingerprint, shard.seconds)
        extra = {SUMS_ENTRY: latents.to_json(), CLIPS_ENTRY: task.clips_sha256}
        started = time.perf_counter()
        write_ledger(store, task.index, rows, replace(record, extra=extra))
        shard.seconds["write"] += time.perf_counter() - started
        sums = Sums()
        sums.add(rows)
        return EncodeResult(task.index, sums, latents, shard.seconds, notes=tuple(shard.notes))

    def _clips(
        self, shard: _Shard, message: _Batch | _End, rows: list[LedgerRow], latents: LatentSums
    ) -> Iterator[tuple[str, Members]]:
        """(key, files) of each clip as its batch comes, until the shard's end. Fills `rows` and `latents`."""
        while isinstance(message, _Batch):
            place = 0
            for item in message.items:
                if isinstance(item, LedgerRow):
                    rows.append(item)
                    continue
                row, members = self._packed(message, place, *item, latents)
                place += 1
                rows.append(row)
                if members is not None:
                    yield row.key, members
            message = self._get(self._encoded)
        if message.error is not None:
            raise message.error

    def _packed(
        self, batch: _Batch, place: int, row: LedgerRow, clip: dict[str, Any], latents: LatentSums
    ) -> tuple[LedgerRow, Members | None]:
        """The clip's files, or the row that says why there are none."""
        header = self._header
        arrays = [a[place] for a in (batch.mean, batch.logvar) if a is not None]
        padding = header.padding()
        for array in arrays:
            if array.shape != header.shape:
                raise EncodeError(f"the encoder gave {array.shape}; its header says {header.shape}")
            array[:, padding] = 0
        bad = sum(int((~np.isfinite(array)).sum()) for array in arrays)
        if bad:
            error = MediaError(Reason.NOT_FINITE, f"{bad} of {sum(a.size for a in arrays)} values")
            return LedgerRow.lost(
                error, key=row.key, shard=row.shard, source=row.source, start_s=row.start_s
            ), None
        if np.abs(arrays[0]).max() > 1:
            raise EncodeError(f"the encoder gave {np.abs(arrays[0]).max()} for {row.key}, outside [-1, 1]")
        latents.add(arrays[0], list(clip["labels"]), header)
        return row, pack_clip_latents(
            clip=clip,
            latent=arrays[0],
            logvar=arrays[1] if len(arrays) > 1 else None,
            header=header,
            packed=batch.shard.task.options.packed,
        )


def _half(parts: list[Tensor]) -> np.ndarray:
    """float16; what is too large for it becomes infinite and is found."""
    return torch.cat(list(parts)).to(torch.float16).numpy()


def _wait(future: Future) -> None:
    try:
        future.exception(timeout=_POLL_S)
    except TimeoutError:
        return
