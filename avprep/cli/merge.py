"""`avprep merge`: several finished outputs as one."""

from __future__ import annotations

import click

from avprep.cli.options import option
from avprep.jobs.config import MergeConfig


@click.command()
@click.argument("outputs", nargs=-1, required=True)
@click.option("--out", required=True, help="Folder, or a URI that pyarrow.fs opens, for the merged output.")
@option(MergeConfig, "rebuild", "--rebuild", is_flag=True, help="Start the output over.")
def merge(outputs: tuple[str, ...], out: str, rebuild: bool) -> None:
    """Make one output of several finished ones, of clips or of latents.

    Shards are hard links where all lies on one file system, and copies elsewhere: nothing is decoded or
    encoded. Specs must agree, and no key may be in two of them. To resume, run the same command again.
    """
    from avprep.cli.common import print_sums
    from avprep.cli.job import reported_run
    from avprep.jobs.merge import run_merge
    from avprep.jobs.output import absolute

    places = tuple(absolute("outputs", place) for place in outputs)
    config = MergeConfig(outputs=places, out=absolute("out", out), rebuild=rebuild)
    with reported_run(config.out) as progress:
        merged = run_merge(config, progress)
    if not merged.made:
        click.echo(f"nothing to do: all {merged.report.shards:,} shards are there")
    else:
        click.echo(
            f"{merged.made:,} of {merged.report.shards:,} shards: {merged.linked:,} linked, "
            f"{merged.copied:,} copied, {merged.empty:,} without a clip"
        )
    print_sums(merged.report.sums)
