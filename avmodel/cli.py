"""`avmodel`: the command line. Options become frozen dataclasses here and travel no further as options."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click

from avmodel.config import KL_TERMS, MDSA_PRESETS, STDIT_PRESETS, STREAMS, ConfigError
from avmodel.dit.flow import SOLVERS
from avmodel.dit.given import GivenError
from avmodel.dit.text import TextError
from avmodel.mdsa.losses import LossWeights
from avmodel.mdsa.lpips import TRUNKS, LPIPSConfig, WeightsError
from avmodel.training.loop import CheckpointError, TrainingError
from avprep.media.mux import MuxError
from avprep.shards.clips import ShardError

REFUSALS = (
    ConfigError, CheckpointError, TrainingError, WeightsError, ShardError, MuxError, TextError, GivenError,
)


TOO_SATURATED = 0.5  # share of a plane's values that is worth a word


class _Refused(click.ClickException):
    """A sentence on stderr and exit code 2."""

    exit_code = 2


class _Group(click.Group):
    """Turns the errors that are sentences into sentences."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except REFUSALS as error:
            raise _Refused(str(error)) from error
        except OSError as error:
            if error.filename is None:  # a pipe that was closed: click's own to end
                raise
            raise click.ClickException(f"{error.filename}: {error.strerror}") from error
        except KeyboardInterrupt:
            click.echo("Stopped.", err=True)
            raise SystemExit(128 + signal.SIGINT) from None


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="avprep")
def main() -> None:
    """Trains on what avprep prepares: the MDSA autoencoder, and the STDiT that generates its latents."""


def _loss_options(command: Callable) -> Callable:
    """--pixel-weight and the others: the table of LossWeights as options."""
    for field in reversed(fields(LossWeights)):
        weighed = "all terms of one stream" if field.name == "modality" else f"the {field.name} term"
        command = click.option(
            f"--{field.name}-weight", type=float, default=field.default, show_default=True,
            help=f"Weight of {weighed}.",
        )(command)
    return command


@main.command("train-mdsa")
@click.option("--clips", type=click.Path(), required=True, help="An output of `avprep clip`.")
@click.option("--out", type=click.Path(), required=True, help="Folder for checkpoints and logs.")
@click.option("--preset", type=click.Choice(list(MDSA_PRESETS)), default="small", show_default=True)
@click.option("--stage1-steps", type=click.IntRange(0), default=1500, show_default=True,
              help="Steps of L1 + LPIPS.")
@click.option("--stage2-steps", type=click.IntRange(0), default=0, show_default=True,
              help="Steps with KL and discriminators, after them.")
@click.option("--disc-start", type=click.IntRange(0), default=0, show_default=True,
              help="Steps of stage 2 before the discriminators.")
@click.option("--streams", type=click.Choice(STREAMS), default="av", show_default=True,
              help="Both, or the video or the audio alone.")
@click.option("--mt-self-attn/--no-mt-self-attn", default=True, show_default=True, help="Ablation.")
@click.option("--gcm-attn/--no-gcm-attn", default=True, show_default=True, help="Ablation.")
@click.option("--bi-block/--no-bi-block", default=True, show_default=True, help="Ablation.")
@click.option("--adversarial/--no-adversarial", default=True, show_default=True, help="Ablation.")
@click.option("--kl", type=click.Choice(KL_TERMS), default="latent", show_default=True, help="Ablation.")
@click.option("--lpips", type=click.Choice(["none", *TRUNKS]), default="vgg16", show_default=True,
              help="Backbone of the perceptual loss.")
@click.option("--lpips-backbone", type=click.Path(path_type=Path),
              help="The backbone's weights. [default: torchvision's, downloaded]")
@click.option("--lpips-heads", type=click.Path(path_type=Path),
              help="The heads' weights. [default: LPIPS v0.1's, downloaded]")
@click.option("--disc-width", type=click.IntRange(1), default=64, show_default=True,
              help="Channels of the discriminators' first layer.")
@click.option("--disc-layers", type=click.IntRange(1), default=3, show_default=True,
              help="Their layers of stride 2.")
@_loss_options
@click.option("--batch-size", type=click.IntRange(1), default=4, show_default=True,
              help="Clips a process at once.")
@click.option("--accumulate", type=click.IntRange(1), default=1, show_default=True,
              help="Such batches a step: the paper's 32 clips are --batch-size 4 --accumulate 8.")
@click.option("--lr", type=click.FloatRange(0, min_open=True), default=1e-4, show_default=True)
@click.option("--warmup-steps", type=click.IntRange(0), default=0, show_default=True)
@click.option("--cooldown-steps", type=click.IntRange(0), default=0, show_default=True,
              help="The last steps, over which the rate falls to 0.")
@click.option("--clip-grad", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True,
              help="The gradient's norm at most.")
