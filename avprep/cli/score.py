"""`avprep score`: its options, and what it reports."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from avprep.cli.group import with_options
from avprep.cli.options import option
from avprep.jobs.config import ScoreJobConfig, runner_config

if TYPE_CHECKING:
    from avprep.jobs.score import ScoreReport


@click.command()
@click.argument("clips")
@click.option("--only", multiple=True, metavar="NAME", help="Of the scores, this one; may be repeated.")
@option(
    ScoreJobConfig,
    "weights_yamnet",
    "--weights-yamnet",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="YAMNet's layers (.npz), yamnet_class_map.csv beside it: for speech, music and tags.",
)
@click.option(
    "--workers", type=click.IntRange(0), help="Ray workers; 0 = one process, without Ray. [default: CPUs]"
)
@click.option("--address", help="Attach to this Ray cluster ('auto', or host:port).")
@option(ScoreJobConfig, "rebuild", "--rebuild", is_flag=True, help="Compute stored scores again.")
def score(
    clips: str,
    only: tuple[str, ...],
    weights_yamnet: Path | None,
    workers: int | None,
    address: str | None,
    rebuild: bool,
) -> None:
    """Score finished clips: loudness, motion, cuts, bars, tags and more, in a table to select by.

    To resume, or to add a score, run it again.
    """
    from avprep.cli.job import reported_run
    from avprep.jobs.output import absolute
    from avprep.jobs.score import run_score_job

    place = absolute("clips", clips)
    config = ScoreJobConfig(
        clips=place,
        only=only,
        weights_yamnet=weights_yamnet,
        runner=runner_config(workers, address),
        rebuild=rebuild,
    )
    with reported_run(place, "CLIPS") as progress:
        report = run_score_job(config, progress)
    _print_report(report, clips)
    if report.damaged:
        sys.exit(1)


def _print_report(report: ScoreReport, clips: str) -> None:
    for why in report.left_out:
        click.echo(f"LEFT OUT {with_options(why)}")
    if not report.made and not report.damaged:
        click.echo(f"nothing to do: {', '.join(report.scores)} of all {report.shards:,} shards are there")
        return
    rate = report.clips / max(report.elapsed_s, 1e-9)
    click.echo(
        f"scored {report.clips:,} clips in {report.made:,} of {report.shards:,} shards in "
        f"{report.elapsed_s:.1f} s, {rate:.1f} clips/s"
    )
    if report.problems:
        click.echo(f"{report.problems:,} clips lack a score: the column problems says why")
    for damage in report.damaged:
        click.echo(f"DAMAGED {damage}")
    if report.damaged:
        click.echo(
            f"{len(report.damaged):,} damaged clip shards have no scores. avprep verify names the damage; "
            f"remove a damaged shard's ledger file, run the same avprep clip command and then this one."
        )
