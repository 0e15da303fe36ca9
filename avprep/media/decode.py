"""Clips of one source: the pictures and the sound of each, in one pass forwards.

A clip is what a plain decode of the file, from the first packet to the last, gives for its time. Where the
fast path (`pictures`) leaves that in doubt, the file is opened again and decoded from the start.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import cast

import numpy as np

from avprep.media.aperture import read_aperture
from avprep.media.crop import NO_BARS, Bars, Crop
from avprep.media.frames import FrameFitter
from avprep.media.limits import Deadline
from avprep.media.packets import Demuxer
from avprep.media.pictures import Doubt, Picture, Pictures
from avprep.media.sound import ClipSound, Sound
from avprep.media.source import OpenSource, open_source
from avprep.media.timeline import Clock, target_ticks
from avprep.reasons import MediaError
from avprep.spec import ClipSpec

PLAIN = "sources_decoded_plainly"  # the key of that number in the counts of `read_clips`


@dataclass(frozen=True)
class RawClip:
    """A clip as decoded: frames and sound, before the mel stack is computed."""

    start: int  # samples since the source's time 0
    frames: np.ndarray  # uint8 (frames, size, size, RGB)
    frame_times_s: list[float]  # when each frame began to be shown, seconds of the source's time
    residual_ms: float  # the longest that a frame had been shown at its instant (negative: early)
    sound: ClipSound
    bars: Bars = NO_BARS  # of the source, that were cut away


@dataclass(frozen=True)
class FailedClip:
    """A planned clip that cannot be read, and why."""

    start: int  # samples since the source's time 0
    error: MediaError


def read_clips(
    source: OpenSource,
    starts: Sequence[int],
    *,
    spec: ClipSpec,
    crop: Crop,
    deadline: Deadline,
    bars: Bars = NO_BARS,
    counts: Counter[str] | None = None,
) -> Iterator[RawClip | FailedClip]:
    """The clips at ascending `starts` (samples since the source's time 0), in order.

    `bars`: of the source, that are cut away before the crop.

    Raises:
        MediaError: the whole source ends here (time limit).
    """
    read = 0
    try:
        for clip in _Reader(source, spec, crop, bars, deadline, is_plain=False).read(starts):
            yield clip
            read += 1
    except Doubt:
        if counts is not None:
            counts[PLAIN] += 1
        with open_source(source.path) as again:
            yield from _Reader(again, spec, crop, bars, deadline, is_plain=True).read(starts[read:])


class _Reader:
    """One way through a source."""

    def __init__(
        self,
        source: OpenSource,
        spec: ClipSpec,
        crop: Crop,
        bars: Bars,
        deadline: Deadline,
        *,
        is_plain: bool,
    ) -> None:
        self._source, self._spec, self._is_plain = source, spec, is_plain
        self._demuxer = Demuxer(source, deadline)
        self._fitter = FrameFitter(
            size=spec.size,
            crop=crop,
            sample_aspect_ratio=source.video.sample_aspect_ratio,
            aperture=read_aperture(source.path, stream_id=source.video.id, stream_index=source.video.index),
            bars=bars,
        )

    def read(self, starts: Sequence[int]) -> Iterator[RawClip | FailedClip]:
        """The clips, part by part. Raises Doubt at the first that a plain decode may show otherwise."""
        left = list(starts)
        while left:
            clock = self._demuxer.video_clock
            pictures, sound = self._streams(left, clock)
            while left:
                clip: RawClip | FailedClip
                try:
                    clip = self._clip(left[0], pictures, sound, clock)
                except (MediaError, Doubt) as error:
                    if self._is_of_next_part(left[0], clock):
                        break
                    if isinstance(error, Doubt):
                        raise
                    clip = FailedClip(left[0], error)
                left.pop(0)
                yield clip
            if left and not self._demuxer.next_part():
                raise AssertionError("a clip was left for a part that is not there")

    def _streams(self, starts: Sequence[int], clock: Clock) -> tuple[Pictures, Sound]:
        ticks = sorted({tick for start in starts for tick in target_ticks(start, self._spec, clock)})
        pictures = Pictures(
            self._source,
            self._demuxer,
            ticks,
            early=int(1 / (self._spec.fps * clock.time_base)),
            fit=self._fitter.fit,
            is_plain=self._is_plain,
        )
        return pictures, Sound(self._source.audio, self._demuxer, self._spec)

    def _is_of_next_part(self, start: int, clock: Clock) -> bool:
        """Whether a clip begins after the end of the part that was read, and there is another part."""
        stop = self._demuxer.extent.stop
        if stop is None or not self._demuxer.has_next_part():
            return False
        return clock.last_tick(Fraction(start, self._spec.sample_rate)) >= stop

    def _clip(self, start: int, pictures: Pictures, sound: Sound, clock: Clock) -> RawClip:
        ticks = target_ticks(start, self._spec, clock)
        shown = pictures.at(ticks)
        return RawClip(
            start=start,
            frames=np.stack([cast(np.ndarray, picture.pixels) for picture in shown]),  # `at` checked them
            frame_times_s=[round(float(clock.seconds(picture.pts)), 6) for picture in shown],
            residual_ms=self._residual_ms(start, shown, clock),
            sound=sound.clip(start),
            bars=self._fitter.bars,
        )

    def _residual_ms(self, start: int, shown: list[Picture], clock: Clock) -> float:
        spec = self._spec
        instants = range(start, start + spec.samples, spec.samples_per_frame)
        late_s = [
            Fraction(n, spec.sample_rate) - clock.seconds(picture.pts)
            for n, picture in zip(instants, shown, strict=True)
        ]
        return round(1000 * float(max(late_s, key=abs)), 3)
