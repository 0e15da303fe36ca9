"""Where the encode job's clips come from: an output of the clip job, or media, cut on the way.

FromClips -> ClipsInput    clip shards are read; the plan is theirs
FromMedia -> MediaInput    media are planned and decoded as the clip job would
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from avprep.errors import ArgumentError
from avprep.execution import WorkerLost, available_cpus
from avprep.execution.ray import map_in_order
from avprep.jobs.clip import require_sources, shard_task, source_dataset, source_options
from avprep.jobs.config import FromClips, FromMedia, Growth
from avprep.jobs.growth import update_plan
from avprep.jobs.output import Stop
from avprep.jobs.planner import Planner
from avprep.jobs.progress import Progress
from avprep.jobs.workers import DecodeStage, LazyRunner, clip_quarantine, watchdog_s
from avprep.shards.latents import CLIPS_ENTRY
from avprep.shards.layout import CLIPS, PLAN_FILE, ShardError, kind_of, read_header
from avprep.shards.ledger import LedgerRow, ShardRecord, finished_shards, read_columns, read_record
from avprep.shards.outputs import require_ledger_rows
from avprep.shards.plan import PlanReader
from avprep.shards.selection import find_selection
from avprep.shards.store import Store, open_store
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
from avprep.stages.encode import EncodeTask, ReadClips
from avprep.stages.tasks import ShardTask


class Input(Protocol):
    """The clips that an encode job encodes."""

    name: str  # for messages: 'those of ...'
    root: str  # where they lie, kept in spec.json
    spec: ClipSpec

    def header(self) -> dict[str, Any]:
        """Of spec.json: what identifies the clips."""

    def require_sources(self, out: str) -> None:
        """Before a rebuild removes the latents in `out`: that they can be made anew. Raises MediaGone."""

    def plan(self, store: Store, stop: Stop, progress: Progress) -> PlanReader:
        """The plan of the latents' output: made now where there is none, or brought up to date."""

    def stands(self, index: int, record: ShardRecord) -> bool:
        """Whether a finished shard is made of the clips that are there now."""

    def task(self, task: EncodeTask, index: int, plan: PlanReader) -> EncodeTask:
        """The task with the clips of that shard."""

    def store_bytes(self, workers: int) -> int:
        """Of Ray's object store: room for the clips that wait between decoding and encoding."""

    def reader(self) -> MakeReader:
        """Travels to the worker's process and makes the reader of clips there."""


# (number of workers, whether it is the caller's own process) -> the reader, and the lock that it and the
# model take in turn, if they must.
MakeReader = Callable[[int, bool], tuple[ReadClips, AbstractContextManager | None]]


def open_input(source: FromClips | FromMedia, growth: Growth) -> Input:
    """
    Raises:
        ArgumentError: no finished output of the clip job.
    """
    return ClipsInput(source) if isinstance(source, FromClips) else MediaInput(source, growth)


# --- clip shards -----------------------------------------------------------------------------------------


class ClipsInput:
    """A finished output of the clip job."""

    def __init__(self, source: FromClips) -> None:
        uri, self._store = source.uri, open_store(source.uri)
        try:
            self._header = read_header(self._store)
            if kind_of(self._header) != CLIPS:
                raise ArgumentError(f"clips = {uri}: it holds {kind_of(self._header)}, not clips")
            self._plan = plan = PlanReader(self._store)
        except (ShardError, FileNotFoundError) as error:
            raise ArgumentError(f"clips = {uri}: {error}") from error
        missing = plan.shards - len(self._finished(plan))
        if missing:
            raise ArgumentError(
                f"clips = {uri}: {missing} of its {plan.shards} shards are not made yet; "
                f"finish it first, by the same avprep clip command"
            )
        self.root, self.spec = uri, ClipSpec.from_dict(self._header["spec"])
        self._keys, self._selection = self._selected(source.select)
        self.name = f"those of {uri}"

    def _finished(self, plan: PlanReader) -> list[int]:
        """The shards that are made; of a plan that was changed since, those that are made by it."""
        finished = finished_shards(self._store)
        if not plan.history().revision:
            return finished
        return [i for i in finished if plan.holds(i, read_columns(self._store, i, "key")["key"])]

    def _selected(self, name: str | None) -> tuple[frozenset[str] | None, str]:
        """The keys of the selection, None for all clips, and its digest."""
        if name is None:
            return None, ""
        keys, digest = find_selection(self._store, self._header, name)
        require_ledger_rows(self._store, name, keys)
        return keys, digest

    def header(self) -> dict[str, Any]:
        # The plan too: clips planned anew from other sources have the same fingerprint. A plan that has grown
        # is the same one.
        header = {"fingerprint": self._header["fingerprint"], "plan": self._plan.history().identity}
        return header if self._keys is None else header | {"selection": self._selection}

    def require_sources(self, out: str) -> None:
        """They are whole: that was checked as they were opened."""

    def plan(self, store: Store, stop: Stop, progress: Progress) -> PlanReader:
        if not store.exists(PLAN_FILE) or PlanReader(store).history() != self._plan.history():
            with self._store.open(PLAN_FILE) as theirs, store.write(PLAN_FILE) as ours:
                ours.write(theirs.read())
        return PlanReader(store)

    def stands(self, index: int, record: ShardRecord) -> bool:
        return record.extra[CLIPS_ENTRY] == read_record(self._store, index).sha256

    def task(self, task: EncodeTask, index: int, plan: PlanReader) -> EncodeTask:
        keys = None
        if self._keys is not None:
            keys = self._keys.intersection(plan.table(index)["key"].to_pylist())
        source = ClipShard(self.root, index, self.spec, keys)
        return replace(task, index=index, source=source, clips_sha256=read_record(self._store, index).sha256)

    def store_bytes(self, workers: int) -> int:
        return 0  # each worker reads for itself

    def reader(self) -> MakeReader:
        return _make_shard_reader


