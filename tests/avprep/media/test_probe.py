from __future__ import annotations

import errno
import os
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.packet import Packet
from av.stream import Disposition

from avprep.media.limits import Deadline
from avprep.media.probe import probe
from avprep.media.source import open_source
from avprep.reasons import MediaError, Reason
from tests.avprep.media.flash_click import write_flash_click
from tests.avprep.media.test_pictures import stream
from tests.conftest import shared_file


def reason_of(path) -> MediaError:
    with pytest.raises(MediaError) as caught:
        probe(path)
    return caught.value


@pytest.mark.parametrize("form", ["hls", "concat", "dash", "sdp"])
def test_a_playlist_named_mp4_is_refused_without_opening_what_it_points_at(form, tmp_path):
    target = write_flash_click(tmp_path / "target.mp4").path
    text = {
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n{target}\n#EXT-X-ENDLIST\n",
        "concat": f"ffconcat version 1.0\nfile '{target}'\n",
        "dash": f"<?xml version='1.0'?><MPD><Period><BaseURL>{target}</BaseURL></Period></MPD>",
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
    }[form]
    evil = tmp_path / "evil.mp4"
    evil.write_text(text)
    os.utime(target, ns=(10**18, 10**18))
    before = os.stat(target).st_atime_ns
    error = reason_of(evil)
    assert error.reason is Reason.NOT_MEDIA
    assert "without following it" in error.detail
    assert os.stat(target).st_atime_ns == before


def test_an_empty_a_missing_and_an_irregular_file_say_what_they_are(tmp_path):
    (tmp_path / "empty.mp4").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe.mp4")
    assert reason_of(tmp_path / "empty.mp4").detail == "the file is empty (0 bytes)"
    assert reason_of(tmp_path / "gone.mp4").reason is Reason.MISSING
    assert reason_of(tmp_path / "pipe.mp4").reason is Reason.UNREADABLE
    assert reason_of(tmp_path).reason is Reason.UNREADABLE


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("zero_bytes.webm", Reason.NOT_MEDIA),
        ("audio_only.mp4", Reason.NO_VIDEO),
        ("encrypted_clearkey.mp4", Reason.NOT_MEDIA),
        ("trunc_nomoov_nasa.mp4", Reason.NOT_MEDIA),
    ],
)
def test_real_broken_files(name, reason):
    assert reason_of(shared_file("media", name)).reason is reason


def test_the_streams_that_a_player_chooses():
    header = probe(shared_file("media", "nasa_2v_audio.mp4"))
    assert (header.width, header.height, header.fps) == (320, 180, 25.0)
    header = probe(shared_file("media", "attached_pic.mp4"))
    assert (header.width, header.height, header.video_codec) == (640, 360, "h264")


def test_the_deadline_passes():
    Deadline(None).check()
    Deadline(60).check()
    with pytest.raises(MediaError) as caught:
        Deadline(-1).check()
    assert caught.value.reason is Reason.TIMEOUT


def test_time_that_was_not_the_sources_is_left_out():
    deadline = Deadline(-1)
    deadline.extend(60)
    deadline.check()


def test_a_file_that_cannot_be_read_while_it_is_open_is_its_own_failure(tmp_path, monkeypatch):
    """A bad sector, or a file that goes between two looks at it."""
    path = tmp_path / "bad.mp4"
    path.write_bytes(b"no media" * 100)

    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr("builtins.open", fail)
    error = reason_of(path)
    assert error.reason is Reason.UNREADABLE and "Input/output error" in error.detail


# --- where pictures begin and end ------------------------------------------------------------------------


def write_numbered(
    path: Path, codec: str, packets: list[Packet], *, begin_s: int = 0, **options: str
) -> Path:
    """Packets of `stream` at 25 fps from a second on, in the container of the suffix."""
    with av.open(str(path), "w", options=options) as container:
        out = container.add_stream(codec, rate=25)
        out.width, out.height, out.pix_fmt = 64, 64, "yuv420p"
        for packet in packets:
            packet.stream, packet.time_base = out, Fraction(1, 25)
            packet.pts, packet.dts = packet.pts + 25 * begin_s, packet.dts + 25 * begin_s
            container.mux(packet)
    return path


def extent_s(path: Path) -> tuple[float, float]:
    (part,) = probe(path).parts
    return float(part.start_s), float(part.stop_s)


@pytest.mark.parametrize("begin_s", [0, 36000])
@pytest.mark.parametrize(
    ("suffix", "codec", "reorder"),
    [
        (".mp4", "h264", 3),
        (".mov", "mpeg4", 0),
        (".mkv", "h264", 3),
        (".mkv", "mpeg4", 0),
        (".ts", "h264", 3),
        (".ts", "mpeg2video", 2),
        (".nut", "mpeg4", 2),
        (".mpg", "mpeg2video", 2),
        (".avi", "mpeg4", 0),
        (".avi", "h264", 2),
        (".wmv", "mpeg4", 0),
        (".flv", "h264", 2),
    ],
)
def test_pictures_last_from_the_first_to_the_end_of_the_last(suffix, codec, reorder, begin_s, tmp_path):
    """In .mpg many packets have no stamp of their own, and FFmpeg's guesses lose two pictures' time."""
    begin_s = begin_s if suffix not in (".avi", ".wmv") else 0
    path = write_numbered(tmp_path / f"a{suffix}", codec, stream(codec, reorder=reorder), begin_s=begin_s)
    assert extent_s(path) == pytest.approx((0, 4), abs=0.081 if suffix == ".mpg" else 0.0021)


