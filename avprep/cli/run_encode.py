"""What `avprep encode` does: options to a job, its progress, its report."""

from __future__ import annotations

import sys
from typing import Any

import click
from click.core import ParameterSource

from avprep.cli.checkpoint import open_checkpoint
from avprep.cli.common import exit_with_faults, exit_without_clips, print_damaged, print_sums
from avprep.cli.group import Refused
from avprep.cli.job import reported_run
from avprep.cli.media import listed_media
from avprep.cli.options import MEDIA_NAMES, from_options
from avprep.dsp.device import choose_device
from avprep.execution import PoolConfig
from avprep.jobs.config import EncodeJobConfig, FromClips, FromMedia, Growth, runner_config
from avprep.jobs.encode import run_encode_job
from avprep.jobs.output import absolute
from avprep.jobs.progress import EncodeReport
from avprep.shards.layout import CAPTIONS_FILE
from avprep.shards.ledger import finished_shards
from avprep.shards.plan import PlanReader
from avprep.shards.store import Store, open_store
from avprep.stages.captions import TextEncoder, TextEncoderError, open_clip_text, texts_of, write_captions
from avprep.stages.options import EncodeOptions


def run(context: click.Context, options: dict[str, Any]) -> None:
    """Runs the job that the options ask for, and reports it. Raises click.ClickException, AvprepError."""
    config = _config(context, options)
    if options["text_encoder"]:
        # That it can be had is known before the long run; kept, it would lie in memory for all of that.
        _open_text_encoder(options["text_encoder"], "cpu")
    with reported_run(config.out) as progress:
        report = run_encode_job(config, progress)
    _print_report(report, config.out)
    if report.damaged:
        sys.exit(1)
    exit_without_clips(report.sums, config.out)
    if options["text_encoder"]:
        _embed_captions(open_store(config.out), options["text_encoder"])
    exit_with_faults(report.sums, config.out)


def _config(context: click.Context, options: dict[str, Any]) -> EncodeJobConfig:
    if (options["clips"] is None) == (options["dataset"] is None):
        raise Refused("give either --clips, an output of avprep clip, or --dataset, to clip on the way")
    if options["select"] is not None and options["clips"] is None:
        raise Refused("--select goes with --clips: the clips of --dataset are not there yet to be selected")
    header, open_encoder = open_checkpoint(options["ckpt"])
    return from_options(
        EncodeJobConfig,
        options,
        source=_clips(context, options["clips"]) if options["clips"] else _media(options),
        out=absolute("out", options["out"]),
        header=header,
        open_encoder=open_encoder,
        options=from_options(EncodeOptions, options),
        pool=from_options(PoolConfig, options),
        growth=from_options(Growth, options),
    )


def _clips(context: click.Context, clips: str) -> FromClips:
    for parameter in context.command.params:
        given = context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE
        if parameter.name in MEDIA_NAMES and given:
            raise Refused(f"{parameter.opts[0]} goes with --dataset: the clips of --clips are cut already")
    return FromClips(uri=absolute("clips", clips), select=context.params["select"])


def _media(options: dict[str, Any]) -> FromMedia:
    """`--workers` counts the encoders; the decoders take every CPU, or none where all is in this process."""
    workers = 0 if options["workers"] == 0 else None
    return listed_media(options, runner_config(workers, options["address"]))


def _print_report(report: EncodeReport, out: str) -> None:
    if not report.made and not report.damaged:
        click.echo(f"nothing to do: all {report.shards:,} shards are there")
    else:
        rate = report.made_sums.planned / max(report.elapsed_s, 1e-9)
        click.echo(
            f"made {report.made:,} of {report.shards:,} shards in {report.elapsed_s:.1f} s, "
            f"{rate:.1f} clips/s; the model of {report.workers} {report.device} worker"
            f"{'s' * (report.workers != 1)} was busy {report.busy:.0%} of the time, "
            f"{report.batch_size} clips a batch"
        )
    print_sums(report.sums)
    print_damaged("LEFT OUT", report.damaged, "were left out", then="this one")
    click.echo(f"{out}: avprep status, avprep verify, avprep decode and plain webdataset read it")


def _open_text_encoder(name: str, device: str) -> TextEncoder:
    try:
        return open_clip_text(name, device)
    except TextEncoderError as error:
        raise Refused(f"--text-encoder {name}: {error}") from error


def _embed_captions(store: Store, text_encoder: str) -> None:
    if len(finished_shards(store)) < PlanReader(store).shards:
        raise Refused("--text-encoder: captions are embedded when all shards are there; some are missing")
    encoder = _open_text_encoder(text_encoder, choose_device("auto").type)
    count = write_captions(store, texts_of(store), encoder, text_encoder)
    click.echo(f"{CAPTIONS_FILE}: {count:,} distinct texts")
