"""`avprep score`: its options, and what it reports."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from avprep.cli.options import option
from avprep.jobs.config import ScoreJobConfig, runner_config


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
    from avprep.cli.common import print_scores
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
    print_scores(report, is_timed=True)
    if report.damaged:
        sys.exit(1)
