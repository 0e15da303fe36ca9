"""One clip shard in, one latent shard out, with reading, model and writing at the same time.

    reader thread    clips of the task -> batches         one batch ahead of the model
    model thread     batch -> latents                     one batch ahead of the writer
    calling thread   latents -> tar, sums, ledger

The model's thread is the worker's only one and lasts: `run` is called from two threads at once, so that the
model encodes one shard while another begins or ends. Each thread hands its result on through a future. There
is no queue, so no thread waits for room in one, and an error reaches the caller through the future.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor

from avprep.errors import AvprepError
from avprep.reasons import MediaError, Reason
from avprep.seconds import Seconds
from avprep.shards.latents import CLIPS_ENTRY, SUMS_ENTRY, EncoderHeader, LatentSums, pack_clip_latents
from avprep.shards.layout import LATENTS, shard_name
from avprep.shards.ledger import LedgerRow, Sums, write_ledger
from avprep.shards.store import open_store
from avprep.shards.tar import Members
from avprep.shards.writer import write_shard
from avprep.stages.clip_input import ClipShard, ClipShardDamaged, InputClip
from avprep.stages.encoder import EncodeError, Encoder, EncoderFactory, release, try_encode
from avprep.stages.options import EncodeOptions
from avprep.stages.tasks import ShardTask

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class EncodeTask:
    """One planned shard: where its clips are, never the clips."""

    index: int
    out: str
    fingerprint: str
    options: EncodeOptions
    weights: str  # of the checkpoint that the job was begun with
    batch_size: int
    source: ClipShard | ShardTask | None  # None in what the tasks of all shards have in common
    clips_sha256: str = ""  # of the clip shard, kept in the ledger


@dataclass(frozen=True)
class EncodeResult:
    index: int
    sums: Sums = field(default_factory=Sums)
    latents: LatentSums = field(default_factory=LatentSums)
    seconds: Seconds = field(default_factory=Seconds)
    damaged: str = ""  # why the clip shard was left alone; then nothing was written
    notes: tuple[str, ...] = ()  # what the person who runs it should know


# How the clips of a task are read: (task, should_stop, note).
ReadClips = Callable[[EncodeTask, Callable[[], bool], Callable[[str], None]], Iterator[InputClip | LedgerRow]]


class WorkerClosed(AvprepError):
    """The worker was closed before the task was done."""


@dataclass(eq=False)
class _Shard:
    """A task in hand: what is gathered about it on the way."""

    task: EncodeTask
    seconds: Seconds = field(default_factory=Seconds)
    notes: list[str] = field(default_factory=list)
    rows: list[LedgerRow] = field(default_factory=list)
    latents: LatentSums = field(default_factory=LatentSums)
    is_over: threading.Event = field(default_factory=threading.Event)  # done or given up: no more is read


# A row, or (row, header) of a clip.
_Item: TypeAlias = "LedgerRow | tuple[LedgerRow, dict[str, Any]]"


@dataclass
class _Batch:
    """Some of a shard's clips and rows, in order; arrays in the order of the clips."""

    items: list[_Item]
    frames: Tensor | None = None  # uint8 (B, T, H, W, RGB); None where there are rows alone
    mel: Tensor | None = None  # float16 (B, T, n_mels, W)


@dataclass
class _Encoded:
    """A batch after the model; float16 (B, C, P, rows, columns)."""

    items: list[_Item]
    mean: np.ndarray | None = None  # None where there are rows alone
    logvar: np.ndarray | None = None  # None where it is not stored


