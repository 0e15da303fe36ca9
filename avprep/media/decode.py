"""Frames and samples by PTS: everything that the clips of one source need, each packet decoded once.

Two passes over an open file: the sound first (small, kept per clip), then the pictures, which leave clip
by clip, in order, so that memory holds a clip's frames and not a source's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from heapq import heappop, heappush

import av
import numpy as np
from av.packet import Packet
from av.video.frame import VideoFrame

from avprep.media.audio import ClipSound, read_sound
from avprep.media.frames import Crop, FrameFitter
from avprep.media.packets import packets_from
from avprep.media.probe import Deadline, OpenSource
from avprep.media.timeline import (
    PacketEntry,
    Segment,
    group_starts,
    plan_segments,
    shown_at,
    target_ticks,
)
from avprep.reasons import MediaError, Reason
from avprep.spec import ClipSpec

MAX_GAP_S = 10.0             # a longer stretch that no clip wants is sought over, not read through
MAX_INDEX_PACKETS = 2_000_000
# Containers that store decode-order stamps: the n-th frame shown takes the n-th smallest of them.
_DECODE_ORDER_STAMPS = ("asf", "avi")


@dataclass(frozen=True)
class RawClip:
    """A clip as it left the file, before anything is made of it."""

    start: int                   # samples since the source's time 0
    frames: np.ndarray           # uint8 (frames, size, size, RGB)
    frame_times_s: list[float]   # when each frame began to be shown, seconds of the source's time
    residual_ms: float           # the longest that a frame had been shown at its instant (negative: early)
    sound: ClipSound


def read_clips(
    source: OpenSource, starts: Sequence[int], *, spec: ClipSpec, crop: Crop, deadline: Deadline
) -> Iterator[RawClip | tuple[int, MediaError]]:
    """The clips at ascending `starts` (samples), or, in a clip's place, its start and why there is none.

    Raises:
        MediaError: the source as a whole gives nothing more (time limit, an index out of all bounds).
    """
    for group in group_starts(starts, spec=spec, max_gap_s=MAX_GAP_S):
        sounds = read_sound(source, group, spec=spec, deadline=deadline)
        yield from _read_group(source, group, sounds, spec=spec, crop=crop, deadline=deadline)


def _read_group(
    source: OpenSource,
    starts: list[int],
    sounds: list[ClipSound],
    *,
    spec: ClipSpec,
    crop: Crop,
    deadline: Deadline,
) -> Iterator[RawClip | tuple[int, MediaError]]:
    ticks = [target_ticks(start, spec, source.video_clock) for start in starts]
    packets = _index(source, first_tick=ticks[0][0], last_tick=ticks[-1][-1], deadline=deadline)
    chosen: list[list[int] | MediaError] = [_choose(packets, t, source, spec) for t in ticks]
    wanted = {pts for c in chosen if not isinstance(c, MediaError) for pts in c}
    segments = plan_segments(packets, wanted)
    pictures = _Pictures(FrameFitter(
        size=spec.size, crop=crop, sample_aspect_ratio=source.video.sample_aspect_ratio
    ))
    frames = _decode(source, packets, segments, deadline=deadline)
    for start, clip, sound, clip_ticks in zip(starts, chosen, sounds, ticks, strict=True):
        if isinstance(clip, MediaError):
            yield start, clip
            continue
        pictures.forget_before(clip[0])
        pictures.take_until(clip[-1], frames)
        missing = [pts for pts in clip if pts not in pictures]
        if missing:
            at_s = float(source.video_clock.seconds(missing[0]))
            yield start, MediaError(Reason.CORRUPT, f"the picture at {at_s:.3f} s cannot be decoded")
            continue
        yield _clip(start, clip, clip_ticks, pictures, sound, source=source, spec=spec)


def _clip(start, chosen, ticks, pictures, sound, *, source: OpenSource, spec: ClipSpec) -> RawClip:
    clock = source.video_clock
    instants = [Fraction(start + i * spec.samples_per_frame, spec.sample_rate) for i in range(spec.frames)]
    shown_for = [instant - clock.seconds(pts) for instant, pts in zip(instants, chosen, strict=True)]
    return RawClip(
        start=start,
        frames=np.stack([pictures[pts] for pts in chosen]),
        frame_times_s=[round(float(clock.seconds(pts)), 6) for pts in chosen],
        residual_ms=round(1000 * float(max(shown_for, key=abs)), 3),
        sound=sound,
    )


class _Pictures(dict[int, np.ndarray]):
    """Fitted pictures by PTS: only those that a coming clip may still want."""

    def __init__(self, fitter: FrameFitter) -> None:
        super().__init__()
        self._fitter = fitter

    def forget_before(self, pts: int) -> None:
        for old in [p for p in self if p < pts]:
            del self[old]

    def take_until(self, pts: int, frames: Iterator[tuple[int, VideoFrame]]) -> None:
        """Fits frames as they are decoded until the one at `pts` is there or none is left."""
        while pts not in self and (not self or max(self) < pts):
            decoded = next(frames, None)
            if decoded is None:
                return
            try:
                self[decoded[0]] = self._fitter.fit(decoded[1])
            except av.FFmpegError:
                continue  # a picture of a kind that cannot be scaled; its clip fails as corrupt


def _choose(
    packets: list[PacketEntry], ticks: list[int], source: OpenSource, spec: ClipSpec
) -> list[int] | MediaError:
    """The PTS shown at each tick, or why the video does not reach."""
    shown = sorted({p.pts for p in packets if p.is_shown})
    clock = source.video_clock
    if not shown:
        return MediaError(Reason.TRUNCATED, "no picture is stored where the clip should be")
    late = clock.seconds(shown[0]) - clock.seconds(ticks[0])
    if late > Fraction(1, spec.fps):
        return MediaError(Reason.NO_VIDEO, f"the first picture comes {float(late):.3f} s into the clip")
    stop = shown[-1] + _last_duration(shown)
    if ticks[-1] >= stop and ticks[-1] > shown[-1]:
        return MediaError(
            Reason.TRUNCATED,
            f"the last picture is shown until {float(clock.seconds(stop)):.3f} s; "
            f"the clip needs one at {float(clock.seconds(ticks[-1])):.3f} s",
        )
    # A start up to one frame before the first picture shows that picture early, as players do.
    return [shown[0] if (pts := shown_at(shown, tick)) is None else pts for tick in ticks]


def _last_duration(shown: list[int]) -> int:
    """Ticks that the last frame is shown: as long as the longest of the few before it."""
    steps = [b - a for a, b in zip(shown[-9:-1], shown[-8:], strict=False)]
    return max(steps, default=1)


def _index(
    source: OpenSource, *, first_tick: int, last_tick: int, deadline: Deadline
) -> list[PacketEntry]:
    """The video packets from the keyframe at or before `first_tick` until all shown by `last_tick` are in.

    Decoding order is not showing order, but no packet is shown before it is decoded: once a packet's
    DTS is past `last_tick`, every frame shown by then has been seen.
    """
    packets: list[PacketEntry] = []
    second = 1 / source.video_clock.time_base
    for packet in packets_from(source.container, source.video, first_tick):
        deadline.check()
        pts = packet.pts if packet.pts is not None else packet.dts
        if pts is None:
            continue
        packets.append(PacketEntry(pts, packet.is_keyframe, not packet.is_discard))
        order = packet.dts if packet.dts is not None else pts - second
        # The frame after the last target tells how long that one is shown.
        if order > last_tick + second:
            break
        if len(packets) > MAX_INDEX_PACKETS:
            raise MediaError(Reason.BAD_HEADER, f"more than {MAX_INDEX_PACKETS} pictures in one stretch")
    return packets


def _decode(
    source: OpenSource, packets: list[PacketEntry], segments: list[Segment], *, deadline: Deadline
) -> Iterator[tuple[int, VideoFrame]]:
    """(PTS, frame) of the wanted frames of all segments, ascending; undecodable ones are left out."""
    if not segments:
        return
    codec = source.video.codec_context
    by_rank = source.header.format in _DECODE_ORDER_STAMPS and codec.reorder_depth > 0
    stream = packets_from(source.container, source.video, packets[segments[0].first].pts)
    places = {(p.pts, p.is_key): i for i, p in reversed(list(enumerate(packets)))}
    for segment in segments:
        codec.flush_buffers()
        order = _ShownOrder(codec.reorder_depth if by_rank else 0)
        for packet in stream:
            deadline.check()
            pts = packet.pts if packet.pts is not None else packet.dts
            if pts is None:
                continue
            place = places.get((pts, packet.is_keyframe))
            if place is None or place < segment.first:
                continue
            is_wanted = by_rank or pts in segment.wanted
            codec.skip_frame = "DEFAULT" if is_wanted else "NONREF"
            yield from order.wanted(_try_decode(codec, packet), segment.wanted)
            if place >= segment.stop - 1:
                break
        yield from order.wanted(_try_decode(codec, None), segment.wanted)
        yield from order.rest(segment.wanted)


def _try_decode(codec, packet: Packet | None) -> list[VideoFrame]:
    """The frames a packet releases; none where the decoder refuses it (its clips then fail as corrupt)."""
    try:
        return [frame for frame in codec.decode(packet) if not frame.is_corrupt]
    except av.FFmpegError:
        return []


class _ShownOrder:
    """Gives frames their time. With depth 0 that is their own PTS; with a depth (containers that store
    decode-order stamps) the frame shown n-th takes the n-th smallest stamp."""

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._stamps: list[int] = []
        self._frames: deque[VideoFrame] = deque()

    def wanted(self, frames: list[VideoFrame], wanted: frozenset[int]) -> Iterator[tuple[int, VideoFrame]]:
        for frame in frames:
            pts = frame.pts if frame.pts is not None else frame.dts
            if pts is None:
                continue
            heappush(self._stamps, pts)
            self._frames.append(frame)
            if len(self._frames) > self._depth:
                yield from self._release(wanted)

    def rest(self, wanted: frozenset[int]) -> Iterator[tuple[int, VideoFrame]]:
        while self._frames:
            yield from self._release(wanted)

    def _release(self, wanted: frozenset[int]) -> Iterator[tuple[int, VideoFrame]]:
        pts, frame = heappop(self._stamps), self._frames.popleft()
        if pts in wanted:
            yield pts, frame


