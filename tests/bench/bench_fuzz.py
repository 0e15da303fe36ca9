"""Damaged media in bulk: `python -m tests.bench.bench_fuzz MEDIA [COUNT] [SEED]`.

Every mutant of the real files in MEDIA goes through `avprep clip` twice: alone in a process of its own, for
its time and memory, and all together in one run with two workers. Prints one table and ends with 1 if a
process died or hung, or a clip is not accounted for.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from avprep.media.limits import MAX_GROWTH
from avprep.shards.ledger import Sums, finished_shards, read_ledgers
from avprep.shards.plan import PlanReader
from avprep.shards.store import open_store
from tests.avprep.media.mutate import mutations
from tests.integration.test_faults import start

LARGEST = 3_000_000  # bytes of a file to start from
SOURCE_TIMEOUT_S = 30
LONG_S = 120  # a run over one file is not waited for longer
LOOK_S = 10  # and is said to hang if it finishes no shard in so long


@dataclass(frozen=True)
class Alone:
    """What a mutant did in a process of its own."""

    name: str
    seconds: float
    growth: int  # bytes of memory
    exit_code: int | None  # None: it was not waited for
    is_at_work: bool = False  # then: it still finished shards, of a file that claims to be hours long


def write_mutants(media: Path, folder: Path, count: int, seed: int) -> dict[Path, str]:
    """Mutants of all files in turn, each in a folder of its own: their paths and what was done."""
    files = [p for p in sorted(media.iterdir()) if 1000 < p.stat().st_size < LARGEST and p.suffix != ".tsv"]
    endless = {p: mutations(p.read_bytes(), random.Random(f"{seed} {p.name}")) for p in files}
    found = {}
    for i in range(count):
        source = files[i % len(files)]
        what, data = next(endless[source])
        path = folder / f"{i:04d}" / f"{i:04d}_{source.name}"
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
        found[path] = f"{source.name}, {what}"
    return found


def run_alone(path: Path, what: str) -> Alone:
    out = path.parent / "out"
    began = time.perf_counter()
    run = start(path.parent, out, "--source-timeout", SOURCE_TIMEOUT_S, isolated=True)
    run.join(LONG_S)
    seconds = time.perf_counter() - began
    if run.exitcode is None:
        finished = len(finished_shards(open_store(out)))
        run.join(LOOK_S)
        is_at_work = len(finished_shards(open_store(out))) > finished
        run.kill()
        return Alone(what, seconds, 0, None, is_at_work)
    report = run.log.with_suffix(".growth")
    return Alone(what, seconds, int(report.read_text()) if report.exists() else 0, run.exitcode)


def run_together(media: Path, out: Path) -> tuple[float, int | None, Sums, int]:
    """(seconds, exit code, sums of the ledger, clips planned) of one run with two workers."""
    began = time.perf_counter()
    run = start(media, out, "--source-timeout", SOURCE_TIMEOUT_S, "--shard-size", 16, workers=2)
    run.join(30 * LONG_S)
    seconds = time.perf_counter() - began
    if run.exitcode != 0:
        print(run.log.read_text()[-2000:], file=sys.stderr)
    sums, store = Sums(), open_store(out)
    for _, rows, _ in read_ledgers(store):
        sums.add(rows)
    return seconds, run.exitcode, sums, PlanReader(store).clips


def main(media: Path, count: int, seed: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        mutants = write_mutants(media, Path(folder) / "media", count, seed)
        alone = [run_alone(path, what) for path, what in mutants.items()]
        seconds, exit_code, sums, planned = run_together(Path(folder) / "media", Path(folder) / "out")
    slowest, fattest = max(alone, key=lambda a: a.seconds), max(alone, key=lambda a: a.growth)
    codes = Counter(a.exit_code for a in alone)
    reasons = ", ".join(f"{count} {reason}" for reason, count in sums.by_reason.most_common())
    print("| hostile media | |\n|---|---|")
    print(f"| mutants (seed {seed}) | {count} |")
    long = sum(a.is_at_work for a in alone)
    print(
        f"| alone: done / still at work after {LONG_S} s / died / hung | "
        f"{codes[0]} / {long} / {count - codes[0] - codes[None]} / {codes[None] - long} |"
    )
    print(f"| alone: slowest | {slowest.seconds:.2f} s: {slowest.name} |")
    print(f"| alone: mean | {sum(a.seconds for a in alone) / count:.2f} s |")
    print(
        f"| alone: most memory over the process at rest | {fattest.growth >> 20} MiB of "
        f"{MAX_GROWTH >> 20} allowed: {fattest.name} |"
    )
    print(f"| together, 2 workers | exit code {exit_code} after {seconds:.1f} s |")
    print(
        f"| planned = written + filtered + failed | {planned} = {sums.by_status['written']} + "
        f"{sums.by_status['filtered']} + {sums.by_status['failed']} |"
    )
    print(f"| reasons | {reasons} |")
    bad = [a for a in alone if a.exit_code != 0 and not a.is_at_work]
    for a in alone:
        if a.exit_code != 0:
            print(f"exit code {a.exit_code} after {a.seconds:.1f} s: {a.name}", file=sys.stderr)
    return int(bool(bad) or exit_code != 0 or sums.planned != planned)


if __name__ == "__main__":
    if len(sys.argv) < 2 or not os.path.isdir(sys.argv[1]):
        sys.exit("usage: python -m tests.bench.bench_fuzz MEDIA [COUNT] [SEED] (a folder of real videos)")
    numbers = [int(n) for n in sys.argv[2:]]
    sys.exit(main(Path(sys.argv[1]), *numbers, *(300, 1)[len(numbers) :]))
