"""What `avprep encode` costs beside its model: `python -m tests.bench.bench_encode [--ckpt PT] [--part P]`.

    bare      the model in a loop on clips that lie in memory, against the whole command, turn by turn
    memory    peak memory of the driver from 10 to 1,000 shards (fake encoder, one Ray worker)
    fused     clips on disk and then encoded, against `encode --dataset`: bytes written, seconds

With a GPU and --ckpt, `bare` runs there: clips/s and the share of time that the GPU waits for the command.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from avprep.execution import PoolConfig
from avprep.jobs.clip import JobConfig, Progress, run_clip_job
from avprep.jobs.encode import EncodeConfig, run_encode_job
from avprep.shards.latents import EncoderHeader
from avprep.spec import ClipSpec
from avprep.stages.clip_input import ClipShard, read_clip_shard
from avprep.stages.encode import EncodeOptions
from avprep.stages.encoder import EncoderFactory
from tests.avprep.media.flash_click import write_flash_click
from tests.fake_encoder import FakeLatents, OpenFake, fake_header
from tests.integration.encode_driver import encode, media_job, quiet
from tests.made_clips import TINY, write_clips

ROUNDS = 5
SPEC = ClipSpec(size=64)
BATCH = 8


class _Convolutions:
    """Convolutions worth about 40 ms a clip on one core: a model small enough to run the bench anywhere."""

    def __init__(self, header: EncoderHeader) -> None:
        self.header = header
        torch.manual_seed(0)
        self._layers = nn.Sequential(
            nn.Conv2d(3, 48, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(48, 48, 3, padding=1),
            nn.GELU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Conv2d(48, 4, 1),
            nn.Tanh(),
        )

    @torch.inference_mode()
    def encode(self, frames: Tensor, mel: Tensor) -> FakeLatents:
        pixels = frames.flatten(0, 1).permute(0, 3, 1, 2).float() / 127.5 - 1
        grids = self._layers(pixels).unflatten(0, frames.shape[:2])  # (B, T, C, 4, 4)
        channels, planes, rows, columns = self.header.shape
        mean = torch.zeros(len(frames), channels, planes, rows, columns)
        mean[:, :, :, :4] = grids.mean(1)[:, :, None]
        return FakeLatents(mean, mean - 6)


@dataclass(frozen=True)
class OpenConvolutions:
    header: EncoderHeader

    def __call__(self, *, device: str, batch_size: int, compile: bool) -> _Convolutions:
        return _Convolutions(self.header)


def bare(factory: EncoderFactory, header: EncoderHeader, clips: Path, folder: Path, device: str) -> None:
    """The command gives up what the loop does not pay: reading, checksums, tar, ledger, fsync."""
    count = len(list((clips / "ledger").iterdir()))
    config = partial(
        EncodeConfig,
        source=str(clips),
        header=header,
        open_encoder=factory,
        options=EncodeOptions(),
        pool=PoolConfig(workers=0, device=device),
        batch_size=BATCH,
        compile=None,
    )
    torch.set_num_threads(1)
    held = [clip for i in range(count) for clip in read_clip_shard(ClipShard(str(clips), i, header.spec))]
    batches = [
        (
            torch.stack([torch.from_numpy(c.frames.copy()) for c in part]),
            torch.stack([torch.from_numpy(c.mel.copy()) for c in part]),
        )
        for part in (held[i : i + BATCH] for i in range(0, len(held), BATCH))
    ]
    encoder = factory(device=device, batch_size=BATCH, compile=device == "cuda")
    encoder.encode(*batches[0])
    loops, commands, busy = [], [], []
    for i in range(ROUNDS):
        started = time.perf_counter()
        for batch in batches:
            encoder.encode(*batch)
        loops.append(len(held) / (time.perf_counter() - started))
        report = run_encode_job([], config(out=str(folder / f"bare-{i}")), quiet())
        # Opening (weights, compiling) is paid once a run, however long: it is told apart.
        commands.append(len(held) / (report.elapsed_s - report.seconds["open"]))
        busy.append(report.seconds["model"] / (report.elapsed_s - report.seconds["open"]))
    kept = [command / loop for command, loop in zip(commands, loops, strict=True)]
    print(
        f"| bare model, {len(held)} clips, batch {BATCH}, {device} | {statistics.median(loops):.1f} clips/s |"
    )
    print(f"| the whole command | {statistics.median(commands):.1f} clips/s |")
    print(f"| it keeps | {statistics.median(kept):.1%} (rounds {min(kept):.1%} to {max(kept):.1%}) |")
    print(f"| the model was busy | {statistics.median(busy):.1%} |")


def memory(folder: Path) -> None:
    """Peak resident memory of the driver's process; the clips are in a worker's."""
    for shards in (10, 100, 1000):
        clips = write_clips(folder / f"{shards}", spec=TINY, sources=shards, clips_each=1, shard_size=1)
        command = [
            sys.executable,
            "-m",
            "tests.integration.encode_driver",
            "clips",
            clips,
            folder / f"{shards}-out",
            "--workers",
            "1",
            "--memory",
        ]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
        print(f"| driver, {shards} shards | {done.stdout.strip().splitlines()[-1]} |")


def fused(folder: Path) -> None:
    root = folder / "media"
    root.mkdir()
    for i in range(12):
        write_flash_click(root / f"scene {i}.mp4", seconds=10.0)
    spec = ClipSpec(size=128)
    fake = OpenFake(spec)
    for i in range(ROUNDS):
        two, one = folder / f"two-{i}", folder / f"one-{i}"
        started = time.perf_counter()
        job, sources = _media(root, two / "clips", spec)
        run_clip_job(sources, job, Progress(*([lambda *_: None] * 4)))
        encode(str(two / "clips"), two / "out", fake=fake, batch_size=BATCH)
        two_s = time.perf_counter() - started
        started = time.perf_counter()
        job, sources = _media(root, one / "out", spec)
        encode(job, one / "out", sources=sources, fake=fake, batch_size=BATCH)
        one_s = time.perf_counter() - started
        print(
            f"| two steps {two_s:.2f} s, {_size(two) / 1e6:.1f} MB | fused {one_s:.2f} s, "
            f"{_size(one) / 1e6:.1f} MB |"
        )
        shutil.rmtree(two)
        shutil.rmtree(one)


def _media(root: Path, out: Path, spec: ClipSpec) -> tuple[JobConfig, list]:
    out.parent.mkdir(parents=True, exist_ok=True)
    return media_job(root, out, spec, workers=0)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ckpt", type=Path, help="an mdsa.pt; without it, a few convolutions")
    parser.add_argument("--clips", type=int, default=256, help="of the part `bare`")
    parser.add_argument("--part", choices=("bare", "memory", "fused"), action="append")
    told = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print("| what | figure |\n|---|---|")
        if "bare" in (told.part or ["bare"]):
            header, factory = fake_header(SPEC), OpenConvolutions(fake_header(SPEC))
            if told.ckpt:
                from avmodel.mdsa.checkpoint import open_codec, read_codec_header

                header, factory = read_codec_header(told.ckpt), partial(open_codec, told.ckpt)
            clips = write_clips(
                folder / "bare", spec=header.spec, sources=told.clips // 4, clips_each=4, shard_size=64
            )
            bare(factory, header, clips, folder, device)
        if "memory" in (told.part or ["memory"]):
            memory(folder)
        if "fused" in (told.part or ["fused"]):
            fused(folder)


if __name__ == "__main__":
    main()
