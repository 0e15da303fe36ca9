"""The pictures that are shown at given instants, each decoded once, in one pass forwards.

Packets wait in a window before they are decoded, so that the picture shown next is known. If no instant lies
in between, and no other picture depends on this one, the decoder may skip it:

    instants           ^          ^          ^          one every 1/fps
    shown order    I0  B1  B2  P3  B4  B5  P6           B1, B4 and B5 are never decoded

The invariant: what is shown at an instant is what a plain decode of the whole file shows then.
Packets carry their number in decoding order through the decoder, in place of a PTS: a picture is identified
by its packet, whatever the container says of its time. A picture is in doubt if its packet is not the one
that was expected, or if the decoder does not confirm the keyframe after a skip.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Literal

import av
import numpy as np
from av.packet import Packet
from av.video.frame import PictureType, VideoFrame

from avprep.media.damage import Damage, nal_length_size
from avprep.media.missing import missing_pictures
from avprep.media.packets import Demuxer, stamp_of
from avprep.media.source import OpenSource
from avprep.media.timeline import Extent
from avprep.reasons import MediaError, Reason

LOOK = 24  # packets that wait: more than the 16 pictures that a codec may reorder
MAX_GAP_S = 10  # a longer stretch that no clip needs is skipped, up to its last keyframe
_TELLS_DAMAGE = ("h264", "mpeg1video", "mpeg2video")  # codecs whose decoders flag nearly all of it
_REMEMBERED = 256  # stamps of packets that were decoded already


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as a clip takes it."""

    pts: int
    number: int  # of its packet, in decoding order
    pixels: np.ndarray | None  # None: of a kind that cannot be converted
    in_doubt: bool


@dataclass(frozen=True, slots=True)
class _Entry:
    """A packet and its place; `rank` counts the packets that are shown; `stamp` is `stamp_of` the packet."""

    number: int
    rank: int
    pts: int | None
    stamp: int | None
    packet: Packet


@dataclass(frozen=True, slots=True)
class _Shown:
    """A decoded picture and the tick from which it is shown."""

    pts: int
    number: int
    frame: VideoFrame


class Doubt(Exception):
    """The pictures may not be those of a plain decode; the argument is what seems to be wrong with them."""


