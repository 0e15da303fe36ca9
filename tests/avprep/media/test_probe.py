from __future__ import annotations

import errno
import os

import pytest

from avprep.media.limits import Deadline
from avprep.media.probe import probe
from avprep.reasons import MediaError, Reason
from tests.avprep.media.flash_click import write_flash_click
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
    assert (header.width, header.height) == (320, 180)
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
