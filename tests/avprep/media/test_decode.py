"""The claim of the whole project: the flash is in its frame, and the click within 1 ms of it."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.packet import Packet

from avprep.media.decode import PLAIN, FailedClip, RawClip, read_clips
from avprep.media.limits import Deadline
from avprep.media.probe import probe
from avprep.media.source import open_source
from avprep.media.timeline import starts_of_parts
from avprep.reasons import Reason
from avprep.spec import ClipSpec
from tests.avprep.media.flash_click import FLASH_S, find_clicks, lit, write_flash_click
from tests.avprep.media.matrix import number_of
from tests.avprep.media.test_aperture import with_clap
from tests.avprep.media.test_pictures import stream
from tests.conftest import shared_file

SPEC = ClipSpec(size=32)
EVENTS_S = (1.4, 2.2, 3.0)


def read_all(path: Path, *, spec: ClipSpec = SPEC, stride: int | None = None) -> list[RawClip]:
    starts = starts_of_parts(probe(path).parts, spec=spec, stride_samples=stride or spec.samples)
    with open_source(path) as source:
        clips = list(read_clips(source, starts, spec=spec, crop="center", deadline=Deadline(60)))
    return [clip for clip in clips if isinstance(clip, RawClip)]


def one_clip(path: Path, start: int, *, spec: ClipSpec = SPEC) -> RawClip | FailedClip:
    with open_source(path) as source:
        return next(read_clips(source, [start], spec=spec, crop="center", deadline=Deadline(60)))


def own_samples(clip: RawClip, spec: ClipSpec = SPEC) -> np.ndarray:
    return clip.sound.waveform[spec.samples_before : spec.samples_before + spec.samples]


CASES = [
    *({"suffix": suffix} for suffix in (".mp4", ".mov", ".mkv", ".webm", ".ts")),
    *(
        {"suffix": s, "audio_starts_s": late}
        for s in (".mp4", ".mkv", ".webm", ".ts")
        for late in (0.5, 1.25)
    ),
    *({"suffix": suffix, "video_starts_s": 0.4} for suffix in (".mp4", ".mkv", ".ts")),
    *({"suffix": suffix, "vfr": True} for suffix in (".mp4", ".mkv", ".webm")),
    *({"suffix": ".mp4", "video_fps": fps} for fps in (30, Fraction(30000, 1001), 60)),
    *(
        {"suffix": ".mp4", "layout": layout, "sample_rate": rate}
        for layout in ("mono", "stereo", "5.1")
        for rate in (44100, 48000)
    ),
    {"suffix": ".webm", "layout": "stereo"},
    {"suffix": ".ts", "layout": "5.1", "sample_rate": 44100},
    {"suffix": ".mp4", "gop_s": 20.0},
    {"suffix": ".mkv", "video_codec": "libx265"},
    {"suffix": ".ts", "video_codec": "mpeg2video"},
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: ",".join(f"{k}={v}" for k, v in c.items()))
def test_flash_and_click_stay_together(case, tmp_path):
    case = dict(case)
    made = write_flash_click(tmp_path / f"made{case.pop('suffix')}", events_s=EVENTS_S, seconds=5.0, **case)
    flashes_s = [float(t - made.start_s) for t in made.flash_pts_s]
    clips = read_all(made.path, stride=SPEC.samples // 2)
    seen = 0
    for clip in clips:
        start_s = clip.start / SPEC.sample_rate
        stop_s = start_s + float(SPEC.seconds)
        instants = [start_s + i / SPEC.fps for i in range(SPEC.frames)]
        shown = [
            max(
                (float(p - made.start_s) for p in made.frame_pts_s if p - made.start_s <= t + 1e-9),
                default=float(made.frame_pts_s[0] - made.start_s),
            )
            for t in map(Fraction, instants)
        ]
        expected = [any(f - 1e-6 <= s < f + float(FLASH_S) - 1e-6 for f in flashes_s) for s in shown]
        assert lit(clip.frames).tolist() == expected
        assert np.allclose(clip.frame_times_s, shown, atol=2e-6)
        inside = [f for f in flashes_s if start_s + 0.02 < f < stop_s - 0.02]
        if inside:
            clicks_s = start_s + find_clicks(own_samples(clip), SPEC.sample_rate, len(inside))
            assert np.abs(clicks_s - inside).max() < 1e-3
            seen += len(inside)
    assert seen >= len(EVENTS_S)


def test_missing_sound_is_silence_and_is_counted(tmp_path):
    made = write_flash_click(tmp_path / "late.mp4", audio_starts_s=1.25)
    first, second = read_all(made.path)[:2]
    late_s = float(Fraction(5, 4) - made.start_s)
    assert first.sound.sounding_s == pytest.approx(1.6 - late_s, abs=0.03)  # AAC's own priming is sound too
    assert second.sound.sounding_s == pytest.approx(1.6, abs=1e-3)
    assert not own_samples(first)[: int(1.1 * 16000)].any()


def test_a_clip_is_the_same_whichever_clips_are_read_with_it(tmp_path):
    """Skipping frames, seeking and grouping change nothing."""
    made = write_flash_click(tmp_path / "long.mp4", seconds=40.0, events_s=(1.4, 15.0, 39.0), gop_s=2.0)
    together = {clip.start: clip for clip in read_all(made.path)}
    for start in list(together)[::6]:
        alone = one_clip(made.path, start)
        assert np.array_equal(alone.frames, together[start].frames)
        assert alone.frame_times_s == together[start].frame_times_s
        assert np.allclose(alone.sound.waveform, together[start].sound.waveform, atol=1e-4)


def test_a_clip_past_the_end_is_truncated_and_says_so(tmp_path):
    made = write_flash_click(tmp_path / "short.mp4", seconds=4.0)
    failed = one_clip(made.path, 3 * 16000)
    assert failed.start == 48000
    assert failed.error.reason is Reason.TRUNCATED
    assert "4.000 s" in failed.error.detail


def test_a_clip_long_before_the_first_picture_has_none(tmp_path):
    made = write_flash_click(tmp_path / "late.mkv", video_starts_s=0.4)
    assert one_clip(made.path, 0).error.reason is Reason.NO_VIDEO


def test_a_cut_file_gives_the_clips_that_it_still_holds():
    clips = read_all(shared_file("media", "trunc_frog.mp4"))
    whole = {clip.start: clip for clip in read_all(shared_file("media", "frog.mp4"))}
    assert [clip.start for clip in clips] == [0, 25600, 51200]
    for clip in clips:
        assert np.array_equal(clip.frames, whole[clip.start].frames)


def test_sound_that_was_moved_by_half_a_second_is_found_there():
    """offset_audio_plus500ms.mp4 is crystal.mp4 with its sound 0.5 s later."""
    moved = read_all(shared_file("media", "offset_audio_plus500ms.mp4"))
    plain = read_all(shared_file("media", "crystal.mp4"))
    a = np.concatenate([own_samples(c) for c in moved])
    b = np.concatenate([own_samples(c) for c in plain])
    # the whole, by cross-correlation over a second of lags
    window = b[16000:80000]
    scores = [float(np.dot(a[16000 + k : 80000 + k], window)) for k in range(0, 16001)]
    assert abs(int(np.argmax(scores)) - 8000) <= 16
    assert np.array_equal(moved[2].frames, plain[2].frames)


def test_a_rotated_file_is_shown_turned():
    """rot180_dog.mp4 holds dog_bed.mp4's frames under a display matrix of 180 degrees."""
    turned = read_all(shared_file("media", "rot180_dog.mp4"), spec=ClipSpec(size=64))[0]
    upright = read_all(shared_file("media", "dog_bed.mp4"), spec=ClipSpec(size=64))[0]
    difference = turned.frames[:, ::-1, ::-1].astype(int) - upright.frames
    assert np.abs(difference).mean() < 2


