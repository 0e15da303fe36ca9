"""`avprep clip`: its options."""

from __future__ import annotations

from pathlib import Path

import click

from avprep.cli.options import growth_options, media_options, option
from avprep.jobs.config import ClipJobConfig
from avprep.shards.layout import VIDEO_CODECS


def _score_names(given: str) -> tuple[str, ...]:
    """The names of scores in an option; () for all."""
    return () if given == "all" else tuple(name.strip() for name in given.split(","))


@click.command()
@media_options
@click.option("--out", required=True, help="Folder, or a URI that pyarrow.fs opens, for the shards.")
@option(
    ClipJobConfig,
    "video_codec",
    "--video-codec",
    type=click.Choice(VIDEO_CODECS),
    help="How frames are stored.",
)
@click.option(
    "--workers", type=click.IntRange(0), help="Ray workers; 0 = one process, without Ray. [default: CPUs]"
)
@click.option("--address", help="Attach to this Ray cluster ('auto', or host:port).")
@click.option(
    "--dry-run",
    "is_dry_run",
    is_flag=True,
    help="Print clips, shards and disk; write nothing. With --add-new, --replace-changed: of what they add.",
)
@option(ClipJobConfig, "rebuild", "--rebuild", is_flag=True, help="Start the output over.")
@option(
    ClipJobConfig,
    "only_failed",
    "--only-failed",
    is_flag=True,
    help="Try failed sources of a finished run again.",
)
@growth_options
@option(
    ClipJobConfig,
    "score",
    "--score",
    callback=lambda _context, _option, given: None if given is None else _score_names(given),
    metavar="all|NAME,NAME",
    help="Score clips as they are made: what avprep score writes, without reading the shards again.",
)
@option(
    ClipJobConfig,
    "weights_yamnet",
    "--weights-yamnet",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="For --score: as of avprep score.",
)
def clip(**options) -> None:
    """Clip videos into frame-aligned audio-video shards. To resume, run the same command again."""
    from avprep.cli.run_clip import run

    run(options)
