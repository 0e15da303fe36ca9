"""What size costs `avprep clip`'s driver: `python -m tests.bench.bench_scale [--sources N] [--shards N]`.

    plan      a manifest of N names and spans, and one header said of every file: listed, planned and written
    shards    the whole job with a stage that only writes its ledger: memory and seconds, from 10 shards to N,
              with one child process and with one Ray worker

Each row is a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import avprep.jobs.clip
import avprep.jobs.planner
from avprep.datasets import list_dataset
from avprep.datasets.source import DatasetOptions, Source
from avprep.execution import RunnerConfig
from avprep.jobs.clip import run_clip_job
from avprep.jobs.config import ClipJobConfig, FromMedia, PlanOptions
from avprep.jobs.planning import plan_shards
from avprep.jobs.progress import Progress
from avprep.media.probe import MediaInfo
from avprep.media.timeline import Part
from avprep.shards.ledger import LedgerRow, ShardRecord, Sums, write_ledger
from avprep.shards.plan import PlanReader, write_plan
from avprep.shards.store import open_store
from avprep.spec import ClipSpec
from avprep.stages.options import ClipOptions
from avprep.stages.tasks import Probed, ProbeTask, ShardResult, ShardTask
from tests.integration.test_faults import memory_of_this_process

SPEC = ClipSpec()
PLAN_LIMIT_BYTES = 2_000_000_000
ROWS_AT_ONCE = 100_000  # of the manifest, as it is written


INFO = MediaInfo(
    format="mp4",
    parts=(Part(Fraction(0), Fraction(300)),),
    width=256,
    height=256,
    video_codec="h264",
    audio_codec="aac",
)
PROBED = Probed("version", INFO)


@dataclass(frozen=True)
class HeaderStage:
    """In the place of `avprep.jobs.planner.ProbeStage`: no media is opened."""

    watchdog_s: float

    def __call__(self, task: ProbeTask) -> list[Probed]:
        return [PROBED] * len(task.paths)


@dataclass(frozen=True)
class LedgerStage:
    """For `avprep.jobs.clip.ClipStage`: every clip is said to be silent, and no media is opened."""

    watchdog_s: float

    def __call__(self, task: ShardTask) -> ShardResult:
        rows = [
            LedgerRow(
                key=f"{task.index:032d}",
                shard=task.index,
                source=source.path,
                start_s=0.0,
                status="filtered",
                reason="silent",
            )
            for source in task.sources
        ]
        write_ledger(open_store(task.out), task.index, rows, ShardRecord("", "", 0, task.fingerprint))
        sums = Sums()
        sums.add(rows)
        return ShardResult(task.index, sums, size=0)


# --- the processes that are measured -----------------------------------------------------------------------


def plan_in_this_process(folder: Path) -> str:
    began = time.perf_counter()
    listing = list_dataset("manifest", DatasetOptions(root=folder))
    listed_s = time.perf_counter() - began
    (folder / "out").mkdir()
    store = open_store(str(folder / "out"))
    write_plan(
        store,
        plan_shards(listing.sources, SPEC, PlanOptions(), lambda sources: ((s, PROBED) for s in sources)),
    )
    seconds = time.perf_counter() - began
    plan = PlanReader(store)
    peak = memory_of_this_process("VmHWM")
    verdict = "met" if peak < PLAN_LIMIT_BYTES and seconds < 600 else "MISSED"
    return (
        f"plan of {len(listing.sources):,} sources: {plan.clips:,} clips in {plan.shards:,} shards | "
        f"{seconds:.0f} s, {listed_s:.0f} of them to list | {peak / 1e9:.2f} GB | "
        f"minutes, under 2 GB: {verdict}"
    )


def job_in_this_process(folder: Path, shards: int, workers: int) -> str:
    avprep.jobs.planner.ProbeStage, avprep.jobs.clip.ClipStage = HeaderStage, LedgerStage
    source = FromMedia(
        dataset="manifest",
        root=folder,
        sources=[Source(path=f"{i:07d}.mp4", start_s=0.0, stop_s=10.0) for i in range(shards)],
        plan=PlanOptions(clips_per_source=1, shard_size=1),
        clip=ClipOptions(spec=SPEC),
        runner=RunnerConfig(workers=workers),
    )
    before = memory_of_this_process("VmRSS")
    report = run_clip_job(ClipJobConfig(source=source, out=str(folder / "out")), Progress())
    assert report.made == report.sums.planned == shards
    growth = memory_of_this_process("VmHWM") - before
    each_ms = 1000 * report.elapsed_s / shards
    return (
        f"job of {shards:,} shards, {workers} Ray workers | {each_ms:.2f} ms a shard | "
        f"{growth / 1e6:.0f} MB over the {before / 1e6:.0f} before it | "
    )


# --- the table ---------------------------------------------------------------------------------------------


def write_manifest(folder: Path, count: int) -> None:
    """Names as long as AudioSet's under label folders, ten seconds each, two labels."""
    columns = ("path", "start", "stop", "labels", "caption", "split")
    schema = pa.schema([(name, pa.string()) for name in columns])
    with pq.ParquetWriter(folder / "manifest.parquet", schema) as writer:
        for first in range(0, count, ROWS_AT_ONCE):
            numbers = range(first, min(count, first + ROWS_AT_ONCE))
            rows = [
                {
                    "path": f"unbalanced_train_segments/{n % 527:03d}/{n:011d}.mp4",
                    "start": f"{30 * (n % 9)}",
                    "stop": f"{30 * (n % 9) + 10}",
                    "labels": f"label {n % 527}|label {n % 91}",
                    "split": "train",
                }
                for n in numbers
            ]
            writer.write_table(pa.Table.from_pylist(rows, schema))


def in_its_own_process(*arguments: object) -> None:
    command = [sys.executable, "-m", "tests.bench.bench_scale", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    print(f"| {done.stdout.strip()} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sources", type=int, default=2_000_000, help="of the plan")
    parser.add_argument("--shards", type=int, default=10_000, help="of the largest job")
    parser.add_argument("--plan-here", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--job-here", nargs=3, help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.plan_here:
        print(plan_in_this_process(told.plan_here))
    elif told.job_here:
        print(job_in_this_process(Path(told.job_here[0]), *map(int, told.job_here[1:])))
    else:
        print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs")
        print("| what | time | peak memory | aim |\n|---|---|---|---|")
        with tempfile.TemporaryDirectory(prefix="bench-scale-") as folder:
            write_manifest(Path(folder), told.sources)
            in_its_own_process("--plan-here", folder)
        for workers in (0, 1):
            for shards in (10, 100, 1000, told.shards):
                with tempfile.TemporaryDirectory(prefix="bench-scale-") as folder:
                    in_its_own_process("--job-here", folder, shards, workers)


if __name__ == "__main__":
    main()
