"""What `avprep select` costs: `python -m tests.bench.bench_select [--clips N] [--near N]`.

    query           two terms, a random order and a limit, of N clips in shards of 256
    labels, splits  per_label, exclude_ids and a split by source besides
    near            near_duplicates of fewer clips: all pairs are compared; planted copies must be found

Rows are made, no media is there. Each run is a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from avprep.jobs.config import SelectConfig
from avprep.jobs.duplicates import near_groups
from avprep.jobs.select import run_select
from avprep.shards.clips import clip_key
from avprep.shards.layout import CLIPS, clips_header, shard_name
from avprep.shards.ledger import LedgerRow, ShardRecord, write_ledger
from avprep.shards.plan import PlanRow, write_plan
from avprep.shards.scores import KEY, PROBLEMS, write_scores
from avprep.shards.store import Store, open_store
from avprep.shards.writer import write_header
from avprep.spec import ClipSpec

SHARD, PER_SOURCE, LABELS = 256, 6, 527
WITHIN = 48  # bits
RUNS = ("query", "labels, splits")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clips", type=int, default=1_000_000)
    parser.add_argument("--near", type=int, default=100_000)
    parser.add_argument("--run", nargs=2, metavar=("OUT", "NAME"))
    arguments = parser.parse_args()
    if arguments.run:
        _select(Path(arguments.run[0]), arguments.run[1])
        return
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "clips"
        out.mkdir()
        _write_output(open_store(out), arguments.clips)
        (out.parent / "ids.txt").write_text("\n".join(_source(i) for i in range(0, arguments.clips, 1000)))
        for name in RUNS:
            command = [sys.executable, "-m", "tests.bench.bench_select", "--run", str(out), name]
            subprocess.run(command, check=True)
    _find_copies(arguments.near)


def _select(out: Path, name: str) -> None:
    more = (
        {"per_label": 5000, "exclude_ids": out.parent / "ids.txt", "split": {"train": 0.9, "val": 0.1}}
        if name == "labels, splits"
        else {}
    )
    config = SelectConfig(
        clips=str(out),
        query="loudness_lufs > -40 and cut == 0",
        name="made",
        limit=500_000,
        rebuild=True,
        **more,
    )
    started, cpu = time.perf_counter(), time.process_time()
    made = run_select(config)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kB
    funnel = " -> ".join(f"{step.kept:,}" for step in made["made"].funnel)
    print(f"{name:15} {seconds:6.1f} s  {cpu:6.1f} s CPU  {peak / 1e3:6,.0f} MB  {funnel}", flush=True)


def _find_copies(clips: int) -> None:
    """Random prints, one of a hundred with a copy at a random distance of up to WITHIN bits."""
    rng = np.random.default_rng(0)
    prints = rng.integers(0, 256, (clips, 36), dtype=np.uint8)
    copies = np.arange(0, clips - 1, 100)
    for copy in copies:
        flips = np.zeros(288, np.uint8)
        flips[rng.choice(288, rng.integers(0, WITHIN + 1), replace=False)] = 1
        prints[copy] = prints[copy + 1] ^ np.packbits(flips)
    table = pa.table(
        {
            "phash": pa.array([row.tobytes() for row in prints[:, :24]], pa.binary()),
            "audio_print": pa.array([row.tobytes() for row in prints[:, 24:]], pa.binary()),
        }
    )
    started = time.perf_counter()
    groups = near_groups(table, WITHIN)
    seconds = time.perf_counter() - started
    found = int((groups[copies] == groups[copies + 1]).sum())
    wrong = clips - len(np.unique(groups)) - found
    print(f"near            {seconds:6.1f} s  {clips:,} clips: {found:,} of {len(copies):,} copies found, "
          f"{wrong:,} others taken for copies")  # fmt: skip


def _write_output(store: Store, clips: int) -> None:
    """A finished output without its tars, which a selection does not open."""
    spec = ClipSpec()
    header = clips_header(spec=spec.to_dict(), options={}, dataset={"name": "made", "split": None})
    write_header(store, header | {"fingerprint": "made", "root": "."})
    shards = [list(rows) for rows in _shards(clips, spec)]
    write_plan(store, shards)
    rng = np.random.default_rng(0)
    for index, rows in enumerate(shards):
        record = ShardRecord(shard_name(CLIPS, index), f"{index:064x}", 1, "made")
        ledger = [
            LedgerRow(key=row.key, shard=index, source=row.source, start_s=0.0, status="written")
            for row in rows
        ]
        write_ledger(store, index, ledger, record)
        columns = {
            "key": [row.key for row in rows],
            "loudness_lufs": pa.array(rng.uniform(-60, 0, len(rows))),
            "cut": pa.array(rng.random(len(rows)) < 0.2),
            "problems": [[] for _ in rows],
        }
        types = [
            KEY,
            pa.field("loudness_lufs", pa.float64()),
            pa.field("cut", pa.bool_()),
            PROBLEMS,
        ]
        table = pa.table(columns, pa.schema(types))
        write_scores(store, index, table, clips_sha256=record.sha256, scores={"loudness": "", "cut": ""})


def _shards(clips: int, spec: ClipSpec) -> Iterator[list[PlanRow]]:
    rows: list[PlanRow] = []
    for number in range(clips):
        source = _source(number // PER_SOURCE)
        start = number % PER_SOURCE * spec.samples
        labels = (f"label {number // PER_SOURCE % LABELS}",)
        rows.append(
            PlanRow(
                key=clip_key(source, start),
                shard=number // SHARD,
                source=source,
                start=start,
                labels=labels,
                caption="",
            )
        )
        if len(rows) == SHARD:
            yield sorted(rows, key=lambda row: row.key)
            rows = []
    if rows:
        yield sorted(rows, key=lambda row: row.key)


def _source(number: int) -> str:
    return f"videos/{number:011d}.mp4"


if __name__ == "__main__":
    main()
