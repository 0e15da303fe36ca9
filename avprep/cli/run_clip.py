"""What `avprep clip` does: options to a job, its progress, its report."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from fractions import Fraction
from operator import itemgetter
from typing import Any

import click
from tqdm import tqdm

from avprep.cli.common import print_sums, readable_bytes
from avprep.cli.group import Refused
from avprep.cli.job import named_output, refuse_overlap, told_in_sentences
from avprep.cli.options import DEFAULT
from avprep.datasets import DATASETS, default_root, list_dataset
from avprep.datasets.listing import LINKS_NOT_ENTERED
from avprep.datasets.source import DatasetError, DatasetOptions, Listing
from avprep.execution import RunnerConfig, available_cpus
from avprep.jobs.clip import JobConfig, JobReport, Progress, dry_run, run_clip_job
from avprep.jobs.planning import PlanOptions
from avprep.reasons import Reason
from avprep.shards.ledger import Sums
from avprep.spec import ClipSpec, SpecError
from avprep.stages.tasks import ClipOptions

# Bytes a clip of the default spec, for the dry run's estimate: measured, see the README's table.
_BYTES_A_CLIP = {"raw": 3_240_000, "jpeg": 473_000, "h264": 152_000}


def run(options: dict[str, Any]) -> None:
    """Runs the job that the options ask for, and reports it. Raises click.ClickException."""
    if options["dataset"] is None:
        raise Refused(f"--dataset is needed: one of {', '.join(sorted(DATASETS))}")
    config, listing = clip_config(options)
    print_listing(options["dataset"], listing)
    progress = BarProgress()
    with told_in_sentences(config.out, progress.close):
        if options["is_dry_run"]:
            if options["only_failed"]:
                raise Refused("--dry-run prints a new output's plan; --only-failed keeps the one there is")
            _print_dry_run(dry_run(listing.sources, config, progress.hooks), config)
            return
        report = run_clip_job(listing.sources, config, progress.hooks)
    _print_report(report, config)


def clip_config(options: dict) -> tuple[JobConfig, Listing]:
    """What the options ask for, and the sources that the dataset lists. Raises Refused."""
    try:
        spec = ClipSpec(**{name: options[name] for name in DEFAULT.to_dict()})
        dataset = options["dataset"]
        root = options["root"] or default_root(dataset, os.environ)
        refuse_overlap(options["out"], root)
        listing = list_dataset(
            dataset,
            DatasetOptions(
                root=root,
                split=options["split"],
                csv=options["csv"],
                label_from_folder=options["label_from_folder"],
                follow_links=options["follow_links"],
            ),
        )
    except (SpecError, DatasetError) as error:
        raise Refused(_with_option(str(error))) from error
    workers = options["workers"]
    if workers is None:
        workers = 0 if options["address"] else available_cpus()
    config = JobConfig(
        dataset=dataset,
        split=options["split"],
        root=listing.root.absolute(),
        out=named_output(options["out"]),
        plan=PlanOptions(
            spec=spec,
            stride_samples=_stride_samples(options["stride"], spec),
            clips_per_source=options["clips_per_source"],
            limit=options["limit"],
            shard_size=options["shard_size"],
        ),
        clip=ClipOptions(
            spec=spec,
            crop=options["crop"],
            video_codec=options["video_codec"],
            drop_silent_db=options["drop_silent"],
            drop_static=options["drop_static"],
            drop_black=options["drop_black"],
            max_residual_ms=options["max_residual"],
        ),
        runner=RunnerConfig(workers=workers, address=options["address"]),
        source_timeout_s=options["source_timeout"],
        rebuild=options["rebuild"],
        only_failed=options["only_failed"],
    )
    return config, listing


def _stride_samples(stride_s: float | None, spec: ClipSpec) -> int:
    if stride_s is None:
        return spec.samples
    samples = round(Fraction(stride_s).limit_denominator(1_000_000) * spec.sample_rate)
    if samples < 1:
        raise Refused(f"--stride {stride_s:g} s is less than one sample of --sample-rate {spec.sample_rate}")
    return samples


class BarProgress:
    """tqdm over clips, with clips/s and failures; planning shows a line of its own."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._failed = 0
        self._told = time.monotonic()
        self.hooks = Progress(
            self._planned, self._shard_done, self._worker_lost, self._planning, self._damaged
        )

    def _damaged(self, what: str) -> None:
        click.echo(f"{what}; it is made again", err=True)

    def _planning(self, sources: int) -> None:
        if time.monotonic() - self._told > 5:
            self._told = time.monotonic()
            click.echo(f"planning: {sources:,} headers read", err=True)

    def _planned(self, clips: int, shards: int) -> None:
        if clips:
            self._bar = tqdm(total=clips, unit="clip", desc=f"{shards:,} shards", smoothing=0.05)

    def _shard_done(self, sums: Sums) -> None:
        self._failed += sums.by_status["failed"]
        self._bar.set_postfix(failed=self._failed, refresh=False)
        self._bar.update(sums.planned)

    def _worker_lost(self, what: str) -> None:
        tqdm.write(f"worker lost, {what}; its shard is tried again", file=sys.stderr)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def print_listing(dataset: str, listing: Listing) -> None:
    click.echo(f"{dataset}: {len(listing.sources):,} sources under {listing.root}")
    for what, count in listing.notes.items():
        click.echo(f"  {count:,} {_with_option(what)}")


