"""`avmodel train-mdsa`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click

from avmodel.cli.training import tell_end
from avmodel.config import KL_TERMS, MDSA_PRESETS, STREAMS
from avmodel.mdsa.options import BACKBONES, LossWeights, LPIPSConfig
from avprep.cli.group import Refused

TOO_SATURATED = 0.5  # share of a plane's values that is worth a word


def _loss_options(command: Callable) -> Callable:
    """--pixel-weight and the others: the table of LossWeights as options."""
    for field in reversed(fields(LossWeights)):
        weighed = "all terms of one stream" if field.name == "modality" else f"the {field.name} term"
        command = click.option(
            f"--{field.name}-weight",
            type=float,
            default=field.default,
            show_default=True,
            help=f"Weight of {weighed}.",
        )(command)
    return command


@click.command("train-mdsa")
@click.option("--clips", type=click.Path(), required=True, help="An output of `avprep clip`.")
@click.option("--out", type=click.Path(), required=True, help="Folder for checkpoints and logs.")
@click.option("--preset", type=click.Choice(list(MDSA_PRESETS)), default="small", show_default=True)
@click.option(
    "--stage1-steps", type=click.IntRange(0), default=1500, show_default=True, help="Steps of L1 + LPIPS."
)
@click.option(
    "--stage2-steps",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Steps with KL and discriminators, after them.",
)
@click.option(
    "--disc-start",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Steps of stage 2 before the discriminators.",
)
@click.option(
    "--streams",
    type=click.Choice(STREAMS),
    default="av",
    show_default=True,
    help="Both, or the video or the audio alone.",
)
@click.option("--mt-self-attn/--no-mt-self-attn", default=True, show_default=True, help="Ablation.")
@click.option("--gcm-attn/--no-gcm-attn", default=True, show_default=True, help="Ablation.")
@click.option("--bi-block/--no-bi-block", default=True, show_default=True, help="Ablation.")
@click.option("--adversarial/--no-adversarial", default=True, show_default=True, help="Ablation.")
@click.option("--kl", type=click.Choice(KL_TERMS), default="latent", show_default=True, help="Ablation.")
@click.option(
    "--lpips",
    type=click.Choice(["none", *BACKBONES]),
    default="vgg16",
    show_default=True,
    help="Backbone of the perceptual loss.",
)
@click.option(
    "--lpips-backbone",
    type=click.Path(path_type=Path),
    help="The backbone's weights. [default: torchvision's, downloaded]",
)
@click.option(
    "--lpips-heads",
    type=click.Path(path_type=Path),
    help="The heads' weights. [default: LPIPS v0.1's, downloaded]",
)
@click.option(
    "--disc-width",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="Channels of the discriminators' first layer.",
)
@click.option(
    "--disc-layers", type=click.IntRange(1), default=3, show_default=True, help="Their layers of stride 2."
)
@_loss_options
@click.option(
    "--batch-size", type=click.IntRange(1), default=4, show_default=True, help="Clips a process at once."
)
@click.option(
    "--accumulate",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Such batches a step: the paper's 32 clips are --batch-size 4 --accumulate 8.",
)
@click.option("--lr", type=click.FloatRange(0, min_open=True), default=1e-4, show_default=True)
@click.option("--warmup-steps", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--cooldown-steps",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="The last steps, over which the rate falls to 0.",
)
@click.option(
    "--clip-grad",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    help="The gradient's norm at most.",
)
@click.option(
    "--modality-dropout",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Share of training clips in which one stream is silent or black.",
)
@click.option(
    "--holdout",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.05,
    show_default=True,
    help="Share of sources that is not trained on, for PSNR.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--loader-workers",
    type=click.IntRange(0),
    default=2,
    show_default=True,
    help="Processes that read clips.",
)
@click.option("--checkpoint-every", type=click.IntRange(1), default=500, show_default=True, help="Steps.")
@click.option("--eval-every", type=click.IntRange(1), default=250, show_default=True, help="Steps.")
@click.option("--eval-clips", type=click.IntRange(1), default=32, show_default=True, help="At most.")
@click.option(
    "--checkpoint-activations/--keep-activations",
    default=False,
    show_default=True,
    help="Compute activations again in backward: less memory, a third more work.",
)
@click.option("--compile/--no-compile", default=True, show_default=True, help="On a GPU.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option(
    "--export", type=click.Path(path_type=Path), help="Also write the trained weights as safetensors."
)
def train_mdsa(
    preset: str,
    streams: str,
    mt_self_attn: bool,
    gcm_attn: bool,
    bi_block: bool,
    adversarial: bool,
    kl: str,
    lpips: str,
    lpips_backbone: Path | None,
    lpips_heads: Path | None,
    export: Path | None,
    **options: Any,
) -> None:
    """Train the autoencoder on clips; the same command again goes on where it stopped."""
    from avmodel.export import export_safetensors
    from avmodel.mdsa.train import MDSATraining
    from avmodel.mdsa.train import train_mdsa as train

    model = replace(
        MDSA_PRESETS[preset],
        streams=streams,
        mt_self_attn=mt_self_attn,
        gcm_attn=gcm_attn,
        bi_block=bi_block,
        adversarial=adversarial,
        kl=kl,
    )
    if not options["stage1_steps"] + options["stage2_steps"]:
        raise Refused("--stage1-steps 0 --stage2-steps 0: nothing is trained")
    perceptual = None
    if lpips != "none":
        perceptual = LPIPSConfig(backbone=lpips, backbone_weights=lpips_backbone, heads=lpips_heads)
    loss = LossWeights(**{f.name: options.pop(f"{f.name}_weight") for f in fields(LossWeights)})
    result = train(MDSATraining(model=model, lpips=perceptual, loss=loss, **options))
    told = [
        f"{name} {value:.2f} dB"
        for name, value in (("PSNR-V", result.psnr_v), ("PSNR-A", result.psnr_a))
        if value is not None
    ]
    told += [] if result.is_held_out or not told else ["on clips it trained on: --holdout left none out"]
    evaluated = ", ".join(told) or f"PSNR stands in {options['out']}/metrics.jsonl"
    click.echo(f"step {result.step:,}: {evaluated}; {options['out']}/mdsa.pt")
    if max(result.saturated.values(), default=0) > TOO_SATURATED:
        planes = ", ".join(f"{plane} {100 * share:.0f} %" for plane, share in result.saturated.items())
        click.echo(
            f"saturated latents ({planes} of the values at the edge): they hold signs, not numbers. "
            f"A lower --lr, or an earlier stage 2, whose KL term draws them in, trains better."
        )
    tell_end(result.skipped, result.stopped_by)
    if export:
        export_safetensors(Path(options["out"]) / "mdsa.pt", export)
