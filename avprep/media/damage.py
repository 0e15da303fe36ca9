"""Which pictures are damaged: those that a decoder refuses or flags, and all that depend on them.

A missing picture counts as a refused one.

A picture depends on those decoded before it, back to the last clean keyframe:

    decoding order   I0 P1 B2 P3* B4 P5 | I6 P7        * refused or flagged
    damaged                   P3  B4 P5                B2 is not, and from I6 on nothing is

Pictures that are decoded after a keyframe but shown before it (open GOP) depend on pictures before it.
"""

from __future__ import annotations

from collections import deque

from av.packet import Packet

from avprep.media.h264 import nal_units

_LOST_AFTER = 64  # packets: one whose picture has not come out by then has none
# Codecs in which each packet is one picture, unless it is a second field.
_ONE_EACH = frozenset({"h264", "hevc", "vp9", "libdav1d", "mpeg1video", "mpeg2video"})
_REMEMBERED_KEYS = 1024  # more than a clip has pictures
MPEG_I, MPEG_B = 1, 3  # picture_coding_type
_HEAD = 256  # bytes of a packet that are looked at for its first slice
# Codecs whose packets show, without being decoded, whether other pictures depend on them.
_TELLING = frozenset({"h264", "hevc", "mpeg1video", "mpeg2video"})
# Codecs in which no picture depends on a B picture.
_PLAIN_B = frozenset({"mpeg1video", "mpeg2video", "mpeg4", "msmpeg4v3", "vc1", "wmv3", "rv30", "rv40"})


class Damage:
    """The damage of one part, as far as it is known. Packets are named by their number in decoding order."""

    def __init__(self, codec: str, length_size: int) -> None:
        """`length_size`: what `nal_length_size` says of the stream."""
        self._codec, self._length_size = codec, length_size
        self._is_one_each = codec in _ONE_EACH
        self._waiting: dict[int, tuple[int | None, Packet]] = {}  # number -> (PTS, packet), not out yet
        self._lost: set[int] = set()  # they gave no picture
        # (number, PTS): pictures that depend on them are damaged. What is missing has a number in between.
        self._bad: list[tuple[float, int | None]] = []
        # Numbers of packets before which pictures are missing: those whose pictures are about to be shown.
        self._gaps: deque[int] = deque(maxlen=_LOST_AFTER)
        self._bad_alone: set[int] = set()  # no picture depends on them
        self._keys: list[tuple[int, int]] = []  # (number, PTS) of clean keyframes, ascending

    def wait_for(self, number: int, pts: int | None, packet: Packet) -> None:
        """A packet was passed to the decoder, and its picture is expected."""
        self._waiting[number] = pts, packet
        first = next(iter(self._waiting))
        if number - first > _LOST_AFTER:
            self._lose(first)

    def wait_if_leaned_on(self, number: int, pts: int | None, packet: Packet) -> None:
        """As `wait_for`, for a packet that the decoder may skip if no picture depends on it."""
        if self._codec in _TELLING and self._is_leaned_on(packet, is_b=None):
            self.wait_for(number, pts, packet)

    def end(self) -> None:
        """The decoder is empty."""
        for number in list(self._waiting):
            self._lose(number)

    def _lose(self, number: int) -> None:
        """A packet gave no picture: it is damaged, hidden, or the second field of a picture."""
        pts, packet = self._waiting.pop(number)
        if self._is_one_each:
            self._lost.add(number)
            self.add(number, pts, packet, is_b=None)

    def is_lost(self, number: int | None) -> bool:
        """Whether the packet gave no picture though it should."""
        return number in self._lost

    def waits_up_to(self, number: int) -> bool:
        """Whether a picture decoded up to `number` has not come out yet, and may turn out to be damaged."""
        return bool(self._waiting) and next(iter(self._waiting)) <= number

    def came_out(self, number: int, pts: int, *, is_key: bool, is_field: bool) -> None:
        """The packet's picture is there. `is_field`: it holds two fields, which may be two packets."""
        self._waiting.pop(number, None)
        self._is_one_each = self._is_one_each and not is_field
        if is_key:
            self._keys.append((number, pts))
            if len(self._keys) > 2 * _REMEMBERED_KEYS:
                del self._keys[:_REMEMBERED_KEYS]
                self._bad = [(bad, at) for bad, at in self._bad if bad >= self._keys[0][0]]

    def miss(self, since: int | None, number: int, *, is_key: bool) -> None:
        """Pictures are missing before a packet: what `MissingPictures` says at the packet of that number.

        `is_key`: that packet is said to be a keyframe, where a segment may begin and the count anew.
        """
        if since is None:
            return
        self._bad.append((number - since - 0.5, None))
        if since or not is_key:
            self._gaps.append(number - since)

    def follow(self, before: int, after: int) -> None:
        """One picture is shown until another: over a gap, it is shown in place of those that are missing."""
        if any(before < gap <= after for gap in self._gaps):
            self._bad_alone.add(before)

    def refuse(self, number: int, pts: int | None, packet: Packet) -> None:
        """The decoder refused the packet: it gives no picture."""
        self._waiting.pop(number, None)
        self._lost.add(number)
        self.add(number, pts, packet, is_b=None)

    def add(self, number: int, pts: int | None, packet: Packet, *, is_b: bool | None) -> None:
        """The packet was refused or flagged, or its picture was; `is_b` as in `is_reference`."""
        if self._is_leaned_on(packet, is_b=is_b):
            self._bad.append((number, pts))
        else:
            self._bad_alone.add(number)

    def _is_leaned_on(self, packet: Packet, *, is_b: bool | None) -> bool:
        return is_reference(packet, self._codec, self._length_size, is_b=is_b)

    def forget_waiting(self) -> None:
        self._waiting.clear()

    def reaches(self, number: int, pts: int) -> bool:
        """Whether the picture of that number, shown at `pts`, is damaged."""
        if number in self._bad_alone:
            return True
        keys = reversed(self._keys)
        key, key_pts = next(((k, at) for k, at in keys if k <= number and at <= pts), (-1, None))
        return any(
            key <= bad <= number and (at is None or key_pts is None or at >= key_pts) for bad, at in self._bad
        )


