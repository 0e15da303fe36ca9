"""What the commands that read an output share: the output itself, counts and sizes as people read them."""

from __future__ import annotations

import sys

import click

from avprep.cli.group import Refused
from avprep.reasons import Reason
from avprep.shards.layout import ShardError, read_header
from avprep.shards.ledger import STATUSES, Sums
from avprep.shards.plan import PlanReader
from avprep.shards.store import Store, open_store


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


def print_sums(sums: Sums) -> None:
    counts = ", ".join(f"{sums.by_status[status]:,} {status}" for status in STATUSES)
    click.echo(f"{sums.planned:,} planned = {counts}")
    print_reasons(sums)


def print_reasons(sums: Sums) -> None:
    for reason, count in sums.by_reason.most_common():
        click.echo(f"  {count:>9,} {explained(Reason.of(reason))}")


# The options that a reason's meaning and advice are about.
_OPTIONS = {
    Reason.MISSING: "--only-failed",
    Reason.UNREADABLE: "--only-failed",
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
