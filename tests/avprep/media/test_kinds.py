"""Kinds of faults, each by files that are made here: the product against a plain decode, and against what is
drawn in the pictures and heard in the sound.

A file's pictures hold their numbers and its sound is noise that is found in time (see `matrix`). A recording
has numbers and noise of its own, so that a clip's recording is known from either.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import wave
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
import pytest
from av.packet import Packet
from scipy.signal import correlate, resample_poly

from avprep.media.decode import FailedClip, RawClip
from avprep.reasons import Reason
from avprep.spec import ClipSpec
from tests.avprep.media import matrix
from tests.avprep.media.against_reference import differences, product_clips, product_fitter
from tests.avprep.media.sequential import expected_clips

pytestmark = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs the ffmpeg command to make files")

SPEC = ClipSpec(size=32)
SIDE = 64  # pixels of a picture
FPS = 25
SECONDS = 5
LONG_S = 48
FAR = 10  # every so many clips of a long file: 14.4 s lie between two
_TICK_S = 0.0025  # containers round stamps to 1 ms, and sound begins within one
_RAW = ["-f", "rawvideo", "-pix_fmt", "gray", "-s", f"{SIDE}x{SIDE}"]
_SILENT = 1e-3  # the highest sample of what is no sound

X264 = "-c:v libx264 -preset ultrafast -crf 20 -pix_fmt yuv420p -b_strategy 0 -sc_threshold 0"
X265 = (
    "-c:v libx265 -preset ultrafast -crf 20 -pix_fmt yuv420p "
    "-x265-params log-level=none:pools=1:frame-threads=1"
)
MPEG2 = "-c:v mpeg2video -q:v 3 -pix_fmt yuv420p -sc_threshold 1000000000"
MPEG4 = "-c:v mpeg4 -q:v 3 -pix_fmt yuv420p -sc_threshold 1000000000"
VP8 = "-c:v libvpx -deadline realtime -cpu-used 8 -b:v 400k -pix_fmt yuv420p"
AAC, MP2, MP3, OPUS = "-c:a aac", "-c:a mp2", "-c:a libmp3lame -ar 44100", "-c:a libopus"
UNSKIPPED = "-avoid_negative_ts disabled"


@dataclass(frozen=True)
class Recording:
    """What is drawn and heard: pictures from number `first` on, and the noise of a seed."""

    first: int = 0
    seed: int = 1


A, B, C = Recording(), Recording(1000, 7), Recording(2000, 8)


class Studio:
    """Makes files in a folder, each once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made: dict[str, list[str]] = {}  # by the file's name, what it was made with

    def __call__(
        self,
        name: str,
        video: str = X264,
        audio: str = AAC,
        more: str = "",
        *,
        of: Recording = A,
        seconds: float = SECONDS,
        fps: int = FPS,
        begin_s: float = 0,
    ) -> Path:
        """
        Args:
            audio: '' for none.
            begin_s: where in the recording the file begins.
        """
        span = ["-ss", str(begin_s), "-t", str(seconds)]
        inputs = [*_RAW, "-r", str(fps), *span, "-i", str(_pictures(self.folder, of))]
        inputs += [*span, "-i", str(_sound(self.folder, of))] if audio else []
        options = f"-vsync passthrough {video} {audio} {more}"
        return self.ffmpeg(name, *inputs, *options.split())

    def ffmpeg(self, name: str, *options: str | Path) -> Path:
        path = self.folder / name
        words = [*map(str, options)]
        if self._made.setdefault(name, words) is not words:
            assert self._made[name] == words, f"{name} would be two files"
            return path
        command = ["ffmpeg", "-v", "error", "-y", "-nostdin", "-threads", "1", *words, str(path)]
        done = subprocess.run(command, capture_output=True)
        if done.returncode:
            del self._made[name]
            pytest.skip(f"this ffmpeg cannot make it: {done.stderr.decode(errors='replace')[-300:]}")
        return path

    def joined(self, name: str, *parts: Path) -> Path:
        path = self.folder / name
        path.write_bytes(b"".join(part.read_bytes() for part in parts))
        return path