@click.option("--modality-dropout", type=click.FloatRange(0, 1), default=0.0, show_default=True,
              help="Share of training clips in which one stream is silent or black.")
@click.option("--holdout", type=click.FloatRange(0, 1, max_open=True), default=0.05, show_default=True,
              help="Share of sources that is not trained on, for PSNR.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--loader-workers", type=click.IntRange(0), default=2, show_default=True,
              help="Processes that read clips.")
@click.option("--checkpoint-every", type=click.IntRange(1), default=500, show_default=True, help="Steps.")
@click.option("--eval-every", type=click.IntRange(1), default=250, show_default=True, help="Steps.")
@click.option("--eval-clips", type=click.IntRange(1), default=32, show_default=True, help="At most.")
@click.option("--checkpoint-activations/--keep-activations", default=False, show_default=True,
              help="Compute activations again in backward: less memory, a third more work.")
@click.option("--compile/--no-compile", default=True, show_default=True, help="On a GPU.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--export", type=click.Path(path_type=Path),
              help="Also write the trained weights as safetensors.")
def train_mdsa_command(
    preset: str, streams: str, mt_self_attn: bool, gcm_attn: bool, bi_block: bool, adversarial: bool, kl: str,
    lpips: str, lpips_backbone: Path | None, lpips_heads: Path | None, export: Path | None, **options: Any,
) -> None:
    """Train the autoencoder on clips; the same command again goes on where it stopped."""
    from avmodel.export import export_safetensors
    from avmodel.mdsa.train import MDSATraining, train_mdsa

    model = replace(
        MDSA_PRESETS[preset], streams=streams, mt_self_attn=mt_self_attn, gcm_attn=gcm_attn,
        bi_block=bi_block, adversarial=adversarial, kl=kl,
    )
    if not options["stage1_steps"] + options["stage2_steps"]:
        raise _Refused("--stage1-steps 0 --stage2-steps 0: nothing is trained")
    perceptual = None
    if lpips != "none":
        perceptual = LPIPSConfig(backbone=lpips, backbone_weights=lpips_backbone, heads=lpips_heads)
    loss = LossWeights(**{f.name: options.pop(f"{f.name}_weight") for f in fields(LossWeights)})
    result = train_mdsa(MDSATraining(model=model, lpips=perceptual, loss=loss, **options))
    told = [f"{name} {value:.2f} dB" for name, value in (("PSNR-V", result.psnr_v), ("PSNR-A", result.psnr_a))
            if value is not None]
    told += [] if result.is_held_out or not told else ["on clips it trained on: --holdout left none out"]
    evaluated = ", ".join(told) or f"PSNR stands in {options['out']}/metrics.jsonl"
    click.echo(f"step {result.step:,}: {evaluated}; {options['out']}/mdsa.pt")
    if max(result.saturated.values(), default=0) > TOO_SATURATED:
        planes = ", ".join(f"{plane} {100 * share:.0f} %" for plane, share in result.saturated.items())
        click.echo(f"saturated latents ({planes} of the values at the edge): they hold signs, not numbers. "
                   f"A lower --lr, or an earlier stage 2, whose KL term draws them in, trains better.")
    _tell_end(result.skipped, result.stopped_by)
    if export:
        export_safetensors(Path(options["out"]) / "mdsa.pt", export)


@main.command("reconstruct")
@click.option("--ckpt", type=click.Path(path_type=Path), required=True, help="mdsa.pt")
@click.option("--clips", type=click.Path(), required=True, help="An output of `avprep clip`.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for KEY.mp4.")
@click.option("--limit", type=click.IntRange(1), help="Clips, spread over all. [default: all]")
@click.option("--batch-size", type=click.IntRange(1), default=8, show_default=True)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
def reconstruct_command(**options: Any) -> None:
    """Write clips beside their reconstructions, in picture (left, right) and sound (left, right)."""
    from avmodel.mdsa.reconstruct import ReconstructOptions, reconstruct

    rows = []
    for row in reconstruct(ReconstructOptions(**options)):
        rows.append((row.psnr_v, row.psnr_a, row.mel_psnr))
        click.echo(f"{row.key}.mp4  PSNR-V {row.psnr_v:6.2f} dB  PSNR-A {row.psnr_a:6.2f} dB  "
                   f"heard {row.mel_psnr:6.2f} dB")
    means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    click.echo(f"{len(rows):,} clips in {options['out']}: PSNR-V {means[0]:.2f} dB, "
               f"PSNR-A {means[1]:.2f} dB, heard (mel PSNR after Griffin-Lim) {means[2]:.2f} dB")


