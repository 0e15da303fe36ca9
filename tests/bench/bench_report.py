"""What `avprep report` costs: `python -m tests.bench.bench_report [--rows 1000000]`.

An output of 96 real clips, and behind them finished shards of 1,000 made rows each, whose tars are not there.
The report is made in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click

from avprep.shards.layout import CLIPS, shard_name
from avprep.shards.ledger import LedgerRow, ShardRecord, write_ledger
from avprep.shards.plan import PlanRow, write_plan
from avprep.shards.store import Store, open_store
from tests.avprep.report.made_output import plan_rows, write_output

REAL_SHARDS, REAL_EACH = 12, 10  # of each, 8 are written
EACH = 1000
# VmHWM, as ru_maxrss of a process begins with its parent's.
_REPORT = """
import sys, time
from avprep.cli import main
started, folder = time.perf_counter(), sys.argv[1]
main(["report", f"{folder}/clips", "--to", f"{folder}/report", "--clips", "48"], standalone_mode=False)
seconds = time.perf_counter() - started
with open("/proc/self/status") as file:
    print(seconds, *(1024 * int(line.split()[1]) for line in file if line.startswith("VmHWM:")))
"""


@click.command()
@click.option("--rows", default=1_000_000, show_default=True)
def main(rows: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = write_output(Path(folder) / "clips", shards=REAL_SHARDS, each=REAL_EACH)
        write_plan(open_store(out), _shards(open_store(out), REAL_SHARDS + rows // EACH))
        made = subprocess.run(
            [sys.executable, "-c", _REPORT, folder], stdout=subprocess.PIPE, check=True, text=True
        )
        seconds, peak = map(float, made.stdout.split()[-2:])
        page = (Path(folder) / "report" / "index.html").stat().st_size
        click.echo(f"{rows:,} rows  {seconds:.1f} s  {peak / 1e6:,.0f} MB  page {page / 1e3:.1f} kB")


def _shards(store: Store, count: int) -> Iterator[list[PlanRow]]:
    """The rows of the plan, shard by shard; the ledgers of those that are made are written on the way."""
    for index in range(count):
        if index < REAL_SHARDS:
            yield plan_rows(index, REAL_EACH)
        else:
            rows = plan_rows(index, EACH)
            record = ShardRecord(shard_name(CLIPS, index), f"{index:064x}", 1, "made")
            write_ledger(store, index, [_ledger_row(row, place) for place, row in enumerate(rows)], record)
            yield rows


def _ledger_row(row: PlanRow, place: int) -> LedgerRow:
    """Of a hundred, one failed and two were filtered."""
    outcome = {0: ("failed", "corrupt"), 1: ("filtered", "silent"), 2: ("filtered", "frozen")}
    status, reason = outcome.get(place % 100, ("written", ""))
    return LedgerRow(
        key=row.key,
        shard=row.shard,
        source=row.source,
        start_s=0.0,
        status=status,
        reason=reason,
        residual_ms=place % 40 / 10,
    )


if __name__ == "__main__":
    main()