def _pictures(folder: Path, of: Recording) -> Path:
    path = folder / f"pictures{of.first}.gray"
    if not path.exists():
        count = LONG_S * FPS + 100
        path.write_bytes(
            b"".join(matrix.code_picture(of.first + k, SIDE, SIDE).tobytes() for k in range(count))
        )
    return path


def _sound(folder: Path, of: Recording) -> Path:
    path = folder / f"noise{of.seed}.wav"
    if not path.exists():
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(matrix.NOISE_RATE)
            samples = matrix.noise(LONG_S + 4, seed=of.seed)
            file.writeframes((samples * 32767).astype("<i2").tobytes())
    return path


@pytest.fixture(scope="module")
def studio(tmp_path_factory) -> Studio:
    return Studio(tmp_path_factory.mktemp("kinds"))


# --- what is seen and heard in clips -----------------------------------------------------------------------


def number_of(picture: np.ndarray) -> int:
    """The number that uint8 (side, side, RGB) shows."""
    gray, side = picture.mean(axis=2), len(picture)
    middles = [(2 * i + 1) * side // 8 for i in range(4)]
    blocks = [gray[y - 2 : y + 3, x - 2 : x + 3].mean() for y in middles for x in middles]
    return sum(1 << bit for bit, block in enumerate(blocks) if block > 127)


@lru_cache
def noise_of(of: Recording) -> np.ndarray:
    """float32 (n,): a recording's noise at the spec's rate."""
    return resample_poly(matrix.noise(LONG_S + 4, seed=of.seed), 1, matrix.NOISE_RATE // SPEC.sample_rate)


def files(*rows: tuple[str, str, str], fast: int | None = None) -> pytest.MarkDecorator:
    """Parameters of a test: a file's name, and how its pictures and its sound are encoded; those after the
    first `fast` are slow tests."""
    fast = len(rows) if fast is None else fast
    named = [
        pytest.param(*row, id=row[0], marks=[] if i < fast else [pytest.mark.slow])
        for i, row in enumerate(rows)
    ]
    return pytest.mark.parametrize(("name", "video", "audio"), named)


def heard_at_s(clip: RawClip, whole: np.ndarray) -> float:
    """Where in noise, float32 (n,) at the spec's rate, the clip's first sample lies."""
    own = clip.sound.waveform[SPEC.samples_before : SPEC.samples_before + SPEC.samples]
    scores = correlate(own, whole, "full", method="fft")
    late = int(np.argmax(np.abs(scores))) - (len(whole) - 1)
    inside = slice(max(0, late), min(len(own), late + len(whole)))
    theirs = whole[inside.start - late : inside.stop - late]
    assert abs(np.corrcoef(own[inside], theirs)[0, 1]) > 0.4, "another sound"
    return -late / SPEC.sample_rate


def written(path: Path, *, every: int = 1) -> list[RawClip]:
    return [clip for clip in product_clips(path, SPEC, every=every) if isinstance(clip, RawClip)]


def assert_true(
    clips: Sequence[RawClip],
    *,
    count: int,
    of: Sequence[Recording] = (A,),
    fps: float = FPS,
    sound_later_s: float = 0,
    apart_s: float = _TICK_S,
    jump_s: float = 2 * _TICK_S,
) -> None:
    """Each clip is of one recording; its pictures are those of their times, and its sound is in step.

    Args:
        count: of clips, at least.
        sound_later_s: how much later than its pictures the sound was made.
        apart_s: what the sound and the pictures may be apart.
        jump_s: what a clock may jump within a clip.
    """
    assert len(clips) >= count
    for clip in clips:
        numbers = [number_of(frame) for frame in clip.frames]
        recording = max((r for r in of if r.first <= numbers[0]), key=lambda r: r.first)
        moved_s = [t - (n - recording.first) / fps for t, n in zip(clip.frame_times_s, numbers, strict=True)]
        assert max(moved_s) - min(moved_s) <= jump_s, f"{clip.start}: {numbers}"
        instants_s = clip.start / SPEC.sample_rate + np.arange(SPEC.frames) / SPEC.fps
        shown_s = instants_s - clip.frame_times_s
        assert shown_s.min() >= -1 / SPEC.fps and shown_s.max() <= 1 / fps + jump_s
        if np.abs(clip.sound.waveform).max() > _SILENT:
            noise_s = heard_at_s(clip, noise_of(recording)) + np.median(moved_s) + sound_later_s
            assert abs(noise_s - clip.start / SPEC.sample_rate) <= apart_s
    assert any(clip.sound.sounding_s > SPEC.seconds * Fraction(3, 4) for clip in clips)


# --- the begin of a file -----------------------------------------------------------------------------------


@files(
    ("four_b.ts", f"{X265}:bframes=4:b-adapt=0:keyint=-1", AAC),  # one GOP, as a segment of HLS
    ("three_b.m2ts", f"{X264} -bf 3 -g 50", "-c:a ac3"),
    ("two_b.ts", f"{MPEG2} -bf 2 -g 12", MP2),
    ("open_gop.ts", f"{X264} -bf 3 -g 25 -x264-params open-gop=1", MP2),
)
def test_the_first_gop_of_a_transport_stream_is_whole(studio, name, video, audio):
    path = studio(name, video, audio)
    assert differences(path, SPEC) == []
    assert_true(written(path), count=3)


@files(
    ("late.mp4", f"{X264} -bf 2", AAC),
    ("late.mkv", f"{MPEG2} -bf 2", OPUS),
    ("late.ts", f"{X264} -bf 2", MP2),
    ("late.flv", "-c:v flv -q:v 3", MP3),
    ("late.wmv", "-c:v wmv2 -q:v 3", MP3),
)
def test_pictures_that_begin_later_than_the_sound_begin_there(studio, name, video, audio):
    path = later(studio(name, video, audio), "pictures", Fraction(4, 5), "video")
    assert differences(path, SPEC) == []
    clips = written(path)
    assert_true(clips, count=2, sound_later_s=-0.8, apart_s=0.03)
    assert clips[0].start / SPEC.sample_rate == pytest.approx(0.8, abs=0.1)


@files(
    ("early.mp4", f"{X264} -bf 2", AAC),
    ("early.mkv", VP8, OPUS),
    ("early.ts", f"{X264} -bf 2", AAC),
)
def test_sound_that_begins_after_the_first_clip_is_silence_before(studio, name, video, audio):
    path = later(studio(name, video, audio), "sound", Fraction(21, 10), "audio")
    assert differences(path, SPEC) == []
    clips = written(path)
    assert_true(clips, count=3, sound_later_s=2.1, apart_s=0.03)
    assert clips[0].sound.sounding_s == 0 and not clips[0].sound.waveform.any()
    assert clips[1].sound.sounding_s == pytest.approx(1.1, abs=0.06)


# --- clocks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift_s", ["0", "0.013", "40000"])
@files(
    ("h264.ts", f"{X264} -bf 2 -g 25", MP2),
    ("mpeg2.ts", f"{MPEG2} -bf 2 -g 12", AAC),
)
def test_joined_transport_streams_are_parts(studio, name, video, audio, shift_s):
    """The second recording's clock restarts, a bit off the first's, or is far ahead."""
    parts = [
        studio(f"{of.first}_{shift}_{name}", video, audio, f"-output_ts_offset {shift}", of=of)
        for of, shift in ((A, "0"), (B, shift_s), (C, "0"))
    ]
    path = studio.joined(f"joined_{shift_s}_{name}", *parts)
    assert differences(path, SPEC) == []
    clips = written(path)
    assert_true(clips, count=8, of=(A, B, C))
    assert {number_of(clip.frames[0]) // 1000 for clip in clips} == {0, 1, 2}


@files(
    ("h264.mp4", f"{X264} -bf 2", AAC),
    ("vp8.webm", VP8, OPUS),
    ("mpeg2.mkv", f"{MPEG2} -bf 2 -g 12", "-c:a pcm_s16le"),
    ("flv1.flv", "-c:v flv -q:v 3", MP3),
    ("h264.ts", f"{X264} -bf 2 -g 25", AAC),
    fast=3,
)
def test_a_clock_that_begins_hours_late_begins_at_0(studio, name, video, audio):
    path = studio(f"hours_{name}", video, audio, "-output_ts_offset 7200")
    assert differences(path, SPEC) == []
    clips = product_clips(path, SPEC)
    assert_true([c for c in clips if isinstance(c, RawClip)], count=3, apart_s=0.03)
    assert len(clips) == 3


@pytest.mark.parametrize("begin_s", [95440, 95443])
def test_stamps_of_33_bits_that_wrap_run_on(studio, begin_s):
    path = studio(f"wrap_{begin_s}.ts", f"{X264} -bf 2 -g 25", AAC, f"-output_ts_offset {begin_s}")
    assert differences(path, SPEC) == []
    assert_true(written(path), count=3)


@pytest.mark.parametrize(
    ("name", "audio", "factor"),
    [
        ("slow.mkv", "-c:a pcm_s16le", Fraction(95, 100)),
        ("fast.mkv", "-c:a flac", Fraction(106, 100)),
        ("fast.mp4", AAC, Fraction(103, 100)),
        ("slow.nut", "-c:a pcm_s16le", Fraction(97, 100)),
    ],
)
def test_sound_of_another_clock_than_the_pictures_follows_its_stamps(studio, name, audio, factor):
    def stretch(packet: Packet) -> None:
        if packet.stream.type == "audio":
            packet.time_base, packet.duration = packet.time_base * factor, 0

    path = remuxed(studio(name, f"{X264} -bf 0", audio), "drift", stretch)
    assert differences(path, SPEC) == []
    plain = noise_of(A)
    stretched = np.interp(np.arange(int(len(plain) * factor)) / float(factor), np.arange(len(plain)), plain)
    for clip in written(path)[:2]:
        assert abs(heard_at_s(clip, stretched) - clip.start / SPEC.sample_rate) < 0.003


@pytest.mark.parametrize(
    ("rates", "audio"),
    [
        ((48000, 32000), MP2),
        ((44100, 48000), MP3),
        ((16000, 48000), MP3),
        ((48000, 44100), "-c:a ac3"),
        ((48000, 44100), AAC),
        ((16000, 48000), AAC),
        ((48000, 16000), AAC),
        ((22050, 44100), AAC),
    ],
)
def test_a_change_of_the_sounds_rate_leaves_the_sound_before_it(studio, rates, audio):
    change_s = 2
    codec = " ".join(audio.split()[:2])
    parts = [
        studio(
            f"{begin_s}_{rate}_{codec[-3:]}.ts",
            f"{X264} -bf 0 -g 25",
            f"{codec} -ar {rate}",
            f"-output_ts_offset {begin_s}",
            begin_s=begin_s,
            seconds=stop_s - begin_s,
        )
        for rate, begin_s, stop_s in zip(rates, (0, change_s), (change_s, SECONDS), strict=True)
    ]
    path = studio.joined(f"rates_{rates[0]}_{rates[1]}.ts", *parts)
    clips = written(path)
    assert_true(clips, count=3, apart_s=0.05, jump_s=0.08)  # by the lead of the second part's sound
    assert min(clip.sound.sounding_s for clip in clips[:3]) > 1.5


# --- the end of a file -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "suffix", "video", "audio", "more"),
    [
        ("matroska", ".mkv", f"{X264} -bf 2", AAC, ""),
        ("webm", ".webm", VP8, OPUS, "-live 1"),
        ("flv", ".flv", f"{X264} -bf 2", MP3, ""),
        pytest.param("nut", ".nut", f"{MPEG4} -bf 2", MP2, "", marks=pytest.mark.slow),
        ("mp4", ".mp4", f"{X264} -bf 2", AAC, "-movflags +frag_keyframe+empty_moov"),
    ],
)
@pytest.mark.parametrize("share", [1.0, 0.7])
def test_a_file_without_a_duration_is_planned_to_its_last_packet(
    studio, form, suffix, video, audio, more, share
):
    """Written to a pipe; in the second case whoever wrote it was killed."""
    whole = studio(f"whole{suffix}", video, audio, more)
    command = ["ffmpeg", "-v", "error", "-i", str(whole), "-c", "copy", *more.split(), "-f", form, "pipe:1"]
    data = subprocess.run(command, capture_output=True, check=True).stdout
    path = studio.folder / f"piped_{share}{suffix}"
    path.write_bytes(data[: int(len(data) * share)])
    assert differences(path, SPEC) == []
    assert_true(written(path), count=3 if share == 1 else 1, apart_s=0.03)


@files(
    ("long.mp4", f"{MPEG4} -bf 0", AAC),
    ("long.mkv", f"{X264} -bf 0", "-c:a flac"),
    ("long.mov", "-c:v mjpeg -q:v 3", "-c:a pcm_s16le"),
)
def test_a_last_picture_that_lasts_is_shown_as_long(studio, name, video, audio):
    def lengthen(packet: Packet) -> None:
        if packet.stream.type == "video" and packet.pts * packet.time_base > Fraction(98, 25):
            packet.duration = int(5 / packet.time_base)

    pictures = studio(f"pictures_{name}", video, "", seconds=4)
    sound = studio.ffmpeg(
        f"both_{name}",
        "-i",
        pictures,
        "-t",
        "9",
        "-i",
        _sound(studio.folder, A),
        "-c:v",
        "copy",
        *audio.split(),
    )
    path = remuxed(sound, "last", lengthen)
    assert differences(path, SPEC) == []
    clips = written(path)
    assert len(clips) == 5  # of 8.96 s
    assert {number_of(frame) for clip in clips[3:] for frame in clip.frames} == {99}
    assert [clip.sound.sounding_s for clip in clips[3:]] == pytest.approx([1.6, 1.6], abs=0.01)


@files(
    ("one.mkv", f"{X264} -frames:v 1", "-c:a flac"),
    ("one.mp4", f"{MPEG4} -frames:v 1", AAC),
    ("one.mov", "-c:v png -frames:v 1", "-c:a pcm_s16le"),
)
def test_one_picture_with_music_is_shown_as_long_as_it_lasts(studio, name, video, audio):
    path = studio.ffmpeg(
        f"single_{name}",
        *_RAW,
        "-r",
        "1/6",
        "-i",
        _pictures(studio.folder, A),
        "-t",
        "6",
        "-i",
        _sound(studio.folder, A),
        *video.split(),
        *audio.split(),
    )
    assert differences(path, SPEC) == []
    assert len(written(path)) == 3


@files(
    ("h264.mp4", f"{X264} -bf 2", AAC),
    ("vp8.webm", VP8, OPUS),
    ("h264.flv", f"{X264} -bf 2", MP3),
    ("mpeg4.avi", f"{MPEG4} -bf 0", "-c:a pcm_s16le"),
    ("wmv2.wmv", "-c:v wmv2 -q:v 3", MP3),
    ("h264.ts", f"{X264} -bf 2 -g 25", AAC),
    fast=3,
)
@pytest.mark.parametrize("longer", ["video", "audio"])
def test_a_duration_that_is_of_one_stream_plans_no_clip_in_vain(studio, name, video, audio, longer):
    lengths = {"video": ("-t 7", "-t 3"), "audio": ("-t 3.4", "-t 7")}[longer]
    path = studio.ffmpeg(
        f"{longer}_longer_{name}",
        *_RAW,
        "-r",
        "25",
        *lengths[0].split(),
        "-i",
        _pictures(studio.folder, A),
        *lengths[1].split(),
        "-i",
        _sound(studio.folder, A),
        *video.split(),
        *audio.split(),
    )
    assert differences(path, SPEC) == []
    clips = product_clips(path, SPEC)
    assert len(clips) == {"video": 4, "audio": 2}[longer]
    assert_true(clips, count=2, apart_s=0.03)


# --- which streams -----------------------------------------------------------------------------------------


PROGRAMMES = {
    "radio_first": ("2:a 0:v 1:a", "title=radio:st=0", "title=tv:st=1:st=2"),
    "tv_first": ("0:v 2:a 1:a", "title=tv:st=0:st=2", "title=radio:st=1"),
    "mixed": ("2:a 1:a 0:v", "title=radio:st=0", "title=tv:st=2:st=1"),
}


@pytest.mark.parametrize("order", PROGRAMMES)
@pytest.mark.parametrize(
    "codecs", [f"{MPEG2} -bf 2 -c:a ac3", f"{X264} -bf 2 -g 25 -c:a aac"], ids=["mpeg2", "h264"]
)
def test_of_several_programmes_the_videos_own_sound_is_taken(studio, order, codecs):
    maps, *programmes = PROGRAMMES[order]
    path = studio.ffmpeg(
        f"{order}_{codecs[-3:]}.ts",
        *_RAW,
        "-r",
        "25",
        "-t",
        "5",
        "-i",
        _pictures(studio.folder, A),
        "-t",
        "5",
        "-i",
        _sound(studio.folder, A),
        "-t",
        "5",
        "-i",
        _sound(studio.folder, B),
        *(word for m in maps.split() for word in ("-map", m)),
        *codecs.split(),
        *(word for p in programmes for word in ("-program", p)),
    )
    assert differences(path, SPEC) == []
    assert_true(written(path), count=3)


@pytest.mark.parametrize(
    ("name", "audio", "layout"),
    [
        ("flac.mkv", "-c:a flac", "7.1"),
        ("aac.ts", "-c:a aac", "7.1"),
        ("opus.mkv", "-c:a libopus", "6.1"),
        pytest.param("flac.nut", "-c:a flac", "6.1", marks=pytest.mark.slow),
        pytest.param("pcm.mkv", "-c:a pcm_s24le", "7.1", marks=pytest.mark.slow),
        pytest.param("alac.mov", "-c:a alac", "7.1", marks=pytest.mark.slow),
    ],
)
def test_sound_of_seven_or_eight_channels_is_mixed(studio, name, audio, layout):
    channels = {"6.1": 7, "7.1": 8}[layout]
    pan = f"pan={layout}|" + "|".join(f"c{i}=c0" for i in range(channels))
    path = studio(f"{layout}_{name}", X264, f"-af {pan} {audio}")
    assert differences(path, SPEC) == []
    assert_true(written(path), count=3, apart_s=0.03)


def test_sound_that_begins_long_after_the_file_was_probed_is_read(studio):
    """FFmpeg knows neither its rate nor its channels when the file is opened: all of them may be unused."""
    whole = studio("late_sound.ts", f"{X264} -bf 2 -g 25", MP2, seconds=16)
    path = later(whole, "long", Fraction(12), "audio")
    assert differences(path, SPEC) == []
    clips = written(path)
    assert_true(clips, count=10, sound_later_s=12)


# --- gaps between clips ------------------------------------------------------------------------------------

_KEYED = f"{X264} -bf 2 -g 50"
_OPEN = f"{X264} -bf 2 -g 50 -x264-params open-gop=1"
_ENDLESS = f"{X264} -bf 2 -g 9999"


@files(
    ("open.mp4", _OPEN, AAC),
    ("endless.mkv", _ENDLESS, OPUS),
    ("hevc.mp4", f"{X265}:bframes=3:b-adapt=0:keyint=50:open-gop=1", AAC),
    ("open.ts", _OPEN, AAC),
    ("mpeg4.avi", f"{MPEG4} -bf 0 -g 50", "-c:a pcm_s16le"),
    ("closed.flv", _KEYED, MP3),
    ("closed.mp4", _KEYED, AAC),
    ("endless.mp4", _ENDLESS, AAC),
    ("closed.mkv", _KEYED, "-c:a flac"),
    ("mpeg2.mkv", f"{MPEG2} -bf 2 -g 12", MP3),
    ("endless.ts", _ENDLESS, MP2),
    ("mpeg2.ts", f"{MPEG2} -bf 2 -g 12", MP2),
    ("closed.avi", f"{X264} -bf 0 -g 50", "-c:a pcm_s16le"),
    ("vp8.webm", f"{VP8} -g 50", OPUS),
    ("theora.ogv", "-c:v libtheora -q:v 8 -g 50", "-c:a libvorbis"),
    ("wmv2.wmv", "-c:v wmv2 -q:v 3 -g 50", "-c:a wmav2"),
    fast=6,
)
def test_clips_far_apart_are_those_of_a_plain_decode(studio, name, video, audio):
    path = studio(f"far_{name}", video, audio, seconds=LONG_S, fps=10)
    assert differences(path, SPEC, every=FAR) == []
    apart_s = 0.06 if "wm" in audio else 0.03
    assert_true(written(path, every=FAR), count=3, fps=10, apart_s=apart_s)


@files(
    ("mpeg4.mp4", f"{MPEG4} -bf 2 -g 200", AAC),
    ("h264.mov", f"{X264} -bf 0 -g 9999", "-c:a pcm_s16le"),
    ("h264.mp4", f"{X264} -bf 2 -g 250", AAC),
    ("h263.3gp", "-c:v h263 -vf scale=96:96,pad=128:96:16:0 -q:v 3 -g 200", AAC),
    ("hevc.mp4", f"{X265}:bframes=2:b-adapt=0:keyint=150", AAC),
    fast=2,
)
def test_without_a_table_of_keyframes_a_skip_ends_at_a_true_one(studio, name, video, audio):
    path = studio(f"keys_{name}", video, audio, seconds=LONG_S, fps=10)
    data = path.read_bytes()
    blind = path.with_stem(f"{path.stem}_blind")
    blind.write_bytes(data.replace(b"stss", b"free"))
    assert differences(blind, SPEC, every=FAR) == []
    assert_true(written(blind, every=FAR), count=3, fps=10, apart_s=0.03)


@files(
    ("h263p.avi", "-c:v h263p -q:v 3 -g 200", "-c:a pcm_s16le"),
    ("mpeg4.mkv", f"{MPEG4} -bf 2 -g 120", "-c:a flac"),
    ("h263.avi", "-c:v h263 -vf scale=96:96,pad=128:96:16:0 -q:v 3 -g 100", "-c:a pcm_s16le"),
    ("h264.mkv", f"{X264} -bf 0 -g 120", "-c:a flac"),
    fast=2,
)
def test_where_each_packet_is_called_a_keyframe_a_skip_ends_at_a_true_one(studio, name, video, audio):
    def lie(packet: Packet) -> None:
        packet.is_keyframe = True

    path = remuxed(studio(f"lying_{name}", video, audio, seconds=LONG_S, fps=10), "lying", lie)
    assert differences(path, SPEC, every=FAR) == []
    assert_true(written(path, every=FAR), count=3, fps=10, apart_s=0.03)


# --- damage ------------------------------------------------------------------------------------------------

_NOISY = "testsrc2=s=128x96:r=25:d=8,noise=alls=24:allf=t"
_LEAST_DB = 30.0


def _overwritten(path: Path, rng: random.Random, *, keep: int) -> bytes:
    """Of two packets some 30 bytes, the first `keep` of each left as they are."""
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size > keep + 60]
    for place, size in rng.sample(packets[1:], 2):
        at = place + rng.randrange(keep, size - 30)
        data[at : at + 30] = rng.randbytes(30)
    return bytes(data)


def _cleared(path: Path, rng: random.Random, *, keep: int) -> bytes:
    """Two packets are zeros from byte `keep` on, as where a disk's blocks were never written."""
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size > keep + 60]
    for place, size in rng.sample(packets[1:], 2):
        data[place + keep : place + size] = bytes(size - keep)
    return bytes(data)


