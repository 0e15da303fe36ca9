"""Files of every kind that FFmpeg can write, made for the tests: containers, codecs, clocks, sound.

Each picture holds its own number in 16 blocks, and the sound is noise that can be found in time, so that a
file's truth is known without a decoder's stamps:

    picture k is shown at k / fps, the noise's second t sounds at t; both + what the container adds to all

`pairwise` picks, of the combinations that the containers and encoders allow, few that hold every telling pair
of values; `write` makes the file of one by the `ffmpeg` command.
"""

from __future__ import annotations

import random
import subprocess
import wave
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from heapq import heapify, heappop, heappush
from itertools import combinations, zip_longest
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame
from scipy.signal import firwin, lfilter, resample_poly

SECONDS = 4  # of the pictures and of the noise
NOISE_RATE = 48000  # samples per second of the noise that is encoded
_NOISE_HZ = 5000  # its highest frequency
LATE_S = Fraction(7, 10)  # how far the sound of a 'late' case is moved, and of an 'early' one the pictures
AMR = "libopencore_amrnb"


@dataclass(frozen=True)
class Case:
    """One file. The fields are the parameters of the matrix."""

    container: str
    codec: str
    audio: str  # an encoder of FFmpeg; 'none'
    sound: str  # 'on time', 'late', 'early' (before the picture), 'short' (it ends half way); 'none'
    rate: int  # samples per second; 0 without sound
    channels: int
    pixels: str  # FFmpeg's name of the pixel format
    size: tuple[int, int]
    fps: Fraction
    vfr: bool  # two pictures of each five are left out, the others keep their times
    reorder: int  # B-pictures in a row at most
    gop: int  # pictures from a keyframe to the next
    open_gop: bool
    start: str  # seconds added to all stamps; 'cut': the first 0.5 s hidden by an edit list
    interlaced: bool
    sar: str

    def __str__(self) -> str:
        words = [self.container, self.codec, self.pixels, "{}x{}".format(*self.size)]
        words += [f"{float(self.fps):.5g}fps", f"b{self.reorder}"]
        words += [f"{'open' if self.open_gop else 'g'}{self.gop}"]
        words += [f"at{self.start}"] if self.start != "0" else []
        words += [name for name, holds in (("vfr", self.vfr), ("interlaced", self.interlaced)) if holds]
        words += [f"sar{self.sar.replace('/', '_')}"] if self.sar != "1" else []
        if self.sound == "none":
            return "-".join([*words, "silent"])
        words += [self.audio, str(self.rate), f"{self.channels}ch", self.sound.replace(" ", "_")]
        return "-".join(words)

    @property
    def sound_later_s(self) -> Fraction:
        """How much later than its pictures the sound is than it should be: < 0 where they were moved, by a
        whole number of them, as encoders count in pictures."""
        if self.sound == "early":
            return -Fraction(round(LATE_S * self.fps)) / self.fps
        return LATE_S if self.sound == "late" else Fraction(0)

    @property
    def suffix(self) -> str:
        return CONTAINERS[self.container].suffix


# --- what there is ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Container:
    suffix: str
    videos: str  # names of CODECS
    audios: str  # names of _AUDIOS
    options: tuple[str, ...] = ()
    starts: str = "0"  # what it can add to all stamps
    vfr: bool = False  # it stores a time for each picture
    late: bool = True  # it stores when the sound begins
    piped: bool = False  # written to a pipe: no index, no duration
    rates: str = ""  # of sound, that it takes; "": all


@dataclass(frozen=True)
class _Codec:
    encoder: str
    pixels: str
    options: tuple[str, ...] = ()
    reorder: int = 0  # B-pictures in a row that it can have
    gops: tuple[int, ...] = (1, 12, 250, 9999)
    open_gop: bool = False
    interlaced: bool = False
    sizes: tuple[tuple[int, int], ...] = ()  # those that it takes; (): all
    odd: bool = False  # it takes odd sizes with 4:2:0
    broadcast_fps: bool = False  # only television's frame rates


_ONE_SCENE = ("-q:v", "3", "-sc_threshold", "1000000000")  # no keyframes but those asked for
_VPX_FAST = ("-deadline", "realtime", "-cpu-used", "8", "-b:v", "400k", "-auto-alt-ref", "0")
_VPX_HIDDEN = (  # with pictures that are decoded and never shown
    "-deadline",
    "good",
    "-cpu-used",
    "5",
    "-b:v",
    "400k",
    "-auto-alt-ref",
    "1",
    "-lag-in-frames",
    "16",
)
_SIZES = ((64, 64), (98, 66), (65, 49), (176, 144), (66, 98))
_FPS = tuple(map(Fraction, ("10", "15", "24000/1001", "25", "30000/1001", "60")))
_BROADCAST_FPS = tuple(map(Fraction, ("24000/1001", "25", "30000/1001", "50")))
_SHORT_GOPS = (1, 12, 250)  # of encoders that have no more

