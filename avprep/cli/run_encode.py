"""What `avprep encode` does: options to a job, its progress, its report."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click
import torch
from click.core import ParameterSource
from tqdm import tqdm

from avprep.cli.checkpoint import open_checkpoint
from avprep.cli.common import print_sums
from avprep.cli.group import Refused
from avprep.cli.job import named_output, told_in_sentences
from avprep.cli.run_clip import clip_config, print_listing
from avprep.execution import PoolConfig, available_cpus
from avprep.jobs.encode import EncodeConfig, EncodeProgress, EncodeReport, run_encode_job
from avprep.shards.ledger import finished_shards
from avprep.shards.plan import PlanReader
from avprep.shards.store import Store, open_store
from avprep.stages.captions import TextEncoder, TextEncoderError, open_clip_text, texts_of, write_captions
from avprep.stages.encode import EncodeOptions, EncodeResult
from avprep.stages.encoder import EncodeError

if TYPE_CHECKING:
    from avprep.jobs.clip import JobConfig

# Options of --dataset that --clips leaves no say in; --root and the rest are in `media_options` too.
_RUN_OPTIONS = {
    "clips",
    "ckpt",
    "out",
    "batch_size",
    "workers",
    "address",
    "device",
    "compile",
    "packed",
    "posterior",
    "text_encoder",
    "rebuild",
}


def run(context: click.Context, options: dict[str, Any]) -> None:
    """Runs the job that the options ask for, and reports it. Raises click.ClickException."""
    config, sources = _encode_config(context, options)
    if options["text_encoder"]:
        # That it can be had is known before the long run; kept, it would lie in memory for all of that.
        _open_text_encoder(options["text_encoder"], "cpu")
    progress = _BarProgress()
    with told_in_sentences(config.out, progress.close, EncodeError):
        report = run_encode_job(sources, config, progress.hooks)
    _print_report(report, config)
    if report.damaged:
        sys.exit(1)
    if options["text_encoder"]:
        _embed_captions(open_store(config.out), options["text_encoder"])


def _encode_config(context: click.Context, options: dict) -> tuple[EncodeConfig, list]:
    if (options["clips"] is None) == (options["dataset"] is None):
        raise Refused("give either --clips, an output of avprep clip, or --dataset, to clip on the way")
    header, open_encoder = open_checkpoint(options["ckpt"])
    if options["clips"]:
        _refuse_media_options(context)
        source, sources = named_output(options["clips"]), []
    else:
        source, sources = _media(options)
    config = EncodeConfig(
        source=source,
        out=named_output(options["out"]),
        header=header,
        open_encoder=open_encoder,
        options=EncodeOptions(packed=options["packed"], posterior=options["posterior"]),
        pool=PoolConfig(workers=options["workers"], address=options["address"], device=options["device"]),
        batch_size=options["batch_size"],
        compile=options["compile"],
        rebuild=options["rebuild"],
    )
    return config, sources


def _refuse_media_options(context: click.Context) -> None:
    for name in context.params.keys() - _RUN_OPTIONS:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            option = "--list" if name == "csv" else "--" + name.replace("_", "-")
            raise Refused(f"{option} goes with --dataset: the clips of --clips are cut already")


def _media(options: dict) -> tuple[JobConfig, list]:
    """The clip job that the encode job stands in for; its workers are the decoders."""
    in_process = options["workers"] == 0 and options["address"] is None
    workers = 0 if in_process or options["address"] else available_cpus()
    # Frames go to the encoder as they are: raw.
    config, listing = clip_config(options | {"workers": workers, "video_codec": "raw", "only_failed": False})
    print_listing(options["dataset"], listing)
    return config, listing.sources


class _BarProgress:
    """tqdm over clips, with clips/s and the share of time in which the model worked."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._failed = 0
        self.hooks = EncodeProgress(
            planned=self._planned,
            shard_done=self._shard_done,
            worker_lost=self._worker_lost,
            planning=lambda sources: None,
            say=self._say,
        )

    def _planned(self, clips: int, shards: int) -> None:
        if clips:
            self._bar = tqdm(total=clips, unit="clip", desc=f"{shards:,} shards", smoothing=0.05)

    def _shard_done(self, result: EncodeResult, busy: float) -> None:
        self._failed += result.sums.by_status["failed"]
        self._bar.set_postfix(busy=f"{busy:.0%}", failed=self._failed, refresh=False)
        self._bar.update(result.sums.planned)

    def _worker_lost(self, what: str) -> None:
        self._say(f"worker lost, {what}; its shard is tried again")

    def _say(self, what: str) -> None:
        tqdm.write(what, file=sys.stderr)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _print_report(report: EncodeReport, config: EncodeConfig) -> None:
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
    for damage in report.damaged:
        click.echo(f"LEFT OUT {damage}")
    if report.damaged:
        click.echo(
            f"{len(report.damaged):,} damaged clip shards were left out. avprep verify names the "
            f"damage; remove a damaged shard's ledger file, run the same avprep clip command and then "
            f"this one."
        )
    click.echo(f"{config.out}: avprep status, avprep verify, avprep decode and plain webdataset read it")


def _open_text_encoder(name: str, device: str) -> TextEncoder:
    try:
        return open_clip_text(name, device)
    except TextEncoderError as error:
        raise Refused(f"--text-encoder {name}: {error}") from error


def _embed_captions(store: Store, text_encoder: str) -> None:
    if len(finished_shards(store)) < PlanReader(store).shards:
        raise Refused("--text-encoder: captions are embedded when all shards are there; some are missing")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder = _open_text_encoder(text_encoder, device)
    count = write_captions(store, texts_of(store), encoder, text_encoder)
    click.echo(f"captions.safetensors: {count:,} distinct texts")
