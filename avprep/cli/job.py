"""How the end of a job is reported, whatever ends it: a message and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from avprep.cli.bar import BarProgress
from avprep.cli.group import with_options
from avprep.credentials import scrubbed
from avprep.jobs.output import Stopped
from avprep.jobs.progress import Progress
from avprep.media.source import MediaGone


@contextmanager
def reported_run(out: str, named: str = "--out") -> Iterator[Progress]:
    """Draws a bar from the progress that it gives, and removes it before the end of the run is reported.

    Errors of an argument pass: the click group reports them.

    Args:
        named: what the command line calls `out`.
    """
    bar = BarProgress()
    try:
        yield bar.callbacks
    except MediaGone as error:
        bar.close()
        raise click.ClickException(with_options(str(error))) from error
    except Stopped as stopped:
        bar.close()
        in_hand = "dropped" if stopped.is_dropped else "finished"
        click.echo(
            f"Stopped; the shards in hand are {in_hand}. Run the same command again to go on.", err=True
        )
        sys.exit(128 + stopped.signal_number)
    except OSError as error:
        bar.close()
        raise failed_file(error, out, named) from error
    finally:
        bar.close()


def failed_file(error: OSError, out: str, option: str = "--out") -> click.ClickException:
    """The message of a run that a file system ended: the output's, unless the error names another's file."""
    named, why = str(error.filename or out), error.strerror or error
    where = f"{option} {out} cannot be written" if named.startswith(out) else named
    return click.ClickException(
        scrubbed(f"{where}: {why}. No shard is half done; when that is mended, run the same command again.")
    )
