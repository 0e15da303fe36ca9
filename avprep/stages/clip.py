"""One planned shard in, one finished shard out: decode, cut, mel, write, then the ledger."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch

from avprep.dsp.mel import mel_stack
from avprep.media.bars import bars_of_source
from avprep.media.crop import NO_BARS, Bars, Crop
from avprep.media.decode import FailedClip, RawClip, read_clips
from avprep.media.limits import Deadline, bounded
from avprep.media.mux import encode_frames
from avprep.media.source import open_source, require_media
from avprep.reasons import MediaError, Reason
from avprep.seconds import Seconds
from avprep.shards.clips import clip_key, merge, pack_clip
from avprep.shards.layout import CLIPS, shard_name
from avprep.shards.ledger import LedgerRow, ShardRecord, Sums, read_ledger, write_ledger
from avprep.shards.store import Store, open_store
from avprep.shards.tar import Members, largest_clip, read_named_shard
from avprep.shards.writer import write_shard
from avprep.spec import ClipSpec
from avprep.stages.clip_scores import ClipScores
from avprep.stages.options import ClipOptions
from avprep.stages.tasks import Cost, PlannedSource, Remake, ShardResult, ShardTask

_MEASURED_S = 20.0  # of one core, for one source


@dataclass(frozen=True, kw_only=True)
class MadeClip:
    """A clip as it is written to a shard."""

    row: LedgerRow
    header: dict[str, object]  # KEY.json
    frames: np.ndarray  # uint8 (frames, size, size, RGB)
    mel: np.ndarray  # float32 (frames, n_mels, W)
    waveform: np.ndarray  # float32 (samples,)


def make_shard(task: ShardTask, *, guard: Callable[[], AbstractContextManager] = nullcontext) -> ShardResult:
    """Makes the shard, its ledger and the scores that are asked for, or, as a trial, only decodes it.
    `guard` is entered for each clip.

    Raises:
        OSError: the output cannot be written; nothing is left half done.
        MediaGone: a source is missing, and so is the folder of all of them.
        ScoreUnavailable: a score cannot run on this machine.
    """
    torch.set_num_threads(1)  # N workers use N cores
    work = _ShardWork(task, guard)
    if task.is_trial:
        for _ in work.clips(task.sources):
            continue
        return ShardResult(task.index, Sums(), 0)
    store = open_store(task.out)
    rows, record = work.remake(store, task.remake) if task.remake else work.make(store)
    with work.seconds.measure("write"):
        write_ledger(store, task.index, rows, record)
    scored = work.scores.write(store, task.index, record) if work.scores else None
    sums = Sums()
    sums.add(rows)
    return ShardResult(task.index, sums, record.size, work.seconds, work.counts, scored)


def measure_shard(task: ShardTask, *, guard: Callable[[], AbstractContextManager] = nullcontext) -> Cost:
    """Makes the clips as `make_shard` does, for a limited time, and writes nothing."""
    torch.set_num_threads(1)
    rows: list[LedgerRow] = []
    work, size, began = _ShardWork(task, guard), 0, time.process_time()
    for _, members in work.scored(work.packed(task.sources, rows)):
        size += sum(map(len, members.values()))
        if time.process_time() - began > _MEASURED_S:
            break
    return Cost(len(rows), time.process_time() - began, size)


def made_clips(
    task: ShardTask, *, guard: Callable[[], AbstractContextManager] = nullcontext
) -> Iterator[MadeClip | LedgerRow]:
    """The task's clips, made as `make_shard` makes them and not written, each or why there is none."""
    torch.set_num_threads(1)
    yield from _ShardWork(task, guard).made(task.sources)


