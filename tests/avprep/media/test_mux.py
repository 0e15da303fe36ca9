"""mp4 writing and clip bytes; and that the timing tests' own files hold what they claim."""

from __future__ import annotations

import ctypes
import io
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from avprep.media.mux import MuxError, decode_frames, encode_frames, write_mp4
from tests.avprep.media.flash_click import CODECS, FlashClick, click, find_clicks, lit, write_flash_click

M_PERTURB = -6  # of mallopt: the byte whose complement fills new memory


def moving_picture(frames: int = 16, size: int = 64) -> np.ndarray:
    """Smooth colours that drift, and a bright square that jumps: (T, size, size, 3) uint8."""
    y, x, t = np.meshgrid(np.arange(size), np.arange(size), np.arange(frames), indexing="ij")
    ways = ((1, 2), (2, -1), (-1, 1))
    waves = [128 + 90 * np.sin((a * x + b * y) / size * 3 + 0.3 * t + a) for a, b in ways]
    picture = np.stack(waves, -1).transpose(2, 0, 1, 3).astype(np.uint8)
    for k in range(frames):
        picture[k, 8:24, (3 * k) % (size - 16) : (3 * k) % (size - 16) + 16] = 255
    return picture


def coloured_noise(channels: int, samples: int) -> np.ndarray:
    """(channels, N) float32 with most of its power below a sixteenth of the rate, each channel its own."""
    rng = np.random.default_rng(7)
    white = rng.standard_normal((channels, samples))
    return np.stack([0.3 * np.convolve(w, np.hanning(16) / 4, "same") for w in white]).astype(np.float32)


