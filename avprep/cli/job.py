"""What the commands that run a job share: where its output may lie, and how whatever ends it is reported."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from avprep.cli.group import Refused
from avprep.execution.runner import RunnerError
from avprep.jobs.output import JobError, Stopped
from avprep.media.source import MediaGone
from avprep.shards.store import ShardError


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
