"""How fast clips are made, against the tools one would else use: `python -m tests.bench.bench_clip MEDIA`.

One table of ratios from one run, on real H.264 files of MEDIA. What is compared runs in turns, file by file,
and the least of a few turns counts, so that a busy machine slows all of it alike. Seconds are CPU seconds on
one thread; for two workers against one they are those of the clock. What starting an ffmpeg costs is measured
too and not held against it. ffmpeg is Debian's package, for this benchmark alone.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from unittest import mock

import av
import librosa
import numpy as np
import torch
from PIL import Image

from avprep.datasets.source import Source
from avprep.dsp.griffin_lim import ITERATIONS, invert
from avprep.dsp.mel import mel_stack, pad_with_silence, stack_to_columns, unit_to_amplitude
from avprep.dsp.psnr import psnr_a
from avprep.execution import RunnerConfig
from avprep.jobs.clip import JobConfig, Progress, run_clip_job
from avprep.jobs.planning import PlanOptions
from avprep.media.decode import RawClip, read_clips
from avprep.media.limits import Deadline
from avprep.media.pictures import Pictures
from avprep.media.probe import probe
from avprep.media.source import open_source
from avprep.media.timeline import starts_of_parts
from avprep.shards.clips import clip_key, pack_clip
from avprep.shards.writer import ShardWriter
from avprep.spec import ClipSpec
from avprep.stages.clip import clip_waveform
from avprep.stages.tasks import ClipOptions

SPEC = ClipSpec()
NATURAL = (
    "bbb_480p_30s.mp4",
    "butterfly.mp4",
    "crystal.mp4",
    "dog_bed.mp4",
    "frog.mp4",
    "googlework_35s.mp4",
    "man_60fps.mp4",
)
TURNS = 3
LONG_GOP = 300  # pictures: 12.5 s at 24 a second
MEL_STACKS = 6
# The scaler as avprep sets it, and as ffmpeg does where nothing is said: coarser in chroma, and faster.
SAME_SCALER = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
FFMPEG_SCALER = "bicubic"

Arm = Callable[[], object]


@dataclass(frozen=True)
class Row:
    what: str
    ours_s: float
    theirs_s: float
    figure: str
    aim: str
    is_met: bool

    def __str__(self) -> str:
        word = "met" if self.is_met else "MISSED"
        figures = f"{self.ours_s:.3f} | {self.theirs_s:.3f} | {self.figure} | {self.aim}"
        return f"| {self.what} | {figures} | {word} |"


def faster(what: str, ours_s: float, theirs_s: float, aim: float) -> Row:
    ratio = theirs_s / ours_s
    return Row(what, ours_s, theirs_s, f"{ratio:.2f}x", f"{aim:g}x", ratio >= aim)


def in_turns(*arms: Arm, clock: Callable[[], float], turns: int = TURNS) -> list[float]:
    """The least seconds of each arm over a few turns, in which all of them run one after the other."""
    least = [float("inf")] * len(arms)
    for _ in range(turns):
        for i, arm in enumerate(arms):
            began = clock()
            arm()
            least[i] = min(least[i], clock() - began)
    return least


def cpu_s() -> float:
    """CPU seconds of this process and of the processes that it has waited for."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in both)


# --- the arms ----------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)  # planning is not making: it is paid once
def starts_of(path: Path) -> list[int]:
    return starts_of_parts(probe(path).parts, spec=SPEC, stride_samples=SPEC.samples)


def floor(path: Path) -> Iterator[tuple[RawClip, np.ndarray]]:
    """The media floor: frames and mel stacks of all clips, in memory one clip after the other."""
    with open_source(path) as source:
        for clip in read_clips(source, starts_of(path), spec=SPEC, crop="center", deadline=Deadline(None)):
            if isinstance(clip, RawClip):
                yield clip, mel_stack(torch.from_numpy(clip.sound.waveform), SPEC).numpy()


def run_floor(path: Path) -> None:
    for _ in floor(path):
        continue