class Pictures:
    """The pictures of one part of a source, for instants that are asked for in ascending order."""

    def __init__(
        self,
        source: OpenSource,
        demuxer: Demuxer,
        instants: Sequence[int],
        *,
        early: int,
        fit: Callable[[VideoFrame], np.ndarray],
        is_plain: bool,
    ) -> None:
        """
        Args:
            instants: all ticks that will be asked for, ascending.
            early: the first picture also serves instants up to so many ticks before it.
            is_plain: decode every packet, and trust the decoder alone.
        """
        self._codec, self._demuxer, self._fit = source.video.codec_context, demuxer, fit
        self._instants, self._early, self._is_plain = instants, early, is_plain
        self._max_gap = int(MAX_GAP_S / demuxer.video_clock.time_base)
        self._codec.flush_buffers()
        self._window: deque[Packet] = deque()
        self._upcoming: list[int] = []  # stamps of packets, ascending: the window's and before
        self._expected: dict[int, int] = {}  # instant -> number of the packet that is shown then
        self._entries: dict[int, _Entry] = {}  # in the decoder
        self._stamps: list[int] = []  # by rank, where that is what says when a picture is shown
        self._is_by_rank = False
        self._shown_packets = 0  # packets so far whose pictures are to be shown
        self._number = -1  # of the packet decoded last
        self._rank = -1  # of the picture shown last
        self._shown_numbers: deque[int] = deque(maxlen=LOOK)  # of the pictures shown last
        self._damage = Damage(self._codec.name, nal_length_size(self._codec.name, self._codec.extradata))
        self._missing = missing_pictures(self._codec.name, self._codec.extradata)
        self._held: _Shown | None = None  # the last one, shown until the next
        self._pictures: dict[int, Picture] = {}  # by instant
        self._extent = Extent()  # of what was shown
        self._lacks_stamps = False  # some packets say nothing; those that do may repeat it
        self._was_flagged = False  # the packet decoded last, as damaged
        self._may_skip = False
        self._has_skipped = False  # the decoder, anything, by its own rules
        self._is_landing = False  # the next picture is the first after a skip
        self._fill()
        self._is_by_rank = self._are_stamps_of_decoding()

    def at(self, instants: Sequence[int]) -> list[Picture]:
        """The picture shown at each of the ascending instants.

        Raises:
            MediaError: there is none, or it is damaged: NO_VIDEO, TRUNCATED or CORRUPT.
            Doubt: the same, and a plain decode may show otherwise.
        """
        for old in [tick for tick in self._pictures if tick < instants[0]]:
            del self._pictures[old]
        for old in [tick for tick in self._expected if tick < instants[0]]:
            del self._expected[old]
        self._skip_gap(instants[0])
        while not self._is_settled(instants) and self._feed():
            continue
        try:
            return self._checked(instants)
        except MediaError as error:
            has_skipped = self._has_skipped and error.reason is Reason.CORRUPT
            if has_skipped or self._demuxer.was_skipped:
                raise Doubt(error) from error
            raise

    def first(self, packets: int) -> int | None:
        """The tick of the first picture that comes out of the first so many packets."""
        for _ in range(packets):
            if self._held is not None or not self._feed():
                break
        return self._extent.first

    def all(self) -> Extent:
        """The extent of all pictures of the part, by decoding them."""
        while self._feed():
            continue
        return self._extent

    # --- what a clip gets ----------------------------------------------------------------------------------

    def _is_settled(self, instants: Sequence[int]) -> bool:
        """Whether all pictures are out: those found, those expected, and all that they may depend on."""
        if self._held is None or self._held.pts <= instants[-1]:
            return False
        found = [self._pictures[tick].number for tick in instants if tick in self._pictures]
        expected = [self._expected[tick] for tick in instants if tick in self._expected]
        return not self._damage.waits_up_to(max([*found, *expected], default=-1))

    def _checked(self, instants: Sequence[int]) -> list[Picture]:
        found: list[Picture] = []
        for tick in instants:
            picture = self._pictures.get(tick)
            if picture is None:
                raise self._why_none(tick)
            why = None
            if picture.pixels is None:
                why = "cannot be converted"
            elif self._damage.reaches(picture.number, picture.pts):
                why = "is damaged, or depends on one that is damaged or missing"
            elif self._damage.is_lost(self._expected.get(tick)):
                why = "is the last before one that does not come out of the decoder"
            elif picture.in_doubt and (self._has_skipped or self._demuxer.was_skipped):
                why = "is not the one expected"
            if why is not None:
                at_s = float(self._demuxer.video_clock.seconds(picture.pts))
                raise MediaError(Reason.CORRUPT, f"the picture at {at_s:.3f} s {why}")
            found.append(picture)
        return found

    def _why_none(self, instant: int) -> MediaError:
        seconds = self._demuxer.video_clock.seconds
        if self._extent.first is None:
            if self._demuxer.extent.first is None:
                return MediaError(Reason.TRUNCATED, "no picture is stored where the clip should be")
            return MediaError(Reason.CORRUPT, "no picture can be decoded")
        if instant < self._extent.first:
            late_s = float(seconds(self._extent.first) - seconds(instant))
            return MediaError(Reason.NO_VIDEO, f"the first picture comes {late_s:.3f} s into the clip")
        return MediaError(
            Reason.TRUNCATED,
            f"the last picture is shown until {float(seconds(self._stop())):.3f} s; "
            f"the clip needs one at {float(seconds(instant)):.3f} s",
        )

    # --- packets -------------------------------------------------------------------------------------------

    def _skip_gap(self, instant: int) -> None:
        """Skips a stretch that no clip needs, up to the last keyframe before the instant."""
        self._fill()
        shown = (stamp_of(packet) for packet in reversed(self._window) if not packet.is_discard)
        stamp = next(shown, None)
        if self._is_plain or self._is_by_rank or stamp is None or instant - stamp <= self._max_gap:
            return
        self._demuxer.unread(list(self._window))
        self._window.clear()
        if self._demuxer.skip_to(instant, since=stamp):
            self._codec.flush_buffers()
            self._entries.clear()
            self._upcoming.clear()
            self._damage.forget_waiting()
            self._held, self._is_landing = None, True

    def _fill(self) -> None:
        while len(self._window) < LOOK and (packet := self._demuxer.video()) is not None:
            self._window.append(packet)
            stamp = stamp_of(packet)
            if stamp is not None and not packet.is_discard:
                insort(self._upcoming, stamp)
        if len(self._upcoming) > 2 * _REMEMBERED:
            del self._upcoming[:_REMEMBERED]

    def _are_stamps_of_decoding(self) -> bool:
        """Whether the container stores when packets are decoded, not when pictures are shown (AVI, ASF):
        where the codec reorders and the stamps do not, the n-th picture shown takes the n-th stamp. It does
        so where nothing is reordered, too."""
        stamps = [stamp for packet in self._window if (stamp := stamp_of(packet)) is not None]
        return self._codec.reorder_depth > 0 and all(a < b for a, b in pairwise(stamps))

    def _feed(self) -> bool:
        """Decodes one packet; False once the part is at its end and all that was in the decoder is out."""
        self._fill()
        if not self._window:
            self._end()
            return False
        packet = self._window.popleft()
        self._number += 1
        entry = _Entry(self._number, self._shown_packets, packet.pts, stamp_of(packet), packet)
        self._entries[entry.number] = entry
        self._entries.pop(entry.number - _REMEMBERED, None)  # it was left out, or gives no picture
        if not packet.is_discard:
            self._shown_packets += 1
            stamp = 0 if entry.stamp is None else entry.stamp
            self._is_by_rank = self._is_by_rank and (not self._stamps or stamp > self._stamps[-1])
            if self._is_by_rank:
                self._stamps.append(stamp)
        is_wanted = self._expect(entry)
        if self._may_skip and not is_wanted:
            self._has_skipped = True
            self._damage.wait_if_leaned_on(entry.number, entry.pts, packet)
            self._set_skip("NONREF")
        else:
            if not packet.is_discard:
                self._damage.wait_for(entry.number, entry.pts, packet)
            self._set_skip("DEFAULT")
        self._note_flag(entry)
        self._damage.miss(self._missing.gap(packet), entry.number, is_key=packet.is_keyframe)
        packet.pts = packet.dts = entry.number
        for frame in self._decoded(packet, entry):
            self._show(frame)
        return True

    def _note_flag(self, entry: _Entry) -> None:
        """Damage that the container reports: of this packet or, where a parser splits the stream, the next.
        A segment may end before a keyframe, where packet counters restart: there the decoder decides."""
        is_flagged = entry.packet.is_corrupt
        if self._codec.name in _TELLS_DAMAGE and any(p.is_keyframe for p in islice(self._window, 2)):
            is_flagged = False
        if is_flagged or self._was_flagged:
            self._damage.add(entry.number, entry.pts, entry.packet, is_b=None)
        self._was_flagged = is_flagged

    def _expect(self, entry: _Entry) -> bool:
        """Notes the instants at which the packet's picture is to be shown, by its stamp and the next one;
        whether there are any."""
        if entry.pts is None or entry.packet.is_discard:
            return entry.pts is None
        after = bisect_right(self._upcoming, entry.pts)
        first = bisect_left(self._instants, entry.pts)
        last = len(self._instants)
        if after < len(self._upcoming):
            last = bisect_left(self._instants, self._upcoming[after], first)
        for tick in self._instants[first:last]:
            self._expected[tick] = entry.number
        return first < last

    def _set_skip(self, skip_frame: Literal["NONREF", "DEFAULT"]) -> None:
        if self._codec.skip_frame != skip_frame:
            self._codec.skip_frame = skip_frame

    def _decoded(self, packet: Packet | None, entry: _Entry | None = None) -> list[VideoFrame]:
        """The pictures that a packet releases; none where the decoder refuses it."""
        try:
            return self._codec.decode(packet)
        except av.FFmpegError:
            if entry is not None:
                self._damage.refuse(entry.number, entry.pts, entry.packet)
            return []

    def _end(self) -> None:
        self._damage.miss(self._missing.end(), self._number + 1, is_key=False)
        for frame in self._decoded(None):
            self._show(frame)
        self._damage.end()
        self._codec.flush_buffers()
        if self._held is not None:
            self._settle(self._held, self._held.pts, self._stop())

    # --- pictures ------------------------------------------------------------------------------------------

    def _show(self, frame: VideoFrame) -> None:
        """A picture leaves the decoder."""
        entry = self._entries.pop(frame.pts, None) if frame.pts is not None else None
        if entry is None:
            return  # a second picture of one packet has no time of its own
        is_hidden = (
            entry.packet.is_discard
        )  # decoded only because others depend on it: before an edit list's start
        pts = (entry.stamp or 0) if is_hidden else self._time(frame, entry)
        is_key = frame.key_frame and frame.pict_type == PictureType.I
        self._note_damage(frame, entry, pts, is_key)
        if self._is_landing:
            self._is_landing = not is_key
        if is_hidden:
            return
        is_timed = entry.pts is not None and not self._is_by_rank
        self._may_skip = is_timed and not (self._is_plain or frame.interlaced_frame)
        is_first = self._extent.first is None
        self._extent.add(pts, entry.packet.duration)
        self._follow(_Shown(pts, entry.number, frame), is_first)

    def _follow(self, shown: _Shown, is_first: bool) -> None:
        """The picture that was shown so far is shown until this one."""
        if is_first:
            self._settle(shown, shown.pts - self._early, shown.pts)
        if self._held is None:
            self._held = shown
        elif shown.pts < self._held.pts:  # out of order: it is shown all the same, up to the one before
            self._damage.follow(shown.number, self._held.number)
            self._settle(shown, shown.pts, self._held.pts)
        else:
            self._damage.follow(self._held.number, shown.number)
            self._settle(self._held, self._held.pts, shown.pts)
            self._held = shown

    def _time(self, frame: VideoFrame, entry: _Entry) -> int:
        """The tick from which a picture is shown."""
        if self._is_by_rank:
            self._rank += 1
            if frame.key_frame and not frame.is_corrupt:  # where some were lost, the count begins anew
                self._rank = entry.rank + sum(number > entry.number for number in self._shown_numbers)
            self._shown_numbers.append(entry.number)
            return self._stamps[min(self._rank, len(self._stamps) - 1)]
        self._lacks_stamps |= entry.stamp is None
        follows = self._extent.stop
        if follows is None:
            return entry.stamp or 0
        if self._lacks_stamps and entry.pts is not None:
            if self._held is None:
                raise Doubt("the picture after a skip follows none, where stamps are missing")
            if entry.pts > self._held.pts:
                return entry.stamp or 0
        return follows if self._lacks_stamps or entry.pts is None else entry.pts

    def _note_damage(self, frame: VideoFrame, entry: _Entry, pts: int, is_key: bool) -> None:
        is_clean_key = is_key and not frame.is_corrupt
        self._damage.came_out(entry.number, pts, is_key=is_clean_key, is_field=frame.interlaced_frame)
        if frame.is_corrupt:
            self._damage.add(entry.number, pts, entry.packet, is_b=frame.pict_type == PictureType.B)

    def _settle(self, shown: _Shown, first: int, stop: int) -> None:
        """The picture is what is shown at the instants in `[first, stop)`."""
        ticks = self._instants[bisect_left(self._instants, first) : bisect_left(self._instants, stop)]
        if not ticks:
            return
        try:
            pixels = self._fit(shown.frame)
        except av.FFmpegError:
            pixels = None
        for tick in ticks:
            is_expected = self._expected.get(tick, shown.number) == shown.number
            in_doubt = self._is_landing or not is_expected
            self._pictures[tick] = Picture(shown.pts, shown.number, pixels, in_doubt)

    def _stop(self) -> int:
        """The tick until which the last picture is shown."""
        stored = self._demuxer.extent
        stop = stored.stop if stored.last == self._extent.last else self._extent.stop
        if stop is None:
            raise AssertionError("asked for the end before a picture was shown")
        return stop
