"""Hostile media: seeded mutations of a real file, each with a name that says what was done to it.

    any container   bit flips | noise in the header | a cut | a hole | parts swapped | a part repeated
                    | absurd 32-bit numbers in the header
    MP4 and MOV     boxes swapped | box sizes that lie | absurd numbers in the tables of samples and times
                    | pictures, time scales and sample rates that lie | 10^9 frames | a codec's set-up damaged
    Matroska        the values of named elements set to their extremes

A mutation either keeps the length of what it touches or moves bytes only, so that the file stays close enough
to a real one to get past the first check.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

BILLION = 10**9
_EXTREMES = (0, 1, 2, 0x7FFF, 0xFFFF, BILLION, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
_HEADER = 4096  # bytes at the begin (of the file, or of an MP4's moov) that are taken for its header
_CONTAINERS = frozenset(b"moov trak mdia minf stbl edts udta moof traf mvex dinf".split())
_TABLES = (b"stts", b"stsz", b"stsc", b"stco", b"co64", b"ctts", b"stss", b"elst", b"trun", b"tfhd", b"sidx")
_CLOCKS = (b"mvhd", b"mdhd", b"tkhd", b"mehd", b"tfdt")
# EBML ids whose values decide sizes and times: PixelWidth, PixelHeight, TimestampScale, Duration,
# SamplingFrequency, Channels, DefaultDuration.
_EBML = (b"\xb0", b"\xba", b"\x2a\xd7\xb1", b"\x44\x89", b"\xb5", b"\x9f", b"\x23\xe3\x83")


@dataclass(frozen=True)
class Box:
    """An MP4 box: `data[start : stop]`, 8 bytes of size and kind first."""

    kind: bytes
    start: int
    stop: int
    depth: int


def boxes(data: bytes, start: int = 0, stop: int | None = None, depth: int = 0) -> list[Box]:
    """The boxes of an MP4, depth first; [] where the data is none."""
    found: list[Box] = []
    stop = len(data) if stop is None else stop
    while start + 8 <= stop:
        size, kind = struct.unpack_from(">I4s", data, start)
        if size < 8 or start + size > stop or not kind.isalnum():
            break
        found.append(Box(kind, start, start + size, depth))
        if kind in _CONTAINERS:
            found += boxes(data, start + 8, start + size, depth + 1)
        start += size
    return found


def mutations(data: bytes, rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """(name, mutated file) without end: every kind that the container knows in turn, each time at other
    places. The same data and generator give the same files."""
    kinds: list[Callable[[bytearray, random.Random], str]] = list(_ANY)
    if any(box.kind == b"moov" for box in boxes(data)):
        kinds += _MP4
    if data.startswith(b"\x1a\x45\xdf\xa3"):
        kinds += [_lying_elements] * 4
    while True:
        for mutate in rng.sample(kinds, len(kinds)):
            mutant = bytearray(data)
            yield mutate(mutant, rng), bytes(mutant)


# --- any container ---------------------------------------------------------------------------------------


def _bit_flips(data: bytearray, rng: random.Random) -> str:
    count = rng.choice((1, 8, 64, 512))
    for place in rng.choices(range(len(data)), k=count):
        data[place] ^= 1 << rng.randrange(8)
    return f"{count} bits flipped"


def _header_noise(data: bytearray, rng: random.Random) -> str:
    first, stop = _header_span(data)
    count = rng.choice((4, 32, 256))
    for place in rng.choices(range(first, stop), k=count):
        data[place] = rng.randrange(256)
    return f"{count} bytes of noise in the header"


def _header_numbers(data: bytearray, rng: random.Random) -> str:
    first, stop = _header_span(data)
    value, order = rng.choice(_EXTREMES), rng.choice("<>")
    for _ in range(rng.choice((1, 4))):
        struct.pack_into(f"{order}I", data, rng.randrange(first, stop - 4), value)
    return f"a number in the header is {value}"


def _cut(data: bytearray, rng: random.Random) -> str:
    kept = rng.randrange(1, len(data))
    del data[kept:]
    return f"cut after {kept} bytes"


def _hole(data: bytearray, rng: random.Random) -> str:
    size = rng.randrange(1, max(2, len(data) // 4))
    place = rng.randrange(len(data) - size)
    data[place : place + size] = bytes(size)
    return f"{size} bytes of zeros at {place}"


def _swapped_parts(data: bytearray, rng: random.Random) -> str:
    size = rng.randrange(1, max(2, len(data) // 8))
    a, b = sorted(rng.randrange(len(data) - size) for _ in range(2))
    b = max(b, min(a + size, len(data) - size))
    data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]
    return f"{size} bytes at {a} and {b} swapped"


def _repeated_part(data: bytearray, rng: random.Random) -> str:
    size = rng.randrange(1, max(2, len(data) // 8))
    place = rng.randrange(len(data) - size)
    data[place:place] = data[place : place + size]
    return f"{size} bytes at {place} repeated"


def _header_span(data: bytearray) -> tuple[int, int]:
    moov = next((box for box in boxes(data) if box.kind == b"moov"), None)
    first, stop = (0, len(data)) if moov is None else (moov.start, moov.stop)
    return first, min(stop, first + _HEADER)


# --- MP4 and MOV -----------------------------------------------------------------------------------------


def _box_size(data: bytearray, rng: random.Random) -> str:
    box = rng.choice(boxes(data))
    size = rng.choice((0, 1, 7, 8, box.stop - box.start + 1, 2 * (box.stop - box.start), *_EXTREMES[-4:]))
    struct.pack_into(">I", data, box.start, size)
    return f"the size of {_name(box)} is {size}"


def _swapped_boxes(data: bytearray, rng: random.Random) -> str:
    found = boxes(data)
    a = rng.choice(found)
    apart = [box for box in found if box.stop <= a.start or box.start >= a.stop]
    if not apart:
        return _box_size(data, rng)
    first, second = sorted((a, rng.choice(apart)), key=lambda box: box.start)
    parts = data[: first.start], data[first.start : first.stop], data[first.stop : second.start]
    data[:] = parts[0] + data[second.start : second.stop] + parts[2] + parts[1] + data[second.stop :]
    return f"{_name(first)} and {_name(second)} swapped"


def _table_numbers(data: bytearray, rng: random.Random) -> str:
    return _absurd_words(data, rng, _TABLES)


def _clock_numbers(data: bytearray, rng: random.Random) -> str:
    return _absurd_words(data, rng, _CLOCKS)


def _absurd_words(data: bytearray, rng: random.Random, kinds: tuple[bytes, ...]) -> str:
    held = [box for box in boxes(data) if box.kind in kinds and box.stop - box.start >= 16]
    if not held:
        return _box_size(data, rng)
    box, value = rng.choice(held), rng.choice(_EXTREMES)
    words = range(box.start + 12, box.stop - 3, 4)
    # The first few words of a table are its counts and scales.
    for place in {rng.choice(words[:6]), *rng.choices(words, k=rng.choice((0, 2)))}:
        struct.pack_into(">I", data, place, value)
    return f"a number in {_name(box)} is {value}"


def _lying_picture(data: bytearray, rng: random.Random) -> str:
    width, height = rng.choice(((65535, 65535), (8192, 8192), (16384, 2), (1, 1), (0, 0), (7, 65535)))
    for entry in _sample_entries(data, b"avc1 hev1 hvc1 av01 vp09 mp4v encv s263"):
        struct.pack_into(">HH", data, entry + 32, width, height)
    return f"the header claims pictures of {width} x {height}"


def _lying_sound(data: bytearray, rng: random.Random) -> str:
    channels, bits, rate = (rng.choice(values) for values in ((0, 1, 255, 65535), (0, 8), (0, 1, 65535)))
    for entry in _sample_entries(data, b"mp4a enca samr sowt twos lpcm"):
        struct.pack_into(">HH", data, entry + 24, channels, bits)
        struct.pack_into(">H", data, entry + 32, rate)
    return f"the header claims sound of {channels} channels, {bits} bits, {rate} Hz"


def _lying_time_scale(data: bytearray, rng: random.Random) -> str:
    scale = rng.choice((0, 1, 3, BILLION, 0xFFFFFFFF))
    for box in boxes(data):
        if box.kind in (b"mdhd", b"mvhd") and box.stop - box.start >= 24:
            struct.pack_into(">I", data, box.start + 20, scale)
    return f"every time scale is {scale}"


def _stretched(data: bytearray, rng: random.Random) -> str:
    steps = rng.choice((0, 0x7FFFFFFF, 0xFFFFFFFF))
    for box in boxes(data):
        if box.kind == b"stts":
            for place in range(box.start + 20, box.stop - 3, 8):
                struct.pack_into(">I", data, place, steps)
    return f"every frame and sample lasts {steps} ticks"


def _billion_frames(data: bytearray, rng: random.Random) -> str:
    """One chunk that holds 10^9 samples of one size: FFmpeg's index of them would take 24 GB."""
    size, step = rng.choice((1, 100)), rng.choice((1, 512))
    for box in boxes(data):
        content = {
            b"stts": struct.pack(">III", 1, BILLION, step),
            b"stsz": struct.pack(">II", size, BILLION),
            b"stsc": struct.pack(">IIII", 1, 1, BILLION, 1),
        }.get(box.kind, b"")
        if content and box.start + 12 + len(content) <= box.stop:
            data[box.start + 12 : box.start + 12 + len(content)] = content
    return f"10^9 frames of {size} bytes, {step} ticks each"