CODECS = {
    "h264": _Codec(
        "libx264",
        "yuv420p yuv422p yuv444p yuv420p10le yuv422p10le yuv444p10le",
        ("-preset", "ultrafast", "-crf", "20", "-b_strategy", "0", "-sc_threshold", "0"),
        reorder=4,
        open_gop=True,
        interlaced=True,
    ),
    "h264rgb": _Codec(
        "libx264rgb", "rgb24", ("-preset", "ultrafast", "-crf", "20", "-b_strategy", "0"), reorder=2, odd=True
    ),
    "hevc": _Codec(
        "libx265",
        "yuv420p yuv422p yuv444p yuv420p10le yuv422p10le yuv420p12le yuv444p12le",
        ("-preset", "ultrafast", "-crf", "20"),
        reorder=4,
        open_gop=True,
    ),
    "mpeg1": _Codec(
        "mpeg1video",
        "yuv420p",
        _ONE_SCENE,
        reorder=2,
        open_gop=True,
        broadcast_fps=True,
        odd=True,
        gops=_SHORT_GOPS,
    ),
    "mpeg2": _Codec(
        "mpeg2video",
        "yuv420p yuv422p",
        _ONE_SCENE,
        reorder=2,
        open_gop=True,
        interlaced=True,
        broadcast_fps=True,
        gops=_SHORT_GOPS,
    ),
    "mpeg4": _Codec(
        "mpeg4",
        "yuv420p",
        _ONE_SCENE,
        reorder=2,
        open_gop=True,
        interlaced=True,
        odd=True,
        gops=_SHORT_GOPS,
    ),
    "msmpeg4": _Codec("msmpeg4", "yuv420p", ("-q:v", "3"), odd=True, gops=_SHORT_GOPS),
    "vp8": _Codec("libvpx", "yuv420p yuva420p", _VPX_FAST, odd=True),
    "vp8alt": _Codec("libvpx", "yuv420p", _VPX_HIDDEN, odd=True),
    "vp9": _Codec("libvpx-vp9", "yuv420p yuva420p yuv422p yuv444p yuv420p10le gbrp", _VPX_FAST, odd=True),
    "vp9alt": _Codec("libvpx-vp9", "yuv420p", _VPX_HIDDEN, odd=True),
    "av1": _Codec(
        "libsvtav1",
        "yuv420p yuv420p10le",
        ("-preset", "12", "-qp", "30"),
        gops=(12, 250),
        sizes=((64, 64), (98, 66), (176, 144)),
    ),
    "mjpeg": _Codec("mjpeg", "yuvj420p yuvj422p yuvj444p", ("-q:v", "3"), gops=(1,), odd=True),
    "prores": _Codec("prores_ks", "yuv422p10le yuv444p10le yuva444p10le", gops=(1,), interlaced=True),
    "dnxhr": _Codec("dnxhd", "yuv422p", ("-profile:v", "dnxhr_lb"), gops=(1,), sizes=((256, 128),)),
    "ffv1": _Codec(
        "ffv1",
        "yuv420p yuv422p10le yuv444p12le yuva420p bgr0 gbrp12le gray gray10le rgba64le",
        ("-level", "3"),
        odd=True,
        gops=(1, 12, 250),
    ),
    "huffyuv": _Codec("huffyuv", "yuv422p rgb24 bgra", gops=(1,)),
    "h263": _Codec("h263", "yuv420p", ("-q:v", "3"), gops=_SHORT_GOPS, sizes=((128, 96), (176, 144))),
    "h263p": _Codec("h263p", "yuv420p", ("-q:v", "3"), gops=_SHORT_GOPS, sizes=((64, 64), (176, 144))),
    "flv1": _Codec("flv", "yuv420p", ("-q:v", "3"), gops=_SHORT_GOPS),
    "wmv1": _Codec("wmv1", "yuv420p", ("-q:v", "3"), gops=_SHORT_GOPS),
    "wmv2": _Codec("wmv2", "yuv420p", ("-q:v", "3"), gops=_SHORT_GOPS),
    "theora": _Codec("libtheora", "yuv420p yuv422p yuv444p", ("-q:v", "8"), odd=True, gops=_SHORT_GOPS),
    "raw": _Codec("rawvideo", "yuv420p uyvy422", gops=(1,), odd=True),
    "png": _Codec("png", "rgb24 rgba gray pal8 rgb48be", gops=(1,), odd=True),
    "qtrle": _Codec("qtrle", "rgb24 argb", gops=(12, 250), odd=True),
}

