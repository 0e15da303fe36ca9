"""What the plan needs to know about a file: where its pictures begin and end.

The header is not enough: its duration may be missing, be that of the sound, or count from another zero.
The first picture is decoded; the last is found from the packets near the end if the container has an index,
else by reading all packets, which also shows where the clock restarts.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np

from avprep.media.limits import Deadline
from avprep.media.packets import Demuxer
from avprep.media.pictures import Pictures
from avprep.media.source import OpenSource, open_source
from avprep.media.timeline import Part
from avprep.reasons import MediaError, Reason

MAX_SECONDS = 24 * 3600  # longer durations are not believed
_TO_FIRST_PICTURE = 600  # packets decoded at most before the first picture
_TAIL = 64  # packets at the end: more than any codec reorders
_CUT_S = 1.0  # if all streams end this much before the header's duration, the file is cut off
# Containers whose header holds the duration of the whole file. In others it is an estimate, or often wrong
# (FLV, ASF).
_TELLING_DURATION = ("mov", "matroska", "avi")


@dataclass(frozen=True, kw_only=True)
class MediaInfo:
    """What a file holds. Seconds are of the source's time, whose 0 is the container's start."""

    format: str
    parts: tuple[Part, ...]  # of the pictures: one, unless the clock restarts; at least one
    width: int  # pixels as stored, before rotation and sample aspect ratio
    height: int
    video_codec: str
    audio_codec: str | None  # None: no audio stream that can be decoded
    fps: float | None = None  # on average, by the header; None: it does not say


def probe(path: str | os.PathLike[str], deadline: Deadline | None = None) -> MediaInfo:
    """What the file holds.

    Raises:
        MediaError: as `open_source` does; BAD_HEADER for times that cannot be.
    """
    with open_source(path) as source:
        parts = _parts(source, deadline or Deadline(None))
        claimed = next((p for p in parts if not p.start_s <= p.stop_s <= p.start_s + MAX_SECONDS), None)
        if claimed is not None or parts[-1].stop_s > MAX_SECONDS * len(parts):
            wrong = claimed or parts[-1]
            raise MediaError(
                Reason.BAD_HEADER,
                f"video from {float(wrong.start_s):.3f} s to {float(wrong.stop_s):.3f} s; "
                f"more than {MAX_SECONDS // 3600} h is not believed",
            )
        codec = source.video.codec_context
        return MediaInfo(
            format=source.container.format.name,
            parts=tuple(parts),
            width=codec.width,
            height=codec.height,
            video_codec=codec.name,
            audio_codec=None if source.audio is None else source.audio.codec_context.name,
            fps=float(source.video.average_rate) if source.video.average_rate else None,
        )


def _parts(source: OpenSource, deadline: Deadline) -> list[Part]:
    demuxer = Demuxer(source, deadline)
    first = _first_picture(source, demuxer)
    if not source.can_seek:
        return _read_through(source, demuxer, first, deadline)
    tail = _tail(source, deadline)
    stop = None if tail is None else tail.extent.stop
    if tail is None or stop is None:
        with open_source(source.path) as again:
            return _read_through(again, Demuxer(again, deadline), first, deadline)
    seconds = demuxer.video_clock.seconds
    return [Part(seconds(first), max(seconds(stop), _claimed_s(source, tail)))]


def _first_picture(source: OpenSource, demuxer: Demuxer) -> int:
    """The tick of the part's first picture: of the first that comes out of the decoder, or, where none does
    soon, of the first packet."""
    first = _all_pictures(source, demuxer).first(_TO_FIRST_PICTURE)
    first = demuxer.extent.first if first is None else first
    if first is None:
        raise MediaError(Reason.NO_VIDEO, "no packet of the video stream can be read")
    return first


def _all_pictures(source: OpenSource, demuxer: Demuxer) -> Pictures:
    return Pictures(source, demuxer, [], early=0, fit=lambda _: np.empty(0), is_plain=True)


def _tail(source: OpenSource, deadline: Deadline) -> Demuxer | None:
    """A demuxer that has read the last packets; None if seeking does not reach them."""
    index = source.video.index_entries
    try:
        source.container.seek(index[-min(len(index), _TAIL)].timestamp, stream=source.video, any_frame=True)
    except av.FFmpegError:
        return None
    demuxer = Demuxer(source, deadline)
    _read_part(demuxer)
    last = demuxer.extent.last
    is_there = last is not None and last >= index[-1].timestamp and not demuxer.has_next_part()
    return demuxer if is_there else None


def _read_part(demuxer: Demuxer) -> None:
    while demuxer.video() is not None:
        demuxer.drop_sound()


def _read_through(source: OpenSource, demuxer: Demuxer, first: int, deadline: Deadline) -> list[Part]:
    """Every part of the file, by all of its packets."""
    parts: list[Part] = []
    while True:
        _read_part(demuxer)
        seconds = demuxer.video_clock.seconds
        parts.append(Part(seconds(first), max(seconds(first), seconds(demuxer.extent.stop or first))))
        if not demuxer.next_part():
            break
        first = _first_picture(source, demuxer)
    if len(parts) > 1:
        return parts
    stop_s = _decoded_stop_s(source.path, deadline) if demuxer.lacks_stamps else parts[0].stop_s
    return [Part(parts[0].start_s, max(stop_s, _claimed_s(source, demuxer)))]


def _decoded_stop_s(path: str, deadline: Deadline) -> Fraction:
    """When the last picture ends, by decoding all: in an MPEG program stream many packets have no stamp."""
    with open_source(path) as source:
        demuxer = Demuxer(source, deadline)
        return demuxer.video_clock.seconds(_all_pictures(source, demuxer).all().stop or 0)


def _claimed_s(source: OpenSource, read: Demuxer) -> Fraction:
    """Until when a file that is cut off had pictures, by its header; 0 where it is not cut off."""
    container, video = source.container, source.video
    if not container.format.name.startswith(_TELLING_DURATION):
        return Fraction(0)
    index = video.index_entries
    if container.format.name.startswith("mov") and len(index):
        last = index[len(index) - 1]
        is_cut = last.pos + last.size > os.path.getsize(source.path)
        stop_s = source.video_clock.seconds((video.start_time or 0) + (video.duration or 0))
    else:
        stop_s = Fraction(container.duration or 0, av.time_base)
        is_cut = stop_s - Fraction(_CUT_S) > read.last_s
        stop_s -= source.video_clock.origin
    return stop_s if is_cut and stop_s <= MAX_SECONDS else Fraction(0)
