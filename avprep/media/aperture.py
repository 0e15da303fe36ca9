"""The part of the stored picture that a container says is shown: Matroska's PixelCrop, MP4's and MOV's clap.

FFmpeg 8 exports both as side data of the stream (AV_PKT_DATA_FRAME_CROPPING) and leaves it to the caller to
apply them. PyAV 18.1 gives no access to a stream's side data, so the two headers are read here.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO

_MAX_STEPS = 4096  # boxes and elements read per file: an honest header has some hundred
_BUFFER = 1024  # bytes read per step, so that 4096 steps read 4 MiB
_EBML_MAGIC = b"\x1a\x45\xdf\xa3"

_SEGMENT, _TRACKS, _CLUSTER, _SEEK_HEAD = 0x18538067, 0x1654AE6B, 0x1F43B675, 0x114D9B74
_SEEK, _SEEK_ID, _SEEK_POSITION = 0x4DBB, 0x53AB, 0x53AC
_TRACK_ENTRY, _TRACK_TYPE, _CODEC_ID, _VIDEO = 0xAE, 0x83, 0x86, 0xE0
_PIXEL_CROP = {0x54CC: "left", 0x54BB: "top", 0x54DD: "right", 0x54AA: "bottom"}
_STREAM_TYPES = (1, 2, 17, 33)  # video, audio, subtitle, metadata: the tracks that FFmpeg makes streams of


@dataclass(frozen=True)
class Aperture:
    """Pixels cut off the edges of the stored picture, before rotation and sample aspect ratio."""

    left: int
    top: int
    right: int
    bottom: int

    def __post_init__(self) -> None:
        if min(self.left, self.top, self.right, self.bottom) < 0:
            raise ValueError(f"an aperture cuts 0 or more pixels off each edge, got {self}")


def read_aperture(path: str | os.PathLike[str], *, stream_id: int, stream_index: int) -> Aperture | None:
    """The aperture of a video track; None if there is none, or if the file is not understood.

    stream_id: PyAV's `stream.id`. In MP4 and MOV it is the track ID of the tkhd box.
    stream_index: PyAV's `stream.index`. In Matroska and WebM, where `stream.id` is always 0, it counts the
        video, audio, subtitle and metadata tracks that name a codec, in file order.

    The headers are read box by box, wherever in the file they lie: at most `_MAX_STEPS` boxes or elements.
    A damaged or hostile file gives None, never an exception.
    """
    try:
        with open(path, "rb", buffering=_BUFFER) as file:
            head = file.read(8)
            size = os.fstat(file.fileno()).st_size
            if head.startswith(_EBML_MAGIC):
                found = _MatroskaReader(file, size).aperture(stream_index)
            else:
                found = _Mp4Reader(file, size).aperture(stream_id)
    except (OSError, ValueError, ArithmeticError, struct.error, _TooMuch):
        return None
    return found if found != Aperture(0, 0, 0, 0) else None


class _TooMuch(Exception):
    """More boxes or elements than an honest header holds."""


@dataclass(frozen=True)
class _Part:
    """A box or an element: its kind, and where its content lies in the file."""

    kind: bytes | int
    start: int
    stop: int


class _Reader:
    """Reads within a file whose sizes cannot be trusted."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self._steps = 0

    def _read(self, at: int, count: int) -> bytes:
        """Up to `count` bytes; fewer at the end of the file."""
        self._file.seek(at)
        return self._file.read(count)

    def _step(self) -> None:
        self._steps += 1
        if self._steps > _MAX_STEPS:
            raise _TooMuch


class _Mp4Reader(_Reader):
    """moov/trak/mdia/minf/stbl/stsd/<first entry>/clap (ISO/IEC 14496-12, 12.1.4)."""

    def aperture(self, track_id: int) -> Aperture | None:
        file = _Part(b"", 0, self._size)
        moov = self._first(file, b"moov")
        for trak in self._boxes(moov):
            if trak.kind == b"trak" and self._track_id(trak) == track_id:
                return self._clean_aperture(trak)
        return None

    def _track_id(self, trak: _Part) -> int:
        tkhd = self._first(trak, b"tkhd")
        version = self._read(tkhd.start, 1)
        times = 16 if version == b"\x01" else 8
        return struct.unpack(">I", self._read(tkhd.start + 4 + times, 4))[0]

    def _clean_aperture(self, trak: _Part) -> Aperture | None:
        box = trak
        for kind in (b"mdia", b"minf", b"stbl", b"stsd"):
            box = self._first(box, kind)
        entries = _Part(b"", box.start + 8, box.stop)  # after version, flags and the number of entries
        entry = next(self._boxes(entries), None)
        if entry is None:
            return None
        width, height = struct.unpack(">HH", self._read(entry.start + 24, 4))
        clap = self._first(_Part(b"", entry.start + 78, entry.stop), b"clap")
        return _from_clap(self._read(clap.start, 32), width, height)

    def _first(self, parent: _Part, kind: bytes) -> _Part:
        for box in self._boxes(parent):
            if box.kind == kind:
                return box
        raise ValueError(f"no {kind!r}")

    def _boxes(self, parent: _Part) -> Iterator[_Part]:
        at = parent.start
        while at + 8 <= parent.stop:
            self._step()
            size, kind = struct.unpack(">I4s", self._read(at, 8))
            start = at + 8
            if size == 1:
                size, start = struct.unpack(">Q", self._read(at + 8, 8))[0], at + 16
            stop = parent.stop if size == 0 else at + size
            if stop < start:
                return
            yield _Part(kind, start, min(stop, parent.stop))
            at = stop