def read_sound(path: Path) -> tuple[Fraction, int, np.ndarray]:
    """(instant of the first sample, rate, (channels, N)), every packet's PTS in step with the first."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
    start_s, rate, count, parts = frames[0].pts * frames[0].time_base, frames[0].sample_rate, 0, []
    for frame in frames:
        # 0.6 ms: Matroska rounds to milliseconds
        assert abs(frame.pts * frame.time_base - start_s - Fraction(count, rate)) < Fraction(6, 10_000)
        count += frame.samples
        data, channels = frame.to_ndarray(), frame.layout.nb_channels
        data = data if frame.format.is_planar else data.reshape(-1, channels).T
        parts.append(data / -float(np.iinfo(data.dtype).min) if data.dtype.kind == "i" else data)
    return start_s, rate, np.concatenate(parts, axis=1)


def lag_samples(heard: np.ndarray, given: np.ndarray) -> int:
    """By how many samples `heard` is later than `given`: the peak of their circular cross-correlation."""
    n = 1 << (len(heard) + len(given)).bit_length()
    match = np.fft.irfft(np.fft.rfft(heard, n) * np.fft.rfft(given, n).conj(), n)
    peak = int(match.argmax())
    return peak if peak < n // 2 else peak - n


def psnr(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """dB per channel."""
    return 10 * np.log10(255**2 / ((a.astype(float) - b) ** 2).mean(axis=(0, 1, 2)))


# --- write_mp4 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sample_rate", "channels"), [(16000, 1), (44100, 2), (48000, 6), (8000, 1)])
def test_sound_is_where_it_was_given(tmp_path: Path, sample_rate: int, channels: int) -> None:
    given = coloured_noise(channels, sample_rate + 77)
    given[3:4] = 0  # LFE passes only what is below 120 Hz
    write_mp4(tmp_path / "a.mp4", moving_picture(), given, fps=10, sample_rate=sample_rate)
    start_s, rate, heard = read_sound(tmp_path / "a.mp4")
    assert (rate, len(heard)) == (sample_rate, channels)
    for channel in {0, 1, 2, 4, 5} & set(range(channels)):
        assert abs(start_s + Fraction(lag_samples(heard[channel], given[channel]), rate)) < Fraction(1, 1000)
        kept = heard[channel, : given.shape[1]]
        assert np.corrcoef(kept, given[channel])[0, 1] > 0.98


@pytest.mark.parametrize("fps", [10, 25, Fraction(30000, 1001)])
def test_frames_play_at_their_index_over_fps(tmp_path: Path, fps: Fraction | int) -> None:
    frames = moving_picture(30)
    write_mp4(tmp_path / "a.mp4", frames, coloured_noise(1, 16000), fps=fps, sample_rate=16000)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.start_time == 0
        decoded = list(container.decode(video=0))
    assert [f.pts * f.time_base for f in decoded] == [k / Fraction(fps) for k in range(30)]
    assert psnr(np.stack([f.to_ndarray(format="rgb24") for f in decoded]), frames).min() > 28


def test_flash_and_click_stay_together(tmp_path: Path) -> None:
    frames, sound = np.zeros((50, 48, 64, 3), np.uint8), np.zeros(2 * 44100, np.float32)
    frames[25:30] = 255
    sound[44100 : 44100 + len(click(44100))] = click(44100)
    write_mp4(tmp_path / "a.mp4", frames, sound, fps=25, sample_rate=44100)
    start_s, rate, heard = read_sound(tmp_path / "a.mp4")
    assert float(start_s) + find_clicks(heard[0], rate, 1)[0] == pytest.approx(1.0, abs=2e-4)
    with av.open(str(tmp_path / "a.mp4")) as container:
        light = {f.pts * f.time_base: f.to_ndarray(format="gray").mean() for f in container.decode(video=0)}
    assert [t for t, mean in light.items() if mean > 128] == [Fraction(k, 25) for k in range(25, 30)]


@pytest.mark.parametrize("waveform", [None, np.zeros(0, np.float32)])
def test_no_waveform_gives_no_audio_stream(tmp_path: Path, waveform: np.ndarray | None) -> None:
    write_mp4(tmp_path / "a.mp4", moving_picture(), waveform, fps=10, sample_rate=16000)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert not container.streams.audio
        assert len(list(container.decode(video=0))) == 16


@pytest.mark.parametrize("seconds", [0.7, 2.5])
def test_sound_may_be_shorter_or_longer_than_the_picture(tmp_path: Path, seconds: float) -> None:
    given = coloured_noise(1, int(16000 * seconds))
    write_mp4(tmp_path / "a.mp4", moving_picture(), given, fps=10, sample_rate=16000)
    heard = read_sound(tmp_path / "a.mp4")[2]
    assert given.shape[1] <= heard.shape[1] <= given.shape[1] + 1024
    assert np.corrcoef(heard[0, : given.shape[1]], given[0])[0, 1] > 0.98


def test_sound_beyond_full_scale_is_clipped(tmp_path: Path) -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000).astype(np.float32)
    for name, waveform in (("loud", 3 * tone), ("clipped", np.clip(3 * tone, -1, 1))):
        write_mp4(tmp_path / name, moving_picture(), waveform, fps=10, sample_rate=16000)
    assert (tmp_path / "loud").read_bytes() == (tmp_path / "clipped").read_bytes()


def test_bad_arguments_name_themselves(tmp_path: Path) -> None:
    frames, sound = moving_picture(), coloured_noise(1, 1600)
    good = {"fps": 10, "sample_rate": 16000}
    for message, args, options in (
        ("even height and width", (frames[:, :63], sound), good),
        ("uint8", (frames / 255.0, sound), good),
        ("T > 0", (frames[:0], sound), good),
        ("16001", (frames, sound), {**good, "sample_rate": 16001}),
        ("fps .* 0", (frames, sound), {**good, "fps": 0}),
        ("channels", (frames, coloured_noise(3, 1600)), good),
        ("floats", (frames, np.zeros(1600, np.int16)), good),
        ("NaN", (frames, np.full(1600, np.nan, np.float32)), good),
        ("crf .* 99", (frames, sound), {**good, "crf": 99}),
        ("preset .* 'quick'", (frames, sound), {**good, "preset": "quick"}),
    ):
        with pytest.raises(MuxError, match=message):
            write_mp4(tmp_path / "a.mp4", *args, **options)
    assert not (tmp_path / "a.mp4").exists()


# --- encode_frames, decode_frames ----------------------------------------------------------------------


def test_clip_comes_back_in_order_and_in_colour() -> None:
    frames = moving_picture(16, 128)
    decoded = decode_frames(encode_frames(frames, fps=10, crf=12))
    assert decoded.shape == frames.shape
    assert decoded.dtype == np.uint8
    assert psnr(decoded, frames).min() > 38
    assert abs(decoded.mean(axis=(0, 1, 2)) - frames.mean(axis=(0, 1, 2))).max() < 0.5
    nearest = [int(((frames.astype(float) - d) ** 2).mean(axis=(1, 2, 3)).argmin()) for d in decoded]
    assert nearest == list(range(16))


@pytest.mark.parametrize(
    "rgb", [(255, 255, 255), (0, 0, 0), (128, 128, 128), (250, 20, 20), (20, 250, 20), (20, 20, 250)]
)
def test_flat_colours_do_not_shift(rgb: tuple[int, int, int]) -> None:
    frames = np.full((4, 32, 32, 3), rgb, np.uint8)
    data = encode_frames(frames, fps=10, crf=10)
    assert abs(decode_frames(data).astype(int) - frames).max() <= 2
    # The stream itself, by the formula of ITU-R BT.709 (Y' of limited range), not by our own way back.
    with av.open(io.BytesIO(data)) as container:
        frame = next(container.decode(video=0))
        luma = np.frombuffer(frame.planes[0], np.uint8)[0]
        assert luma == pytest.approx(16 + 219 * np.dot(rgb, (0.2126, 0.7152, 0.0722)) / 255, abs=1)
        assert (frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range) == (1, 1, 1, 1)


def test_chroma_does_not_move_sideways() -> None:
    angle = 2 * np.pi * (np.arange(64) + 0.5) / 32
    row = np.stack([128 + 60 * np.sin(angle), np.full(64, 128), 128 - 60 * np.sin(angle)], -1)
    frames = np.tile(row.astype(np.uint8), (4, 64, 1, 1))
    decoded = decode_frames(encode_frames(frames, fps=10, crf=5))

    def phase_px(picture: np.ndarray) -> float:
        return np.angle((picture[..., 0].mean(axis=(0, 1)) * np.exp(-1j * angle)).sum()) * 32 / (2 * np.pi)

    assert phase_px(decoded) == pytest.approx(phase_px(frames), abs=0.05)


@pytest.mark.parametrize("size", [48, 64, 128, 144, 256])
def test_equal_frames_give_equal_bytes_whatever_the_memory_held(size: int) -> None:
    """x264 has read memory that nobody wrote: here malloc fills what it hands out."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        pytest.skip("this C library has no mallopt")
    frames, found = moving_picture(16, size), set()
    try:
        for fill in (0, 1, 85, 170, 255):
            libc.mallopt(M_PERTURB, fill)
            found.add(encode_frames(np.asfortranarray(frames) if fill % 2 else frames, fps=10))
    finally:
        libc.mallopt(M_PERTURB, 0)
    assert len(found) == 1


