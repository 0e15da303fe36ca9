"""Files whose flash and click coincide by construction: what the timing tests measure with.

A dark picture turns white for 0.2 s at each event, and a click begins with the first white frame:

    video  ----####----------####------      # = lit; the first lit frame's PTS is the event
    audio        ~click        ~click        in every channel but LFE and the surrounds
           |<-- audio_starts_s: the first packet's PTS, no silence is inserted

`find_clicks` and `lit` read them back from decoded samples and frames at any rate and size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

FLASH_S = Fraction(1, 5)
CLICK_S = 0.003
VFR_STEPS_MS = (40, 20, 60, 33, 47, 100)

# suffix: (video codec, audio codec)
CODECS = {
    ".mp4": ("libx264", "aac"),
    ".mov": ("libx264", "aac"),
    ".mkv": ("libx264", "flac"),
    ".webm": ("libvpx-vp9", "libopus"),
    ".ts": ("libx264", "aac"),
}
VIDEO_OPTIONS = {
    "libx264": {"preset": "veryfast", "crf": "18", "bf": "2", "sc_threshold": "0"},
    "libx265": {"preset": "ultrafast", "crf": "18", "x265-params": "bframes=2:scenecut=0:log-level=none"},
    "libvpx-vp9": {"deadline": "good", "cpu-used": "8", "crf": "20", "b": "0"},
    "mpeg2video": {"q": "2", "bf": "2", "sc_threshold": "1000000000"},
}


@dataclass(frozen=True)
class FlashClick:
    """A file and what it holds. Every time is in seconds on the container's own clock, as stored."""

    path: Path
    start_s: Fraction  # the container's start: time 0 of the source
    frame_pts_s: tuple[Fraction, ...]  # every frame's PTS, in display order
    flash_pts_s: tuple[Fraction, ...]  # PTS of each event's first lit frame
    click_s: tuple[Fraction, ...]  # instant of each click's first sample


def write_flash_click(
    path: Path,
    *,
    events_s: Sequence[float] = (1.4, 2.2, 3.0),
    seconds: float = 4.0,
    video_fps: Fraction | int = 25,
    vfr: bool = False,
    sample_rate: int = 48000,
    layout: str = "mono",
    audio_starts_s: float = 0.0,
    video_starts_s: float = 0.0,
    gop_s: float = 1.0,
    size: tuple[int, int] = (64, 48),
    video_codec: str | None = None,
    audio_codec: str | None = None,
) -> FlashClick:
    """Writes the file; its suffix chooses the container and, unless named, the codecs.

    Args:
        events_s: wanted instants, common timeline; each moves to the first frame that is not before it.
        seconds: where both streams stop, common timeline.
        video_fps: ignored when `vfr`, which takes steps of 20 to 100 ms.
        layout: 'mono', 'stereo' or '5.1'.
        audio_starts_s, video_starts_s: PTS of the first sample and the first frame, by offset at mux time.
        gop_s: seconds between keyframes at most.
        size: (width, height).
    """
    fps, stop = Fraction(video_fps), Fraction(str(seconds))
    video_start, audio_start = Fraction(str(video_starts_s)), Fraction(str(audio_starts_s))
    frames_s = [video_start + t for t in _frame_times(stop - video_start, None if vfr else fps)]
    flashes_s = [next(t for t in frames_s if t >= event) for event in events_s]
    if flashes_s[0] < audio_start:
        raise ValueError(f"the event at {events_s[0]} s is before the sound starts at {audio_starts_s} s")
    video_codec, audio_codec = video_codec or CODECS[path.suffix][0], audio_codec or CODECS[path.suffix][1]
    clicks_s = flashes_s

    # Matroska's clock ticks in milliseconds: its sound may start up to one away from where it was meant to.
    # The second time the clicks are moved by that much within their samples.
    for _ in range(2):
        with av.open(str(path), "w", options=_container_options(path, sample_rate)) as container:
            video = container.add_stream(video_codec, rate=fps, options=VIDEO_OPTIONS[video_codec])
            video.codec_context.gop_size = round(gop_s * fps)
            video.codec_context.time_base = Fraction(1, 1000) if vfr else 1 / fps
            video.width, video.height, video.pix_fmt = *size, "yuv420p"
            audio = container.add_stream(audio_codec, rate=sample_rate, layout=layout)
            pictures = _video_packets(video, [t - video_start for t in frames_s], _lit(frames_s, flashes_s))
            track = _click_track(stop - audio_start, [t - audio_start for t in clicks_s], sample_rate)
            packets = [*_delayed(pictures, video_start), *_delayed(_audio_packets(audio, track), audio_start)]
            for packet in sorted(packets, key=lambda p: p.dts * p.time_base):
                container.mux(packet)
        stored = _read(path, [frames_s.index(t) for t in flashes_s], len(frames_s))
        late_s = [click - flash for click, flash in zip(stored.click_s, stored.flash_pts_s, strict=True)]
        if max(map(abs, late_s)) <= Fraction(1, 10_000):
            return stored
        clicks_s = [click - late for click, late in zip(clicks_s, late_s, strict=True)]
    raise AssertionError(f"{path}: clicks {[float(t) for t in late_s]} s after their flashes")


def click(sample_rate: int) -> np.ndarray:
    """The click: 3 ms rising from 1 to 6 kHz, loud from its first tenth of a millisecond. (n,) float32"""
    t = np.arange(round(CLICK_S * sample_rate)) / sample_rate
    chirp = np.sin(2 * np.pi * (1000 * t + 0.5 * (5000 / CLICK_S) * t**2))
    return (0.9 * chirp * np.minimum(1, t / 1e-4) * np.cos(np.pi / 2 * t / CLICK_S) ** 2).astype(np.float32)


