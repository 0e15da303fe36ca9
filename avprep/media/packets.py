"""The video and audio packets of a source, demuxed once, forwards, whatever their interleaving in the file.

    file      V A V V A V | V A A V ...        | = the clock restarts (recordings joined byte by byte)
    video     V   V V   V | V     V            pulled by the decoder of pictures
    audio       A     A   |   A A              pulled by the decoder of sound

Each stream is pulled separately, while packets of the other wait. Both end where a part of the source ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import av
from av.packet import Packet
from av.stream import Stream

from avprep.media.limits import Deadline
from avprep.media.source import OpenSource, time_base_of
from avprep.media.timeline import Clock, Extent

AVFMT_TS_DISCONT = 0x0200  # libavformat: the stamps of such a container may jump
_DTS_ONLY = ("avi",)  # its packets' PTS are libavformat's guesses
_MANY_FRAMES = ("mpegts", "mpeg")  # of sound in one of the container's own packets, with one stamp
_BACKWARD_S = 0.1  # a DTS further back than this is a clock that restarts
_BACKWARD_ELSEWHERE_S = 1.0  # in a container whose clock should not
_FORWARD_S = 10.0  # further ahead than this is a jump, where a container's stamps may; else a gap
_FOLLOWS_S = 2.0  # the other stream follows a jump within so much of this one's packets
_MAX_KEPT = 64 << 20  # bytes of packets that are held in search of a keyframe
_MAX_SOUND = 100_000  # packets of sound that wait over a gap; before them some is left out
_PREROLL_S = 1  # of sound before the instant that a skip leads to: codecs need it to settle


@dataclass(eq=False)
class _Track:
    """A stream, the packets of it that wait, and where its clock is."""

    stream: Stream
    tick_s: float
    waiting: deque[tuple[int, Packet]] = field(default_factory=deque)  # the part, and the packet
    part: int = 0  # of the packet that was read last
    dts_s: float | None = None  # of that packet
    since_jump_s: float = 0.0  # of the video's packets since this stream's clock jumped


class Demuxer:
    """Both streams of an open source, part by part. Positions are the streams' own ticks."""

    def __init__(self, source: OpenSource, deadline: Deadline) -> None:
        self._container, self._deadline, self._can_seek = source.container, deadline, source.can_seek
        streams = [s for s in (source.video, source.audio) if s is not None]
        self._tracks = {s.index: _Track(s, float(time_base_of(s))) for s in streams}
        self._video = self._tracks[source.video.index]
        self._audio = None if source.audio is None else self._tracks[source.audio.index]
        self._is_dts_only = source.container.format.name in _DTS_ONLY
        self._holds_many = source.container.format.name in _MANY_FRAMES
        may_jump = bool(source.container.format.flags & AVFMT_TS_DISCONT)
        self._backward_s = _BACKWARD_S if may_jump else _BACKWARD_ELSEWHERE_S
        self._forward_s = _FORWARD_S if may_jump else float("inf")
        self._packets = self._demux()
        self._part = 0
        self.video_clock = source.video_clock
        self.extent = Extent()  # of the part's pictures, as far as they were handed out
        self.was_skipped = False  # True: not every packet was handed out
        self.lacks_stamps = False  # True: the extent is not all that there is

    def video(self) -> Packet | None:
        """The next video packet of the part; None at its end."""
        packet = self._next(self._video)
        if packet is not None and not packet.is_discard:
            stamp = stamp_of(packet)
            self.lacks_stamps |= stamp is None
            if stamp is not None:
                self.extent.add(stamp, packet.duration)
        return packet

    def audio(self) -> Packet | None:
        """The next audio packet of the part; None at its end, or where the source has no sound."""
        return None if self._audio is None else self._next(self._audio)

    def is_counted(self, packet: Packet) -> bool:
        """Whether the container has no stamp for a packet of sound: libavformat counts on from the last."""
        return self._holds_many and packet.pos is None

    def drop_sound(self) -> None:
        """Leaves out the audio packets that wait, where only the pictures are asked for."""
        while self._audio is not None and self._audio.waiting and self._audio.waiting[0][0] <= self._part:
            self._audio.waiting.popleft()

    @property
    def last_s(self) -> float:
        """The latest stamp that was read last of a stream, in seconds of the container's own clock."""
        return max((t.dts_s for t in self._tracks.values() if t.dts_s is not None), default=0.0)

    def has_next_part(self) -> bool:
        """Whether the part has ended and the source continues."""
        return bool(self._video.waiting) and self._video.waiting[0][0] > self._part

    def next_part(self) -> bool:
        """Moves to the next part once `video` has returned None; False if there is none."""
        if not self.has_next_part():
            return False
        part, packet = self._video.waiting[0]
        begin, stop = stamp_of(packet), self.extent.stop
        if begin is not None and stop is not None:
            origin_s = self.video_clock.origin + (begin - stop) * self.video_clock.time_base
            self.video_clock = Clock(self.video_clock.time_base, origin_s)
        self._part, self.extent = part, Extent()
        return True

    def unread(self, packets: list[Packet]) -> None:
        """Puts video packets back; they are handed out again."""
        self._video.waiting.extendleft((self._part, packet) for packet in reversed(packets))

    def skip_to(self, tick: int, since: int) -> bool:
        """Skips packets up to the last keyframe, according to the container, that is not after `tick`.

        A container that is known to seek well is seeked; others are read through, and all their sound is
        handed out. The caller checks what arrives. Returns False, and skips nothing, if there is no keyframe
        after the tick `since`.
        """
        if self._can_seek and not self._seek(tick - int(_PREROLL_S / self._video.tick_s), since):
            return False
        kept: list[Packet] = []
        size, found = 0, self._can_seek
        second = int(1 / self._video.tick_s)
        while (packet := self._next(self._video)) is not None:
            stamp = stamp_of(packet)
            if packet.is_keyframe and stamp is not None and since < stamp <= tick:
                kept, size, found = [], 0, True
            kept.append(packet)
            size += packet.size
            while self._audio is not None and len(self._audio.waiting) > _MAX_SOUND:
                self._audio.waiting.popleft()
            decoded_at = packet.dts if packet.dts is not None else stamp
            if size > _MAX_KEPT or (decoded_at is not None and decoded_at > tick + second):
                break
        self.unread(kept)
        self.was_skipped |= found
        return found

    def _seek(self, tick: int, since: int) -> bool:
        """Whether the container stands at a keyframe after `since` and not after `tick` now."""
        index = self._video.stream.index_entries
        place = index.search_timestamp(tick)
        if place < 0 or index[place].timestamp <= since:
            return False
        with suppress(av.FFmpegError):  # wherever that leads: what arrives is checked
            self._container.seek(tick, stream=self._video.stream)
        for track in self._tracks.values():
            track.waiting.clear()
            track.dts_s = None
        self._packets = self._demux()
        return True

    def _next(self, track: _Track) -> Packet | None:
        while True:
            while not track.waiting or self._is_open(track):
                if not self._read():
                    break
            if not track.waiting or track.waiting[0][0] > self._part:
                return None
            part, packet = track.waiting.popleft()
            if part == self._part:
                return packet

    def _is_open(self, track: _Track) -> bool:
        """Whether it is still unknown if a jump of the audio clock is one of the video's too."""
        return track is self._audio and track.waiting[0][0] > self._video.part

    def _read(self) -> bool:
        """Reads one packet into its queue; False at the end of the file."""
        self._deadline.check()
        packet = next(self._packets, None)
        if packet is None:
            return False
        track = self._tracks[packet.stream_index]
        is_stored = track is self._video or not self.is_counted(packet)
        # What an edit list hides has other stamps.
        if packet.dts is not None and is_stored and not packet.is_discard:
            self._follow_clock(track, packet.dts * track.tick_s)
        track.waiting.append((track.part, packet))
        return True

    def _follow_clock(self, track: _Track, dts_s: float) -> None:
        before_s, track.dts_s = track.dts_s, dts_s
        if before_s is None:
            return
        if self._jumps(track, before_s, dts_s):
            ahead = next((t for t in self._tracks.values() if t.part > track.part), None)
            if ahead is None:
                track.part += 1
            else:  # another recording's, where its clock is elsewhere: one of sound alone came between
                is_same = ahead.dts_s is None or abs(ahead.dts_s - dts_s) <= _FOLLOWS_S
                track.part = ahead.part if is_same else ahead.part + 1
            track.since_jump_s = 0.0
            return
        audio = self._audio
        if track is self._video and audio is not None and audio.part > track.part:
            audio.since_jump_s += max(0.0, min(dts_s - before_s, 1.0))
            if audio.since_jump_s > _FOLLOWS_S:  # the sound's clock alone jumped: that begins no part
                audio.part = track.part
                audio.waiting = deque((min(part, track.part), packet) for part, packet in audio.waiting)

    def _jumps(self, track: _Track, before_s: float, dts_s: float) -> bool:
        """Whether the clock changes here, rather than this stream alone having a gap."""
        if -self._backward_s <= dts_s - before_s <= self._forward_s:
            return False
        other = self._audio if track is self._video else self._video
        if other is None or other.dts_s is None or other.part != track.part:
            return True
        return abs(other.dts_s - before_s) <= abs(other.dts_s - dts_s)

    def _demux(self) -> Iterator[Packet]:
        """Packets until the file ends or cannot be read on; the last, empty ones (flush) are left out."""
        packets = self._container.demux([track.stream for track in self._tracks.values()])
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError:
                return  # cut or damaged from here on: what is missing shows as truncated
            if packet is None:
                return
            if self._is_dts_only:
                packet.pts = packet.dts
            if packet.size:
                yield packet


def stamp_of(packet: Packet) -> int | None:
    """When a packet's picture is shown, in ticks, as far as the container says; else when it is decoded."""
    return packet.pts if packet.pts is not None else packet.dts