def test_lower_crf_is_closer_and_larger() -> None:
    frames = moving_picture()
    fine, coarse = encode_frames(frames, fps=10, crf=10), encode_frames(frames, fps=10, crf=35)
    assert len(fine) > len(coarse)
    assert (psnr(decode_frames(fine), frames) > psnr(decode_frames(coarse), frames)).all()


@pytest.mark.parametrize("cut", [slice(0, 0), slice(0, 200), slice(100, None)])
def test_bytes_that_are_no_clip_are_refused(cut: slice) -> None:
    with pytest.raises(MuxError, match="do not decode"):
        decode_frames(encode_frames(moving_picture(), fps=10)[cut])


def test_module_imports_without_pyav() -> None:
    code = "import sys; sys.modules['av'] = None; import avprep.media.mux"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- flash_click: the files of the timing tests ------------------------------------------------------------


def assert_holds_what_it_claims(made: FlashClick) -> None:
    """Flashes by decoded frames' PTS, exactly; clicks by an edge detector on the samples, within 0.25 ms."""
    with av.open(str(made.path)) as container:
        assert abs(made.start_s - Fraction(container.start_time, 1_000_000)) < Fraction(1, 100_000)
        decoded = list(container.decode(video=0))
    pts_s = [f.pts * f.time_base for f in decoded]
    white = lit(np.stack([f.to_ndarray(format="rgb24") for f in decoded]))
    assert pts_s == list(made.frame_pts_s)
    rises = [t for t, before, now in zip(pts_s[1:], white, white[1:], strict=False) if now and not before]
    assert rises == list(made.flash_pts_s)
    start_s, rate, heard = read_sound(made.path)
    for channel in heard[:3]:
        loud = np.flatnonzero(abs(channel) > 0.25)
        onsets = loud[np.insert(np.diff(loud) > rate // 10, 0, True)]
        found_s = [float(start_s) + (n - _samples_to_quarter_scale(rate)) / rate for n in onsets]
        assert found_s == pytest.approx([float(t) for t in made.click_s], abs=2.5e-4)
    assert [float(t) for t in made.flash_pts_s] == pytest.approx([float(t) for t in made.click_s], abs=1e-4)


def _samples_to_quarter_scale(rate: int) -> int:
    return int(np.flatnonzero(abs(click(rate)) > 0.25)[0])


@pytest.mark.parametrize("suffix", list(CODECS))
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"audio_starts_s": 0.5, "video_fps": 30, "layout": "stereo"},
        {"audio_starts_s": 1.25, "video_fps": Fraction(30000, 1001)},
        {"video_starts_s": 0.4, "vfr": True, "layout": "5.1"},
    ],
    ids=["plain", "late-0.5-30fps-stereo", "late-1.25-29.97fps", "video-late-vfr-5.1"],
)
def test_flash_click_files(tmp_path: Path, suffix: str, options: dict) -> None:
    rate = 48000 if suffix == ".webm" else 44100
    made = write_flash_click(tmp_path / f"a{suffix}", sample_rate=rate, **options)
    assert len(made.flash_pts_s) == len(made.click_s) == 3
    assert_holds_what_it_claims(made)


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".ts", {"video_codec": "mpeg2video"}),
        (".mp4", {"video_codec": "libx265", "gop_s": 10}),
        (".mkv", {"audio_codec": "libopus", "audio_starts_s": 0.5}),
        (".mov", {"audio_codec": "pcm_s16le", "layout": "5.1"}),
    ],
)
def test_flash_click_codecs(tmp_path: Path, suffix: str, options: dict) -> None:
    made = write_flash_click(tmp_path / f"a{suffix}", **options)
    assert_holds_what_it_claims(made)


