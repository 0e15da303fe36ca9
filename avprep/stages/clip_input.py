"""What an encoder eats: clips as arrays, from finished clip shards or straight from the media.

Both ways give the same clips in the same order, and a ledger row in the place of each clip that there is not.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import numpy as np

from avprep.media.mux import decode_frames
from avprep.reasons import MediaError, Reason
from avprep.shards.decoders import ClipDecoder, decoded
from avprep.shards.integrity import HashingReader
from avprep.shards.latents import carried
from avprep.shards.layout import ShardError
from avprep.shards.ledger import LedgerRow, read_ledger
from avprep.shards.store import open_store
from avprep.shards.tar import Members, largest_clip, read_shard
from avprep.spec import ClipSpec
from avprep.stages.clip import MadeClip, made_clips
from avprep.stages.tasks import ShardTask

PIECE_CLIPS = 16  # clips of whole sources that travel together; a source is never cut
_THREADS = min(4, len(os.sched_getaffinity(0)))  # JPEG: 11 ms a clip of the default spec, on one thread
_READ_AHEAD = 2 * _THREADS  # clips


_UNSELECTED = MediaError(Reason.UNSELECTED, "")


class ClipShardDamaged(ShardError):
    """A clip shard that is not as its ledger says: nothing is made of it until it is made again."""


@dataclass(frozen=True)
class ClipShard:
    """Where a finished clip shard lies: an output of `avprep clip`, and the shard's index."""

    uri: str
    index: int
    spec: ClipSpec
    keys: frozenset[str] | None = None  # of the clips that are read; None: of all


@dataclass(frozen=True)
class InputClip:
    row: LedgerRow  # as of a clip that is written
    header: dict[str, object]  # what a latent's KEY.json keeps of the clip's
    frames: np.ndarray  # uint8 (frames, size, size, RGB)
    mel: np.ndarray  # float16 (frames, n_mels, W)


def read_clip_shard(shard: ClipShard) -> Iterator[InputClip | LedgerRow]:
    """The clips of a shard in order, and the rows of those that it lacks, as its ledger has them.

    A clip that is not among `shard.keys` is a filtered row; where none is, the shard is not opened. A clip
    whose files cannot be read is a failed row. The shard's checksum is taken on the way, so that the end of
    the iterator also says that the bytes were those written.

    Raises:
        ClipShardDamaged: the shard is missing, or not the one that its ledger tells of.
    """
    store = open_store(shard.uri)
    rows, record = read_ledger(store, shard.index)
    rows = [row if _is_wanted(row, shard) else row.lost(_UNSELECTED) for row in rows]
    wanted = sum(row.status == "written" for row in rows)
    if not wanted:
        yield from rows
        return
    try:
        file = store.open(record.name)
    except FileNotFoundError:
        raise ClipShardDamaged(f"{record.name} is not there, though its ledger says it is whole") from None
    with file, ThreadPoolExecutor(_THREADS, "decode") as pool:
        hashing = HashingReader(file)
        try:
            stored = read_shard(hashing, largest_clip(shard.spec))
            stored = (clip for clip in stored if shard.keys is None or clip[0] in shard.keys)
            clips = _in_order(pool, _decode(shard.spec), stored)
            for row in rows:
                yield row if row.status != "written" else _checked(next(clips, None), row)
            extra = sum(1 for _ in clips)
        except ClipShardDamaged as error:
            raise ClipShardDamaged(f"{record.name}: {error}") from error
        except ShardError as error:
            raise ClipShardDamaged(f"{record.name}: {error}") from error
        if extra:
            raise ClipShardDamaged(f"{record.name} holds {wanted + extra} clips; its ledger says {wanted}")
        if hashing.sha256() != record.sha256:
            raise ClipShardDamaged(f"{record.name}: its bytes are not those written")


def _is_wanted(row: LedgerRow, shard: ClipShard) -> bool:
    return row.status != "written" or shard.keys is None or row.key in shard.keys


def _checked(clip: tuple[str, InputClip | MediaError] | None, row: LedgerRow) -> InputClip | LedgerRow:
    """What was read in the place of a written row: the clip, or the row of its failure."""
    if clip is None:
        raise ClipShardDamaged(f"clip {row.key} is in the ledger and not in the shard")
    key, outcome = clip
    if key != row.key:
        raise ClipShardDamaged(f"holds clip {key} where its ledger says {row.key}")
    if isinstance(outcome, MediaError):
        return row.lost(outcome)
    return replace(outcome, row=row)


# Of a clip that is decoded and not yet laid beside its ledger row.
_NO_ROW = LedgerRow(key="", shard=-1, source="", start_s=0.0, status="written")


def _decode(spec: ClipSpec) -> Callable[[tuple[str, Members]], tuple[str, InputClip | MediaError]]:
    fields = ClipDecoder(spec, ("json", "frames", "mel"), decode_frames)

    def decode(clip: tuple[str, Members]) -> tuple[str, InputClip | MediaError]:
        key, members = clip
        try:
            item = decoded("the clip in its shard", fields, members)
        except ShardError as error:
            return key, MediaError(Reason.CORRUPT, str(error))
        return key, InputClip(_NO_ROW, carried(item["json"]), item["frames"], item["mel"])

    return decode


def _in_order(pool: ThreadPoolExecutor, work: Callable, items: Iterator) -> Iterator:
    """`map(work, items)` on the pool's threads, a few items ahead."""
    ahead: deque[Future] = deque()
    try:
        for item in items:
            ahead.append(pool.submit(work, item))
            if len(ahead) >= _READ_AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        for future in ahead:
            future.cancel()


# --- straight from the media ---------------------------------------------------------------------------


def pieces(task: ShardTask) -> list[ShardTask]:
    """The shard's sources in pieces of a few clips, in order: the shard, but not all of it in memory."""
    found, sources, clips = [], [], 0
    for source in task.sources:
        sources.append(source)
        clips += len(source.starts)
        if clips >= PIECE_CLIPS:
            found.append(replace(task, sources=tuple(sources)))
            sources, clips = [], 0
    return found + [replace(task, sources=tuple(sources))] if sources else found


def clips_of(task: ShardTask) -> int:
    return sum(len(source.starts) for source in task.sources)


def decode_piece(
    task: ShardTask, *, guard: Callable[[], AbstractContextManager] = nullcontext
) -> list[InputClip | LedgerRow]:
    """The clips of a piece, decoded; as a trial they are decoded and dropped."""
    if task.is_trial:
        for _ in made_clips(task, guard=guard):
            continue
        return []
    return [
        clip if isinstance(clip, LedgerRow) else _input_clip(clip) for clip in made_clips(task, guard=guard)
    ]


def _input_clip(clip: MadeClip) -> InputClip:
    return InputClip(clip.row, carried(clip.header), clip.frames, clip.mel.astype(np.float16))
