"""What `avprep clip` does: options to a job, its progress, its report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from operator import itemgetter
from typing import Any

import click

from avprep.cli.common import exit_without_clips, print_reasons, print_sums, readable_bytes
from avprep.cli.group import Refused, with_options
from avprep.cli.job import reported_run
from avprep.cli.media import listed_media
from avprep.cli.options import from_options
from avprep.datasets import DATASETS
from avprep.jobs.clip import dry_run, run_clip_job
from avprep.jobs.config import ClipJobConfig, runner_config
from avprep.jobs.output import absolute
from avprep.jobs.progress import ClipReport
from avprep.shards.layout import VideoCodec
from avprep.shards.ledger import Sums, status_of
from avprep.shards.plan import PlanRow
from avprep.spec import ClipSpec

# Bytes per clip of the default spec, for the dry run's estimate: measured, see docs/benchmarks.md.
_BYTES_PER_CLIP = {"raw": 3_240_000, "jpeg": 473_000, "h264": 152_000}


def run(options: dict[str, Any]) -> None:
    """Runs the job that the options ask for, and reports it. Raises click.ClickException, AvprepError."""
    if options["dataset"] is None:
        raise Refused(f"--dataset is needed: one of {', '.join(sorted(DATASETS))}")
    runner = runner_config(options["workers"], options["address"])
    out = absolute("out", options["out"])
    config = from_options(ClipJobConfig, options, source=listed_media(options, runner), out=out)
    for name in ("only_failed", "add_new", "replace_changed"):
        if options["is_dry_run"] and options[name]:
            raise Refused(
                with_options(f"--dry-run prints a new output's plan; {name}=True keeps the one there is")
            )
    with reported_run(out) as progress:
        if options["is_dry_run"]:
            plan = dry_run(config.source, progress)
            _print_plan(_PlanCounts(plan), config.source.clip.spec, config.video_codec)
            return
        report = run_clip_job(config, progress)
    _print_report(report, out)
    exit_without_clips(report.sums, out)


class _PlanCounts:
    """What a dry run says of a plan, counted shard by shard."""

    def __init__(self, shards: Iterable[list[PlanRow]]) -> None:
        self.shards = self.clips = self.files = 0
        self.sums = Sums()  # of the rows for which the ledger will say why there is no clip
        self.longest = ("", 0)  # source, clips
        here: Counter[str] = Counter()
        names: set[str] = set()
        for rows in shards:
            self.shards += 1
            names, last = {row.source for row in rows}, names
            self.files += len(names - last)
            before, here = here, Counter(row.source for row in rows if not row.reason)
            self.clips += here.total()
            here.update({source: before[source] for source in here})  # a long source spans shards
            self.longest = max([self.longest, *here.most_common(1)], key=itemgetter(1))
            self.sums.count(Counter((status_of(row.reason), row.reason) for row in rows if row.reason))


def _print_plan(plan: _PlanCounts, spec: ClipSpec, codec: VideoCodec) -> None:
    default = ClipSpec()
    scale = spec.frames * spec.size**2 / (default.frames * default.size**2)
    click.echo(
        f"plan: {plan.clips:,} clips of {float(spec.seconds):g} s from {plan.files:,} files in "
        f"{plan.shards:,} shards"
    )
    if plan.clips:
        source, clips = plan.longest
        click.echo(f"  at most {clips:,} of one source, {source}; --clips-per-source caps it")
    without = plan.sums.by_status
    click.echo(
        f"{plan.clips + plan.sums.planned:,} planned = {plan.clips:,} to make, "
        f"{without['filtered']:,} filtered, {without['failed']:,} failed"
    )
    print_reasons(plan.sums)
    size = readable_bytes(plan.clips * _BYTES_PER_CLIP[codec] * scale)
    click.echo(f"disk: about {size} as {codec}; nothing was written")


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
    click.echo(f"{out}: avprep status, avprep verify and plain webdataset read it")
