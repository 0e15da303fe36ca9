"""Hostile media: files that name other files, claim too much, are something else, or are damaged."""

from __future__ import annotations

import gzip
import io
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tests.avprep.media.mutate import mutations

_MUTANTS = 40
_CONTAINERS = {b"moov", b"trak", b"mdia", b"minf", b"dinf"}

# --- a movie that keeps its samples in another file ---------------------------------------------------------


def _boxes(data: bytes) -> list[tuple[bytes, bytes]]:
    """(type, payload) of each box of MP4."""
    found, at = [], 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        found.append((kind, data[at + 8 : at + size]))
        at += size
    return found


def _box(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(payload), kind) + payload


def with_reference(data: bytes, entry: bytes) -> bytes:
    """The movie with `entry` as the data reference of every track. Its own samples are wiped: where pictures
    come out, they are the other file's. The index lies behind the samples, so that no offset changes."""
    changed = []
    for kind, payload in _boxes(data):
        if kind == b"mdat":
            payload = bytes(len(payload))
        elif kind in _CONTAINERS:
            payload = with_reference(payload, entry)
        elif kind == b"dref":
            payload = struct.pack(">II", 0, 1) + entry
        changed.append(_box(kind, payload))
    return b"".join(changed)


def url_entry(location: str) -> bytes:
    """'url ', as ISO 14496-12 has it: not in this file (flags 0), but there."""
    return _box(b"url ", struct.pack(">I", 0) + location.encode() + b"\0")


def alias_entry(path: Path) -> bytes:
    """'alis', as QuickTime writes it: the record of an alias, with the absolute path (type 18)."""
    name = path.name.encode()[:27]
    text = str(path).encode()
    record = bytearray(150)
    record[10:11] = bytes([len("disk")])
    record[11:15] = b"disk"
    record[50:51] = bytes([len(name)])
    record[51 : 51 + len(name)] = name
    record[130:134] = struct.pack(">HH", 1, 1)  # levels from and to
    tail = struct.pack(">HH", 2, len(text)) + text + b"\0" * (len(text) % 2)
    tail += struct.pack(">HH", 18, len(text)) + text + b"\0" * (len(text) % 2)
    return _box(b"alis", struct.pack(">I", 0) + bytes(record) + tail + struct.pack(">hH", -1, 0))


# --- the corpus ------------------------------------------------------------------------------------------


def references(other: Path) -> dict[str, bytes]:
    """Files that ask for another file, a sound movie at `other`, by every way that a demuxer knows."""
    movie, url = other.read_bytes(), other.as_uri()
    entries = {
        "url": url_entry(url),
        "plain": url_entry(str(other)),
        "relative": url_entry(f"../{other.parent.name}/{other.name}"),
        "alis": alias_entry(other),
        "http": url_entry("http://127.0.0.1:9/a.mov"),
    }
    return {f"dref_{name}.mov": with_reference(movie, entry) for name, entry in entries.items()} | {
        "hls.ts": f"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n{url}\n#EXT-X-ENDLIST\n".encode(),
        "hls.mp4": f"#EXTM3U\n#EXTINF:4,\n{other}\n#EXT-X-ENDLIST\n".encode(),
        "hls_key.ts": f'#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI="{url}"\n#EXTINF:4,\n{url}\n'.encode(),
        "concat.mp4": f"ffconcat version 1.0\nfile '{other}'\n".encode(),
        "concat.mkv": f"ffconcat version 1.0\nfile {url}\n".encode(),
        "dash.mp4": f'<?xml version="1.0"?><MPD><Period><BaseURL>{url}</BaseURL></Period></MPD>'.encode(),
        "sdp.mp4": b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        "smil.mp4": f'<smil><body><video src="{url}"/></body></smil>'.encode(),
        "asx.wmv": f'<asx><entry><ref href="{url}"/></entry></asx>'.encode(),
        "pls.avi": f"[playlist]\nFile1={url}\nNumberOfEntries=1\n".encode(),
        "avisynth.avi": f'AviSource("{other}")\n'.encode(),
        "rtsp.mov": b"rtsptext\r\nrtsp://127.0.0.1:9/a\r\n",
        "imf.mp4": f"<?xml?><CompositionPlaylist><Path>{url}</Path></CompositionPlaylist>".encode(),
        "cue.mkv": f'FILE "{other}" WAVE\n  TRACK 01 AUDIO\n'.encode(),
        "url.mp4": f"[InternetShortcut]\nURL={url}\n".encode(),
    }  # fmt: skip


def _png(size: int = 16) -> bytes:
    Image.fromarray(np.zeros((size, size, 3), np.uint8)).save(file := io.BytesIO(), "PNG")
    return file.getvalue()