_AUDIOS = {  # rates, channels
    "aac": ("8000 16000 22050 44100 48000 96000", "1 2 6 8"),
    "libmp3lame": ("8000 16000 22050 44100 48000", "1 2"),
    "mp2": ("16000 24000 44100 48000", "1 2"),
    "ac3": ("32000 44100 48000", "1 2 6"),
    "eac3": ("32000 44100 48000", "1 2 6"),
    "libopus": ("8000 16000 48000", "1 2 6 8"),
    "libvorbis": ("8000 22050 44100 48000 96000", "1 2 6 8"),
    "flac": ("8000 16000 44100 48000 96000", "1 2 6 8"),
    "alac": ("16000 44100 48000", "1 2 6 8"),
    "pcm_s16le": ("8000 16000 22050 44100 48000 96000", "1 2 6"),  # 8 in MOV: PyAV's FFmpeg aborts
    "pcm_s16be": ("16000 44100 48000", "1 2"),
    "pcm_s24le": ("44100 48000 96000", "1 2 6"),
    "pcm_f32le": ("16000 48000", "1 2"),
    "pcm_mulaw": ("8000", "1 2"),
    "pcm_bluray": ("48000 96000", "1 2 6 8"),
    "adpcm_ima_wav": ("22050 44100 48000", "1 2"),
    "adpcm_ima_qt": ("22050 44100", "1 2"),
    "adpcm_ms": ("22050 44100", "1 2"),
    "adpcm_swf": ("11025 22050 44100", "1 2"),
    "wmav2": ("22050 44100 48000", "1 2"),
    AMR: ("8000", "1"),
}

_FAR = "0 1.4 36000"
_MATROSKA = (
    "h264 h264rgb hevc mpeg1 mpeg2 mpeg4 vp8 vp8alt vp9 vp9alt av1 mjpeg prores dnxhr ffv1 huffyuv theora "
    "raw png"
)
_MATROSKA_AUDIO = (
    "aac libmp3lame mp2 ac3 eac3 libopus libvorbis flac alac pcm_s16le pcm_s24le pcm_f32le adpcm_ms wmav2"
)
_LIVE = ("-live", "1")
_FRAGMENTED = ("-movflags", "+frag_keyframe+empty_moov+default_base_moof+delay_moov")
_BLU_RAY = ("-f", "mpegts", "-mpegts_m2ts_mode", "1")

