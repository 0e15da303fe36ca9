"""What `avprep clip` does: options to a job, its progress, its report."""

from __future__ import annotations

import sys
from statistics import fmean
from typing import Any

import click

from avprep.cli.common import (
    exit_with_faults,
    exit_without_clips,
    print_reasons,
    print_scores,
    print_sums,
    readable_bytes,
)
from avprep.cli.group import Refused
from avprep.cli.job import reported_run
from avprep.cli.media import listed_media
from avprep.cli.options import from_options
from avprep.datasets import DATASETS
from avprep.errors import printable
from avprep.jobs.clip import run_clip_job
from avprep.jobs.config import ClipJobConfig, Growth, runner_config
from avprep.jobs.dry_run import DryRun, dry_run
from avprep.jobs.output import absolute
from avprep.jobs.progress import ClipReport
from avprep.shards.layout import VideoCodec
from avprep.spec import ClipSpec


def run(options: dict[str, Any]) -> None:
    """Runs the job that the options ask for, and reports it. Raises click.ClickException, AvprepError."""
    if options["dataset"] is None:
        raise Refused(f"--dataset is needed: one of {', '.join(sorted(DATASETS))}")
    runner = runner_config(options["workers"], options["address"])
    out = absolute("out", options["out"])
    config = from_options(
        ClipJobConfig,
        options,
        source=listed_media(options, runner),
        out=out,
        growth=from_options(Growth, options),
    )
    if options["is_dry_run"] and options["only_failed"]:
        raise Refused("--dry-run prints what would be planned; --only-failed keeps the plan")
    with reported_run(out) as progress:
        if options["is_dry_run"]:
            _print_dry_run(dry_run(config, progress), config.source.clip.spec, config.video_codec)
            return
        report = run_clip_job(config, progress)
    _print_report(report, out)
    exit_without_clips(report.sums, out)
    if report.scored and report.scored.damaged:
        sys.exit(1)
    exit_with_faults(report.sums, out)


def _print_dry_run(made: DryRun, spec: ClipSpec, codec: VideoCodec) -> None:
    plan = made.counts
    what = "plan" if made.dropped is None else "added to the plan"
    click.echo(
        f"{what}: {plan.clips:,} clips of {float(spec.seconds):g} s from {plan.files:,} files in "
        f"{plan.shards:,} shards"
    )
    if made.dropped:
        click.echo(f"taken out of the plan: {made.dropped:,} clips")
    if plan.clips:
        source, clips = plan.longest
        click.echo(f"  at most {clips:,} of one source, {printable(source)}; --clips-per-source caps it")
    without = plan.sums.by_status
    click.echo(
        f"{plan.clips + plan.sums.planned:,} planned = {plan.clips:,} to make, "
        f"{without['filtered']:,} filtered, {without['failed']:,} failed"
    )
    print_reasons(plan.sums)
    _print_costs(made, codec)
    click.echo("nothing was written")


def _print_costs(made: DryRun, codec: VideoCodec) -> None:
    hours, size, seconds = made.core_hours, made.bytes, made.seconds_per_clip
    if hours is None or size is None:
        return
    clips = sum(cost.clips for cost in made.costs)
    click.echo(
        f"time: about {hours:.3g} core-hours, {fmean(seconds):.3f} s per clip ({min(seconds):.3f} to "
        f"{max(seconds):.3f} by source), measured on {clips:,} clips of sources drawn at random"
    )
    click.echo(f"disk: about {readable_bytes(size)} as {codec}, measured on the same clips")


def _print_report(report: ClipReport, out: str) -> None:
    if report.added_shards:
        click.echo(f"the plan has {report.added_shards:,} more shards than before")
    if not report.made:
        click.echo(f"nothing to do: all {report.shards:,} shards are there")
    else:
        rate = report.made_sums.planned / max(report.elapsed_s, 1e-9)
        click.echo(
            f"made {report.made:,} of {report.shards:,} shards in {report.elapsed_s:.1f} s, "
            f"{rate:.1f} clips/s"
        )
    print_sums(report.sums)
    if report.scored:
        print_scores(report.scored, is_timed=False)
    click.echo(f"{out}: avprep status, avprep verify and plain webdataset read it")
