"""The product against a plain sequential decode, over all real files and known faults; and that decode itself
against what is known of files without it: numbers in pictures, noise that can be found in time, lists."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import correlate, resample_poly

from avprep.media.decode import FailedClip, RawClip
from avprep.reasons import MediaError, Reason
from avprep.spec import ClipSpec
from tests.avprep.media import against_reference, sequential
from tests.avprep.media.against_reference import differences, lag
from tests.avprep.media.matrix import code_picture, noise, number_of, write_wave
from tests.avprep.media.sequential import ExpectedClip, expected_clips, read_timeline
from tests.conftest import SHARED, shared_file

SPEC = ClipSpec(size=32)
_SLOW = {"long_360s_silent.mp4", "tears_of_steel_70s.webm"}
_NO_MEDIA = {".tsv", ".csv", ".parquet", ".jsonl"}


def _files() -> list[Path]:
    found = sorted([*SHARED.glob("media/*"), *SHARED.glob("cases/*/in/*")])
    return [path for path in found if path.suffix not in _NO_MEDIA]


def _param(path: Path):
    marks = [pytest.mark.slow] if path.name in _SLOW else []
    return pytest.param(path, id=path.relative_to(SHARED).as_posix(), marks=marks)


@pytest.mark.skipif(not _files(), reason="needs the real files, which are not here")
@pytest.mark.parametrize("path", [_param(path) for path in _files()])
def test_clips_are_those_of_a_plain_sequential_decode(path):
    assert differences(path, SPEC) == []


# --- the reference on recordings whose truth is known ----------------------------------------------------

needs_ffmpeg = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs the ffmpeg command to make files")
FPS = 25


def _record(
    path: Path, *options: str, first: int = 0, seed: int = 1, seconds: int = 5, beside: tuple[Path, ...] = ()
) -> Path:
    """Writes pictures numbered from `first` at 25 fps and the noise of `seed`, by ffmpeg with `options`.

    beside: more inputs, from number 2 on.
    """
    raw, wave = path.with_suffix(".gray"), path.with_suffix(".wav")
    raw.write_bytes(b"".join(code_picture(first + k, 64, 64).tobytes() for k in range(seconds * FPS)))
    write_wave(wave, noise(seconds, seed=seed))
    inputs = ["-f", "rawvideo", "-pix_fmt", "gray", "-s", "64x64", "-framerate", str(FPS)]
    inputs += [word for one in (raw, wave, *beside) for word in ("-i", one)]
    codec = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-g", "25", "-threads", "1"]
    subprocess.run(["ffmpeg", "-v", "error", "-y", "-nostdin", *inputs, *codec, *options, path], check=True)
    return path


def _join(path: Path, *pieces: Path) -> Path:
    path.write_bytes(b"".join(piece.read_bytes() for piece in pieces))
    return path


def _numbers(clip: ExpectedClip) -> list[int]:
    return [number_of(frame) for frame in clip.frames]


def _noise_place_s(sound: np.ndarray, *, seed: int = 1, seconds: int = 5) -> tuple[float, float]:
    """(which second of the noise begins `sound`, their correlation there)."""
    whole = resample_poly(noise(seconds, seed=seed), 1, 3)
    scores = correlate(whole, sound, "valid", method="fft")
    place = int(np.argmax(scores))
    return place / SPEC.sample_rate, float(np.corrcoef(sound, whole[place : place + len(sound)])[0, 1])


@needs_ffmpeg
@pytest.mark.parametrize("offset", ["0.013", "36000"], ids=["back", "far forward"])
def test_a_restarted_clock_begins_a_part_after_the_last_picture(tmp_path, offset):
    a = _record(tmp_path / "a.ts", "-c:a", "mp2")
    b = _record(tmp_path / "b.ts", "-c:a", "mp2", "-output_ts_offset", offset, first=1000, seed=7)
    clips = list(expected_clips(_join(tmp_path / "both.ts", a, b), SPEC))
    assert [clip.shown[0].part for clip in clips] == [0, 0, 0, 1, 1, 1]
    start_s = [float(clip.shown[0].time_s) for clip in clips]
    assert start_s[3] - start_s[0] == pytest.approx(5, abs=1e-3)
    for clip in clips:
        part = clip.shown[0].part
        shown_s = [(n - 1000 * part) / FPS + 5 * part + start_s[0] for n in _numbers(clip)]
        assert shown_s == pytest.approx(clip.frame_times_s, abs=1e-3)
        sounds_s, alike = _noise_place_s(clip.sound[2000:-2000], seed=7 if part else 1)
        assert alike > 0.9
        assert sounds_s + 5 * part + start_s[0] == pytest.approx(clip.start / 16000 + 0.125, abs=2e-3)


@needs_ffmpeg
def test_the_sound_is_that_of_the_videos_own_programme(tmp_path):
    write_wave(tmp_path / "radio.wav", noise(5, seed=7))
    streams = ["-map", "2:a", "-map", "0:v", "-map", "1:a", "-c:a", "mp2"]
    programmes = ["-program", "title=radio:st=0", "-program", "title=tv:st=1:st=2"]
    path = _record(tmp_path / "tv.ts", *streams, *programmes, beside=(tmp_path / "radio.wav",))
    for clip in expected_clips(path, SPEC):
        assert _noise_place_s(clip.sound)[1] > 0.9
        assert _noise_place_s(clip.sound, seed=7)[1] < 0.1


@needs_ffmpeg
def test_a_change_of_rate_keeps_both_sides(tmp_path):
    a = _record(tmp_path / "a.ts", "-c:a", "mp2", "-t", "2")
    b = _record(tmp_path / "b.ts", "-c:a", "mp2", "-ar", "44100", "-output_ts_offset", "2", seed=7)
    first, second, *_ = expected_clips(_join(tmp_path / "both.ts", a, b), SPEC)
    assert _noise_place_s(first.sound)[1] > 0.9
    assert _noise_place_s(second.sound[:4800])[1] > 0.9  # until 2 s of a
    assert _noise_place_s(second.sound[8000:], seed=7)[1] > 0.9
    assert second.sounding_s > 1.5


def test_samples_whose_stamps_drift_sound_at_their_stamps(tmp_path):
    """Stamps 8.8 % apart from the count: the noise's second t is stamped 1.088 t."""
    path, samples = tmp_path / "drift.mkv", noise(5)
    with av.open(str(path), "w") as container:
        video = container.add_stream("ffv1", rate=FPS)
        video.width, video.height, video.pix_fmt = 64, 64, "gray"
        audio = container.add_stream("pcm_s16le", rate=48000, layout="mono")
        for k in range(5 * FPS):
            frame = av.VideoFrame.from_ndarray(code_picture(k, 64, 64), format="gray")
            frame.pts, frame.time_base = k, Fraction(1, FPS)
            container.mux(video.encode(frame))
        for n in range(0, len(samples) - 1023, 1024):
            data = np.int16(samples[None, n : n + 1024] * 32767)
            frame = av.AudioFrame.from_ndarray(data, format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 48000, round(n * 1.088), Fraction(1, 48000)
            container.mux(audio.encode(frame))
        container.mux([*video.encode(None), *audio.encode(None)])
    for clip in expected_clips(path, SPEC):
        for at in range(0, 24000, 3000):
            as_recorded = np.interp(1.088 * np.arange(300), np.arange(330), clip.sound[at : at + 330])
            sounds_s, _ = _noise_place_s(as_recorded)
            assert 1.088 * sounds_s == pytest.approx((clip.start + at) / 16000, abs=0.003)


@needs_ffmpeg
def test_what_leans_on_damage_is_damaged_until_the_next_keyframe(tmp_path):
    whole = _record(tmp_path / "whole.mp4", "-c:a", "aac", "-bf", "2")
    data = bytearray(whole.read_bytes())
    with av.open(str(whole)) as container:
        hit = next(p for p in container.demux(video=0) if p.pts and p.time_base * p.pts > 2.1)
    data[hit.pos + 8 : hit.pos + hit.size] = bytes(hit.size - 8)
    (tmp_path / "broken.mp4").write_bytes(data)
    damaged_s = [float(p.time_s) for p in read_timeline(tmp_path / "broken.mp4").pictures if p.is_damaged]
    assert not any(p.is_damaged for p in read_timeline(whole).pictures)
    assert len(damaged_s) >= 15
    assert 1.9 < min(damaged_s) and max(damaged_s) < 3.0
    for clip in expected_clips(tmp_path / "broken.mp4", SPEC):
        if not clip.is_damaged:
            assert _numbers(clip) == [round(FPS * s) for s in clip.frame_times_s]


@needs_ffmpeg
@pytest.mark.parametrize("suffix", [".mkv", ".ts", ".mp4", ".nut"])
def test_time_0_is_where_the_file_begins(tmp_path, suffix):
    timeline = read_timeline(_record(tmp_path / f"late{suffix}", "-c:a", "mp2", "-output_ts_offset", "36000"))
    begins_s = [float(timeline.pictures[0].time_s), float(timeline.sounds[0].time_s)]
    assert min(begins_s) == pytest.approx(0, abs=1e-3)
    assert max(begins_s) < 0.03
    assert float(timeline.claimed_stop_s) == pytest.approx(5, abs=0.05)


@needs_ffmpeg
@pytest.mark.parametrize("reorder", ["0", "2"])
def test_pictures_in_avi_are_counted(tmp_path, reorder):
    """FFmpeg's PTS of H.264 in AVI are a picture late; the count of chunks is right."""
    for clip in expected_clips(_record(tmp_path / "a.avi", "-c:a", "pcm_s16le", "-bf", reorder), SPEC):
        assert [n / FPS for n in _numbers(clip)] == pytest.approx(clip.frame_times_s)
        assert _noise_place_s(clip.sound)[0] == pytest.approx(clip.start / 16000, abs=1e-3)


def test_a_last_picture_is_shown_as_long_as_it_says():
    pictures = read_timeline(shared_file("cases", "last_frame_long", "in", "lastlong.mp4")).pictures
    assert float(pictures[-1].stop_s) == pytest.approx(10, abs=0.05)
    assert float(pictures[-1].time_s) == pytest.approx(3.96)


def test_clips_tile_from_the_first_picture_to_the_stop_of_the_last():
    timeline = read_timeline(shared_file("media", "googlework_35s.mp4"))  # its pictures begin at 0.834 s
    clips = list(expected_clips(shared_file("media", "googlework_35s.mp4"), SPEC))
    begin, stop = timeline.pictures[0].time_s, timeline.pictures[-1].stop_s
    assert clips[0].start == -(-begin * 16000 // 1) == 13344
    assert {b.start - a.start for a, b in zip(clips, clips[1:], strict=False)} == {SPEC.samples}
    assert clips[-1].start + SPEC.samples <= stop * 16000 < clips[-1].start + 2 * SPEC.samples


# --- the reference's rules, on plain numbers -------------------------------------------------------------


def _shown(stamps: list[int | None]) -> list[Fraction]:
    packets = [
        sequential._VideoPacket(i, None if s is None else Fraction(s), None) for i, s in enumerate(stamps)
    ]
    shown = [sequential._Shown(i, Fraction(2), False, False) for i in range(len(stamps))]
    return sequential._stamps_s(shown, packets)


def test_the_nth_shown_picture_takes_the_nth_smallest_stamp():
    assert _shown([0, 3, 1, 2, 4]) == [0, 1, 2, 3, 4]


def test_pictures_without_stamps_lie_between_their_neighbours_or_follow_by_duration():
    assert _shown([None, 4, None, None, 10, None, None]) == [2, 4, 6, 8, 10, 12, 14]
    assert _shown([None, None]) == []


@given(st.lists(st.one_of(st.none(), st.integers(0, 10**6)), max_size=30))
def test_shown_times_never_go_back(stamps):
    times = _shown(stamps)
    assert times == sorted(times)
    assert len(times) == (len(stamps) if any(s is not None for s in stamps) else 0)
    assert {s for s in stamps if s is not None} <= set(times)


def test_a_clock_restarts_only_where_it_may():
    def parts(seconds: list[float | None], *, may_restart: bool) -> list[int]:
        stamps_s = [None if s is None else Fraction(s) for s in seconds]
        return sequential._parts(stamps_s, may_restart=may_restart)

    jitter, short, long, ahead = [1, 0.95, None, 1.1], [5, 4.5], [5, 1], [1, 15]
    assert [parts(s, may_restart=True)[-1] for s in (jitter, short, long, ahead)] == [0, 1, 1, 1]
    assert [parts(s, may_restart=False)[-1] for s in (jitter, short, long, ahead)] == [0, 0, 1, 0]


def test_damage_spreads_to_the_next_clean_keyframe_and_to_what_is_shown_before_it():
    """Packets I0 P1 B2 P3 | I4 B5 B6 P7, shown 0 2 1 3 5 6 4 7; the decoder refuses packet 1."""
    order, keys = [0, 2, 1, 3, 5, 6, 4, 7], {0, 4}
    shown = [sequential._Shown(p, Fraction(1), p in keys, False) for p in order if p != 1]
    decoded = SimpleNamespace(shown=shown, errors=[1], packets=range(8))
    assert sequential._damaged(decoded) == {2, 3, 5, 6}


def _heard(stamps_ms: list[int | None], *, rate: int = 1000, length: int = 100) -> list[sequential._Heard]:
    return [
        sequential._Heard(i, None if s is None else Fraction(s, 1000), rate, np.full(length, i, np.float32))
        for i, s in enumerate(stamps_ms)
    ]


def _pieces(stamps_ms: list[int | None]) -> list[tuple[int, int]]:
    found = sequential._stretches(_heard(stamps_ms), Fraction(2, 1000))
    return [(int(time_s * 1000), len(samples)) for time_s, samples in found]


def test_samples_run_on_over_rounded_stamps_a_missing_and_a_single_wrong_one():
    steady = [100 * i for i in range(20)]
    assert _pieces([s + i % 2 for i, s in enumerate(steady)]) == [(0, 2000)]
    assert _pieces([*steady[:5], None, *steady[6:]]) == [(0, 2000)]
    assert _pieces([*steady[:5], 480, *steady[6:]]) == [(0, 2000)]


def test_a_gap_and_an_overlap_begin_a_stretch_and_a_drift_is_another_rate():
    steady = [100 * i for i in range(10)]
    assert _pieces([*steady, *(s + 1500 for s in steady)]) == [(0, 1000), (1500, 1000)]
    assert _pieces([*steady, *(s + 950 for s in steady)]) == [(0, 1000), (950, 1000)]
    for step in (109, 101):
        ((begin, length),) = _pieces([step * i for i in range(20)])
        assert begin == pytest.approx(0, abs=1) and length == pytest.approx(20 * step, abs=2)


def test_vorbis_stamped_at_the_end_of_what_a_packet_gives_is_told_from_vorbis_stamped_at_its_begin():
    lengths = [128, 128, 1024, 1024, 576, 128, 576, 1024, 1024, 128]
    counts = np.cumsum([0, *lengths]).tolist()
    for at_end in (False, True):
        heard = [
            sequential._Heard(i, Fraction(counts[i + at_end], 1000), 1000, np.zeros(length, np.float32))
            for i, length in enumerate(lengths)
        ]
        assert [h.stamp_s * 1000 for h in sequential._stamped_at_begin(heard)] == counts[:-1]


# --- the comparator can fail -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Path:
    return _record(tmp_path_factory.mktemp("recorded") / "plain.mp4", "-c:a", "aac")


def _changed_sound(clip: RawClip, waveform: np.ndarray) -> RawClip:
    return replace(clip, sound=replace(clip.sound, waveform=waveform.astype(np.float32)))


_CORRUPT = MediaError(Reason.CORRUPT, "by the test")
_CHANGES = {
    "missing": lambda clips: clips[1:],
    "failed though whole": lambda clips: [FailedClip(clips[0].start, _CORRUPT), *clips[1:]],
    "planned in vain": lambda clips: [*clips, FailedClip(10**6, MediaError(Reason.TRUNCATED, "by the test"))],
    "the reference has none": lambda clips: [*clips, replace(clips[0], start=10**6)],
    "another picture": lambda clips: [replace(c, frames=np.roll(c.frames, 1, axis=0)) for c in clips],
    "is of": lambda clips: [replace(c, frame_times_s=[t + 0.04 for t in c.frame_times_s]) for c in clips],
    "ms late": lambda clips: [_changed_sound(c, np.roll(c.sound.waveform, 24)) for c in clips],
    "silence": lambda clips: [_changed_sound(c, 0 * c.sound.waveform) for c in clips],
    "another sound": lambda clips: [_changed_sound(c, c.sound.waveform[::-1]) for c in clips],
    "times as loud": lambda clips: [_changed_sound(c, c.sound.waveform / 2) for c in clips],
    "have sound": lambda clips: [replace(c, sound=replace(c.sound, sounding_s=1.5)) for c in clips],
}


@needs_ffmpeg
@pytest.mark.parametrize("sentence", _CHANGES)
def test_each_departure_is_told(recorded, monkeypatch, sentence):
    assert differences(recorded, SPEC) == []
    product, change = against_reference.product_clips, _CHANGES[sentence]
    monkeypatch.setattr(against_reference, "product_clips", lambda *a, **how: change(product(*a, **how)))
    told = differences(recorded, SPEC)
    assert told and all(sentence in one for one in told)


def test_a_lag_is_measured_to_the_sample():
    whole = resample_poly(noise(2), 1, 3)
    for samples in (-300, -17, 20, 640):
        mine, theirs = whole[1000 - samples : 26600 - samples], whole[1000:26600]
        assert lag(mine, theirs, SPEC)[0] == pytest.approx(1000 * samples / 16000)
