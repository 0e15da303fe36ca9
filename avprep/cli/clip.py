"""`avprep clip`: its options."""

from __future__ import annotations

import click

from avprep.cli.options import media_options
from avprep.shards.layout import VIDEO_CODECS


@click.command()
@media_options
@click.option("--out", required=True, help="Folder, or a URI that pyarrow.fs opens, for the shards.")
@click.option(
    "--video-codec",
    type=click.Choice(VIDEO_CODECS),
    default="jpeg",
    show_default=True,
    help="How frames are stored.",
)
@click.option(
    "--workers", type=click.IntRange(0), help="Ray workers; 0 = one process, without Ray. [default: CPUs]"
)
@click.option("--address", help="Join this Ray cluster ('auto', or host:port).")
@click.option("--dry-run", "is_dry_run", is_flag=True, help="Print clips, shards and disk; write nothing.")
@click.option("--rebuild", is_flag=True, help="Start the output over.")
@click.option("--only-failed", is_flag=True, help="Try failed sources of a finished run again.")
def clip(**options) -> None:
    """Clip videos into frame-aligned audio-video shards. To resume, run the same command again."""
    from avprep.cli.run_clip import run

    run(options)
