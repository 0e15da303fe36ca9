"""What the commands that read an output share: the output itself, counts and sizes as people read them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from avprep.cli.group import Refused, with_options
from avprep.errors import printable
from avprep.reasons import Reason
from avprep.shards.layout import ShardError, read_header
from avprep.shards.ledger import STATUSES, Sums
from avprep.shards.plan import PlanReader
from avprep.shards.store import Store, open_store

if TYPE_CHECKING:
    from avprep.jobs.progress import ScoreReport


def existing(out: str) -> Store:
    store = open_store(out)
    try:
        read_header(store)
        PlanReader(store)
    except (ShardError, FileNotFoundError) as error:
        raise Refused(str(error)) from error
    return store


NO_CLIPS = 3  # exit code of a run that leaves an output without any clip


def exit_without_clips(sums: Sums, out: str) -> None:
    """Ends the program where an output holds no clip: to be called last, so that nothing hides the message.

    Args:
        sums: of the whole output: a resumed run that adds no clip to those of an earlier one has not failed.
    """
    if sums.by_status["written"]:
        return
    (reason, count), *_ = sums.by_reason.most_common(1) or [("", 0)]
    why = f" {count:,} of them: {explained(Reason.of(reason))}" if count else ""
    click.echo(f"NO CLIP WAS WRITTEN: {out} holds none of {sums.planned:,} planned clips.{why}", err=True)
    sys.exit(NO_CLIPS)


FAULTS = 4  # exit code of a run that leaves an output with clips that failed by a fault of avprep


def exit_with_faults(sums: Sums, out: str) -> None:
    """Ends the program where clips of an output failed by a fault of avprep: to be called last.

    Args:
        sums: of the whole output.
    """
    count = sums.by_reason[Reason.UNFORESEEN]
    if not count:
        return
    click.echo(
        f"FAULTS OF AVPREP: {count:,} of {sums.planned:,} planned clips of {out} failed by one; their "
        f"sources may be whole. avprep status {out} names the places in the code",
        err=True,
    )
    sys.exit(FAULTS)


def print_sums(sums: Sums) -> None:
    counts = ", ".join(f"{sums.by_status[status]:,} {status}" for status in STATUSES)
    click.echo(f"{sums.planned:,} planned = {counts}")
    print_reasons(sums)


def print_reasons(sums: Sums) -> None:
    for reason, count in sums.by_reason.most_common():
        click.echo(f"  {count:>9,} {explained(Reason.of(reason))}")


def print_scores(report: ScoreReport, *, is_timed: bool) -> None:
    """What a run did about scores. `is_timed`: it did nothing else, so that it has a rate."""
    for why in report.left_out:
        click.echo(f"LEFT OUT {with_options(why)}")
    if not report.made and not report.damaged:
        click.echo(f"nothing to do: {', '.join(report.scores)} of all {report.shards:,} shards are there")
        return
    rate = report.clips / max(report.elapsed_s, 1e-9)
    took = f" in {report.elapsed_s:.1f} s, {rate:.1f} clips/s" if is_timed else ""
    click.echo(f"scored {report.clips:,} clips in {report.made:,} of {report.shards:,} shards{took}")
    if report.problems:
        click.echo(f"{report.problems:,} clips lack a score: the column problems says why")
    print_damaged("DAMAGED", report.damaged, "have no scores", then="avprep score")


def print_damaged(word: str, damaged: Sequence[object], outcome: str, *, then: str) -> None:
    """The damaged shards of clips that a run met, each behind `word`, what became of them, and what to do:
    `then` is the last command."""
    for damage in damaged:
        click.echo(f"{word} {printable(str(damage))}")
    if damaged:
        click.echo(
            f"{len(damaged):,} damaged clip shards {outcome}. avprep verify names the damage; remove a "
            f"damaged shard's ledger file, run the same avprep clip command and then {then}."
        )


# The options that a reason's meaning and advice are about.
_OPTIONS = {
    Reason.MISSING: "--only-failed",
    Reason.UNREADABLE: "--only-failed",
    Reason.UNFORESEEN: "--only-failed",
    Reason.BAD_ROW: "--add-new",
    Reason.TIMEOUT: "--source-timeout",
    Reason.NO_EVENT: "--at-events",
    Reason.SILENT: "--drop-silent",
    Reason.STATIC: "--drop-static",
    Reason.BLACK: "--drop-black",
    Reason.RESIDUAL: "--max-residual",
    Reason.UNSELECTED: "--select",
    Reason.TOO_SHORT: "--frames, --fps",
    Reason.CUT: "--cuts",
}


def explained(reason: Reason) -> str:
    """What it means and what to do, in one line."""
    option = f" ({_OPTIONS[reason]})" if reason in _OPTIONS else ""
    return f"{reason}: {reason.meaning}. To do: {reason.advice}{option}"


def readable_bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError
