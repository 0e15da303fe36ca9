"""`avprep encode` and `avprep decode`: clips to a trained encoder's latents, and back to what they show."""

from __future__ import annotations

import sys
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import click
import torch
from click.core import ParameterSource
from tqdm import tqdm

from avprep.cli.clip import clip_config, media_options, print_listing
from avprep.cli.common import Refused, absolute, existing, print_sums, told_in_sentences
from avprep.execution.pool import PoolConfig
from avprep.execution.runner import available_cpus
from avprep.jobs.encode import EncodeConfig, EncodeProgress, EncodeReport, run_encode_job
from avprep.media.mux import MuxError
from avprep.shards.clips import ShardError
from avprep.shards.latents import EncoderHeader
from avprep.shards.ledger import finished_shards
from avprep.shards.plan import PlanReader
from avprep.shards.store import Store, open_store
from avprep.shards.verify import kind_of, read_header
from avprep.spec import ClipSpec
from avprep.stages.captions import TextEncoder, TextEncoderError, open_clip_text, texts_of, write_captions
from avprep.stages.decode import DecodedClip, decode_to_mp4, stored_latents
from avprep.stages.encode import EncodeOptions, EncodeResult
from avprep.stages.encoder import EncodeError, EncoderFactory

if TYPE_CHECKING:
    from avprep.jobs.clip import JobConfig

_DEVICES = click.Choice(("auto", "cpu", "cuda"))
# Options of --dataset that --clips leaves no say in; --root and the rest are in `media_options` too.
_RUN_OPTIONS = {"clips", "ckpt", "out", "batch_size", "workers", "address", "device", "compile", "packed",
                "posterior", "text_encoder", "rebuild"}


class _BatchSize(click.ParamType):
    name = "N|auto"

    def convert(self, value, param, context) -> int | None:
        if value == "auto" or value is None:
            return None
        try:
            size = int(value)
        except ValueError:
            size = 0
        if size < 1:
            self.fail(f"{value} is neither a number of clips nor 'auto'", param, context)
        return size


@click.command()
@click.option("--clips", help="An output of avprep clip.")
@media_options
@click.option("--ckpt", type=click.Path(path_type=Path), required=True,
              help="A trained MDSA (avmodel train-mdsa).")
@click.option("--out", required=True, help="Folder, or a URI that pyarrow.fs opens, for the latents.")
@click.option("--device", type=_DEVICES, default="auto", show_default=True,
              help="auto: a GPU if there is one.")
@click.option("--workers", type=click.IntRange(0), help="Processes with a model each; 0 = in this process. "
              "[default: one a GPU, or one a CPU]")
@click.option("--address", help="Join this Ray cluster ('auto', or host:port).")
@click.option("--batch-size", type=_BatchSize(), default="auto", show_default=True,
              help="Clips at once; auto: found by trying.")
@click.option("--compile/--no-compile", default=None, help="Compile the encoder. [default: on a GPU]")
@click.option("--packed", is_flag=True, help="Store the real values alone, without the planes' padding.")
@click.option("--posterior", is_flag=True, help="Store the log-variance beside the mean.")
@click.option("--text-encoder", metavar="PATH_OR_NAME",
              help="CLIP text weights: captions.safetensors, e.g. openai/clip-vit-large-patch14.")
@click.option("--rebuild", is_flag=True, help="Start the output over.")
@click.pass_context
def encode(context: click.Context, **options) -> None:
    """Encode clips into latent shards: those of --clips, or cut from --dataset on the way.

    To resume, run the same command again.
    """
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
    header, open_encoder = _checkpoint(options["ckpt"])
    if options["clips"]:
        _refuse_media_options(context)
        source, sources = absolute(options["clips"]), []
    else:
        source, sources = _media(options)
    config = EncodeConfig(
        source=source,
        out=absolute(options["out"]),
        header=header,
        open_encoder=open_encoder,
        options=EncodeOptions(packed=options["packed"], posterior=options["posterior"]),
        pool=PoolConfig(workers=options["workers"], address=options["address"], device=options["device"]),
        batch_size=options["batch_size"],
        compile=options["compile"],
        rebuild=options["rebuild"],
    )
    return config, sources