class _ShardWork:
    """The making of one shard: rows gathered, seconds counted."""

    def __init__(self, task: ShardTask, guard: Callable[[], AbstractContextManager]) -> None:
        self.task = task
        self._guard = guard
        self.spec = task.options.spec
        self.seconds = Seconds()
        self.counts: Counter[str] = Counter()
        scoring = None if task.is_trial else task.scoring
        self.scores = ClipScores(self.spec, scoring, self.seconds, guard) if scoring else None

    def make(self, store: Store) -> tuple[list[LedgerRow], ShardRecord]:
        rows: list[LedgerRow] = []
        return rows, self._write(store, self.packed(self.task.sources, rows))

    def remake(self, store: Store, what: Remake) -> tuple[list[LedgerRow], ShardRecord]:
        """Brings the shard that stands to its plan: makes some sources and merges them into it. Clips that
        the plan no longer has are left out."""
        ledger, record = read_ledger(store, self.task.index)
        planned = {clip_key(source.path, start) for source in self.task.sources for start in source.starts}
        old_rows = [row for row in ledger if row.key in planned]
        sources = self._made_again(old_rows, what)
        again = {source.path for source in sources}
        rows = [row for row in old_rows if row.source not in again]
        new_rows: list[LedgerRow] = []
        new = dict(self.packed(sources, new_rows))
        stands = {row.key: row for row in old_rows if row.status == "written"}
        # A clip that stands is not given up for a failure: the file may be gone for a moment only.
        rows += [stands.get(row.key, row) if row.status == "failed" else row for row in new_rows]
        kept = {row.key for row in rows if row.status == "written"} - new.keys()
        if not record.name:
            return rows, self._write(store, iter(sorted(new.items())), record)
        stored = read_named_shard(store, record.name, largest_clip(self.spec))
        return rows, self._write(store, merge((c for c in stored if c[0] in kept), new), record)

    def _made_again(self, rows: list[LedgerRow], what: Remake) -> tuple[PlannedSource, ...]:
        """The sources to make, where the ledger has these of the planned clips."""
        there = {row.key for row in rows}
        again = {
            source.path
            for source in self.task.sources
            if any(clip_key(source.path, start) not in there for start in source.starts)
        }
        if what == "missing":
            return tuple(source for source in self.task.sources if source.path in again)
        again |= {row.source for row in rows if row.status == "failed"}
        return tuple(self._opened_anew(source) for source in self.task.sources if source.path in again)

    def _opened_anew(self, source: PlannedSource) -> PlannedSource:
        """What the plan knew to be broken is opened anew, unless it is no file or quarantined in this run."""
        is_no_file = source.verdict is not None and source.verdict.reason is Reason.BAD_ROW
        if is_no_file or self.task.is_verdict_final or source.path in self.task.quarantined:
            return source
        return replace(source, verdict=None)

    def _write(
        self, store: Store, clips: Iterator[tuple[str, Members]], replaces: ShardRecord | None = None
    ) -> ShardRecord:
        index, fingerprint = self.task.index, self.task.fingerprint
        name, clips = shard_name(CLIPS, index), self.scored(clips)
        return write_shard(store, name, index, clips, fingerprint, self.seconds, replaces)

    def scored(self, clips: Iterator[tuple[str, Members]]) -> Iterator[tuple[str, Members]]:
        """The same clips; their scores are computed on the way where they are asked for."""
        return self.scores.watched(clips) if self.scores else clips

    def packed(
        self, sources: tuple[PlannedSource, ...], rows: list[LedgerRow]
    ) -> Iterator[tuple[str, Members]]:
        """(key, files) of every clip that is written; a row for every clip that is planned."""
        for clip in self.made(sources):
            rows.append(clip if isinstance(clip, LedgerRow) else clip.row)
            if isinstance(clip, LedgerRow):
                continue
            with self.seconds.measure("pack"):
                members = pack_clip(
                    header=clip.header,
                    mel=clip.mel,
                    waveform=clip.waveform,
                    sample_rate=self.spec.sample_rate,
                    frames=clip.frames,
                    codec=self.task.video_codec,
                    encode_h264=lambda frames: encode_frames(frames, fps=self.spec.fps),
                )
            yield clip.row.key, members

    def made(self, sources: tuple[PlannedSource, ...]) -> Iterator[MadeClip | LedgerRow]:
        """Every planned clip of the sources, in order: the clip, or the row that says why there is none."""
        for source, clip in self.clips(sources):
            key, start_s = clip_key(source.path, clip.start), clip.start / self.spec.sample_rate
            row = LedgerRow(
                key=key, shard=self.task.index, source=source.path, start_s=start_s, status="written"
            )
            if isinstance(clip, FailedClip):
                yield row.lost(clip.error)
                continue
            dropped = _dropped(clip, self.task.options)
            if dropped is not None:
                yield row.lost(dropped)
                continue
            with self.seconds.measure("mel"):
                mel = mel_stack(torch.from_numpy(clip.sound.waveform), self.spec).numpy()
            yield MadeClip(
                row=replace(row, residual_ms=clip.residual_ms),
                header=_clip_header(source, clip, self.task.options),
                frames=clip.frames,
                mel=mel,
                waveform=clip_waveform(clip, self.spec),
            )

    def clips(
        self, sources: tuple[PlannedSource, ...]
    ) -> Iterator[tuple[PlannedSource, RawClip | FailedClip]]:
        """Every planned clip of the sources, in order: the clip, or why there is none."""
        for source in sources:
            for clip in self._source_clips(source):
                yield source, clip

    def _source_clips(self, source: PlannedSource) -> Iterator[RawClip | FailedClip]:
        if source.verdict is not None:
            yield from (FailedClip(start, source.verdict) for start in source.starts)
            return
        left, deadline = list(source.starts), Deadline(self.task.source_timeout_s)
        clips = read_source(
            os.path.join(self.task.root, source.path),
            source.starts,
            spec=self.spec,
            crop=self.task.options.crop,
            bars=source.bars,
            deadline=deadline,
            counts=self.counts,
        )
        try:
            while (clip := self._next(clips)) is not None:
                left.pop(0)
                handed_out = time.perf_counter()
                yield clip
                deadline.extend(time.perf_counter() - handed_out)  # a slow output is not the source's fault
        except MediaError as error:
            if error.reason in (Reason.MISSING, Reason.UNREADABLE):
                require_media(self.task.root)
            yield from (FailedClip(start, error) for start in left)

    def _next(self, clips: Iterator[RawClip | FailedClip]) -> RawClip | FailedClip | None:
        with self.seconds.measure("decode"), self._guard():
            return next(clips, None)


