from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avprep.media.aperture import Aperture, read_aperture

WIDTH, HEIGHT = 64, 48
CLAP = (40, 1, 30, 1, -2, 1, 3, 1)  # 40 x 30 pixels, their centre 2 to the left and 3 below the picture's
CUT = Aperture(left=10, top=12, right=14, bottom=6)


def write_movie(path: Path, *, videos: int = 1) -> bytes:
    """Three pictures per track, stored in the order in which they are shown."""
    with av.open(str(path), "w") as out:
        streams = [out.add_stream("libx264", rate=25, options={"bf": "0"}) for _ in range(videos)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for stream in streams:
            for _ in range(3):
                frame = av.VideoFrame.from_ndarray(np.full((HEIGHT, WIDTH, 3), 90, np.uint8))
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
    return path.read_bytes()


def boxed(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


def with_clap(movie: bytes, numbers: tuple[int, ...], track: int = 0) -> bytes:
    """The movie (its moov at the end), with a clap box in the sample entry of its `track`-th track."""
    data = bytearray(movie)
    at = data.rindex(b"moov")
    parents = [at]
    for _ in range(track):
        at = data.index(b"trak", at) + 4
    for kind in (b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"avc1"):
        at = data.index(kind, at)
        parents.append(at)
    end = at - 4 + struct.unpack_from(">I", data, at - 4)[0]
    clap = boxed(b"clap", struct.pack(">8i", *numbers))
    for parent in parents:
        struct.pack_into(">I", data, parent - 4, struct.unpack_from(">I", data, parent - 4)[0] + len(clap))
    data[end:end] = clap
    return bytes(data)


@pytest.fixture(scope="module")
def movie(tmp_path_factory) -> bytes:
    return write_movie(tmp_path_factory.mktemp("movie") / "plain.mp4")


def read(tmp_path: Path, data: bytes, stream_id: int = 1, stream_index: int = 0) -> Aperture | None:
    path = tmp_path / "file"
    path.write_bytes(data)
    return read_aperture(path, stream_id=stream_id, stream_index=stream_index)


def remuxed_by_ffmpeg(tmp_path: Path, data: bytes, suffix: str) -> Path:
    """FFmpeg reads a file's crop and writes it into another container."""
    source, out = tmp_path / "source", tmp_path / f"remuxed.{suffix}"
    source.write_bytes(data)
    with av.open(str(source)) as reader, av.open(str(out), "w") as writer:
        stream = writer.add_stream_from_template(reader.streams.video[0], opaque=True)
        for packet in reader.demux(video=0):
            if packet.size:
                packet.stream = stream
                writer.mux(packet)
    return out


def test_clap_says_what_is_cut_off(tmp_path, movie):
    assert read(tmp_path, movie) is None
    assert read(tmp_path, with_clap(movie, CLAP)) == CUT


@pytest.mark.parametrize(
    ("numbers", "cut"),
    [
        ((63, 1, 47, 1, 0, 1, 0, 1), (0, 0, 1, 1)),  # half a pixel on each side: the far one
        ((63, 1, 47, 1, 1, 2, -1, 2), (1, 0, 0, 1)),
        ((401, 10, 303, 10, 1, 3, -1, 3), (12, 8, 12, 10)),
        ((2, 1, 2, 1, -31, 1, 23, 1), (0, 46, 62, 0)),  # in a corner
    ],
)
def test_fractions_are_rounded_as_ffmpeg_rounds_them(tmp_path, movie, numbers, cut):
    data = with_clap(movie, numbers)
    assert read(tmp_path, data) == Aperture(*cut)
    written = remuxed_by_ffmpeg(tmp_path, data, "mkv")  # with FFmpeg's own PixelCrop
    assert read_aperture(written, stream_id=0, stream_index=0) == Aperture(*cut)


@pytest.mark.parametrize(
    "numbers",
    [
        (64, 1, 48, 1, 0, 1, 0, 1),  # the whole picture
        (129, 2, 30, 1, 0, 1, 0, 1),  # half a pixel more than the picture, which FFmpeg refuses
        (40, 1, 30, 1, 13, 1, 0, 1),  # out at the right by one
        (40, 1, 30, 1, 0, 1, -10, 1),
        (40, 0, 30, 1, 0, 1, 0, 1),
        (40, -1, 30, 1, 0, 1, 0, 1),
        (-40, -1, 30, 1, 0, 1, 0, 1),
        (0, 1, 30, 1, 0, 1, 0, 1),
    ],
)
def test_a_clap_of_nothing_or_of_more_than_the_picture_is_ignored(tmp_path, movie, numbers):
    assert read(tmp_path, with_clap(movie, numbers)) is None


def test_the_track_is_found_by_its_id(tmp_path):
    data = with_clap(write_movie(tmp_path / "two.mp4", videos=2), CLAP, track=1)
    with av.open(str(tmp_path / "two.mp4")) as container:
        ids = [stream.id for stream in container.streams.video]
    assert [read(tmp_path, data, stream_id=i) for i in ids] == [None, CUT]
    assert read(tmp_path, data, stream_id=77) is None


def test_the_index_may_lie_anywhere_and_be_long(tmp_path, movie):
    data = with_clap(movie, CLAP)
    at = data.rindex(b"moov") - 4
    moov, rest = data[at:], data[:at]
    assert read(tmp_path, moov + rest) == CUT
    long = struct.pack(">I4sQ", 1, b"moov", len(moov) + 8) + moov[8:]
    assert read(tmp_path, rest + long) == CUT
    assert read(tmp_path, rest + struct.pack(">I4s", 0, b"moov") + moov[8:]) == CUT  # to the end of the file


def test_a_track_header_of_64_bit_times_is_read(tmp_path, movie):
    data = bytearray(with_clap(movie, CLAP))
    at = data.rindex(b"tkhd") + 4
    data[at] = 1
    data[at + 12 : at + 24] = data[at + 4 : at + 12] + struct.pack(">I", 1)
    struct.pack_into(">I", data, at + 20, 9)  # where version 1 keeps the ID
    assert read(tmp_path, bytes(data), stream_id=9) == CUT


# Matroska, written by hand: RFC 8794 and RFC 9559.


def element(kind: int, content: bytes, *, size: bytes | None = None) -> bytes:
    if size is None:
        size = (len(content) | 1 << 56).to_bytes(8, "big")
    return kind.to_bytes((kind.bit_length() + 7) // 8, "big") + size + content


def number(kind: int, value: int) -> bytes:
    return element(kind, value.to_bytes(2, "big"))


def track(kind: int, *, crop: dict[int, int] | None = None, codec: bytes = b"V_VP8") -> bytes:
    video = element(0xE0, b"".join(number(k, v) for k, v in (crop or {}).items())) if kind == 1 else b""
    name = element(0x86, codec) if codec else b""
    return element(0xAE, number(0x83, kind) + name + video)


CROP = {0x54CC: 10, 0x54BB: 12, 0x54DD: 14, 0x54AA: 6}
HEAD = element(0x1A45DFA3, b"")


def matroska(*content: bytes, size: bytes | None = None) -> bytes:
    return HEAD + element(0x18538067, b"".join(content), size=size)


def tracks(*entries: bytes) -> bytes:
    return element(0x1654AE6B, b"".join(entries))


def test_pixel_crop_says_what_is_cut_off(tmp_path):
    assert read(tmp_path, matroska(tracks(track(1, crop=CROP)))) == CUT
    assert read(tmp_path, matroska(tracks(track(1, crop={0x54AA: 6})))) == Aperture(0, 0, 0, 6)
    assert read(tmp_path, matroska(tracks(track(1)))) is None
    assert read(tmp_path, matroska(tracks(track(1, crop={0x54AA: 0})))) is None


@pytest.mark.parametrize("size", [b"\xff", b"\x7f\xff", b"\x01" + b"\xff" * 7])
def test_a_live_segment_of_unknown_size_is_read(tmp_path, size):
    void = element(0xEC, bytes(20_000))
    assert read(tmp_path, matroska(void, tracks(track(1, crop=CROP)), size=size)) == CUT


def test_a_number_of_more_than_8_bytes_is_not_read(tmp_path):
    video = element(0xE0, element(0x54AA, bytes(8) + b"\x06"))
    entry = element(0xAE, number(0x83, 1) + element(0x86, b"V_VP8") + video)
    assert read(tmp_path, matroska(tracks(entry))) is None


def test_streams_are_counted_as_ffmpeg_counts_them(tmp_path):
    """Audio, subtitles and video are streams; buttons and tracks without a codec are none."""
    entries = track(2), track(18), track(17), track(1, codec=b""), track(1), track(1, crop=CROP)
    found = [read(tmp_path, matroska(tracks(*entries)), stream_index=i) for i in range(5)]
    assert found == [None, None, None, CUT, None]


def test_tracks_behind_the_clusters_are_found_through_the_seek_head(tmp_path):
    cluster = element(0x1F43B675, b"\xae" * 100)

    def seek_head(position: int) -> bytes:
        target = element(0x53AB, b"\x16\x54\xae\x6b") + number(0x53AC, position)
        other = element(0x53AB, b"\x15\x49\xa9\x66") + number(0x53AC, 0)
        return element(0x114D9B74, element(0x4DBB, other) + element(0x4DBB, target))

    before = len(seek_head(0)) + len(cluster)
    late = tracks(track(1, crop=CROP))
    assert read(tmp_path, matroska(seek_head(before), cluster, late)) == CUT
    assert read(tmp_path, matroska(seek_head(before + 1), cluster, late)) is None
    assert read(tmp_path, matroska(seek_head(60000), cluster, late)) is None
    assert read(tmp_path, matroska(cluster, late)) is None


@pytest.mark.skipif(shutil.which("mkvmerge") is None, reason="needs mkvmerge")
def test_a_file_of_mkvmerge_is_read(tmp_path, movie):
    plain, out = tmp_path / "plain.mp4", tmp_path / "out.mkv"
    plain.write_bytes(movie)
    command = ["mkvmerge", "-q", "-o", str(out), "--cropping", "0:10,12,14,6", str(plain)]
    subprocess.run(command, check=True, capture_output=True)
    assert read_aperture(out, stream_id=0, stream_index=0) == CUT
    # FFmpeg writes the same crop as a clap.
    as_mp4 = remuxed_by_ffmpeg(tmp_path, out.read_bytes(), "mp4")
    assert read_aperture(as_mp4, stream_id=1, stream_index=0) == CUT


@pytest.fixture(scope="module")
def hostile_path(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("hostile") / "file"


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_damage_gives_none_or_an_aperture_and_never_an_error(movie, hostile_path, data):
    whole = data.draw(
        st.sampled_from(
            [
                with_clap(movie, CLAP)[movie.rindex(b"moov") - 4 :],
                matroska(tracks(track(2), track(1, crop=CROP))),
            ]
        )
    )
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(whole) - 1))
        damaged[at] = data.draw(st.sampled_from((0, 1, 0x7F, 0x80, 0xFF)))
    hostile_path.write_bytes(damaged[: data.draw(st.integers(0, len(whole)))])
    for index in (0, 1):
        found = read_aperture(hostile_path, stream_id=1, stream_index=index)
        assert found is None or min(found.left, found.top, found.right, found.bottom) >= 0


def test_a_file_that_is_missing_or_empty_has_no_aperture(tmp_path):
    assert read(tmp_path, b"") is None
    assert read_aperture(tmp_path / "nowhere", stream_id=1, stream_index=0) is None
    assert read_aperture(tmp_path, stream_id=1, stream_index=0) is None


def test_a_track_without_a_sample_entry_has_no_aperture(tmp_path):
    table = boxed(b"minf", boxed(b"stbl", boxed(b"stsd", bytes(8))))
    trak = boxed(b"trak", boxed(b"tkhd", bytes(12) + b"\0\0\0\1" + bytes(68)) + boxed(b"mdia", table))
    assert read(tmp_path, boxed(b"moov", trak)) is None


def test_of_a_million_boxes_only_the_first_thousands_are_looked_at(tmp_path, monkeypatch):
    looked_at = []
    real = struct.unpack

    def counted(layout, content):
        looked_at.append(layout)
        return real(layout, content)

    monkeypatch.setattr("avprep.media.aperture.struct.unpack", counted)
    assert read(tmp_path, boxed(b"free", b"") * 1_000_000) is None
    assert len(looked_at) < 5000
    assert read(tmp_path, matroska(tracks(), b"\xec\x80" * 1_000_000)) is None


def test_an_aperture_cuts_no_less_than_nothing():
    with pytest.raises(ValueError, match="0 or more"):
        Aperture(-1, 0, 0, 0)