def find_clicks(waveform: np.ndarray, sample_rate: int, count: int) -> np.ndarray:
    """Onsets of the `count` loudest clicks of (N,) samples, in seconds from sample 0, ascending.

    The peaks of a matched filter, refined by a parabola: good to a few hundredths of a sample. Clicks lie at
    least 0.1 s apart. Raises ValueError where there are fewer.
    """
    match = np.correlate(waveform.astype(np.float64), click(sample_rate), mode="valid")
    strength, onsets = match.clip(0), []
    while len(onsets) < count:
        k = int(strength.argmax())
        if strength[k] < 0.05 * match.max() or not 0 < k < len(match) - 1:
            raise ValueError(f"{len(onsets)} clicks found of {count}")
        before, peak, after = match[k - 1 : k + 2]
        onsets.append((k + 0.5 * (before - after) / (before - 2 * peak + after)) / sample_rate)
        strength[max(0, k - sample_rate // 10) : k + sample_rate // 10] = 0
    return np.sort(onsets)


def lit(frames: np.ndarray) -> np.ndarray:
    """Which frames are white: (T, H, W, 3) uint8 -> (T,) bool."""
    return frames.mean(axis=(1, 2, 3)) > 128


def _frame_times(seconds: Fraction, fps: Fraction | None) -> list[Fraction]:
    """Frame instants in [0, seconds); VFR where fps is None."""
    times, t, k = [], Fraction(0), 0
    while t < seconds:
        times.append(t)
        k += 1
        t = k / fps if fps else t + Fraction(VFR_STEPS_MS[k % len(VFR_STEPS_MS)], 1000)
    return times


def _lit(frames_s: list[Fraction], flashes_s: list[Fraction]) -> list[bool]:
    return [any(flash <= t < flash + FLASH_S for flash in flashes_s) for t in frames_s]


def _click_track(seconds: Fraction, clicks_s: list[Fraction], sample_rate: int) -> np.ndarray:
    """(N,) float32, a click beginning at each instant, to the nearest sample."""
    track, burst = np.zeros(round(seconds * sample_rate), np.float32), click(sample_rate)
    for t in clicks_s:
        onset = round(t * sample_rate)
        track[onset : onset + len(burst)] += burst
    return track


def _video_packets(video: av.VideoStream, frames_s: list[Fraction], white: list[bool]) -> Iterator[av.Packet]:
    for t, is_lit in zip(frames_s, white, strict=True):
        picture = np.full((video.height, video.width, 3), 235 if is_lit else 32, np.uint8)
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
        frame.time_base = video.codec_context.time_base
        frame.pts = int(t / frame.time_base)
        yield from video.encode(frame)
    yield from video.encode(None)


def _audio_packets(audio: av.AudioStream, samples: np.ndarray) -> Iterator[av.Packet]:
    """The samples in every channel; in 5.1 in the three at the front."""
    if audio.codec_context.name in ("aac", "libopus"):
        audio.codec_context.bit_rate = 128_000 * audio.codec_context.channels
    channels = np.zeros((audio.codec_context.channels, len(samples)), np.float32)
    channels[:3] = samples
    frame = av.AudioFrame.from_ndarray(channels, format="fltp", layout=audio.layout.name)
    frame.sample_rate, frame.pts, frame.time_base = audio.rate, 0, Fraction(1, audio.rate)
    yield from audio.encode(frame)
    yield from audio.encode(None)


def _delayed(packets: Iterator[av.Packet], delay_s: Fraction) -> Iterator[av.Packet]:
    """Packets `delay_s` later, in a time base in which that is a whole number of ticks."""
    for packet in packets:
        tick = Fraction(1, math.lcm(packet.time_base.denominator, delay_s.denominator))
        scale, shift = int(packet.time_base / tick), int(delay_s / tick)
        packet.pts, packet.dts = packet.pts * scale + shift, packet.dts * scale + shift
        packet.duration, packet.time_base = packet.duration * scale, tick
        yield packet


def _container_options(path: Path, sample_rate: int) -> dict[str, str]:
    if path.suffix in (".mp4", ".mov"):
        # The unit of edit lists: by default a millisecond, which would round the start of late sound.
        return {"movie_timescale": str(math.lcm(90_000, sample_rate))}
    if path.suffix == ".ts":
        return {"max_delay": "700000"}  # as ffmpeg writes TS: its clock starts at 1.4 s
    return {}


def _read(path: Path, flashes: list[int], frames: int) -> FlashClick:
    """What the container stores: frames by their packets' PTS, samples counted from the first one's PTS."""
    with av.open(str(path)) as container:
        start_s, video = Fraction(container.start_time, av.time_base), container.streams.video[0]
        pts_s = sorted(p.pts * video.time_base for p in container.demux(video) if p.pts is not None)
    assert len(pts_s) == frames, f"{frames} frames went into {path}, {len(pts_s)} are in it"
    with av.open(str(path)) as container:
        to_float = av.AudioResampler("fltp")
        sound = list(container.decode(audio=0))
        left = np.concatenate([f.to_ndarray()[0] for frame in sound for f in to_float.resample(frame)])
    sound_s = sound[0].pts * sound[0].time_base
    clicks = find_clicks(left, sound[0].sample_rate, len(flashes))
    return FlashClick(
        path=path,
        start_s=start_s,
        frame_pts_s=tuple(pts_s),
        flash_pts_s=tuple(pts_s[k] for k in flashes),
        click_s=tuple(sound_s + Fraction(t).limit_denominator(10**7) for t in clicks),
    )