def read_source(
    path: str,
    starts: Sequence[int],
    *,
    spec: ClipSpec,
    crop: Crop,
    deadline: Deadline,
    bars: Bars | None = None,
    counts: Counter[str] | None = None,
) -> Iterator[RawClip | FailedClip]:
    """The clips of a file at ascending `starts`, as `read_clips` gives them, within the memory of a source.

    `bars`: of the source, for the crop 'auto'; None: they are looked for now.

    Raises:
        MediaError: the file cannot be opened, or gives nothing more.
    """

    def read() -> Iterator[RawClip | FailedClip]:
        cut_away = NO_BARS
        if crop == "auto":
            cut_away = bars_of_source(path, deadline=deadline) if bars is None else bars
        with open_source(path) as source:
            yield from read_clips(
                source, starts, spec=spec, crop=crop, bars=cut_away, deadline=deadline, counts=counts
            )

    return bounded(read(), size_of=_bytes_of)


def _bytes_of(clip: RawClip | FailedClip) -> int:
    return clip.frames.nbytes + clip.sound.waveform.nbytes if isinstance(clip, RawClip) else 0


def clip_waveform(clip: RawClip, spec: ClipSpec) -> np.ndarray:
    """The clip's own samples, without their neighbours: float32 (samples,)."""
    return clip.sound.waveform[spec.samples_before : spec.samples_before + spec.samples]


def _clip_header(source: PlannedSource, clip: RawClip, options: ClipOptions) -> dict[str, object]:
    text, spec = source.text_of(clip.start), options.spec
    return {
        "source": source.path,
        "start_s": clip.start / spec.sample_rate,
        "stop_s": (clip.start + spec.samples) / spec.sample_rate,
        "labels": list(text.labels),
        "caption": text.caption,
        **({} if text.caption_from is None else {"caption_from": text.caption_from}),
        "fps": spec.fps,
        "frame_times_s": clip.frame_times_s,
        "residual_ms": clip.residual_ms,
        "has_audio": clip.sound.sounding_s > 0,
        "sounding_s": clip.sound.sounding_s,
        **({"channels_cancel": True} if clip.sound.is_cancelled else {}),
        **({"picture_box": clip.bars.picture_box()} if options.crop == "auto" else {}),
    }


def _dropped(clip: RawClip, options: ClipOptions) -> MediaError | None:
    """Why the filters leave a clip out; None where they keep it."""
    limit_ms = options.max_residual_ms
    if limit_ms is not None and abs(clip.residual_ms) > limit_ms:
        detail = f"a picture is {abs(clip.residual_ms):.1f} ms from its instant, more than {limit_ms:g} ms"
        return MediaError(Reason.RESIDUAL, detail)
    if options.drop_silent_db is not None:
        rms = float(np.sqrt(np.mean(np.square(clip_waveform(clip, options.spec), dtype=np.float64))))
        level_db = 20 * np.log10(max(rms, 1e-9))
        if level_db < options.drop_silent_db:
            return MediaError(Reason.SILENT, f"{level_db:.1f} dB is below {options.drop_silent_db:g} dB")
    if options.drop_black is not None:
        level = float(clip.frames.mean())
        if level < options.drop_black:
            return MediaError(Reason.BLACK, f"mean level {level:.2f} is below {options.drop_black:g} of 255")
    if options.drop_static is not None:
        change = float(np.abs(np.diff(clip.frames.astype(np.int16), axis=0)).sum()) / clip.frames.size
        if change < options.drop_static:
            detail = f"mean change {change:.3f} is below {options.drop_static:g} of 255"
            return MediaError(Reason.STATIC, detail)
    return None