CONTAINERS = {
    "mp4": _Container(
        ".mp4",
        "h264 hevc mpeg2 mpeg4 vp9 vp9alt av1 mjpeg png",
        "aac libmp3lame mp2 ac3 eac3 libopus flac alac",
        starts=f"{_FAR} cut",
        vfr=True,
    ),
    "fmp4": _Container(
        ".mp4", "h264 hevc mpeg4 vp9 av1", "aac libmp3lame ac3 libopus flac", _FRAGMENTED, "0 1.4", vfr=True
    ),
    "mov": _Container(
        ".mov",
        "h264 hevc mpeg2 mpeg4 mjpeg prores dnxhr huffyuv raw png qtrle h263",
        "aac libmp3lame ac3 alac pcm_s16le pcm_s16be pcm_s24le pcm_f32le pcm_mulaw adpcm_ima_qt",
        starts=f"{_FAR} cut",
        vfr=True,
    ),
    "3gp": _Container(".3gp", "h264 mpeg4 h263", f"aac {AMR}", vfr=True),
    "mkv": _Container(".mkv", _MATROSKA, _MATROSKA_AUDIO, starts=_FAR, vfr=True),
    "mkv_piped": _Container(
        ".mkv", "h264 hevc mpeg2 mpeg4 ffv1", "aac libmp3lame libopus flac", starts=_FAR, vfr=True, piped=True
    ),
    "webm": _Container(".webm", "vp8 vp8alt vp9 vp9alt av1", "libopus libvorbis", starts=_FAR, vfr=True),
    "webm_live": _Container(".webm", "vp8 vp9 av1", "libopus libvorbis", _LIVE, _FAR, vfr=True, piped=True),
    "ts": _Container(
        ".ts", "h264 hevc mpeg1 mpeg2 mpeg4", "aac libmp3lame mp2 ac3 eac3 libopus", starts=_FAR, vfr=True
    ),
    "m2ts": _Container(".m2ts", "h264 hevc mpeg2", "ac3 eac3 pcm_bluray", _BLU_RAY, _FAR, vfr=True),
    "avi": _Container(
        ".avi",
        "h264 mpeg1 mpeg2 mpeg4 msmpeg4 mjpeg ffv1 huffyuv h263 h263p wmv1 wmv2 raw png vp8",
        "aac libmp3lame mp2 ac3 pcm_s16le adpcm_ima_wav adpcm_ms",
        late=False,
    ),
    "flv": _Container(
        ".flv", "h264 flv1", "aac libmp3lame adpcm_swf", starts=_FAR, vfr=True, rates="22050 44100"
    ),
    "asf": _Container(
        ".wmv", "wmv1 wmv2 msmpeg4 mpeg4 h264 mjpeg", "wmav2 libmp3lame aac ac3", starts="0 1.4", vfr=True
    ),
    "ogg": _Container(".ogv", "theora", "libvorbis libopus flac"),
    "mpg": _Container(".mpg", "mpeg1 mpeg2 h264", "mp2 libmp3lame ac3", starts=_FAR),
    "vob": _Container(".vob", "mpeg2", "mp2 ac3", starts=_FAR),
    "mxf": _Container(".mxf", "mpeg2 h264 dnxhr", "pcm_s16le", late=False, rates="48000"),
    "nut": _Container(
        ".nut",
        "h264 hevc mpeg2 mpeg4 mjpeg ffv1 huffyuv theora raw vp8 wmv2",
        "aac libmp3lame mp2 ac3 libopus libvorbis flac pcm_s16le pcm_f32le",
        starts=_FAR,
        vfr=True,
    ),
}

# Of these fields every pair of values is wanted; of others no fault is known that takes both.
_TOGETHER = (
    ("container", "codec", "pixels"),
    ("container", "codec", "reorder", "gop", "open_gop", "start"),
    ("container", "codec", "vfr", "fps"),
    ("container", "audio", "sound", "start"),
    ("container", "rate"),
    ("audio", "rate"),
    ("audio", "channels"),
    ("codec", "size"),
    ("codec", "interlaced"),
    ("size", "sar"),
    ("reorder", "sound", "vfr", "interlaced"),
)


# --- which of it -----------------------------------------------------------------------------------------


def pairwise(*, seed: int = 0, drawn: int = 12000) -> list[Case]:
    """Few cases that hold every telling pair of values found among `drawn` random valid ones, those with the
    most pairs first. The same seed gives the same list."""
    rng = random.Random(seed)
    pool = list(dict.fromkeys(_draw(rng, container, codec) for container, codec in _round_robin(drawn)))
    pairs_of = [_pairs(case) for case in pool]
    missing = frozenset().union(*pairs_of)
    heap = [(-len(pairs), i) for i, pairs in enumerate(pairs_of)]
    heapify(heap)
    chosen: list[Case] = []
    while missing:
        _, i = heappop(heap)
        gain = len(pairs_of[i] & missing)
        if heap and gain < -heap[0][0]:  # less than the next one may bring: it waits
            heappush(heap, (-gain, i))
            continue
        chosen.append(pool[i])
        missing -= pairs_of[i]
    return chosen


def _pairs(case: Case) -> frozenset[tuple]:
    """The telling pairs of values that a case holds."""
    return frozenset(
        (a, getattr(case, a), b, getattr(case, b)) for group in _TOGETHER for a, b in combinations(group, 2)
    )


def _round_robin(count: int) -> Iterator[tuple[str, str]]:
    """Every container with each of its codecs in turn, so that none is rare."""
    both = [(name, codec) for name, c in CONTAINERS.items() for codec in c.videos.split()]
    for i in range(count):
        yield both[i % len(both)]


