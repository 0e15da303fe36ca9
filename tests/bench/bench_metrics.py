"""Each metric of `avmodel evaluate` alone, 2,048 clips against 2,048: time, peak memory, and whether two
processes give the bits of one.

    python -m tests.bench.bench_metrics --weights WEIGHTS [--clips 256 --clips 2048] [--metric yamnet]
        [--workers 1 --workers 2] [--folder FOLDER]

WEIGHTS holds YAMNet's yamnet*.npz, SqueezeNet's squeezenet1_1* and LPIPS's heads for it, *squeeze.npz. Clips
are made: a square in front of a texture, which jumps as something begins to sound. Every measurement has a
process of its own, so that its peak memory is its own. Observations come first: the distances are computed of
their rows, which stay in FOLDER. Seconds are of the CPU, of the one process that measures.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor

from avmodel.evaluate.distances import Selection, av_align_of, resamples
from avmodel.evaluate.observe import CHUNK, Looks, Rows, SideObserverRequest, observe, stacked
from avmodel.evaluate.options import Features
from avmodel.evaluate.planes import pairs_per_clip, plane_information, plane_pairs
from avmodel.evaluate.sides import ClipSide, SideRequest
from avmodel.latents import LatentLayout
from avmodel.mdsa.lpips import load_lpips
from avmodel.mdsa.options import LPIPSConfig
from avmodel.metrics.frechet import resampled_frechet
from avmodel.metrics.lpips import lpips
from avmodel.metrics.mmd import kernel_audio_distance, kernel_video_distance
from avmodel.metrics.ssim import ssim
from avprep.dsp.mel import mel_stack, pad_with_silence
from avprep.dsp.psnr import psnr_a, psnr_v
from avprep.shards.clips import clip_key, pack_clip
from avprep.shards.layout import CLIPS, clips_header
from avprep.shards.plan import PlanRow
from avprep.shards.store import open_store
from avprep.shards.tar import Members
from avprep.shards.writer import OutputWriter
from avprep.spec import ClipSpec

SPEC = ClipSpec(size=64)
SHARD_SIZE = 128
SIDES = ("generated", "reference")
LAYOUT = LatentLayout(channels=4, frames=16, grid=32, streams=("v", "a"))
OBSERVED = ("yamnet", "squeezenet", "av_align")
DISTANCES = ("FAD-yamnet", "KAD-yamnet", "FD-squeezenet", "KD-squeezenet", "AV-Align")
PAIRED = ("PSNR-V", "PSNR-A", "SSIM", "LPIPS-squeezenet")
METRICS = (*OBSERVED, *DISTANCES, *PAIRED, "KSG")
# glibc returns freed blocks of 1 MiB and more at once, so that the peak is of what is held.
_RETURN_FREED = {"MALLOC_MMAP_THRESHOLD_": "1048576"}
_CHILD = "import sys; from tests.bench.bench_metrics import child; child(sys.argv[1])"


@dataclass(frozen=True, kw_only=True)
class Request:
    """One measurement."""

    metric: str
    clips: int  # per side
    workers: int
    folder: str
    weights: str


@dataclass(frozen=True, kw_only=True)
class Measured:
    seconds: float
    clips: int  # looked at
    kept: int  # bytes of the rows that are kept of them
    digest: str  # of the result
    peak: int = 0  # bytes of this process: VmHWM, as ru_maxrss begins with the parent's


@click.command()
@click.option("--weights", type=click.Path(exists=True), required=True)
@click.option("--clips", multiple=True, default=(256, 2048), show_default=True)
@click.option("--metric", "metrics", multiple=True, default=METRICS, type=click.Choice(METRICS))
@click.option("--workers", multiple=True, default=(1,), show_default=True, help="Of the observations.")
@click.option("--folder", help="Holds clips and rows, and keeps them. [default: a temporary one]")
def main(
    weights: str, clips: tuple[int, ...], metrics: tuple[str, ...], workers: tuple[int, ...], folder: str
):
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(folder or temporary)
        for seed, side in enumerate(SIDES):
            if not (root / side).exists():
                write_side(root / side, max(clips), seed)
        click.echo(
            "| metric | clips per side | processes | CPU s | clips per CPU s | peak, MB | rows kept, MB |"
        )
        click.echo("|---|---|---|---|---|---|---|")
        for metric in metrics:
            for count in clips:
                _measure(metric, count, workers if metric in OBSERVED else (1,), root, weights)


def _measure(metric: str, clips: int, workers: tuple[int, ...], root: Path, weights: str) -> None:
    digests = set()
    for count in workers:
        request = Request(metric=metric, clips=clips, workers=count, folder=str(root), weights=weights)
        done = subprocess.run(
            [sys.executable, "-c", _CHILD, json.dumps(asdict(request))],
            stdout=subprocess.PIPE,
            check=True,
            text=True,
            env=os.environ | _RETURN_FREED,
        )
        found = Measured(**json.loads(done.stdout.splitlines()[-1]))
        digests.add(found.digest)
        rate = f"{found.clips / found.seconds:.1f}" if found.clips else ""
        spent = f"{found.seconds:.1f} | {rate} | {found.peak / 1e6:,.0f}" if count == 1 else "| |"
        click.echo(f"| {metric} | {clips:,} | {count} | {spent} | {found.kept / 1e6:.1f} |")
    if len(digests) > 1:
        raise SystemExit(f"{metric}, {clips} clips: the results differ between {workers} processes")


def child(text: str) -> None:
    request = Request(**json.loads(text))
    torch.set_num_threads(1)
    kinds: list[tuple[tuple[str, ...], Callable[[Request], Measured]]] = [
        (OBSERVED, _observed),
        (DISTANCES, _distance),
        (PAIRED, _paired),
        (("KSG",), _information),
    ]
    found = next(measure for names, measure in kinds if request.metric in names)(request)
    with open("/proc/self/status") as file:
        peak = next(1024 * int(line.split()[1]) for line in file if line.startswith("VmHWM:"))
    print(json.dumps(asdict(found) | {"peak": peak}))


def _observed(request: Request) -> Measured:
    """The rows of both sides; those of one process are kept for the distances."""
    features = () if request.metric == "av_align" else (_features(request),)
    looks = Looks(features=features, size=64, has_av_align=request.metric == "av_align")
    requests = {side: SideObserverRequest(side=_side(request, side), looks=looks) for side in SIDES}
    positions = np.arange(request.clips)
    observe(requests["reference"], positions[:1], workers=1, progress=_ignored)  # Numba compiles here
    began = time.process_time()
    rows = {
        side: observe(one, positions, workers=request.workers, progress=_ignored)
        for side, one in requests.items()
    }
    seconds = time.process_time() - began
    if request.workers == 1:
        for side, found in rows.items():
            np.savez(_rows_file(request, side, request.metric), **found)
    kept = sum(values.nbytes for found in rows.values() for values in found.values())
    return Measured(seconds=seconds, clips=2 * request.clips, kept=kept, digest=_digest(*rows.values()))


def _distance(request: Request) -> Measured:
    """Of the value alone: each of `--bootstrap`'s resamples takes a Fréchet distance's time again."""
    network = request.metric.partition("-")[2]
    name = "av_align" if request.metric == "AV-Align" else network
    rows = [dict(np.load(_rows_file(request, side, name))) for side in SIDES]
    once = resamples(request.clips, request.clips, 0, seed=0)
    began = time.process_time()
    if request.metric == "AV-Align":
        selection = Selection(generated=rows[0], reference=rows[1], times=once)
        found = [one.value for side in SIDES for one in av_align_of([selection], side, float(SPEC.fps))]
    else:
        x, y = (one[f"features/{name}"] for one in rows)
        distances: dict[str, Callable[[], object]] = {
            "FAD-yamnet": lambda: resampled_frechet(x, y, *once),
            "FD-squeezenet": lambda: resampled_frechet(x, y, *once),
            "KAD-yamnet": lambda: kernel_audio_distance(x, y),
            "KD-squeezenet": lambda: kernel_video_distance(x, y),
        }
        found = [distances[request.metric]()]
    seconds = time.process_time() - began
    kept = sum(values.nbytes for one in rows for values in one.values())
    return Measured(seconds=seconds, clips=0, kept=kept, digest=str(found))


def _paired(request: Request) -> Measured:
    """Clip i of one side against clip i of the other."""
    sides = [ClipSide(Path(request.folder) / side) for side in SIDES]
    measure, field = _pair_metric(request)

    def values_of(first: int) -> np.ndarray:
        chosen = range(first, first + CHUNK)
        parts = [torch.from_numpy(np.stack([side.data[i][field] for i in chosen])) for side in sides]
        return measure(*parts).numpy()

    values_of(0)  # libraries are imported here
    kept = np.empty(request.clips)
    began = time.process_time()
    for first in range(0, request.clips, CHUNK):
        kept[first : first + CHUNK] = values_of(first)
    seconds = time.process_time() - began
    return Measured(seconds=seconds, clips=request.clips, kept=kept.nbytes, digest=_digest({"": kept}))


def _pair_metric(request: Request) -> tuple[Callable[[Tensor, Tensor], Tensor], str]:
    """The metric and the field of a clip that it compares."""
    if request.metric == "PSNR-A":
        return psnr_a, "mel"
    if request.metric == "LPIPS-squeezenet":
        files = {
            "backbone_weights": _weights(request, "squeezenet1_1*"),
            "heads": _weights(request, "*squeeze.npz"),
        }
        net = load_lpips(LPIPSConfig(backbone="squeezenet1_1", **files)).eval()
        return lambda a, b: lpips(net, a, b), "frames"
    return {"PSNR-V": psnr_v, "SSIM": ssim}[request.metric], "frames"


def _information(request: Request) -> Measured:
    """The planes of made latents of the paper's shape, clip by clip as an observer sees them."""
    began = time.process_time()
    each = pairs_per_clip(request.clips)
    rows = stacked([plane_pairs(_latent(i), LAYOUT, each, seed=i) for i in range(request.clips)])
    found = plane_information(rows, seed=0)
    seconds = time.process_time() - began
    kept = sum(values.nbytes for values in rows.values())
    digest = str([one.value for one in found])
    return Measured(seconds=seconds, clips=request.clips, kept=kept, digest=digest)


