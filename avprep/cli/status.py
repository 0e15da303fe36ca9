"""`avprep status` and `avprep verify`: what an output holds, and whether it is as it was written."""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING

import click

from avprep.errors import printable

if TYPE_CHECKING:
    from avprep.shards.ledger import LedgerRow, Sums
    from avprep.shards.plan import PlanReader
    from avprep.shards.store import Store
    from avprep.shards.verify import Damage

_COMMANDS = {"clips": "avprep clip", "latents": "avprep encode"}  # that makes an output of the kind
_SHOWN = 3  # failed rows of a reason, unless all are asked for


@click.command()
@click.argument("out")
@click.option("--all", "show_all", is_flag=True, help="Every failed row, not the first of each reason.")
@click.option("--try", "key", metavar="KEY", help="Make this one clip again, here and now; write nothing.")
def status(out: str, show_all: bool, key: str | None) -> None:
    """Print the ledger's sums and every failure's reason, with the command that tries it alone.

    With --try: exit 1 if the clip still fails.
    """
    from avprep.cli.common import existing, print_sums
    from avprep.shards.layout import kind_of, read_header
    from avprep.shards.ledger import finished_shards
    from avprep.shards.plan import PlanReader

    store = existing(out)
    if key is not None:
        from avprep.cli.try_clip import try_again

        outcome = try_again(store, key)
        click.echo(outcome.text)
        if not outcome.is_read:
            sys.exit(1)
        return
    sums, failed = _sums_and_failed(store, show_all)
    plan = PlanReader(store)
    done = finished_shards(store)
    click.echo(f"{len(done):,} of {plan.shards:,} shards, {sums.planned:,} of {plan.clips:,} clips")
    for line in _generations(plan, done):
        click.echo(line)
    print_sums(sums)
    told: Counter[str] = Counter()
    for row in failed:
        told[row.reason] += 1
        if show_all or told[row.reason] <= _SHOWN:
            failure = f"{row.source} at {row.start_s:.3f} s, {row.reason}: {row.detail}"
            click.echo(f"  failed {printable(failure)}")
        elif told[row.reason] == _SHOWN + 1:
            click.echo(f"  ... more of {row.reason}: avprep status {out} --all")
    if failed and kind_of(read_header(store)) == "clips":
        click.echo(
            f"to try one alone: avprep status {out} --try {failed[0].key}\n"
            f"to try all again after a fix: the same avprep clip command with --only-failed"
        )


def _generations(plan: PlanReader, done: list[int]) -> Iterator[str]:
    """A line per generation of a plan that has grown."""
    firsts = plan.history().generations
    if len(firsts) == 1:
        return
    for number, (first, stop) in enumerate(zip(firsts, [*firsts[1:], plan.shards], strict=True), 1):
        shards = range(first, stop)
        made = bisect_left(done, stop) - bisect_left(done, first)
        counts = f"{made:,} of {len(shards):,} shards, {plan.clips_of(shards):,} clips"
        yield f"  generation {number}: {counts}, from shard {first:06d} on"


def _sums_and_failed(store: Store, show_all: bool) -> tuple[Sums, list[LedgerRow]]:
    """The sums of all ledgers, and the failed rows: all, or the first of each reason with one more, by which
    it is known that there are more. Whole rows are read only of the shards that have such."""
    from avprep.shards.ledger import Sums, finished_shards, read_ledger, read_outcomes

    sums, failed, found = Sums(), [], Counter[str]()
    for index in finished_shards(store):
        outcomes = read_outcomes(store, index)
        sums.count(outcomes)
        reasons = {reason for status, reason in outcomes if status == "failed"}
        if not any(show_all or found[reason] <= _SHOWN for reason in reasons):
            continue
        for row in read_ledger(store, index)[0]:
            if row.status == "failed" and (show_all or found[row.reason] <= _SHOWN):
                found[row.reason] += 1
                failed.append(row)
    return sums, failed


@click.command()
@click.argument("out")
@click.option("--deep", is_flag=True, help="Decode every frame too, and compare texts with the plan.")
@click.option(
    "--repair",
    "is_repaired",
    is_flag=True,
    help="Remove damaged shards' ledgers, and shards without one, so that the command that wrote them makes "
    "them again.",
)
def verify(out: str, deep: bool, is_repaired: bool) -> None:
    """Re-read every shard against its ledger and checksums; exit 1 on any damage, naming it.

    With --repair: exit 1 on damage that could not be removed.
    """
    from avprep.cli.common import existing
    from avprep.shards.layout import kind_of, read_header
    from avprep.shards.ledger import finished_shards, read_ledgers
    from avprep.shards.lock import lock
    from avprep.shards.verify import repair

    store = existing(out)
    with lock(store) if is_repaired else nullcontext():
        done = len(finished_shards(store))
        damages = _shown_damages(store, deep, done)
        if not damages:
            clips = sum(len(rows) for _, rows, _ in read_ledgers(store))
            click.echo(f"{done:,} shards, {clips:,} ledger rows: all as written")
            return
        removed, left = repair(store, damages) if is_repaired else ([], damages)
    for name in removed:
        click.echo(f"removed {name}")
    command = f"the same {_COMMANDS[kind_of(read_header(store))]} command"
    click.echo(f"{len(damages):,} damaged in {done:,} shards. {_to_do(command, is_repaired, len(left))}")
    if left:
        sys.exit(1)


def _to_do(command: str, is_repaired: bool, left: int) -> str:
    if not is_repaired:
        return f"To mend them: avprep verify --repair, then {command}, which makes those shards again."
    if left:
        return (
            f"{left:,} were not removed, as no command would make them again. Run {command} for the others."
        )
    return f"Run {command}: it makes those shards again."


def _shown_damages(store: Store, deep: bool, shards: int) -> list[Damage]:
    """Every damage of the output, printed as it is found."""
    from tqdm import tqdm

    from avprep.media.mux import decode_frames
    from avprep.shards.verify import verify as damages_of

    found = []
    with tqdm(total=shards, unit="shard", leave=False, disable=None) as bar:
        for damage in damages_of(store, lambda _: bar.update(), decode_h264=decode_frames if deep else None):
            found.append(damage)
            tqdm.write(f"DAMAGED {printable(str(damage))}")
    return found