def _draw(rng: random.Random, container_name: str, codec_name: str) -> Case:
    """A random valid case."""
    container, codec = CONTAINERS[container_name], CODECS[codec_name]
    audio = rng.choice(container.audios.split())
    rates, channels = (list(map(int, text.split())) for text in _AUDIOS[audio])
    rates = [rate for rate in rates if not container.rates or str(rate) in container.rates.split()]
    sound = rng.choice(("on time", "short", "none", *(("late", "early") if container.late else ())))
    pixels = rng.choice(codec.pixels.split())
    fps = rng.choice(_BROADCAST_FPS if codec.broadcast_fps or container_name == "mxf" else _FPS)
    gop = rng.choice(codec.gops)
    reorder = rng.randint(0, codec.reorder) if gop > 1 else 0
    size = rng.choice(codec.sizes or [s for s in _SIZES if codec.odd or not (s[0] % 2 or s[1] % 2)])
    silent = sound == "none"
    return Case(
        container=container_name,
        codec=codec_name,
        audio="none" if silent else audio,
        sound=sound,
        rate=0 if silent else rng.choice(rates),
        channels=0 if silent else rng.choice(channels),
        pixels=pixels,
        size=size,
        fps=fps,
        vfr=container.vfr and not codec.broadcast_fps and rng.random() < 0.3,
        reorder=reorder,
        gop=gop,
        open_gop=codec.open_gop and reorder > 0 and rng.random() < 0.5,
        start=rng.choice(container.starts.split()),
        interlaced=codec.interlaced and size[1] % 4 == 0 and rng.random() < 0.2,
        sar=rng.choice(("1", "1", "4/3", "8/9")),
    )


# --- the pictures and the noise --------------------------------------------------------------------------