@pytest.mark.parametrize(
    ("suffix", "codec", "begin_s"),
    [
        (".mp4", "h264", 0),
        (".mp4", "mpeg4", 7),
        (".mkv", "mpeg4", 0),
        (".mkv", "mpeg4", 7),
    ],
)
def test_a_file_that_is_cut_off_lasts_as_long_as_its_header_says(suffix, codec, begin_s, tmp_path):
    """So that the clips that are missing are planned, and told."""
    options = {"movflags": "faststart"} if suffix == ".mp4" else {}
    packets = stream(codec, 100, reorder=0)
    path = write_numbered(tmp_path / f"a{suffix}", codec, packets, begin_s=begin_s, **options)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    assert extent_s(path) == pytest.approx((0, 4), abs=0.05)


def test_a_file_of_packets_far_apart_is_refused(tmp_path):
    packets = stream("mpeg4", 50, reorder=0)
    for packet in packets[40:]:
        packet.pts, packet.dts = packet.pts + 25 * 90_000, packet.dts + 25 * 90_000
    error = reason_of(write_numbered(tmp_path / "days.mkv", "mpeg4", packets))
    assert error.reason is Reason.BAD_HEADER and "24 h" in error.detail


@pytest.mark.parametrize(("suffix", "codec"), [(".ts", "mpeg2video"), (".mkv", "h264")])
def test_pictures_begin_with_the_first_that_can_be_decoded(suffix, codec, tmp_path):
    """A recording that begins between two keyframes; the other packets' time is the container's start."""
    packets = stream(codec, reorder=0, gop=12)[5:]
    begin_s, stop_s = extent_s(write_numbered(tmp_path / f"a{suffix}", codec, packets))
    assert (begin_s, stop_s) == pytest.approx((7 / 25, 95 / 25), abs=0.002)


def test_joined_recordings_are_parts(tmp_path):
    files = [write_numbered(tmp_path / f"{i}.ts", "h264", stream(count=n)) for i, n in enumerate((100, 50))]
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(file.read_bytes() for file in files))
    parts = [(float(part.start_s), float(part.stop_s)) for part in probe(joined).parts]
    assert parts == [(0, 4), (4, 6)]


def test_a_longer_sound_lengthens_no_pictures(tmp_path):
    """The header's duration is the sound's; the file is whole."""
    path = tmp_path / "music.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        audio = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        for packet in stream("mpeg4", 50, reorder=0):
            packet.stream, packet.time_base = video, Fraction(1, 25)
            container.mux(packet)
        for second in range(8):
            samples = Packet(16000)
            samples.pts = samples.dts = 8000 * second
            samples.stream, samples.time_base, samples.duration = audio, Fraction(1, 8000), 8000
            container.mux(samples)
    assert extent_s(path) == pytest.approx((0, 2), abs=0.0021)


def test_pictures_that_cannot_be_decoded_begin_with_their_first_packet(tmp_path):
    packets = stream("mpeg4", 50, reorder=0)
    for packet in packets:
        packet.update(b"\xff" * packet.size)
    junk = write_numbered(tmp_path / "junk.mkv", "mpeg4", packets)
    assert extent_s(junk) == pytest.approx((0, 2), abs=0.0021)


def test_a_picture_of_one_pixel_is_no_video(tmp_path):
    with av.open(str(tmp_path / "dot.mkv"), "w") as container:
        video = container.add_stream("ffv1", rate=25)
        video.width, video.height, video.pix_fmt = 1, 1, "gray"
        frame = av.VideoFrame.from_ndarray(np.zeros((1, 1), np.uint8), format="gray")
        container.mux([*video.encode(frame), *video.encode(None)])
    error = reason_of(tmp_path / "dot.mkv")
    assert error.reason is Reason.BAD_HEADER and "1 x 1 pixels" in error.detail


@pytest.mark.parametrize("default", [0, 1])
def test_the_sound_is_the_one_that_is_marked_default(default, tmp_path):
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        sounds = [container.add_stream("pcm_s16le", rate=rate, layout="mono") for rate in (8000, 16000)]
        for number, sound in enumerate(sounds):
            sound.disposition = Disposition.default if number == default else Disposition(0)
        for packet in stream("mpeg4", 50, reorder=0):
            packet.stream, packet.time_base = video, Fraction(1, 25)
            container.mux(packet)
    with open_source(path) as source:
        assert source.audio.rate == (8000, 16000)[default]


@pytest.mark.parametrize(("suffix", "can_seek"), [(".mp4", True), (".nut", False), (".ts", False)])
def test_only_containers_that_lead_where_they_are_asked_to_are_asked(suffix, can_seek, tmp_path):
    path = write_numbered(tmp_path / f"a{suffix}", "h264", stream(count=300, gop=12))
    with open_source(path) as source:
        assert source.can_seek is can_seek


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs the ffmpeg command to make the file")
def test_channels_in_an_order_of_the_files_own_are_given_names(tmp_path):
    """PyAV frees such a layout twice where it is left as it is: the process ends."""
    path = tmp_path / "pcm71.mov"
    inputs = ["-f", "lavfi", "-i", "testsrc2=s=64x64:r=25:d=1", "-f", "lavfi", "-i", "sine=440:r=48000:d=1"]
    codecs = ["-ac", "8", "-c:v", "mpeg4", "-c:a", "pcm_s16le"]
    subprocess.run(["ffmpeg", "-v", "error", "-nostdin", *inputs, *codecs, path], check=True)
    with open_source(path) as source:
        assert source.audio.codec_context.layout.name == "7.1"