@main.command("train-dit")
@click.option("--latents", type=click.Path(), required=True, help="An output of `avprep encode`.")
@click.option("--out", type=click.Path(), required=True, help="Folder for checkpoints and logs.")
@click.option("--preset", type=click.Choice(list(STDIT_PRESETS)), default="small", show_default=True)
@click.option("--steps", type=click.IntRange(1), default=4000, show_default=True)
@click.option("--packed/--dense", default=False, show_default=True,
              help="Run on the real tokens alone: the same model, a third less work.")
@click.option("--caption-dropout", type=click.FloatRange(0, 1, max_open=True), default=0.1, show_default=True,
              help="Share of clips trained without their text, for guidance.")
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True,
              help="Latents a process and step.")
@click.option("--lr", type=click.FloatRange(0, min_open=True), default=1e-4, show_default=True)
@click.option("--warmup-steps", type=click.IntRange(0),
              help="[default: 5000, or a tenth of --steps if that is less]")
@click.option("--clip-grad", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True,
              help="The gradient's norm at most.")
@click.option("--ema", type=click.FloatRange(0, 1, max_open=True), default=0.9999, show_default=True,
              help="Decay of the averaged weights.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--mdsa", type=click.Path(path_type=Path), help="mdsa.pt, to log pictures of samples.")
@click.option("--loader-workers", type=click.IntRange(0), default=1, show_default=True,
              help="Processes that read latents.")
@click.option("--checkpoint-every", type=click.IntRange(1), default=1000, show_default=True, help="Steps.")
@click.option("--eval-every", type=click.IntRange(1), default=500, show_default=True, help="Steps.")
@click.option("--compile/--no-compile", default=True, show_default=True, help="On a GPU.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
def train_dit_command(preset: str, packed: bool, caption_dropout: float, **options: Any) -> None:
    """Train the diffusion transformer on latents; the same command again goes on where it stopped."""
    from avmodel.dit.train import DiTTraining, train_dit

    model = replace(STDIT_PRESETS[preset], packed=packed, caption_dropout=caption_dropout)
    if options["warmup_steps"] is None:
        options["warmup_steps"] = min(5000, options["steps"] // 10)
    result = train_dit(DiTTraining(model=model, **options))
    click.echo(f"step {result.step:,}; {options['out']}/dit.pt")
    _tell_end(result.skipped, result.stopped_by)


@main.command("sample")
@click.option("--dit", type=click.Path(path_type=Path), required=True, help="dit.pt")
@click.option("--mdsa", type=click.Path(path_type=Path), required=True, help="mdsa.pt")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the clips.")
@click.option("--label", "labels", multiple=True,
              help="Of every clip; may be given more than once. [default: drawn as in the training set; none "
              "beside something given]")
@click.option("--caption", default="", help="Where the model reads caption embeddings.")
@click.option("--captions-file", type=click.Path(path_type=Path),
              help="captions.safetensors, where the model reads caption embeddings.")
@click.option("--n", type=click.IntRange(1), default=8, show_default=True, help="Clips.")
@click.option("--steps", type=click.IntRange(1), default=30, show_default=True, help="Of the solver.")
@click.option("--solver", type=click.Choice(SOLVERS), default="euler", show_default=True)
@click.option("--guidance", type=click.FloatRange(0), default=4.0, show_default=True,
              help="Scale of classifier-free guidance; 1 is none, at half the work.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--given-video", type=click.Path(path_type=Path),
              help="Make the sound for the first clip's length of this video.")
@click.option("--given-audio", type=click.Path(path_type=Path),
              help="Make the pictures for the first clip's length of this wav or flac.")
@click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True, help="Clips at once.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
def sample_command(**options: Any) -> None:
    """Generate clips: mp4, wav, a contact sheet, and their latents as a shard."""
    from avmodel.dit.sample import SampleOptions, sample

    for made in sample(SampleOptions(**options)):
        click.echo(f"{made.key}.mp4  {made.caption or ', '.join(made.labels) or '(no text)'}")
    click.echo(f"{options['n']:,} clips in {options['out']}; sheet.png shows them")


@main.command("info")
@click.option("--preset", type=click.Choice(list(MDSA_PRESETS)), default="paper", show_default=True)
def info_command(preset: str) -> None:
    """Print a preset's parameters, FLOPs and activation memory, of the MDSA and of the STDiT."""
    from avmodel.info import mdsa_report, stdit_report

    mdsa = MDSA_PRESETS[preset]
    click.echo(f"MDSA\n{mdsa_report(mdsa)}\n\nSTDiT\n{stdit_report(STDIT_PRESETS[preset], mdsa.layout)}")


def _tell_end(skipped: int, stopped_by: int | None) -> None:
    """Says what a person must know of how a training run ended; exits where a signal ended it."""
    if skipped:
        click.echo(f"{skipped:,} steps left out: a loss or gradient was NaN or Inf")
    if stopped_by is not None:
        click.echo("stopped by a signal; run the same command again to go on", err=True)
        raise SystemExit(128 + stopped_by)