def _thinned(path: Path, rng: random.Random, *, keep: int) -> bytes:
    """Three of a transport stream's packets are lost, behind its first `keep`."""
    data = path.read_bytes()
    lost = set(rng.sample(range(keep, len(data) // 188), 3))
    return b"".join(data[at : at + 188] for at in range(0, len(data), 188) if at // 188 not in lost)


def test_segments_joined_byte_by_byte_lose_no_clip(studio):
    """Each segment's packet counters begin anew, of which FFmpeg makes damage."""
    whole = studio("segmented.ts", f"{X264} -bf 2 -g 25", AAC, seconds=16)
    studio.ffmpeg("segment%d.ts", "-i", whole, "-c", "copy", "-copyts", "-f", "segment", "-segment_time", "4")
    path = studio.joined("segments.ts", *sorted(studio.folder.glob("segment?.ts")))
    clips = product_clips(path, SPEC)
    assert [clip for clip in clips if isinstance(clip, FailedClip)] == []
    assert_true(clips, count=9)


@pytest.mark.parametrize(
    ("name", "video", "harm", "keep"),
    [
        pytest.param("mpeg2.mkv", f"{MPEG2} -bf 2 -g 15", _overwritten, 24, id="mpeg2.mkv"),
        pytest.param("mpeg4.avi", f"{MPEG4} -bf 0 -g 30", _overwritten, 24, id="mpeg4.avi"),
        pytest.param("mpeg4.mp4", f"{MPEG4} -bf 2 -g 30", _overwritten, 24, id="mpeg4.mp4"),
        pytest.param(
            "h264.mp4", f"{X264} -bf 2 -g 30 -x264-params b-pyramid=none", _cleared, 32, id="h264.mp4"
        ),
        pytest.param("mpeg2_cleared.mkv", f"{MPEG2} -bf 2 -g 15", _cleared, 32, id="mpeg2_cleared.mkv"),
        pytest.param("mpeg2.ts", f"{MPEG2} -bf 2 -g 15", _thinned, 10, id="mpeg2.ts"),
        pytest.param("hevc.mp4", f"{X265}:bframes=2:b-adapt=0:keyint=30", _cleared, 0, id="hevc_cleared.mp4"),
        pytest.param("hevc.ts", f"{X265}:bframes=2:b-adapt=0:keyint=30", _thinned, 10, id="hevc.ts"),
    ],
)
def test_what_damage_reaches_is_failed_and_nothing_else(studio, name, video, harm, keep):
    """Each written picture is that of the whole file; no clip failed whose pictures all are."""
    path = studio.ffmpeg(f"whole_{name}", "-f", "lavfi", "-i", _NOISY, *video.split())
    whole = {clip.start: clip.frames for clip in written(path)}
    found = []
    for seed in range(6):
        harmed = studio.folder / f"harmed_{seed}_{name}"
        harmed.write_bytes(harm(path, random.Random(seed), keep=keep))
        found += [(harmed, clip) for clip in product_clips(harmed, SPEC)]
    kept = [clip for _, clip in found if isinstance(clip, RawClip) and clip.start in whole]
    failed = [(harmed, clip) for harmed, clip in found if isinstance(clip, FailedClip)]
    assert kept and failed and {clip.error.reason for _, clip in failed} == {Reason.CORRUPT}
    assert min(_worst_db(clip.frames, whole[clip.start]) for clip in kept) >= _LEAST_DB
    in_vain = [
        (harmed.name, clip.start)
        for harmed, clip in failed
        if np.array_equal(_decoded(harmed, clip.start), whole[clip.start])
    ]
    assert path.suffix == ".ts" or not in_vain  # there FFmpeg flags the packet before the damaged one, too


def _worst_db(found: np.ndarray, wanted: np.ndarray) -> float:
    error = np.square(found.astype(float) - wanted).mean(axis=(1, 2, 3))
    return float(10 * np.log10(255**2 / np.maximum(error, 1e-6)).min())


def _decoded(path: Path, start: int) -> np.ndarray:
    """What a plain decode shows in a clip: uint8 (frames, size, size, RGB)."""
    fitter = product_fitter(path, SPEC)
    clip = next(clip for clip in expected_clips(path, SPEC) if clip.start == start)
    return np.stack([np.array(fitter.fit(frame)) for frame in clip.frames])


# --- files made of files -----------------------------------------------------------------------------------


def remuxed(path: Path, name: str, change: Callable[[Packet], None]) -> Path:
    """A copy with changed packets."""
    return _copied(path, name, lambda packets: _changed(packets, change))


def later(path: Path, name: str, seconds: Fraction, kind: str) -> Path:
    """A copy of which the streams of a kind come later."""

    def move(packet: Packet) -> None:
        if packet.stream.type == kind:
            ticks = round(seconds / packet.time_base)
            packet.pts = None if packet.pts is None else packet.pts + ticks
            packet.dts = None if packet.dts is None else packet.dts + ticks

    return _copied(path, name, lambda packets: sorted(_changed(packets, move), key=_order))


def _order(packet: Packet) -> Fraction:
    return (packet.dts if packet.dts is not None else packet.pts or 0) * packet.time_base


def _changed(packets: Sequence[Packet], change: Callable[[Packet], None]) -> Sequence[Packet]:
    for packet in packets:
        change(packet)
    return packets


def _copied(path: Path, name: str, treat: Callable[[Sequence[Packet]], Sequence[Packet]]) -> Path:
    copy = path.with_stem(f"{path.stem}_{name}")
    with av.open(str(path)) as source, av.open(str(copy), "w") as target:
        streams = {s.index: target.add_stream_from_template(s) for s in source.streams}
        for packet in treat([p for p in source.demux() if p.size]):
            packet.stream = streams[packet.stream.index]
            target.mux(packet)
    return copy
