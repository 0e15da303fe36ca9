"""What the commands that run a job share: where its output may lie, and how whatever ends it is reported."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from avprep.cli.group import Refused
from avprep.execution import RunnerError
from avprep.jobs.output import JobError, Stopped, absolute, overlap
from avprep.media.source import MediaGone
from avprep.shards.layout import ShardError


def named_output(out: str) -> str:
    """The --out as workers find it. Raises Refused for ''."""
    if not out.strip():
        raise Refused(f"--out {out!r} names no folder")
    return absolute(out)


def refuse_overlap(out: str, root: Path) -> None:
    """Raises Refused where an output would lie among the media, or the media in the output."""
    how = overlap(named_output(out), root)
    if how is not None:
        raise Refused(f"--out {out} {how} --root {root}; give an --out beside it")


def failed_file(error: OSError, out: str) -> click.ClickException:
    """What a run says that a file system ended: the output's, unless the error names another's file."""
    named, why = str(error.filename or out), error.strerror or error
    where = f"--out {out} cannot be written" if named.startswith(out) else named
    return click.ClickException(
        f"{where}: {why}. No shard is half done; when that is mended, run the same command again."
    )


@contextmanager
def told_in_sentences(out: str, close: Callable[[], None], *refusals: type[Exception]) -> Iterator[None]:
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
        click.echo(
            f"Stopped; the shards in hand are {in_hand}. Run the same command again to go on.", err=True
        )
        sys.exit(128 + stopped.signal_number)
    except OSError as error:
        close()
        raise failed_file(error, out) from error
    close()