class EncodeWorker:
    """Runs tasks. Opens its encoder at the first one and keeps it."""

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
        self._header: EncoderHeader | None = None  # of the encoder, which is closed while another is opened
        self._batch_size = 0
        self._closed = threading.Event()
        self._reading = threading.Lock()  # one shard at a time: clips of a second one would wait in memory
        # One thread, not a lock: torch keeps some of its state per thread (thread count, CUDA graphs).
        self._model = ThreadPoolExecutor(1, "model")

    def run(self, task: EncodeTask) -> EncodeResult:
        """Writes the shard and its ledger. May be called from several threads at once.

        Raises:
            EncodeError, OSError, and what the encoder raises: nothing is left half written.
            WorkerClosed: `close` was called before the end.
        """
        shard = _Shard(task)
        try:
            with ExitStack() as ends:  # last first: the reader is stopped, it ends, what it reads is closed
                batches = ends.enter_context(closing(self._read(shard)))
                reader = ends.enter_context(ThreadPoolExecutor(1, "reader"))
                ends.callback(shard.is_over.set)
                return self._write(shard, self._encode_all(shard, one_ahead(reader, batches)))
        except ClipShardDamaged as damage:
            return EncodeResult(task.index, damaged=str(damage))

    def close(self) -> None:
        """Ends the model's thread after the batch that it encodes. Each `run` that goes on raises."""
        self._closed.set()
        self._model.shutdown(cancel_futures=True)

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise WorkerClosed("the encode worker was closed before its task was done")

    # --- reader thread --------------------------------------------------------------------------------

    def _read(self, shard: _Shard) -> Generator[_Batch, None, None]:
        """The shard's clips, `batch_size` per batch and the rest in the last one."""

        def should_stop() -> bool:
            return self._closed.is_set() or shard.is_over.is_set()

        with self._reading:
            clips = self._read_clips(shard.task, should_stop, shard.notes.append)
            groups = _grouped(clips, shard.task.batch_size)
            while True:
                with shard.seconds.measure("read"):
                    items = next(groups, None)
                    if items is None:
                        break
                    batch = self._stacked(items)
                    items.clear()  # the clips' arrays, which the batch has copies of
                yield batch
            self._check_open()  # a reader that was asked to stop ends as if there were no more clips

    def _stacked(self, items: list[InputClip | LedgerRow]) -> _Batch:
        rows: list[_Item] = [i if isinstance(i, LedgerRow) else (i.row, i.header) for i in items]
        clips = [item for item in items if isinstance(item, InputClip)]
        if not clips:
            return _Batch(rows)
        pinned = self._device == "cuda"  # so that the copy to the device goes on beside the CPU
        first = clips[0]
        frames = torch.empty((len(clips), *first.frames.shape), dtype=torch.uint8, pin_memory=pinned)
        mel = torch.empty((len(clips), *first.mel.shape), dtype=torch.float16, pin_memory=pinned)
        for i, clip in enumerate(clips):
            frames.numpy()[i], mel.numpy()[i] = clip.frames, clip.mel
        return _Batch(rows, frames, mel)

    # --- model thread ---------------------------------------------------------------------------------

    def _encode_all(self, shard: _Shard, batches: Iterator[_Batch]) -> Iterator[_Encoded]:
        """The batches after the model, which works on the next one while the caller has one."""
        ahead: Future[_Encoded] | None = None
        for batch in batches:
            self._check_open()
            encoding = self._model.submit(self._encode, shard, batch)
            if ahead is not None:
                yield ahead.result()
            ahead = encoding
        if ahead is not None:
            yield ahead.result()

    def _encode(self, shard: _Shard, batch: _Batch) -> _Encoded:
        if batch.frames is None or batch.mel is None:
            return _Encoded(batch.items)
        try:
            with self._turn:
                parts = self._latents(shard, batch.frames, batch.mel)
        except BaseException:
            shard.is_over.set()  # so that the reader, which may wait for more clips, ends
            raise
        logvar = _half([part.logvar for part in parts]) if shard.task.options.posterior else None
        return _Encoded(batch.items, _half([part.mean for part in parts]), logvar)

    def _latents(self, shard: _Shard, frames: Tensor, mel: Tensor) -> list[Any]:
        """The model's output, in as many parts as memory asks for."""
        if self._encoder is None:
            self._open(shard, shard.task.batch_size)
        while True:
            assert self._encoder is not None
            with shard.seconds.measure("model"):
                parts = try_encode(self._encoder, frames, mel, self._batch_size)
            if parts is not None:
                return parts
            if self._batch_size == 1:
                raise EncodeError(f"out of memory on {self._device} with a single clip")
            half = self._batch_size // 2
            shard.notes.append(f"out of memory with {self._batch_size} clips a batch; goes on with {half}")
            self._open(shard, half)

    def _open(self, shard: _Shard, batch_size: int) -> None:
        """Opens the encoder for batches of that size, in the place of one that is open."""
        if self._device == "cpu":
            torch.set_num_threads(1)  # N workers use N cores, and the bytes do not depend on N
        if self._encoder is not None:
            self._encoder = None
            release(self._device)
        with shard.seconds.measure("open"):
            encoder = self._open_encoder(device=self._device, batch_size=batch_size, compile=self._compile)
        self._encoder, self._batch_size, self._header = encoder, batch_size, encoder.header
        if encoder.header.weights != shard.task.weights:
            raise EncodeError("the checkpoint was changed while the job ran")

    # --- calling thread -------------------------------------------------------------------------------

    def _write(self, shard: _Shard, batches: Iterator[_Encoded]) -> EncodeResult:
        task, store = shard.task, open_store(shard.task.out)
        clips = self._files(shard, batches)
        name = shard_name(LATENTS, task.index)
        record = write_shard(store, name, task.index, clips, task.fingerprint, shard.seconds)
        extra = {SUMS_ENTRY: shard.latents.to_json(), CLIPS_ENTRY: task.clips_sha256}
        with shard.seconds.measure("write"):
            write_ledger(store, task.index, shard.rows, replace(record, extra=extra))
        sums = Sums()
        sums.add(shard.rows)
        return EncodeResult(task.index, sums, shard.latents, shard.seconds, notes=tuple(shard.notes))

    def _files(self, shard: _Shard, batches: Iterator[_Encoded]) -> Iterator[tuple[str, Members]]:
        """(key, files) of each clip that is written. Fills the shard's rows and sums."""
        for batch in batches:
            header, place = self._header, 0
            for item in batch.items:
                if isinstance(item, LedgerRow):
                    shard.rows.append(item)
                    continue
                assert header is not None  # a clip was encoded
                arrays = [a[place] for a in (batch.mean, batch.logvar) if a is not None]
                place += 1
                row, clip = item
                error = _check_latents(arrays, header, row.key)
                if error is not None:
                    shard.rows.append(row.lost(error))
                    continue
                shard.rows.append(row)
                yield row.key, _packed(shard, clip, arrays, header)


def _grouped(
    clips: Iterator[InputClip | LedgerRow], batch_size: int
) -> Iterator[list[InputClip | LedgerRow]]:
    """Lists of `batch_size` clips, each with the rows before its last clip; at last, what remains."""
    items: list[InputClip | LedgerRow] = []
    count = 0
    for item in clips:
        items.append(item)
        count += isinstance(item, InputClip)
        if count == batch_size:
            yield items
            items, count = [], 0
    if items:
        yield items


class _End:
    """What an iterator gives when it has no more."""


def one_ahead(pool: ThreadPoolExecutor, items: Iterator[Item]) -> Iterator[Item]:
    """The items. The next one is computed in the pool while the caller works on this one."""
    following = pool.submit(next, items, _End())
    while not isinstance(item := following.result(), _End):
        following = pool.submit(next, items, _End())
        yield item


def _half(parts: list[Tensor]) -> np.ndarray:
    """float16; what is too large for it becomes infinite and is found."""
    return torch.cat(list(parts)).to(torch.float16).numpy()


def _check_latents(arrays: list[np.ndarray], header: EncoderHeader, key: str) -> MediaError | None:
    """Sets the padding to zero. Returns why the clip fails: it is not finite.

    Raises:
        EncodeError: the encoder's fault, whatever the clip: a shape or a range that its header denies.
    """
    padding = header.padding()
    for array in arrays:
        if array.shape != header.shape:
            raise EncodeError(f"the encoder gave {array.shape}; its header says {header.shape}")
        array[:, padding] = 0
    bad = sum(int((~np.isfinite(array)).sum()) for array in arrays)
    if bad:
        return MediaError(Reason.NOT_FINITE, f"{bad} of {sum(a.size for a in arrays)} values")
    if np.abs(arrays[0]).max() > 1:
        raise EncodeError(f"the encoder gave {np.abs(arrays[0]).max()} for {key}, outside [-1, 1]")
    return None


def _packed(shard: _Shard, clip: dict[str, Any], arrays: list[np.ndarray], header: EncoderHeader) -> Members:
    """The clip's files; its latent is counted."""
    shard.latents.add(arrays[0], list(clip["labels"]), header)
    return pack_clip_latents(
        clip=clip,
        latent=arrays[0],
        logvar=arrays[1] if len(arrays) > 1 else None,
        header=header,
        packed=shard.task.options.packed,
    )