def ffmpeg(*arguments: str, stdout: int = subprocess.DEVNULL) -> bytes:
    command = ["ffmpeg", "-nostdin", "-v", "error", "-y", "-threads", "1", "-filter_threads", "1", *arguments]
    return subprocess.run(command, check=True, stdout=stdout).stdout


def picture_filter(scaler: str) -> str:
    """The frames that avprep takes: at each instant the last that is not after it (`round=up`)."""
    square = "min(iw\\,ih)"
    scale = f"scale={SPEC.size}:{SPEC.size}:flags={scaler}"
    return f"fps={SPEC.fps}:round=up:start_time=0,crop={square}:{square}:exact=1,{scale},format=rgb24"


def ffmpeg_pass(path: Path, scaler: str, *seek: str) -> None:
    """The same frames and samples by one ffmpeg, thrown away as they come."""
    pictures = ("-map", "0:v:0", "-vf", picture_filter(scaler), "-f", "rawvideo", os.devnull)
    sound = ("-map", "0:a:0", "-ac", "1", "-ar", str(SPEC.sample_rate), "-f", "f32le", os.devnull)
    ffmpeg(*seek, "-i", str(path), *pictures, *sound)


def ffmpeg_cuts(path: Path, starts: Sequence[int]) -> None:
    """An ffmpeg a clip, which seeks to it."""
    for start in starts:
        seek = ("-ss", f"{start / SPEC.sample_rate:.6f}", "-t", f"{float(SPEC.seconds):g}")
        ffmpeg_pass(path, SAME_SCALER, *seek)


def plain_script(path: Path) -> None:
    """What one writes first: PyAV decodes every frame to an array, PIL scales, librosa does the sound."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        frames = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(stream)]
    times = [frame_s for frame_s, _ in frames]
    length = int(times[-1] * SPEC.fps) + 1
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        pieces = [frame.to_ndarray() for frame in container.decode(stream)]
        rate = stream.rate
    sound = np.concatenate(pieces, axis=1)
    for first in range(0, length - SPEC.frames + 1, SPEC.frames):
        places = [bisect_right(times, i / SPEC.fps) - 1 for i in range(first, first + SPEC.frames)]
        np.stack([pil_square(frames[max(place, 0)][1]) for place in places])
        begin = first * rate // SPEC.fps
        clip = sound[:, begin : begin + int(rate * SPEC.seconds)].mean(0)
        clip = librosa.resample(clip, orig_sr=rate, target_sr=SPEC.sample_rate)
        mel = librosa.feature.melspectrogram(
            y=clip, sr=SPEC.sample_rate, n_fft=SPEC.n_fft, hop_length=SPEC.hop, n_mels=SPEC.n_mels, power=1.0
        )
        librosa.amplitude_to_db(mel)


def torchcodec_script(path: Path) -> None:
    """A torchcodec decoder per file, frames by time for each clip, scaled by torch with antialiasing; its own
    sound; the same mel stacks. An optional peer: `pip install --no-deps torchcodec`."""
    from torchcodec.decoders import AudioDecoder, VideoDecoder

    video = VideoDecoder(str(path), num_ffmpeg_threads=1)
    audio = AudioDecoder(str(path), sample_rate=SPEC.sample_rate, num_channels=1)
    last_s = video.metadata.end_stream_seconds - 1e-3
    for start in starts_of(path):
        start_s, stop_s = start / SPEC.sample_rate, (start + SPEC.samples) / SPEC.sample_rate
        instants = start_s + np.arange(SPEC.frames) / SPEC.fps
        instants = instants.clip(video.metadata.begin_stream_seconds, last_s)
        pictures = video.get_frames_played_at(instants.tolist()).data
        side = min(pictures.shape[-2:])
        top, left = ((n - side) // 2 for n in pictures.shape[-2:])
        square = pictures[..., top : top + side, left : left + side]
        resize(square, SPEC.size)
        samples = audio.get_samples_played_in_range(start_s, stop_s).data[0, : SPEC.samples]
        samples = torch.nn.functional.pad(samples, (0, SPEC.samples - len(samples)))
        mel_stack(pad_with_silence(samples, SPEC), SPEC)


def resize(pictures: torch.Tensor, size: int) -> torch.Tensor:
    return torch.nn.functional.interpolate(pictures, size=(size, size), mode="bilinear", antialias=True)


@lru_cache(maxsize=64)
def needed(path: Path) -> tuple[str, ...]:
    """What the floor asks of the decoder for each packet, in decoding order."""
    asked: list[str] = []

    class Noted(Pictures):
        def _set_skip(self, skip_frame: str) -> None:
            asked.append(skip_frame)
            super()._set_skip(skip_frame)

    with mock.patch("avprep.media.decode.Pictures", Noted):
        run_floor(path)
    return tuple(asked)


def bare_decode(path: Path) -> None:
    """Exactly the pictures that are needed, by libavcodec, and nothing else done."""
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        codec = video.codec_context
        codec.thread_count = 1
        now = ""
        for packet, skip_frame in zip(container.demux(video), needed(path), strict=False):
            if skip_frame != now:
                codec.skip_frame = now = skip_frame
            codec.decode(packet)


def pil_square(picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = Image.fromarray(picture[top : top + side, left : left + side])
    return np.asarray(square.resize((SPEC.size, SPEC.size), Image.Resampling.BICUBIC))


def agreement(path: Path) -> tuple[int, int]:
    """How many of the floor's frames ffmpeg makes to the byte, and of how many: both make the same ones."""
    command = ("-i", str(path), "-map", "0:v:0", "-vf", picture_filter(SAME_SCALER), "-f", "rawvideo", "-")
    theirs = np.frombuffer(ffmpeg(*command, stdout=subprocess.PIPE), np.uint8)
    theirs = theirs.reshape(-1, *SPEC.frames_shape[1:])
    made = list(floor(path))
    if made[0][0].start:  # ffmpeg's instants are whole tenths of a second, these are not
        return 0, 0
    ours = np.concatenate([clip.frames for clip, _ in made])
    return sum(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=False)), len(ours)