def _codec_set_up(data: bytearray, rng: random.Random) -> str:
    entries = [box for box in boxes(data) if box.kind == b"stsd"]
    if not entries:
        return _box_size(data, rng)
    box = rng.choice(entries)
    for place in rng.choices(range(box.start + 16, box.stop), k=rng.choice((1, 4, 16))):
        data[place] = rng.randrange(256)
    return f"the codec's set-up in {_name(box)} is damaged"


def _sample_entries(data: bytearray, kinds: bytes) -> Iterator[int]:
    """Where sample entries of these kinds begin inside the stsd boxes."""
    for box in boxes(data):
        if box.kind == b"stsd" and bytes(data[box.start + 20 : box.start + 24]) in kinds.split():
            yield box.start + 16


def _name(box: Box) -> str:
    return f"{box.kind.decode('ascii', 'replace')} at {box.start}"


# --- Matroska --------------------------------------------------------------------------------------------


def _lying_elements(data: bytearray, rng: random.Random) -> str:
    """Overwrites the values of one kind of element: the id, a length of 1 to 8 bytes, then the value."""
    first, stop = _header_span(data)
    identity = rng.choice(_EBML)
    fill = rng.choice((0x00, 0x01, 0x7F, 0xFF))
    place = data.find(identity, first, stop)
    while place != -1:
        size = data[place + len(identity)] & 0x7F
        if 1 <= size <= 8:
            begin = place + len(identity) + 1
            data[begin : begin + size] = bytes([fill]) * size
        place = data.find(identity, place + 1, stop)
    return f"the values of element {identity.hex()} are {fill:02x}"


_ANY = [_bit_flips, _header_noise, _header_numbers, _cut, _hole, _swapped_parts, _repeated_part]
_MP4 = [
    _box_size,
    _swapped_boxes,
    _table_numbers,
    _table_numbers,
    _clock_numbers,
    _lying_picture,
    _lying_sound,
    _lying_time_scale,
    _stretched,
    _billion_frames,
    _codec_set_up,
]