def _with_option(told: str) -> str:
    """What a dataset tells, with the option that changes it."""
    return told.replace(LINKS_NOT_ENTERED, f"{LINKS_NOT_ENTERED}: --follow-links enters them")


def _print_dry_run(shards, config: JobConfig) -> None:
    count, clips, sources, reasons = 0, 0, 0, Counter()
    longest, here, names = ("", 0), Counter(), set()
    for rows in shards:
        count += 1
        makes = [row for row in rows if not row.reason]
        clips += len(makes)
        names, last = {row.source for row in rows}, names
        sources += len(names - last)
        before, here = here, Counter(row.source for row in makes)
        here.update({source: before[source] for source in here})  # a long source goes on in the next shard
        longest = max([longest, *here.most_common(1)], key=itemgetter(1))
        reasons.update(row.reason for row in rows if row.reason)
    spec = config.clip.spec
    scale = spec.frames * spec.size**2 / (DEFAULT.frames * DEFAULT.size**2)
    size = clips * _BYTES_A_CLIP[config.clip.video_codec] * scale
    click.echo(
        f"plan: {clips:,} clips of {float(spec.seconds):g} s from {sources:,} sources in {count:,} shards"
    )
    if clips:
        click.echo(f"  at most {longest[1]:,} of one source, {longest[0]}; --clips-per-source caps it")
    for reason, number in sorted(reasons.items()):
        click.echo(f"  {number:,} sources give none: {reason} ({Reason(reason).meaning})")
    click.echo(f"disk: about {readable_bytes(size)} as {config.clip.video_codec}; nothing was written")


def _print_report(report: JobReport, config: JobConfig) -> None:
    if report.new_sources:
        click.echo(
            f"{report.new_sources:,} sources are new since the plan was made and not in it: "
            f"--rebuild plans anew, another --out takes them apart"
        )
    if report.changed_sources:
        click.echo(
            f"{report.changed_sources:,} sources have other labels or captions now than when the plan "
            f"was made, which is kept: --rebuild plans anew"
        )
    if not report.made:
        click.echo(f"nothing to do: all {report.shards:,} shards are there")
    else:
        rate = report.made_sums.planned / max(report.elapsed_s, 1e-9)
        click.echo(
            f"made {report.made:,} of {report.shards:,} shards in {report.elapsed_s:.1f} s, "
            f"{rate:.1f} clips/s"
        )
    print_sums(report.sums)
    click.echo(f"{config.out}: avprep status, avprep verify and plain webdataset read it")
