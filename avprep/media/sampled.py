"""Small pictures of a source at chosen instants: what is looked at to find shots and bars.

The pictures are those that clips would show at the instants, in the source's time, orientation and colours,
stretched to a small square. An instant without a good picture is left out: detection goes on after damage.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from avprep.media.aperture import read_aperture
from avprep.media.frames import FrameFitter
from avprep.media.limits import Deadline
from avprep.media.packets import Demuxer
from avprep.media.pictures import Doubt, Pictures
from avprep.media.source import OpenSource, open_source
from avprep.media.timeline import Part
from avprep.reasons import MediaError


@dataclass(frozen=True, slots=True, eq=False)
class SampledPicture:
    """A picture as it is shown, stretched to a square."""

    time_s: Fraction  # when it begins to be shown, in the source's time
    pixels: np.ndarray  # uint8 (side, side, RGB)


def regular_instants(parts: Sequence[Part], rate: Fraction | int) -> list[Fraction]:
    """Seconds of the source's time, `rate` in a second, ascending, at which a part has pictures."""
    instants = []
    for part in parts:
        first, last = -(-part.start_s * rate // 1), -(-part.stop_s * rate // 1)
        instants += [n / Fraction(rate) for n in range(int(first), int(last))]
    return instants


def spread_instants(parts: Sequence[Part], count: int) -> list[Fraction]:
    """Seconds of the source's time, at most `count`, ascending, evenly spread over all parts."""
    seconds = sum((part.stop_s - part.start_s for part in parts), Fraction(0))
    instants = []
    for part in parts:
        share = (part.stop_s - part.start_s) / seconds if seconds else Fraction(0)
        own = int(share * count)
        step = (part.stop_s - part.start_s) / max(1, own)
        instants += [part.start_s + step * (i + Fraction(1, 2)) for i in range(own)]
    return instants


def sampled_pictures(
    path: str | os.PathLike[str], instants: Sequence[Fraction], *, side: int, deadline: Deadline
) -> Iterator[SampledPicture]:
    """The pictures at ascending instants, each picture once, in one pass forwards.

    Raises:
        MediaError: the file cannot be opened, or the time is up.
    """
    done = 0
    try:
        with open_source(path) as source:
            for place, picture in _sample(source, instants, side, deadline, is_plain=False):
                done = place + 1
                yield picture
    except Doubt:
        with open_source(path) as source:
            for _, picture in _sample(source, instants[done:], side, deadline, is_plain=True):
                yield picture


def _sample(
    source: OpenSource, instants: Sequence[Fraction], side: int, deadline: Deadline, *, is_plain: bool
) -> Iterator[tuple[int, SampledPicture]]:
    """The place among the instants, and the picture that is first shown there."""
    demuxer = Demuxer(source, deadline)
    fitter = FrameFitter(
        size=side,
        crop="stretch",
        sample_aspect_ratio=source.video.sample_aspect_ratio,
        aperture=read_aperture(source.path, stream_id=source.video.id, stream_index=source.video.index),
    )
    place = 0
    while True:
        clock, last_pts = demuxer.video_clock, None
        ticks = [clock.last_tick(instant) for instant in instants[place:]]
        pictures = Pictures(source, demuxer, ticks, early=0, fit=fitter.fit, is_plain=is_plain)
        for tick in ticks:
            try:
                picture = pictures.at([tick])[0]
            except MediaError:
                stop = demuxer.extent.stop
                if stop is not None and tick >= stop and demuxer.has_next_part():
                    break  # the part is at its end; the instant may be of the next
            else:
                if picture.pts != last_pts and picture.pixels is not None:
                    last_pts = picture.pts
                    yield place, SampledPicture(clock.seconds(picture.pts), picture.pixels.copy())
            place += 1
        if place == len(instants) or not demuxer.next_part():
            return
