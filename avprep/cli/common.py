"""What the commands share: refusals, an output that is there, counts and sizes as people read them."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from avprep.execution.runner import RunnerError
from avprep.jobs.output import JobError, Stopped
from avprep.media.source import MediaGone
from avprep.reasons import Reason
from avprep.shards.clips import ShardError
from avprep.shards.ledger import STATUSES, Sums
from avprep.shards.plan import PlanReader
from avprep.shards.store import Store, open_store
from avprep.shards.verify import read_header


class Refused(click.ClickException):
    """A sentence on stderr and exit code 2."""

    exit_code = 2


class Sentences(click.Group):
    """What a command does not tell of itself: damaged outputs, files that cannot be opened, Ctrl-C."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ShardError as error:
            raise Refused(str(error)) from error
        except OSError as error:
            if error.filename is None:  # a pipe that was closed: click's own to end
                raise
            raise click.ClickException(f"{error.filename}: {error.strerror}") from error
        except KeyboardInterrupt:
            click.echo("Stopped.", err=True)
            sys.exit(128 + signal.SIGINT)


def absolute(uri: str) -> str:
    """An --out or another output as workers find it, who may run in another folder. Raises Refused for ''."""
    if not uri.strip():
        raise Refused(f"--out {uri!r} names no folder")
    return uri if is_remote(uri) else os.path.abspath(uri)


def is_remote(uri: str) -> bool:
    """Whether pyarrow.fs opens it, and not this machine's file system."""
    return "://" in uri


def refuse_overlap(out: str, root: Path) -> None:
    """Raises Refused where an output would lie among the media, or the media in the output.

    Then --rebuild could remove media, and the next listing could take the output for media.
    """
    if is_remote(absolute(out)):
        return
    ours, media = Path(out).resolve(), root.resolve()
    if ours == media or ours.is_relative_to(media) or media.is_relative_to(ours):
        how = "is" if ours == media else "lies in" if ours.is_relative_to(media) else "holds"
        raise Refused(f"--out {out} {how} --root {root}; give an --out beside it")


def failed_file(error: OSError, out: str) -> click.ClickException:
    """What a run says that a file system ended: the output's, unless the error names another's file."""
    named, why = str(error.filename or out), error.strerror or error
    where = f"--out {out} cannot be written" if named.startswith(out) else named
    return click.ClickException(f"{where}: {why}. No shard is half done; when that is mended, run the same "
                                f"command again.")


@contextmanager
def told_in_sentences(
    out: str, close: Callable[[], None], *refusals: type[Exception]
) -> Iterator[None]:
    """Whatever ends a run is a sentence and an exit code; `close` takes the progress bar away before it.
    `refusals`: what else the run raises that is a sentence of its own."""
    try:
        yield
    except (JobError, RunnerError, ShardError, *refusals) as error:
        close()
        raise Refused(str(error)) from error
    except MediaGone as error:
        close()
        raise click.ClickException(str(error)) from error
    except Stopped as stopped:
        close()
        in_hand = "dropped" if stopped.is_dropped else "finished"
        click.echo(f"Stopped; the shards in hand are {in_hand}. Run the same command again to go on.",
                   err=True)
        sys.exit(128 + stopped.signal_number)
    except OSError as error:
        close()
        raise failed_file(error, out) from error
    close()


def existing(out: str) -> Store:
    store = open_store(out)
    try:
        read_header(store)
        PlanReader(store)
    except (ShardError, FileNotFoundError) as error:
        raise Refused(str(error)) from error
    return store


def print_sums(sums: Sums) -> None:
    counts = ", ".join(f"{sums.by_status[status]:,} {status}" for status in STATUSES)
    click.echo(f"{sums.planned:,} planned = {counts}")
    for reason, count in sums.by_reason.most_common():
        click.echo(f"  {count:>9,} {told_reason(Reason(reason))}")


# The options that a reason's meaning and advice are about.
_OPTIONS = {
    Reason.MISSING: "--only-failed", Reason.UNREADABLE: "--only-failed", Reason.TIMEOUT: "--source-timeout",
    Reason.SILENT: "--drop-silent", Reason.STATIC: "--drop-static", Reason.BLACK: "--drop-black",
    Reason.RESIDUAL: "--max-residual", Reason.TOO_SHORT: "--frames, --fps",
}


def told_reason(reason: Reason) -> str:
    """What it means and what to do, in one line."""
    option = f" ({_OPTIONS[reason]})" if reason in _OPTIONS else ""
    return f"{reason}: {reason.meaning}. To do: {reason.advice}{option}"


def readable_bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError
