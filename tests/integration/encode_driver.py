"""The encode job with the fake encoder in a process of its own, to be killed and measured.

`python -m tests.integration.encode_driver clips|media SOURCE OUT [--workers N] [--address A] [--cpus N]
[--kill-at FILE] [--slow S]`
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from avprep.datasets import list_dataset
from avprep.datasets.source import DatasetOptions, Source
from avprep.execution import PoolConfig, RunnerConfig
from avprep.jobs.clip import JobConfig
from avprep.jobs.encode import EncodeConfig, EncodeProgress, EncodeReport, run_encode_job
from avprep.jobs.planning import PlanOptions
from avprep.shards.layout import read_header
from avprep.shards.store import open_store
from avprep.spec import ClipSpec
from avprep.stages.encode import EncodeOptions
from avprep.stages.tasks import ClipOptions
from tests.fake_encoder import OpenFake

SHARD_SIZE = 3


def quiet(said: list[str] | None = None) -> EncodeProgress:
    """Progress that only gathers what is said."""
    said = [] if said is None else said
    return EncodeProgress(
        planned=lambda clips, shards: None,
        shard_done=lambda result, busy: None,
        worker_lost=said.append,
        planning=lambda sources: None,
        say=said.append,
    )


def media_job(root: Path, out: Path, spec: ClipSpec, workers: int) -> tuple[JobConfig, list[Source]]:
    """What `avprep clip --dataset folder --label-from-folder --video-codec raw` would do."""
    options = DatasetOptions(root=root, split=None, csv=None, label_from_folder=True)
    config = JobConfig(
        dataset="folder",
        split=None,
        root=root,
        out=str(out),
        plan=PlanOptions(
            spec=spec, stride_samples=spec.samples, clips_per_source=None, limit=None, shard_size=SHARD_SIZE
        ),
        clip=ClipOptions(
            spec=spec,
            crop="center",
            video_codec="raw",
            drop_silent_db=None,
            drop_static=None,
            drop_black=None,
        ),
        runner=RunnerConfig(workers=workers, isolated=False),
        source_timeout_s=60.0,
    )
    return config, list_dataset("folder", options).sources


def encode(
    source: str | JobConfig,
    out: Path,
    *,
    sources: list[Source] = (),
    fake: OpenFake,
    workers: int = 0,
    address: str | None = None,
    batch_size: int | None = 2,
    rebuild: bool = False,
    said: list[str] | None = None,
    **options: bool,
) -> EncodeReport:
    config = EncodeConfig(
        source=source,
        out=str(out),
        header=fake.header,
        open_encoder=fake,
        options=EncodeOptions(**options),
        pool=PoolConfig(workers=workers, address=address, device="cpu"),
        batch_size=batch_size,
        compile=False,
        rebuild=rebuild,
    )
    return run_encode_job(list(sources), config, quiet(said))


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
        source, sources = media_job(told.source, told.out, spec, told.workers)
    else:
        spec = ClipSpec.from_dict(read_header(open_store(told.source))["spec"])
        source, sources = str(told.source), []
    said: list[str] = []
    fake = OpenFake(spec).but(**faults)
    report = encode(
        source,
        told.out,
        sources=sources,
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
