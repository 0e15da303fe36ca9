"""The encode job with the fake encoder in a process of its own, to be killed and measured.

`python -m tests.integration.encode_driver clips|media SOURCE OUT [--workers N] [--address A] [--cpus N]
[--kill-at FILE] [--slow S]`
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from avprep.datasets import list_dataset
from avprep.datasets.source import DatasetOptions
from avprep.execution import PoolConfig, RunnerConfig
from avprep.jobs.config import EncodeJobConfig, FromClips, FromMedia, Growth, PlanOptions
from avprep.jobs.encode import run_encode_job
from avprep.jobs.progress import EncodeReport, Progress
from avprep.shards.layout import read_header
from avprep.shards.store import open_store
from avprep.spec import ClipSpec
from avprep.stages.options import ClipOptions, EncodeOptions
from tests.fake_encoder import OpenFake

SHARD_SIZE = 3


def quiet(said: list[str] | None = None) -> Progress:
    """Progress that only gathers what is said."""
    said = [] if said is None else said
    return Progress(worker_lost=said.append, say=said.append)


def media_source(root: Path, spec: ClipSpec, workers: int) -> FromMedia:
    """The clips of a folder, labelled by it, in shards of SHARD_SIZE."""
    listing = list_dataset("folder", DatasetOptions(root=root, label_from_folder=True))
    return FromMedia(
        dataset="folder",
        root=root,
        sources=listing.sources,
        plan=PlanOptions(shard_size=SHARD_SIZE),
        clip=ClipOptions(spec=spec),
        runner=RunnerConfig(workers=workers, isolated=False),
        source_timeout_s=60.0,
    )


def encode(
    source: Path | FromMedia,
    out: Path,
    *,
    fake: OpenFake,
    workers: int = 0,
    address: str | None = None,
    batch_size: int | None = 2,
    rebuild: bool = False,
    growth: Growth | None = None,
    said: list[str] | None = None,
    **options: bool,
) -> EncodeReport:
    config = EncodeJobConfig(
        source=source if isinstance(source, FromMedia) else FromClips(uri=str(source)),
        out=str(out),
        header=fake.header,
        open_encoder=fake,
        options=EncodeOptions(**options),
        pool=PoolConfig(workers=workers, address=address, device="cpu"),
        batch_size=batch_size,
        compile=False,
        rebuild=rebuild,
        growth=growth or Growth(),
    )
    return run_encode_job(config, quiet(said))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("clips", "media"))
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--address")
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--slow", type=float, default=0.0)
    parser.add_argument("--kill-at", default="")
    parser.add_argument("--kill-always", action="store_true")
    parser.add_argument("--memory", action="store_true")
    told = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: told.cpus])
    faults = {"slow_s": told.slow, "kill_at": told.kill_at, "kill_always": told.kill_always}
    if told.kind == "media":
        spec = ClipSpec(size=32)
        source = media_source(told.source, spec, told.workers)
    else:
        spec = ClipSpec.from_dict(read_header(open_store(told.source))["spec"])
        source = told.source
    said: list[str] = []
    fake = OpenFake(spec).but(**faults)
    report = encode(
        source,
        told.out,
        fake=fake,
        workers=told.workers,
        address=told.address,
        said=said,
    )
    print(f"made {report.made} of {report.shards}", *said, sep="\n")
    if told.memory:
        peak = next(line for line in Path("/proc/self/status").read_text().split("\n") if "VmHWM" in line)
        print(f"peak_MB {int(peak.split()[1]) / 1024:.1f} elapsed_s {report.elapsed_s:.2f}")


if __name__ == "__main__":
    main()
