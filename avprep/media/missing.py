"""Pictures that are missing from a stream, found by the numbers that its pictures carry.

A recorder that loses packets leaves no trace in most containers. The decoder then predicts from other
pictures than the encoder did, and reports nothing:

    H.264        frame_num counts the pictures that others may depend on (ITU-T H.264, 7.4.3)
    MPEG-1, -2   temporal_reference counts the pictures of a group as they are shown (ISO 13818-2, 6.3.9)

Not found: in H.264, a picture on which no other depends; the one before it is shown longer. In MPEG, a whole
run right before an I picture, where pictures decoded after that are shown before it. Other codecs carry no
such number.
"""

from __future__ import annotations

from typing import Protocol

from av.packet import Packet

from avprep.media.damage import MPEG_B, MPEG_I, mpeg_picture, nal_length_size
from avprep.media.h264 import SliceReader

_HEAD = 1 << 16  # bytes of a packet in which its first slice, or its picture header, is looked for
_TEMPORAL_REFERENCES = 1024


class MissingPictures(Protocol):
    def gap(self, packet: Packet) -> int | None:
        """Whether pictures are missing that later ones may depend on, as far as this packet shows it.

        Args:
            packet: the next in decoding order.

        Returns:
            The packets between the gap and this one: 0 if the gap is right before it. None: no gap.
        """
        ...

    def end(self) -> int | None:
        """The same where no packet follows: the packets behind the gap."""
        ...


def missing_pictures(codec: str, extradata: bytes | None) -> MissingPictures:
    """What finds the missing pictures of a stream."""
    if codec == "h264":
        return _ByFrameNum(extradata or b"", nal_length_size(codec, extradata))
    if codec in ("mpeg1video", "mpeg2video"):
        return _ByTemporalReference()
    return _Unnumbered()


class _Unnumbered:
    def gap(self, packet: Packet) -> int | None:
        return None

    def end(self) -> int | None:
        return None


class _ByFrameNum:
    def __init__(self, extradata: bytes, length_size: int) -> None:
        self._reader = SliceReader(extradata, length_size)
        self._last: int | None = None  # frame_num of the last reference picture; None: unknown

    def gap(self, packet: Packet) -> int | None:
        found = self._reader.read(bytes(memoryview(packet)[:_HEAD]))
        if found is None:
            self._last = None  # damaged: the decoder refuses it
            return None
        last, number = self._last, found.frame_num
        if found.is_reference:
            self._last = 0 if found.resets else number
        if last is None or found.is_idr or found.allows_gaps:
            return None
        return None if number in (last, (last + 1) % found.frame_nums) else 0

    def end(self) -> int | None:
        return None


class _ByTemporalReference:
    """Between a picture that others depend on and the next one lie as many B pictures as their numbers say.

    Something is missing where B pictures do not follow, where others do, or where a P picture counts back, as
    the next group began:

        decoded   I2 B0 B1 P5 B3 B4 P8 ...
        shown     B0 B1 I2 B3 B4 P5 ...
    """

    def __init__(self) -> None:
        self._anchor: int | None = None  # temporal_reference of the last I or P picture
        self._room = 0  # B pictures that have a number between it and the one before, at most
        self._wanted = 0  # B pictures that must follow it
        self._followed = 0  # those that did

    def gap(self, packet: Packet) -> int | None:
        picture = mpeg_picture(bytes(memoryview(packet)[:_HEAD]))
        if picture is None:
            return None  # a damaged header, which the decoder refuses
        number, kind = picture
        if self._anchor is None:
            if kind != MPEG_B:
                self._begin(number, room=number, wanted=0)
            return None
        if kind == MPEG_B:
            self._followed += 1
            behind = (self._anchor - number) % _TEMPORAL_REFERENCES
            return None if 0 < behind <= self._room else 0
        ahead = (number - self._anchor) % _TEMPORAL_REFERENCES
        if not ahead:  # the second field of the same picture
            return None
        since = self.end()
        if kind == MPEG_I:  # what is missing right before it matters to none behind
            self._begin(number, room=number, wanted=0)
            return since
        is_back = ahead >= _TEMPORAL_REFERENCES // 2
        self._begin(number, room=ahead - 1, wanted=0 if is_back else ahead - 1)
        return 0 if is_back and since is None else since

    def end(self) -> int | None:
        return self._followed + 1 if self._followed < self._wanted else None

    def _begin(self, anchor: int, *, room: int, wanted: int) -> None:
        self._anchor, self._room, self._wanted, self._followed = anchor, room, wanted, 0