def _latent(number: int) -> np.ndarray:
    rng = np.random.default_rng(number)
    return rng.normal(rng.normal(), 1, LAYOUT.shape).astype(np.float32)


def write_side(out: Path, clips: int, seed: int) -> None:
    """An output of `avprep clip`, raw frames of 64 px and sound of 16 kHz."""
    out.mkdir(parents=True)
    header = clips_header(spec=SPEC.to_dict(), options={}, dataset={"name": "made", "split": None})
    writer = OutputWriter(open_store(out), CLIPS, header, fingerprint=f"made-{seed}", root=".")
    sources = sorted((clip_key(f"{seed} {i}", 0), f"{seed} {i}", i) for i in range(clips))
    shards = [sources[first : first + SHARD_SIZE] for first in range(0, clips, SHARD_SIZE)]
    writer.plan(
        [PlanRow(key=key, shard=i, source=source, start=0, labels=(), caption="") for key, source, _ in shard]
        for i, shard in enumerate(shards)
    )
    for i, shard in enumerate(shards):
        members = (_members(source, np.random.default_rng([seed, number])) for _, source, number in shard)
        writer.shard(i, members, sample_rate=SPEC.sample_rate)


def _members(source: str, rng: np.random.Generator) -> Members:
    frames, waveform = _clip(rng)
    mel = mel_stack(pad_with_silence(torch.from_numpy(waveform)[None], SPEC), SPEC)[0].numpy()
    header = {
        "source": source,
        "start_s": 0.0,
        "stop_s": float(SPEC.seconds),
        "labels": [],
        "caption": "",
        "fps": SPEC.fps,
        "frame_times_s": [0.0] * SPEC.frames,
        "residual_ms": 0.0,
        "has_audio": True,
        "sounding_s": float(SPEC.seconds),
    }
    return pack_clip(
        header=header,
        mel=mel.astype(np.float16),
        waveform=waveform,
        sample_rate=SPEC.sample_rate,
        frames=frames,
        codec="raw",
        encode_h264=lambda frames: b"",
    )


