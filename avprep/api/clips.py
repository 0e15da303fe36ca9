"""One file to clips in memory, cut as `avprep clip` cuts them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from avprep.checks import require_number, require_one_of, require_spec, require_whole, samples_of
from avprep.credentials import require_no_credentials
from avprep.dsp.mel import mel_stack
from avprep.errors import ArgumentError
from avprep.media.bars import bars_of_source
from avprep.media.crop import CROPS, NO_BARS, Crop
from avprep.media.decode import FailedClip as LostClip
from avprep.media.decode import RawClip
from avprep.media.decode import read_clips as read_raw_clips
from avprep.media.limits import Deadline
from avprep.media.probe import probe
from avprep.media.source import open_source
from avprep.media.timeline import spread, starts_of_parts
from avprep.reasons import MediaError, Reason
from avprep.spec import ClipSpec


@dataclass(frozen=True, kw_only=True, eq=False)
class Clip:
    """One clip of a file. Seconds are of the file's time, whose 0 is the container's start."""

    start_s: float
    frames: np.ndarray  # uint8 (spec.frames, spec.size, spec.size, RGB)
    frame_times_s: np.ndarray  # float64 (spec.frames,): when each frame began to be shown, its true PTS
    waveform: np.ndarray  # float32 (spec.samples,), mono, silence where the file has no sound
    mel: np.ndarray  # float32 (spec.frames, spec.n_mels, spec.columns) in [-1, 1]
    residual_ms: float  # the longest that a frame had been shown at its instant (negative: early)
    sounding_s: float  # seconds of the clip that the file has sound for; the rest is silence


@dataclass(frozen=True, kw_only=True)
class FailedClip:
    """A clip that cannot be had."""

    start_s: float
    error: MediaError  # .reason, one of a small fixed set, and .detail


def read_clips(
    path: str | os.PathLike[str],
    *,
    spec: ClipSpec = ClipSpec(),
    starts: Sequence[float] | None = None,
    crop: Crop = "center",
    stride_s: float | None = None,
    clips: int | None = None,
    timeout_s: float | None = None,
    on_failure: Callable[[FailedClip], None] | None = None,
) -> Iterator[Clip]:
    """The clips of one media file, in ascending time, one in memory at a time.

    Frames, sound and times equal those that `avprep clip` stores; its mel stack is rounded to float16 and its
    sound to 16 bit. The file is decoded in this process, on one thread, without the memory limit and the
    watchdog that the jobs put around a source: for files that may be hostile, use `clip_dataset`.

    Args:
        path: a local media file.
        spec: what a clip is.
        starts: where the clips begin, in seconds, ascending; each is rounded to a sample of
            `spec.sample_rate`. None: the file is probed, and all clips that fit are read.
        crop: 'center', the largest centred square; 'pad', all of the picture between black bars; 'stretch';
            'auto', the largest centred square between the black bars that the source has.
        stride_s: seconds from one clip's start to the next's; None = a clip's length. Not with `starts`.
        clips: at most so many, spread over the file; None = all. Not with `starts`.
        timeout_s: the time that reading may take, without what the caller does between clips; None = any.
        on_failure: called with each clip that cannot be had, in its turn; reading then goes on. None: the
            first such clip raises its error. A file too short for one clip is one failed clip (`too_short`).

    Raises:
        ArgumentError: an argument out of range, at the call.
        MediaError: on the way: the file cannot be opened or probed, or the time is up, whatever `on_failure`
            is; or, without it, a clip fails. `reason` is one of the ledger's.
    """
    require_spec(spec)
    require_one_of("crop", crop, CROPS)
    if timeout_s is not None:
        require_number("timeout_s", timeout_s, above=0)
    if clips is not None:
        require_whole("clips", clips, least=1)
    stride = spec.samples if stride_s is None else samples_of("stride_s", stride_s, spec, least=1)
    if starts is not None and (stride_s is not None or clips is not None):
        raise ArgumentError("starts says which clips are read; stride_s and clips go without it")
    begins = None if starts is None else _ascending(starts, spec)
    require_no_credentials("path", path)
    path, deadline = os.fspath(path), Deadline(timeout_s)
    return _read(path, begins, spec, crop, stride, clips, deadline, on_failure or _raise)


def _ascending(starts: Sequence[float], spec: ClipSpec) -> list[int]:
    samples = [samples_of(f"starts[{i}]", start, spec, least=0) for i, start in enumerate(starts)]
    for i, (a, b) in enumerate(pairwise(samples)):
        if b <= a:
            raise ArgumentError(f"starts must ascend: {starts[i + 1]:g} comes after {starts[i]:g}")
    return samples


def _raise(failed: FailedClip) -> None:
    raise failed.error


def _read(
    path: str,
    starts: list[int] | None,
    spec: ClipSpec,
    crop: Crop,
    stride: int,
    clips: int | None,
    deadline: Deadline,
    on_failure: Callable[[FailedClip], None],
) -> Iterator[Clip]:
    if starts is None:
        parts = probe(path, deadline).parts
        starts = spread(starts_of_parts(parts, spec=spec, stride_samples=stride), clips)
        if not starts:
            longest_s = max(float(part.stop_s - part.start_s) for part in parts)
            detail = f"{longest_s:.3f} s of video, a clip is {float(spec.seconds):g} s"
            on_failure(FailedClip(start_s=0.0, error=MediaError(Reason.TOO_SHORT, detail)))
    # The callback and the caller run outside of the open source, which takes their errors for the file's.
    for raw in _raw_clips(path, starts, spec, crop, deadline):
        handed_out = time.perf_counter()
        if isinstance(raw, LostClip):
            on_failure(FailedClip(start_s=raw.start / spec.sample_rate, error=raw.error))
        else:
            yield _clip(raw, spec)
        deadline.extend(time.perf_counter() - handed_out)


def _raw_clips(
    path: str, starts: list[int], spec: ClipSpec, crop: Crop, deadline: Deadline
) -> Iterator[RawClip | LostClip]:
    if starts:
        bars = bars_of_source(path, deadline=deadline) if crop == "auto" else NO_BARS
        with open_source(path) as source:
            yield from read_raw_clips(source, starts, spec=spec, crop=crop, bars=bars, deadline=deadline)


def _clip(raw: RawClip, spec: ClipSpec) -> Clip:
    return Clip(
        start_s=raw.start / spec.sample_rate,
        frames=raw.frames,
        frame_times_s=np.array(raw.frame_times_s),
        waveform=raw.sound.waveform[spec.samples_before : spec.samples_before + spec.samples],
        mel=mel_stack(torch.from_numpy(raw.sound.waveform), spec).numpy(),
        residual_ms=raw.residual_ms,
        sounding_s=raw.sound.sounding_s,
    )