def nal_length_size(codec: str, extradata: bytes | None) -> int:
    """Bytes of the length before each NAL unit of H.264 or HEVC in MP4 and Matroska (ISO 14496-15); 0 where
    start codes are between them, and for other codecs."""
    place = {"h264": 4, "hevc": 21}.get(codec)
    if place is None or extradata is None or len(extradata) <= place or extradata[0] != 1:
        return 0
    return (extradata[place] & 3) + 1


def is_reference(packet: Packet, codec: str, length_size: int, *, is_b: bool | None) -> bool:
    """Whether other pictures may depend on a packet's; True if unsure (a header may be damaged).

    `is_b`: whether its picture came out as a B picture; None where it did not come out.
    """
    head = bytes(memoryview(packet)[:_HEAD])
    if is_b is None and codec in ("mpeg1video", "mpeg2video"):
        picture = mpeg_picture(head)
        is_b = picture is not None and picture[1] == MPEG_B
    if codec in _PLAIN_B or is_b is False:
        return not is_b
    if codec == "h264":  # nal_ref_idc of the slices (7.4.1)
        headers = (unit[0] for unit in nal_units(head, length_size))
        slices = [byte for byte in headers if byte & 0x9F in (1, 2, 5)]
        return not slices or any(byte & 0x60 for byte in slices)
    if codec == "hevc":  # even types below 16 are sub-layer non-reference pictures (table 7-1)
        kinds = [unit[0] >> 1 for unit in nal_units(head, length_size) if unit[0] >> 1 < 32]
        return not kinds or any(kind >= 16 or kind % 2 == 1 for kind in kinds)
    return True


def mpeg_picture(head: bytes) -> tuple[int, int] | None:
    """temporal_reference and picture_coding_type of a picture header (ISO 13818-2, 6.2.3), if any."""
    place = head.find(b"\0\0\1\0")
    if not 0 <= place < len(head) - 5:
        return None
    return head[place + 4] << 2 | head[place + 5] >> 6, head[place + 5] >> 3 & 7