def _clip(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A textured square that jumps at three frames, and a decaying tone that begins with each jump."""
    size, events = SPEC.size, np.sort(rng.choice(np.arange(1, SPEC.frames - 1), 3, replace=False))
    frames = np.repeat(rng.integers(40, 90, (1, size, size, 3), np.uint8), SPEC.frames, axis=0)
    square = rng.integers(100, 255, (16, 16, 3), np.uint8)
    t = np.arange(SPEC.samples) / SPEC.sample_rate
    waveform = rng.normal(0, 0.003, SPEC.samples)
    x, y = rng.integers(0, size - 16, 2)
    for frame in range(SPEC.frames):
        if frame in events:
            x, y = (x + rng.integers(6, 14)) % (size - 16), (y + rng.integers(6, 14)) % (size - 16)
            since = t - frame / float(SPEC.fps)
            tone = np.sin(2 * np.pi * rng.uniform(200, 4000) * since)
            waveform += 0.3 * np.where(since >= 0, np.exp(-12 * since.clip(0)), 0) * tone
        frames[frame, y : y + 16, x : x + 16] = square
    return frames, waveform.clip(-1, 1).astype(np.float32)


def _side(request: Request, side: str) -> SideRequest:
    return SideRequest(path=Path(request.folder) / side, mdsa=None, spec=SPEC, crop="pad", device="cpu")


def _features(request: Request) -> Features:
    pattern = {"yamnet": "yamnet*.npz", "squeezenet": "squeezenet1_1*"}[request.metric]
    return Features(name=request.metric, weights=_weights(request, pattern))


def _weights(request: Request, pattern: str) -> Path:
    return next(Path(request.weights).glob(pattern))


def _rows_file(request: Request, side: str, name: str) -> Path:
    return Path(request.folder) / f"{side}-{name}-{request.clips}.npz"


def _digest(*rows: Rows) -> str:
    digest = hashlib.sha256()
    for one in rows:
        for name in sorted(one):
            digest.update(name.encode() + np.ascontiguousarray(one[name]).tobytes())
    return digest.hexdigest()


def _ignored(_done: int) -> None:
    """No progress is shown."""


if __name__ == "__main__":
    main()