def test_vc1_frames_come_in_the_order_they_are_shown():
    clips = read_all(shared_file("media", "fishes.wmv"))
    times = [t for clip in clips for t in clip.frame_times_s]
    assert times == sorted(times)
    assert max(abs(clip.residual_ms) for clip in clips) <= 40  # one frame at 25 fps


# --- numbered pictures in small files --------------------------------------------------------------------


def write_numbered(path: Path, codec: str, packets: list[Packet]) -> Path:
    """Packets of `stream` at 25 fps, in the container of the suffix."""
    with av.open(str(path), "w") as container:
        out = container.add_stream(codec, rate=25)
        out.width, out.height, out.pix_fmt = 64, 64, "yuv420p"
        for packet in packets:
            packet.stream, packet.time_base = out, Fraction(1, 25)
            container.mux(packet)
    return path


def numbers(clip: RawClip) -> list[int]:
    return [number_of(av.VideoFrame.from_ndarray(frame, format="rgb24")) for frame in clip.frames]


def test_where_a_skip_is_doubted_the_rest_is_decoded_plainly_and_no_clip_comes_twice(tmp_path):
    """All packets are flagged as keyframes, as in an MP4 without a sync table; clips 14 s apart."""
    packets = stream("mpeg4", 25 * 34, reorder=0, gop=600)
    for packet in packets:
        packet.is_keyframe = True
    counts: Counter[str] = Counter()
    with open_source(write_numbered(tmp_path / "lying.mp4", "mpeg4", packets)) as source:
        assert source.can_seek
        starts = [16000 * s for s in (0, 15, 31)]
        how = {"spec": SPEC, "crop": "center", "deadline": Deadline(60)}
        clips = list(read_clips(source, starts, counts=counts, **how))
    assert [clip.start for clip in clips] == starts
    expected = [[25 * s + 5 * i // 2 for i in range(16)] for s in (0, 15, 31)]
    assert [numbers(clip) for clip in clips] == expected
    assert counts == {PLAIN: 1}


def test_clips_of_joined_recordings_are_each_of_one(tmp_path):
    joined = tmp_path / "joined.ts"
    parts = [stream("mpeg2video", 100, reorder=2, gop=12, first=first) for first in (0, 1000)]
    files = [write_numbered(tmp_path / f"{i}.ts", "mpeg2video", part) for i, part in enumerate(parts)]
    joined.write_bytes(b"".join(file.read_bytes() for file in files))
    first, second = probe(joined).parts
    assert (first.stop_s - first.start_s, second.stop_s - second.start_s) == (4, 4)
    assert first.stop_s == second.start_s
    clips = read_all(joined)
    assert [clip.start for clip in clips] == [0, 25600, 64000, 89600]
    of_one = [5 * i // 2 for i in range(16)]
    assert [numbers(clip) for clip in clips] == [[n + b for n in of_one] for b in (0, 40, 1000, 1040)]


def test_the_residual_is_the_longest_that_a_picture_was_shown_too_early_or_too_late(tmp_path):
    """A first picture 0.08 s into its clip; one that stands still for 0.4 s, while nine are left out."""
    packets = [packet for packet in stream("mpeg4", 100, reorder=0, gop=1) if not 60 < packet.pts < 70]
    path = write_numbered(tmp_path / "gap.mkv", "mpeg4", packets)
    early, late = one_clip(path, -1280), one_clip(path, 25600)
    assert (early.residual_ms, late.residual_ms) == (-80.0, 300.0)
    assert numbers(early)[:3] == [0, 0, 3] and numbers(late)[8:13] == [60, 60, 60, 60, 70]


def test_the_crop_is_of_the_picture_as_it_is_shown(tmp_path):
    """Pixels twice as wide as high: of four columns of blocks the two in the middle are kept."""
    packets = stream(count=50, reorder=0, first=0x2222, **{"x264-params": "sar=2/1"})
    clip = one_clip(write_numbered(tmp_path / "wide.ts", "h264", packets), 0)
    assert numbers(clip)[0] == 0x3333


def test_the_crop_is_of_what_the_aperture_shows(tmp_path):
    """Of four times four blocks the aperture shows the two times two at the top left."""
    packets = stream(count=50, reorder=0, first=0x0012)
    path = write_numbered(tmp_path / "aperture.mp4", "h264", packets)
    path.write_bytes(with_clap(path.read_bytes(), (32, 1, 32, 1, -16, 1, -16, 1)))
    assert numbers(one_clip(path, 0))[0] == 0x33CC


@pytest.mark.parametrize("name", ["friday_speech.mp4", "noaudio_bug.mp4", "chaplin.mp4", "mpeg2_mp2.ts"])
def test_a_healthy_file_is_never_decoded_a_second_time(name):
    """Doubt costs time, not pictures: no other test would tell."""
    path, counts = shared_file("media", name), Counter()
    starts = starts_of_parts(probe(path).parts, spec=SPEC, stride_samples=SPEC.samples)
    with open_source(path) as source:
        clips = list(
            read_clips(source, starts, spec=SPEC, crop="center", deadline=Deadline(60), counts=counts)
        )
    assert all(isinstance(clip, RawClip) for clip in clips) and not counts