# --- the rows ----------------------------------------------------------------------------------------------


def media_rows(paths: list[Path], start_s: float) -> Iterator[Row]:
    has_torchcodec = importlib.util.find_spec("torchcodec") is not None
    peers = [torchcodec_script] if has_torchcodec else []
    sums = np.zeros(5 + len(peers))
    for path in paths:
        least = in_turns(
            lambda p=path: run_floor(p),
            lambda p=path: ffmpeg_pass(p, SAME_SCALER),
            lambda p=path: ffmpeg_pass(p, FFMPEG_SCALER),
            lambda p=path: plain_script(p),
            lambda p=path: bare_decode(p),
            *(lambda p=path, run=peer: run(p) for peer in peers),
            clock=cpu_s,
        )
        least[1], least[2] = least[1] - start_s, least[2] - start_s
        sums += least
        yield faster(f"media floor, one ffmpeg pass: {path.stem}", least[0], least[1], 1.3)
        yield Row(
            f"media floor, bare decoding: {path.stem}",
            least[0],
            least[4],
            f"{least[0] / least[4]:.2f}x",
            "at most 1.25x",
            least[0] / least[4] <= 1.25,
        )
        if peers:
            yield faster(f"media floor, torchcodec: {path.stem}", least[0], least[5], 1.2)
    ours, same, coarse, plain, bare, *others = sums.tolist()
    yield Row(
        "**media floor, bare decoding of the same pictures: all**",
        ours,
        bare,
        f"{ours / bare:.2f}x",
        "at most 1.25x",
        ours / bare <= 1.25,
    )
    for seconds in others:
        yield faster("**media floor, torchcodec: all**", ours, seconds, 1.2)
    yield faster("**media floor, one ffmpeg pass: all**", ours, same, 1.3)
    yield faster("media floor, one ffmpeg pass with its default scaler: all", ours, coarse, 1.3)
    yield faster("**media floor, PyAV + PIL + librosa script: all**", ours, plain, 3)