def code_picture(number: int, width: int, height: int) -> np.ndarray:
    """uint8 (height, width): the number's 16 bits as dark and bright blocks, the lowest at the top left."""
    bits = (number >> np.arange(16) & 1).reshape(4, 4)
    rows, columns = (np.minimum(np.arange(n) * 4 // n, 3) for n in (height, width))
    return np.where(bits[rows][:, columns], 235, 16).astype(np.uint8)


def number_of(frame: VideoFrame) -> int:
    """The number that a decoded picture shows."""
    gray = frame.reformat(format="gray").to_ndarray()
    height, width = gray.shape
    middles = [[(2 * i + 1) * n // 8 for i in range(4)] for n in (height, width)]
    blocks = [gray[y - 2 : y + 3, x - 2 : x + 3].mean() for y in middles[0] for x in middles[1]]
    return sum(1 << bit for bit, block in enumerate(blocks) if block > 127)


@lru_cache(maxsize=4)
def noise(seconds: int, rate: int = NOISE_RATE, seed: int = 1) -> np.ndarray:
    """float32 (seconds * rate,): noise below 5 kHz, the same for the same seconds, rate and seed."""
    white = np.random.default_rng(seed).standard_normal(seconds * rate + 254)
    low = lfilter(firwin(255, _NOISE_HZ, fs=rate), 1, white)[254:]
    return np.clip(0.25 * low / low.std(), -0.95, 0.95).astype(np.float32)


# --- the files -------------------------------------------------------------------------------------------


class CannotBeMade(Exception):
    """FFmpeg refuses a combination."""


def write(case: Case, folder: Path, *, seconds: int = SECONDS) -> Path:
    """Makes the file of a case in `folder`. Raises CannotBeMade with FFmpeg's words."""
    path = folder / f"{case}{case.suffix}"
    command = ["ffmpeg", "-v", "error", "-y", "-nostdin", "-threads", "1", *_inputs(case, folder, seconds)]
    command += [*_video_options(case), *_audio_options(case, seconds), *_container_options(case)]
    if CONTAINERS[case.container].piped:
        form = "webm" if case.suffix == ".webm" else "matroska"
        done = subprocess.run([*command, "-f", form, "pipe:1"], capture_output=True)
        path.write_bytes(done.stdout)
    else:
        done = subprocess.run([*command, str(path)], capture_output=True)
    if done.returncode or not path.stat().st_size:
        raise CannotBeMade(f"{case}: {done.stderr.decode(errors='replace')[-300:]}")
    return path


def _inputs(case: Case, folder: Path, seconds: int) -> list[str]:
    width, height = case.size
    late_video = ["-itsoffset", f"{-float(case.sound_later_s):.6f}"] if case.sound == "early" else []
    raw = _raw_pictures(folder, width, height, round(seconds * case.fps))
    video = ["-f", "rawvideo", "-pix_fmt", "gray", "-s", f"{width}x{height}"]
    video += ["-framerate", str(case.fps), "-i", str(raw)]
    if case.sound == "none":
        return video
    late_audio = ["-itsoffset", str(float(LATE_S))] if case.sound == "late" else []
    sound = _sound_file(folder, seconds, is_amr=case.audio == AMR)
    return [*late_video, *video, *late_audio, "-i", str(sound)]


def _video_options(case: Case) -> list[str]:
    codec = CODECS[case.codec]
    filters = [f"setsar={case.sar}", f"scale=out_range={'pc' if 'j' in case.pixels else 'tv'}"]
    filters += ["select='not(eq(mod(n,5),2)+eq(mod(n,5),3))'"] if case.vfr else []
    filters += ["setfield=tff"] if case.interlaced else []
    options = ["-c:v", codec.encoder, *codec.options, "-pix_fmt", case.pixels, "-vf", ",".join(filters)]
    options += ["-vsync", "passthrough"]
    options += ["-enc_time_base", f"1/{_clock(case.fps)}"] if case.vfr and case.codec == "mpeg4" else []
    if case.gop != 1 or len(codec.gops) > 1:
        options += ["-g", str(case.gop)]
    if codec.reorder:
        options += ["-bf", str(case.reorder)]
    return [*options, *_gop_options(case)]


def _clock(fps: Fraction) -> int:
    return fps.numerator if fps.denominator == 1001 else 600


def _gop_options(case: Case) -> list[str]:
    """Open or closed, interlaced or not: each encoder has its own words."""
    flags = "+ildct+ilme" if case.interlaced else ""
    if case.codec == "hevc":
        settings = f"log-level=none:pools=1:frame-threads=1:bframes={case.reorder}:b-adapt=0"
        return ["-x265-params", f"{settings}:open-gop={int(case.open_gop)}"]
    if case.codec == "h264":
        opened = ["-x264-params", f"open-gop={int(case.open_gop)}"]
        return [*opened, *(["-flags", flags] if flags else [])]
    if CODECS[case.codec].open_gop and not case.open_gop:
        flags += "+cgop"
    return ["-flags", flags] if flags else []


def _audio_options(case: Case, seconds: int) -> list[str]:
    if case.sound == "none":
        return []
    if case.audio == AMR:
        return ["-c:a", "copy"]
    layout = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}[case.channels]
    filters = ["pan=" + "|".join([layout, *(f"c{i}=c0" for i in range(case.channels))])]
    filters += [f"atrim=end={seconds / 2}"] if case.sound == "short" else []
    return ["-af", ",".join(filters), "-ar", str(case.rate), "-c:a", case.audio, "-strict", "-2"]


def _container_options(case: Case) -> list[str]:
    options = ["-map_metadata", "-1", *CONTAINERS[case.container].options]
    if case.start == "cut":
        return [*options, "-output_ts_offset", "-0.5", "-avoid_negative_ts", "disabled"]
    return options if case.start == "0" else [*options, "-output_ts_offset", case.start]


def _raw_pictures(folder: Path, width: int, height: int, count: int) -> Path:
    path = folder / f"{width}x{height}x{count}.gray"
    if not path.exists():
        path.write_bytes(b"".join(code_picture(k, width, height).tobytes() for k in range(count)))
    return path


def _sound_file(folder: Path, seconds: int, *, is_amr: bool) -> Path:
    path = folder / f"noise{seconds}{'_amr.3gp' if is_amr else '.wav'}"
    if path.exists():
        return path
    if is_amr:
        _write_amr(path, _int16(resample_poly(noise(seconds), 1, NOISE_RATE // 8000)))
        return path
    write_wave(path, noise(seconds))
    return path


def write_wave(path: Path, samples: np.ndarray) -> None:
    """A WAV file, mono at NOISE_RATE, of float samples (n,) within full scale 1."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(NOISE_RATE)
        file.writeframes(_int16(samples).tobytes())


def _int16(samples: np.ndarray) -> np.ndarray:
    return (samples * 32767).astype("<i2")


def _write_amr(path: Path, samples: np.ndarray) -> None:
    """AMR of int16 (n,) at 8 kHz. By PyAV, as Debian's FFmpeg has no encoder for it."""
    with av.open(str(path), "w", format="3gp") as container:
        stream = container.add_stream(AMR, rate=8000)
        stream.layout = "mono"
        for at in range(0, len(samples) - 159, 160):
            frame = av.AudioFrame.from_ndarray(samples[None, at : at + 160], format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 8000, at, Fraction(1, 8000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def first_of_each_container(cases: Sequence[Case], count: int) -> list[Case]:
    """`count` of the cases, as many of each container, the most telling ones."""
    by_container = [[c for c in cases if c.container == name] for name in CONTAINERS]
    turns = zip_longest(*by_container)
    return [case for turn in turns for case in turn if case is not None][:count]
