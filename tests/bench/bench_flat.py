"""Do memory and open files stay flat in a long run?

    python -m tests.bench.bench_flat [--sources 3000] [--shards 2000]

    worker    one process makes shards of N sources, decoded for real, small and a tenth of them damaged
    driver    the clip job over N shards in this process, with a stage that only writes its ledger

Memory and descriptors of the process are read on the way. The growth is that from a tenth of the way, when
everything is loaded and every cache is warm, to the end. Exit code 1 where it is more than `LIMIT_BYTES` or a
descriptor.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click

import avprep.jobs.clip
import avprep.jobs.planner
from avprep.datasets.source import Source
from avprep.execution import RunnerConfig
from avprep.jobs.clip import run_clip_job
from avprep.jobs.config import ClipJobConfig, FromMedia, PlanOptions
from avprep.jobs.progress import Progress
from avprep.shards.clips import clip_key
from avprep.spec import ClipSpec
from avprep.stages.clip import make_shard
from avprep.stages.options import ClipOptions
from avprep.stages.tasks import PlannedSource, ShardTask
from tests.avprep.media.flash_click import write_flash_click
from tests.bench.bench_scale import HeaderStage, LedgerStage
from tests.integration.test_faults import memory_of_this_process

SPEC = ClipSpec(frames=4, size=16, n_mels=16, n_fft=256)
LIMIT_BYTES = 32 << 20
SOURCES_PER_SHARD = 50
DAMAGED_EVERY = 10  # sources


class Track:
    """Memory and open files of this process, read on the way."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total = what, total
        self._at: list[int] = []
        self._bytes: list[int] = []
        self._files: list[int] = []

    def mark(self, done: int) -> None:
        self._at.append(done)
        self._bytes.append(memory_of_this_process("VmRSS"))
        self._files.append(len(os.listdir("/proc/self/fd")))

    def report(self) -> bool:
        """Prints a row. Returns whether both stayed flat."""
        warm = next(i for i, done in enumerate(self._at) if done >= self._total / 10)
        grown = max(self._bytes[warm:]) - self._bytes[warm]
        files = max(self._files[warm:]) - self._files[warm]
        is_flat = grown <= LIMIT_BYTES and files <= 1
        click.echo(
            f"| {self._what} of {self._total:,} | {self._bytes[warm] / 1e6:.0f} MB, "
            f"{self._files[warm]} open files | +{grown / 1e6:.1f} MB, +{files} | "
            f"{'flat' if is_flat else 'GROWS'} |"
        )
        return is_flat


def write_sources(root: Path, count: int) -> Iterator[PlannedSource]:
    """Links to one small file, each tenth to one that is cut off."""
    write_flash_click(root / "whole.mp4", seconds=1.0, events_s=(0.5,))
    data = (root / "whole.mp4").read_bytes()
    (root / "cut.mp4").write_bytes(data[: len(data) * 2 // 3])
    for i in range(count):
        name = f"{i:05d}.mp4"
        os.link(root / ("cut.mp4" if i % DAMAGED_EVERY == 0 else "whole.mp4"), root / name)
        yield PlannedSource(path=name, starts=(0,))


def worker(sources: int) -> bool:
    track = Track("sources in one worker: shards", sources)
    with tempfile.TemporaryDirectory(prefix="bench-flat-") as folder:
        root, out = Path(folder, "media"), Path(folder, "out")
        root.mkdir()
        out.mkdir()
        planned = sorted(write_sources(root, sources), key=lambda source: clip_key(source.path, 0))
        for index in range(0, sources, SOURCES_PER_SHARD):
            make_shard(
                ShardTask(
                    index=index // SOURCES_PER_SHARD,
                    sources=tuple(planned[index : index + SOURCES_PER_SHARD]),
                    root=str(root),
                    out=str(out),
                    options=ClipOptions(spec=SPEC),
                    fingerprint="flat",
                    source_timeout_s=600.0,
                )
            )
            track.mark(index + SOURCES_PER_SHARD)
        shutil.rmtree(out)
    return track.report()


def driver(shards: int) -> bool:
    avprep.jobs.planner.ProbeStage, avprep.jobs.clip.ClipStage = HeaderStage, LedgerStage
    track, done = Track("shards in the driver: a job", shards), 0

    def shard_done(*_: object) -> None:
        nonlocal done
        done += 1
        if done % 20 == 0:
            track.mark(done)

    with tempfile.TemporaryDirectory(prefix="bench-flat-") as folder:
        source = FromMedia(
            dataset="manifest",
            root=Path(folder),
            sources=[Source(path=f"{i:07d}.mp4", start_s=0.0, stop_s=10.0) for i in range(shards)],
            plan=PlanOptions(clips_per_source=1, shard_size=1),
            clip=ClipOptions(spec=SPEC),
            runner=RunnerConfig(workers=0),
        )
        config = ClipJobConfig(source=source, out=f"{folder}/out")
        run_clip_job(config, Progress(shard_done=shard_done))
    return track.report()


@click.command()
@click.option("--sources", default=3000, show_default=True)
@click.option("--shards", default=2000, show_default=True)
def main(sources: int, shards: int) -> None:
    click.echo("| what | after a tenth | growth to the end | verdict |\n|---|---|---|---|")
    results = [worker(sources), driver(shards)]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