def long_gop_row(path: Path, folder: Path, start_s: float) -> Row:
    made = folder / "long_gop.mp4"
    gop = ("-g", str(LONG_GOP), "-keyint_min", str(LONG_GOP), "-sc_threshold", "0")
    ffmpeg("-i", str(path), "-c:v", "libx264", "-preset", "veryfast", *gop, "-c:a", "copy", str(made))
    starts = [clip.start for clip, _ in floor(made)]
    ours, cuts = in_turns(lambda: run_floor(made), lambda: ffmpeg_cuts(made, starts), clock=cpu_s, turns=2)
    what = f"**media floor, ffmpeg -ss a clip, GOP of {LONG_GOP}, {len(starts)} clips**"
    return faster(what, ours, cuts - len(starts) * start_s, 4)


def _floor_cpu_s(path: Path) -> float:
    torch.set_num_threads(1)
    began = time.process_time()
    run_floor(path)
    return time.process_time() - began


def two_workers_row(paths: list[Path]) -> Row:
    """Two processes of the media floor against one, by the clock, and what they do to each other."""
    work = sorted(paths, key=lambda p: -p.stat().st_size) * 3
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as one, ProcessPoolExecutor(2, context) as two:
        spent = {one: float("inf"), two: float("inf")}

        def run(pool: ProcessPoolExecutor) -> None:
            spent[pool] = min(spent[pool], sum(pool.map(_floor_cpu_s, work)))

        for pool in (one, two):
            run(pool)  # imports and the page cache
        two_s, one_s = in_turns(lambda: run(two), lambda: run(one), clock=time.perf_counter)
        more = 100 * (spent[two] / spent[one] - 1)
    what = f"two processes of the media floor, one; by the clock; CPU seconds {more:+.0f} %"
    return faster(f"**{what}**", two_s, one_s, 1.9)


def runner_row(paths: list[Path], folder: Path) -> Row:
    """`run_clip_job` in this process against a loop that decodes, packs and writes one tar."""
    options = ClipOptions(
        spec=SPEC, crop="center", video_codec="jpeg", drop_silent_db=None, drop_static=None, drop_black=None
    )
    config = JobConfig(
        dataset="folder",
        split=None,
        root=paths[0].parent,
        out=str(folder / "job"),
        plan=PlanOptions(
            spec=SPEC, stride_samples=SPEC.samples, clips_per_source=None, limit=None, shard_size=64
        ),
        clip=options,
        runner=RunnerConfig(workers=0, isolated=False),
        source_timeout_s=600,
        rebuild=True,
    )
    sources = [Source(path=path.name) for path in paths]
    quiet = Progress(*[lambda *_: None] * 4)
    job_s, bare_s = in_turns(
        lambda: run_clip_job(sources, config, quiet),
        lambda: bare_loop(paths, folder / "bare.tar"),
        clock=cpu_s,
    )
    percent = 100 * (job_s / bare_s - 1)
    return Row("**the runner, a bare loop**", job_s, bare_s, f"{percent:+.1f} %", "< +5 %", percent < 5)


def bare_loop(paths: list[Path], out: Path) -> None:
    with open(out, "wb") as file:
        writer = ShardWriter(file)
        for path in sorted(paths, key=lambda p: clip_key(p.name, 0)):
            with open_source(path) as source:
                clips = read_clips(source, starts_of(path), spec=SPEC, crop="center", deadline=Deadline(None))
                for clip in clips:
                    if isinstance(clip, RawClip):
                        writer.add(clip_key(path.name, clip.start), packed(path, clip))
        writer.close()


def packed(path: Path, clip: RawClip) -> dict[str, bytes]:
    return pack_clip(
        header={"source": path.name, "start": clip.start, "frame_times_s": clip.frame_times_s},
        mel=mel_stack(torch.from_numpy(clip.sound.waveform), SPEC).numpy(),
        waveform=clip_waveform(clip, SPEC),
        sample_rate=SPEC.sample_rate,
        frames=clip.frames,
        codec="jpeg",
        encode_h264=lambda _: b"",
    )