def _make_shard_reader(_workers: int, _in_process: bool) -> tuple[ReadClips, None]:
    return _read_shard, None


def _read_shard(task: EncodeTask, _should_stop, _tell) -> Iterator[InputClip | LedgerRow]:
    assert isinstance(task.source, ClipShard)
    return read_clip_shard(task.source)


# --- media -----------------------------------------------------------------------------------------------


class MediaInput:
    """Media that are cut on the way: the plan, the keys and the rows are those of the clip job."""

    name = "clips cut with these options"

    def __init__(self, source: FromMedia, growth: Growth) -> None:
        self._source, self.root, self.spec = source, str(source.root), source.clip.spec
        self._growth = growth

    def header(self) -> dict[str, Any]:
        return {"options": source_options(self._source), "dataset": source_dataset(self._source)}

    def require_sources(self, out: str) -> None:
        require_sources(self._source, out)

    def plan(self, store: Store, stop: Stop, progress: Progress) -> PlanReader:
        with ExitStack() as stack:  # the Ray of the planning ends before the encoders' begins
            runner = LazyRunner(stack, self._source.runner)
            planner = Planner(self._source, runner, stop, progress, kept_in=store)
            plan, _ = update_plan(store, planner, self._source, self._growth, progress)
        return plan

    def stands(self, index: int, record: ShardRecord) -> bool:
        return True

    def task(self, task: EncodeTask, index: int, plan: PlanReader) -> EncodeTask:
        source = shard_task(plan, index, self._source, task.out, task.fingerprint)
        return replace(task, index=index, source=source)

    def store_bytes(self, workers: int) -> int:
        spec = self.spec
        frames_bytes, mel_bytes = spec.frames * spec.size**2 * 3, 2 * spec.frames * spec.n_mels * spec.columns
        # A source may have more clips in a shard than a piece: twice what is ahead is left for that.
        return 2 * PIECE_CLIPS * (frames_bytes + mel_bytes) * (2 * workers + available_cpus())

    def reader(self) -> MakeReader:
        return partial(_make_decoder, watchdog_s(self._source))


def _make_decoder(
    limit_s: float | None, workers: int, in_process: bool
) -> tuple[ReadClips, AbstractContextManager | None]:
    if not in_process:
        return _DecodeOnRay(limit_s, workers), None
    turn = threading.Lock()
    return partial(_decode_here, turn), turn


def _decode_here(
    turn: threading.Lock, task: EncodeTask, should_stop, _tell
) -> Iterator[InputClip | LedgerRow]:
    """A piece at a time, by turns with the model: a source's memory limit holds for the whole process."""
    assert isinstance(task.source, ShardTask)
    for piece in pieces(task.source):
        if should_stop():
            return
        with turn:
            clips = decode_piece(piece)
        yield from clips


@dataclass(frozen=True)
class _DecodeOnRay:
    """The clips of a shard from decode tasks on any free CPU, a few pieces ahead of the model."""

    watchdog_s: float | None
    workers: int

    def __call__(
        self, task: EncodeTask, should_stop: Callable[[], bool], tell: Callable[[str], None]
    ) -> Iterator[InputClip | LedgerRow]:
        assert isinstance(task.source, ShardTask)
        stage, quarantine = DecodeStage(self.watchdog_s), clip_quarantine(self.watchdog_s)

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