def _checkpoint(path: Path) -> tuple[EncoderHeader, EncoderFactory]:
    from avmodel.mdsa.checkpoint import open_codec, read_codec_header

    try:
        return read_codec_header(path.absolute()), partial(open_codec, path.absolute())
    except (ValueError, OSError) as error:
        raise Refused(f"--ckpt {path}: {error}") from error


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
            planned=self._planned, shard_done=self._shard_done, worker_lost=self._worker_lost,
            planning=lambda sources: None, say=self._say,
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
        click.echo(f"made {report.made:,} of {report.shards:,} shards in {report.elapsed_s:.1f} s, "
                   f"{rate:.1f} clips/s; the model of {report.workers} {report.device} worker"
                   f"{'s' * (report.workers != 1)} was busy {report.busy:.0%} of the time, "
                   f"{report.batch_size} clips a batch")
    print_sums(report.sums)
    for damage in report.damaged:
        click.echo(f"LEFT OUT {damage}")
    if report.damaged:
        click.echo(f"{len(report.damaged):,} damaged clip shards were left out. avprep verify names the "
                   f"damage; remove a damaged shard's ledger file, run the same avprep clip command and then "
                   f"this one.")
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


@click.command()
@click.option("--latents", required=True, help="An output of avprep encode.")
@click.option("--ckpt", type=click.Path(path_type=Path), required=True,
              help="The checkpoint it was made with.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the .mp4 files.")
@click.option("--limit", type=click.IntRange(1), help="Clips in all.")
@click.option("--compare", metavar="CLIPS", help="The clips that were encoded: original at the left, decoded "
              "at the right, and PSNR.")
@click.option("--device", type=_DEVICES, default="auto", show_default=True,
              help="auto: a GPU if there is one.")
@click.option("--batch-size", type=click.IntRange(1), default=8, show_default=True, help="Clips at once.")
def decode(latents: str, ckpt: Path, out: Path, limit: int | None, compare: str | None, device: str,
           batch_size: int) -> None:
    """Decode latent shards to mp4 with sound; with --compare, measure them against their clips."""
    store = existing(latents)
    if device == "cuda" and not torch.cuda.is_available():
        raise Refused("--device cuda: there is no GPU here")
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    header, open_decoder = _checkpoint(ckpt)
    try:
        made_with = EncoderHeader.from_dict(read_header(store))
        if made_with.weights != header.weights:
            raise Refused(f"--ckpt {ckpt} is not the checkpoint that made {latents}: its weights are "
                          f"{header.weights[:12]}, theirs {made_with.weights[:12]}")
        originals = _originals(compare, made_with) if compare else None
        stored = islice(stored_latents(store, made_with, originals), limit)
        decoder = open_decoder(device=device, batch_size=batch_size, compile=False)
        decoded = []
        for clip in decode_to_mp4(stored, decoder, out, batch_size=batch_size, device=device):
            decoded.append(clip)
            click.echo(f"{clip.key}.mp4{_psnrs(clip)}")
    except (ShardError, MuxError) as error:
        raise Refused(f"{latents}: {error}") from error
    if not decoded:
        raise Refused(f"{latents} holds no latents")
    click.echo(f"{len(decoded):,} clips in {out}{_mean_psnrs(decoded)}")


def _originals(compare: str, made_with: EncoderHeader) -> Store:
    """The clips to compare with. Raises Refused for what is no output of clips, or of another spec."""
    store = existing(compare)
    header = read_header(store)
    if kind_of(header) != "clips":
        raise Refused(f"--compare {compare} holds {kind_of(header)}; it takes the clips that were encoded")
    differing = ClipSpec.from_dict(header["spec"]).differences(made_with.spec)
    if differing:
        raise Refused(f"--compare {compare}: not the clips that were encoded, these have {differing}")
    return store


def _psnrs(clip: DecodedClip) -> str:
    return "" if clip.psnr_v is None else f"  PSNR-V {clip.psnr_v:6.2f} dB  PSNR-A {clip.psnr_a:6.2f} dB"


def _mean_psnrs(clips: list[DecodedClip]) -> str:
    if clips[0].psnr_v is None:
        return ""
    video, audio = (sum(values) / len(clips) for values in zip(*((c.psnr_v, c.psnr_a) for c in clips),
                                                               strict=True))
    return f": mean PSNR-V {video:.2f} dB, PSNR-A {audio:.2f} dB"