def _zip() -> bytes:
    with zipfile.ZipFile(file := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.mp4", bytes(10 << 20))
    return file.getvalue()


def _moov(change: Callable[[bytearray, int], None], kind: bytes) -> Callable[[bytes], bytes]:
    """The movie with a change behind the first box of that type."""

    def changed(movie: bytes) -> bytes:
        data = bytearray(movie)
        change(data, data.index(kind) + 4)
        return bytes(data)

    return changed


def _put(offset: int, value: bytes) -> Callable[[bytearray, int], None]:
    def change(data: bytearray, at: int) -> None:
        data[at + offset : at + offset + len(value)] = value

    return change


_MOST = b"\x7f\xff\xff\xff"
CLAIMS: dict[str, Callable[[bytes], bytes]] = {
    "stsz_2_billion_samples.mp4": _moov(_put(8, _MOST), b"stsz"),
    "stts_2_billion_entries.mp4": _moov(_put(4, _MOST), b"stts"),
    "stts_2_billion_samples.mp4": _moov(_put(8, _MOST), b"stts"),
    "stco_2_billion_chunks.mp4": _moov(_put(4, _MOST), b"stco"),
    "stsc_2_billion_chunks.mp4": _moov(_put(4, _MOST), b"stsc"),
    "timescale_0.mp4": _moov(_put(12, b"\0\0\0\0"), b"mdhd"),
    "timescale_4_billion.mp4": _moov(_put(12, b"\xff\xff\xff\xff"), b"mdhd"),
    "duration_4_billion.mp4": _moov(_put(16, b"\xff\xff\xff\xff"), b"mdhd"),
    "65535_x_65535.mp4": _moov(_put(24, b"\xff\xff\xff\xff"), b"avc1"),
    "a_box_of_4_gb.mp4": lambda movie: struct.pack(">I4s", 0xFFFFFFFF, b"free") + movie,
    "a_box_of_2_to_63.mp4": lambda movie: struct.pack(">I4sQ", 1, b"moov", 2**63 - 1) + movie,
    "boxes_in_boxes.mp4": lambda movie: movie[:32] + _nested(3000),
    "a_million_boxes.mp4": lambda movie: movie[:32] + _box(b"moov", _box(b"trak", b"") * 1_000_000),
    "twice.mp4": lambda movie: movie + movie,
    "index_alone.mp4": lambda movie: b"".join(_box(k, p) for k, p in _boxes(movie) if k != b"mdat"),
    "samples_alone.mp4": lambda movie: b"".join(_box(k, p) for k, p in _boxes(movie) if k != b"moov"),
}


def _nested(depth: int) -> bytes:
    data = b""
    for _ in range(depth):
        data = _box(b"moov", data)
    return data


OTHERS: dict[str, Callable[[], bytes]] = {
    "empty.mp4": lambda: b"",
    "one_byte.mkv": lambda: b"\0",
    "zeros.mp4": lambda: bytes(1 << 20),
    "noise.ts": lambda: random.Random(0).randbytes(1 << 20),
    "noise.mpg": lambda: random.Random(1).randbytes(1 << 18),
    "sync_bytes.ts": lambda: (b"\x47" + bytes(187)) * 5000,
    "start_codes.h264": lambda: b"\0\0\1\x67" * 50_000,
    "text.mp4": lambda: b"#!/bin/sh\ntouch /tmp/owned\n",
    "html.mp4": lambda: b"<html><body>404</body></html>",
    "zip.mp4": _zip,
    "gzip.mkv": lambda: gzip.compress(bytes(10 << 20)),
    "png.mp4": _png,
    "svg.mp4": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "subtitles.mkv": lambda: b"1\n00:00:00,000 --> 00:00:09,000\nhello\n" * 1000,
    "ebml_of_2_to_56.mkv": lambda: b"\x1a\x45\xdf\xa3\x01\xff\xff\xff\xff\xff\xff\xfe" + bytes(1000),
    "riff_of_4_gb.avi": lambda: b"RIFF\xff\xff\xff\xffAVI LIST\xff\xff\xff\xffhdrl" + bytes(1000),
    "ogg_pages.ogv": lambda: (b"OggS\0\2" + bytes(20) + b"\xff" + b"\xff" * 255) * 200,
    "flv_of_16_mb_tags.flv": lambda: b"FLV\1\5\0\0\0\x09\0\0\0\0" + b"\x09\xff\xff\xff" * 1000,
    "asf.wmv": lambda: bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c") + b"\xff" * 2000,
    "gif.mp4": lambda: b"GIF89a\xff\xff\xff\xff\xf7\0\0" + bytes(3000),
    "y4m.mp4": lambda: b"YUV4MPEG2 W99999 H99999 F1:1\nFRAME\n" + bytes(1000),
    "ivf_65535.ivf": lambda: b"DKIF\0\0 \0VP80\xff\xff\xff\xff" + b"\xff" * 3000,
}


def damaged(movie: bytes) -> dict[str, bytes]:
    """Mutants: cut off, bits flipped, pieces moved, doubled or wiped."""
    endless = mutations(movie, random.Random(0))
    return {f"mutant_{i:02d}.mp4": next(endless)[1] for i in range(_MUTANTS)}


def corpus(other: Path) -> dict[str, bytes]:
    """All of it: the name of each file and its bytes."""
    movie = other.read_bytes()
    claims = {name: change(movie) for name, change in CLAIMS.items()}
    return references(other) | claims | {name: make() for name, make in OTHERS.items()} | damaged(movie)
