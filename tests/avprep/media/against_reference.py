"""The product held against the reference of tests/avprep/media/sequential.py: what differs, in sentences."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np

from avprep.media.aperture import read_aperture
from avprep.media.decode import FailedClip, RawClip, read_clips
from avprep.media.frames import FrameFitter
from avprep.media.limits import Deadline
from avprep.media.probe import probe
from avprep.media.source import open_source
from avprep.media.timeline import starts_of_parts
from avprep.reasons import MediaError, Reason
from avprep.spec import ClipSpec
from tests.avprep.media.sequential import ExpectedClip, Timeline, expected_clips, read_timeline

_TIME_S = 2e-6  # stored times are rounded to 1e-6 s
_LAG_MS = 1.0  # the sound is where its stamps say, to this
# Stamps of these waver by so much around their samples, so that "where they say" is no sharper.
_WAVERING = {"vorbis", "wmav1", "wmav2", "wmapro"}
_WAVERING_MS = 25.0
_SEARCHED_MS = 60  # how far away it is looked for
_ALIKE = 0.98  # a correlation from which on two waveforms are one
_RECOGNISED = 0.7  # and one from which on they are one at another time
_SOUNDS = 1e-3  # RMS: there is sound
_SILENT = 1e-5  # RMS: there is none
_SOUNDING_S = 0.02  # the seconds that have sound, to this


def product_clips(path: str | Path, spec: ClipSpec, *, every: int = 1) -> list[RawClip | FailedClip]:
    """What the product makes of a file: each `every`-th of its clips, as `avprep clip` plans and reads them.

    Raises:
        MediaError: it refuses the file.
    """
    starts = starts_of_parts(probe(path).parts, spec=spec, stride_samples=spec.samples)
    with open_source(path) as source:
        return list(read_clips(source, starts[::every], spec=spec, crop="center", deadline=Deadline(None)))


def product_fitter(path: str | Path, spec: ClipSpec) -> FrameFitter:
    """The product's scaler, through which the reference's pictures go as well."""
    with open_source(path) as source:
        video = source.video
        return FrameFitter(
            size=spec.size,
            crop="center",
            sample_aspect_ratio=video.sample_aspect_ratio,
            aperture=read_aperture(path, stream_id=video.id, stream_index=video.index),
        )


def differences(path: str | Path, spec: ClipSpec, *, every: int = 1) -> list[str]:
    """One sentence for each thing in which the product departs from the reference; [] where it does not.

    every: only each `every`-th clip is asked of the product, so that it skips what lies between.
    """
    timeline = read_timeline(path)
    try:
        found = product_clips(path, spec, every=every)
    except MediaError as error:
        whole = timeline is not None and any(not clip.is_damaged for clip in expected_clips(path, spec))
        return [f"the file is refused: {error}"] if whole else []
    if timeline is None:
        return ["the product reads a file that the reference cannot"]
    return list(_compared({one.start: one for one in found}, path, timeline, spec, every))


def _compared(
    found: dict[int, RawClip | FailedClip], path: str | Path, timeline: Timeline, spec: ClipSpec, every: int
) -> Iterator[str]:
    fitter = product_fitter(path, spec)
    lag_ms = _WAVERING_MS if probe(path).audio_codec in _WAVERING else _LAG_MS
    for expected in islice(expected_clips(path, spec), 0, None, every):
        at = f"clip at {expected.start / spec.sample_rate:.4f} s"
        mine = found.pop(expected.start, None)
        if mine is None:
            yield f"{at}: missing{' (damaged)' if expected.is_damaged else ''}"
        elif isinstance(mine, FailedClip):
            if not expected.is_damaged:
                yield f"{at}: failed though whole: {mine.error}"
        elif expected.is_damaged:
            yield f"{at}: written though damaged"
        else:
            found_here = _clip_differences(mine, expected, fitter, spec, lag_ms)
            yield from (f"{at}: {sentence}" for sentence in found_here)
    for start, extra in sorted(found.items()):
        at = f"clip at {start / spec.sample_rate:.4f} s"
        if isinstance(extra, RawClip):
            yield f"{at}: written, but the reference has none"
        elif not _is_cut_off(timeline, start, spec) or extra.error.reason is not Reason.TRUNCATED:
            yield f"{at}: planned in vain: {extra.error}"


def _is_cut_off(timeline: Timeline, start: int, spec: ClipSpec) -> bool:
    """Whether the header promises a clip there and the file ends before it, its sound too."""
    stop_s = Fraction(start + spec.samples, spec.sample_rate)
    ends_s = [one.stop_s for one in (*timeline.pictures, *timeline.sounds)]
    return (
        timeline.claimed_stop_s is not None
        and stop_s <= timeline.claimed_stop_s
        and stop_s > max(ends_s, default=Fraction(0))
    )


def _clip_differences(
    mine: RawClip, expected: ExpectedClip, fitter: FrameFitter, spec: ClipSpec, lag_ms: float
) -> Iterator[str]:
    fitted: dict[int, np.ndarray] = {}
    for i, (picture, frame) in enumerate(zip(expected.shown, expected.frames, strict=True)):
        if picture.packet not in fitted:
            fitted[picture.packet] = np.array(fitter.fit(frame))
        if abs(mine.frame_times_s[i] - float(picture.time_s)) > _TIME_S:
            yield f"frame {i} is of {mine.frame_times_s[i]:.6f} s, not of {float(picture.time_s):.6f} s"
        elif not np.array_equal(mine.frames[i], fitted[picture.packet]):
            error = np.abs(mine.frames[i].astype(int) - fitted[picture.packet]).mean()
            yield f"frame {i} is another picture than that of {float(picture.time_s):.6f} s by {error:.2f}"
    sound = mine.sound.waveform[spec.samples_before : spec.samples_before + spec.samples]
    yield from sound_differences(sound, expected.sound, spec, lag_ms)
    if abs(mine.sound.sounding_s - float(expected.sounding_s)) > max(_SOUNDING_S, lag_ms / 1000):
        yield f"{mine.sound.sounding_s:.3f} s have sound, not {float(expected.sounding_s):.3f} s"


def sound_differences(
    mine: np.ndarray, expected: np.ndarray, spec: ClipSpec, most_ms: float = _LAG_MS
) -> Iterator[str]:
    """Whether two waveforms, float32 (spec.samples,), are one: at the same time and as loud."""
    loud, wanted = (float(np.sqrt(np.mean(np.square(x, dtype=np.float64)))) for x in (mine, expected))
    if wanted < _SOUNDS:
        if wanted < _SILENT and loud >= _SOUNDS:
            yield f"sound (RMS {loud:.4f}) where there is none"
        return
    if loud < _SILENT:
        yield f"silence where there is sound (RMS {wanted:.4f})"
        return
    lag_ms, alike = lag(mine, expected, spec)
    if alike < _RECOGNISED:
        yield f"another sound: it correlates by {alike:.3f} at best, {lag_ms:+.2f} ms late"
    elif abs(lag_ms) >= most_ms:
        yield f"the sound is {lag_ms:+.2f} ms late (correlation {alike:.3f})"
    elif not 0.8 < loud / wanted < 1.25:
        yield f"the sound is {loud / wanted:.2f} times as loud"


def lag(mine: np.ndarray, expected: np.ndarray, spec: ClipSpec) -> tuple[float, float]:
    """(ms that `mine` is late, their correlation then): 0 where they are one as they stand, else the lag of
    the highest correlation within `_SEARCHED_MS`."""
    reach = _SEARCHED_MS * spec.sample_rate // 1000
    size = 2 * len(expected)
    product = np.fft.irfft(np.fft.rfft(mine, size) * np.conj(np.fft.rfft(expected, size)), size)
    norm = float(np.linalg.norm(mine.astype(np.float64)) * np.linalg.norm(expected.astype(np.float64)))
    if product[0] / norm >= _ALIKE:
        return 0.0, float(product[0] / norm)
    lags = np.arange(-reach, reach + 1)
    scores = product[lags] / norm
    best = int(np.argmax(scores))
    return 1000 * float(lags[best]) / spec.sample_rate, float(scores[best])