def test_flash_click_late_streams_are_late_in_the_file(tmp_path: Path) -> None:
    late_sound = write_flash_click(tmp_path / "a.mkv", audio_starts_s=1.25)
    late_video = write_flash_click(tmp_path / "b.mp4", video_starts_s=0.4)
    assert read_sound(late_sound.path)[0] == Fraction(5, 4)
    assert late_video.frame_pts_s[0] == Fraction(2, 5)
    assert write_flash_click(tmp_path / "c.ts").start_s > 1.4


def test_flash_click_has_b_frames_and_a_gop_of_a_second(tmp_path: Path) -> None:
    def keys_and_reorders(path: Path) -> tuple[list[float], bool]:
        with av.open(str(path)) as container:
            packets = [p for p in container.demux(video=0) if p.pts is not None]
        keys = [float(p.pts * p.time_base) for p in packets if p.is_keyframe]
        return keys, [p.pts for p in packets] != sorted(p.pts for p in packets)

    assert keys_and_reorders(write_flash_click(tmp_path / "a.mp4").path) == ([0.0, 1.0, 2.0, 3.0], True)
    assert keys_and_reorders(write_flash_click(tmp_path / "b.mp4", gop_s=10).path) == ([0.0], True)


def test_flash_click_refuses_an_event_before_the_sound(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"0\.5 s is before the sound starts at 1\.25"):
        write_flash_click(tmp_path / "a.mp4", events_s=(0.5,), audio_starts_s=1.25)


@pytest.mark.parametrize("sample_rate", [16000, 44100])
def test_find_clicks_known_answer(sample_rate: int) -> None:
    sound = 0.01 * np.random.default_rng(0).standard_normal(sample_rate)
    for onset in (1234, 7000, 15000):
        sound[onset : onset + len(click(sample_rate))] += click(sample_rate)
    found = find_clicks(sound, sample_rate, 3)
    assert found * sample_rate == pytest.approx([1234, 7000, 15000], abs=0.05)
    with pytest.raises(ValueError, match="3 clicks found of 4"):
        find_clicks(sound, sample_rate, 4)


@pytest.mark.parametrize(
    ("shape", "said"),
    [((3, 16, 16, 3), "frame 4 is 16 x 16"), ((5, 16, 16, 3), "4 frames"), ((4, 18, 16, 3), "frame 1 is")],
)
def test_frames_of_another_shape_than_wanted_are_not_decoded_to_their_end(shape, said):
    data = encode_frames(np.zeros((4, 16, 16, 3), np.uint8), fps=10)
    assert decode_frames(data, (4, 16, 16, 3)).shape == (4, 16, 16, 3)
    with pytest.raises(MuxError, match=said):
        decode_frames(data, shape)


def test_pictures_much_larger_than_wanted_are_refused_by_the_decoder():
    data = encode_frames(np.zeros((1, 512, 512, 3), np.uint8), fps=10)
    with pytest.raises(MuxError, match="do not decode") as caught:
        decode_frames(data, (1, 16, 16, 3))
    assert "frame 1" not in str(caught.value)  # none was decoded