def _from_clap(content: bytes, width: int, height: int) -> Aperture | None:
    """The rectangle of a clap box, rounded to whole pixels as FFmpeg's mov_read_clap rounds it.

    content: width, height, horizontal and vertical offset of the centre, each a fraction of two int32.
    """
    numbers = struct.unpack(">8i", content)
    kept_width, kept_height, right_by, down_by = (Fraction(*numbers[i : i + 2]) for i in range(0, 8, 2))
    if min(numbers[1::2]) < 0:
        return None
    across, down = _cut(width, kept_width, right_by), _cut(height, kept_height, down_by)
    if across is None or down is None:
        return None
    return Aperture(left=across[0], top=down[0], right=across[1], bottom=down[1])


def _cut(length: int, kept: Fraction, offset: Fraction) -> tuple[int, int] | None:
    """Pixels cut off before and after the `kept` ones, whose centre is `offset` from the picture's."""
    if not 0 <= kept <= length:
        return None
    centre = Fraction(length - 1, 2) + offset
    half = (kept - 1) / 2
    first, last = int(centre - half), int(centre + half)  # toward zero, as a cast from double in C
    if first < 0 or not first <= last <= length - 1:
        return None
    return first, length - 1 - last


class _MatroskaReader(_Reader):
    """Segment/Tracks/TrackEntry/Video/PixelCrop* (RFC 9559, 5.1.4.1.28)."""

    def aperture(self, index: int) -> Aperture | None:
        segment = self._first(_Part(0, 0, self._size), _SEGMENT)
        tracks = [t for t in self._elements(self._tracks(segment)) if t.kind == _TRACK_ENTRY]
        streams = [t for t in tracks if self._is_stream(t)]
        if index >= len(streams):
            return None
        cut = dict.fromkeys(_PIXEL_CROP.values(), 0)
        for element in self._elements(self._first(streams[index], _VIDEO)):
            if element.kind in _PIXEL_CROP:
                cut[_PIXEL_CROP[element.kind]] = self._number(element)
        return Aperture(**cut)

    def _tracks(self, segment: _Part) -> _Part:
        """Tracks lie before the first Cluster, or where a SeekHead before it says."""
        sought = None
        for element in self._elements(segment):
            if element.kind == _TRACKS:
                return element
            if element.kind == _SEEK_HEAD:
                sought = self._sought(element) if sought is None else sought
            if element.kind == _CLUSTER:
                break
        if sought is None:
            raise ValueError("no tracks")
        there = next(self._elements(_Part(0, segment.start + sought, segment.stop)), None)
        if there is None or there.kind != _TRACKS:
            raise ValueError("no tracks where the SeekHead says")
        return there

    def _sought(self, seek_head: _Part) -> int | None:
        """Where Tracks begins, in bytes from the start of the Segment's content."""
        for seek in self._elements(seek_head):
            fields = {e.kind: e for e in self._elements(seek)} if seek.kind == _SEEK else {}
            if _SEEK_ID in fields and _SEEK_POSITION in fields and self._number(fields[_SEEK_ID]) == _TRACKS:
                return self._number(fields[_SEEK_POSITION])
        return None

    def _is_stream(self, track: _Part) -> bool:
        fields = {e.kind: e for e in self._elements(track)}
        return (
            _CODEC_ID in fields
            and _TRACK_TYPE in fields
            and self._number(fields[_TRACK_TYPE]) in _STREAM_TYPES
        )

    def _first(self, parent: _Part, kind: int) -> _Part:
        for element in self._elements(parent):
            if element.kind == kind:
                return element
        raise ValueError(f"no element {kind:#x}")

    def _number(self, element: _Part) -> int:
        """An unsigned integer of 0 to 8 bytes."""
        if element.stop - element.start > 8:
            raise ValueError("an integer of more than 8 bytes")
        return int.from_bytes(self._read(element.start, element.stop - element.start), "big")

    def _elements(self, parent: _Part) -> Iterator[_Part]:
        at = parent.start
        while at < parent.stop:
            self._step()
            head = self._read(at, 12)  # an ID has 1 to 4 bytes, a size 1 to 8
            id_length = _vint_length(head, 4)
            size_length = _vint_length(head[id_length:], 8)
            kind = int.from_bytes(head[:id_length], "big")
            size = int.from_bytes(head[id_length : id_length + size_length], "big") - (1 << 7 * size_length)
            start = at + id_length + size_length
            is_unknown = size == (1 << 7 * size_length) - 1  # a live Segment or Cluster: until it ends
            stop = parent.stop if is_unknown else start + size
            yield _Part(kind, start, min(stop, parent.stop))
            at = stop


def _vint_length(head: bytes, longest: int) -> int:
    """Bytes of the variable-length integer that `head` begins with.

    Raises:
        ValueError: it is cut off or longer than `longest`.
    """
    length = 9 - head[0].bit_length() if head else 9
    if length > longest or length > len(head):
        raise ValueError("a damaged variable-length integer")
    return length