def griffin_lim_rows(paths: list[Path]) -> Iterator[Row]:
    """Seconds are of one clip; the PSNR is of the clips' inner frames, whose neighbours both have.

    The first call, in which numba compiles or loads its machine code, is not the least of the turns.
    """
    sounding = [mel for path in paths for _, mel in floor(path) if mel.mean() > -0.5]
    stack = torch.from_numpy(np.stack(sounding[:: max(1, len(sounding) // MEL_STACKS)][:MEL_STACKS]))
    for iterations in (16, ITERATIONS, 80):
        heard: dict[str, torch.Tensor] = {}

        def ours(heard=heard, iterations=iterations) -> None:
            heard["ours"] = invert(stack, SPEC, iterations=iterations).waveform

        def theirs(heard=heard, iterations=iterations) -> None:
            heard["theirs"] = torch.stack([librosa_inverse(one, iterations) for one in stack])

        ours_s, theirs_s = (s / len(stack) for s in in_turns(ours, theirs, clock=cpu_s, turns=2))
        inner = slice(1, SPEC.frames - 1)
        psnrs = [
            psnr_a(stack[:, inner], mel_stack(pad_with_silence(heard[who], SPEC), SPEC)[:, inner]).mean()
            for who in ("ours", "theirs")
        ]
        what = f"invert-audio, {iterations} iterations, librosa's mel_to_audio at the same"
        row = faster(f"**{what}; mel PSNR {psnrs[0]:.1f}, {psnrs[1]:.1f} dB**", ours_s, theirs_s, 10)
        yield row if psnrs[0] >= psnrs[1] else Row(**{**row.__dict__, "is_met": False})


def librosa_inverse(stack: torch.Tensor, iterations: int) -> torch.Tensor:
    columns = stack_to_columns(stack)
    mel = torch.where(columns > -1, unit_to_amplitude(columns), 0.0).numpy()
    waveform = librosa.feature.inverse.mel_to_audio(
        mel, sr=SPEC.sample_rate, n_fft=SPEC.n_fft, hop_length=SPEC.hop, power=1.0, n_iter=iterations
    )
    return torch.from_numpy(np.pad(waveform, (0, SPEC.samples - len(waveform))).astype(np.float32))


# --- the table ---------------------------------------------------------------------------------------------


def main(media: Path) -> None:
    torch.set_num_threads(1)
    paths = [media / name for name in NATURAL if (media / name).is_file()]
    if not paths:
        sys.exit(f"{media} holds none of {', '.join(NATURAL)}")
    (start_s,) = in_turns(lambda: ffmpeg("-version"), clock=cpu_s, turns=8)
    for path in paths[:1]:  # imports, filters and codecs that are loaded at first use
        run_floor(path), plain_script(path)
    alike, frames = np.sum([agreement(path) for path in paths], axis=0)
    print(f"{len(paths)} files of {media}; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs; an ffmpeg")
    print(f"takes {start_s:.3f} s to start, not counted; {alike} of {frames} of its frames are the floor's")
    print("| avprep against | s | other s | ratio | aim | |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="bench-clip-") as folder:
        for row in all_rows(paths, Path(folder), start_s):
            print(row, flush=True)


def all_rows(paths: list[Path], folder: Path, start_s: float) -> Iterator[Row]:
    yield from media_rows(paths, start_s)
    yield long_gop_row(paths[0], folder, start_s)
    yield two_workers_row(paths)
    yield runner_row(paths, folder)
    yield from griffin_lim_rows(paths)


if __name__ == "__main__":
    if len(sys.argv) != 2 or not os.path.isdir(sys.argv[1]):
        sys.exit("usage: python -m tests.bench.bench_clip MEDIA (a folder of real videos)")
    if shutil.which("ffmpeg") is None:
        sys.exit("bench_clip compares with ffmpeg, which is not installed: apt-get install ffmpeg")
    main(Path(sys.argv[1]))
