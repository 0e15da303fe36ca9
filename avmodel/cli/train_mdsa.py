"""`avmodel train-mdsa`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from avmodel.cli.options import option
from avmodel.cli.training import SHARE, given_fields, report_end, training_options
from avmodel.config import (
    DEFAULT_PRESET,
    KL_TERMS,
    MDSA_PRESETS,
    PLANE_POSITIONS,
    STREAMS,
    MDSAConfig,
)
from avmodel.mdsa.options import BACKBONES, Backbone, LossWeights, LPIPSConfig, MDSATrainingOptions
from avprep.cli.outputs import MixedOutput, MixedOutputType, mixture

if TYPE_CHECKING:
    from avmodel.mdsa.train import MDSAResult

_MODEL_FIELDS = ("streams", "mt_self_attn", "gcm_attn", "bi_block", "adversarial", "kl", "plane_positions")
# Fields of nested configs by the names of their options.
_NESTED = {
    **{name: f"model.{name}" for name in _MODEL_FIELDS},
    **{f"{field.name}_weight": f"loss.{field.name}" for field in fields(LossWeights)},
    "backbone": "lpips",
}
_option, _model_option, _lpips_option = (
    partial(option, config) for config in (MDSATrainingOptions, MDSAConfig, LPIPSConfig)
)
_STEPS = click.IntRange(0)
_FILE = click.Path(path_type=Path)


def _loss_options(command: Callable) -> Callable:
    """--pixel-weight and the others: one option per field of LossWeights."""
    for field in reversed(fields(LossWeights)):
        flag = f"--{field.name.replace('_', '-')}-weight"
        others = {"modality": "all terms of one stream", "kl_stage1": "the KL term in stage 1"}
        weighed = others.get(field.name, f"the {field.name} term")
        command = click.option(
            flag,
            type=float,
            default=field.default,
            show_default=True,
            help=f"Weight of {weighed}.",
        )(command)
    return command


def _model_options(command: Callable) -> Callable:
    """The paper's ablations, and what it leaves open."""
    options = [
        _model_option("streams", type=click.Choice(STREAMS), help="Both, or only video or audio."),
        _model_option("mt_self_attn", "--mt-self-attn/--no-mt-self-attn", help="Ablation."),
        _model_option("gcm_attn", "--gcm-attn/--no-gcm-attn", help="Ablation."),
        _model_option("bi_block", "--bi-block/--no-bi-block", help="Ablation."),
        _model_option("adversarial", "--adversarial/--no-adversarial", help="Ablation."),
        _model_option("kl", type=click.Choice(KL_TERMS), help="Ablation."),
        _model_option(
            "plane_positions",
            type=click.Choice(PLANE_POSITIONS),
            help="Positions in the attention on planes and in blocks.",
        ),
    ]
    for one in reversed(options):
        command = one(command)
    return command


@click.command("train-mdsa")
@_option(
    "clips",
    type=MixedOutputType(),
    multiple=True,
    help="An output of `avprep clip`; may be given several times, with shares.",
)
@_option("select", metavar="NAME", help="Train on the clips of this selection of the output only.")
@click.option("--preset", type=click.Choice(list(MDSA_PRESETS)), default=DEFAULT_PRESET, show_default=True)
@_option("stage1_steps", type=_STEPS, help="Steps of L1 + LPIPS.")
@_option(
    "stage2_steps",
    type=_STEPS,
    help="Steps with KL and discriminators, after them. A finished training goes on if they rise.",
)
@_option("disc_start", type=_STEPS, help="Steps of stage 2 before the discriminators.")
@_option("disc_ramp", type=_STEPS, help="Steps over which their weight rises to 1. 0: at once, as the paper.")
@_option(
    "adaptive_gan",
    "--adaptive-gan/--fixed-gan",
    help="Weigh the adversarial terms by VQGAN's rule. Fixed is the paper's.",
)
@_option("ema", type=SHARE, help="Decay of the weights averaged in stage 2. 0: no average, as the paper.")
@_model_options
@_lpips_option(
    "backbone",
    "--lpips",
    type=click.Choice(["none", *BACKBONES]),
    help="Backbone of the perceptual loss.",
)
@_lpips_option(
    "backbone_weights",
    "--lpips-backbone",
    type=_FILE,
    help="The backbone's weights. [default: torchvision's, downloaded]",
)
@_lpips_option(
    "heads", "--lpips-heads", type=_FILE, help="The heads' weights. [default: LPIPS v0.1's, downloaded]"
)
@_option("disc_width", type=click.IntRange(1), help="Channels of the discriminators' first layer.")
@_option("disc_layers", type=click.IntRange(1), help="Their layers of stride 2.")
@_loss_options
@_option("betas", type=(float, float), help="Of Adam.")
@_option("warmup_steps", type=_STEPS, help="The first steps, over which the rate rises.")
@_option(
    "modality_dropout",
    type=click.FloatRange(0, 1),
    help="Share of training clips in which one stream is silent or black.",
)
@_option(
    "gradient_share_every",
    type=_STEPS,
    help="Steps between measurements of each loss term's share in the gradient. 0: never.",
)
@_option(
    "checkpoint_activations",
    "--checkpoint-activations/--keep-activations",
    help="Compute activations again in backward: less memory, a third more work.",
)
@training_options(MDSATrainingOptions, batch_help="Clips per step, of all processes and micro-batches.")
@click.option("--export", type=_FILE, help="Also write the trained weights as safetensors.")
def train_mdsa(
    preset: str,
    backbone: str,
    backbone_weights: Path | None,
    heads: Path | None,
    export: Path | None,
    clips: tuple[MixedOutput, ...],
    **options: Any,
) -> None:
    """Train the autoencoder on clips; the same command again resumes where it stopped."""
    from avmodel.export import export_safetensors
    from avmodel.fitting import fitted_to_clips
    from avmodel.mdsa.train import MDSATrainer
    from avmodel.mdsa.train import train_mdsa as train
    from avmodel.training.trainer import as_begun
    from avprep.shards.layout import CLIPS, spec_of
    from avprep.shards.outputs import header_of

    model = replace(MDSA_PRESETS[preset], **{name: options.pop(name) for name in _MODEL_FIELDS})
    lpips = None
    if backbone != "none":
        lpips = LPIPSConfig(
            backbone=cast("Backbone", backbone), backbone_weights=backbone_weights, heads=heads
        )
    loss = LossWeights(**{f.name: options.pop(f"{f.name}_weight") for f in fields(LossWeights)})
    outputs, shares = mixture(clips, "--clips")
    typed = MDSATrainingOptions(model=model, lpips=lpips, loss=loss, clips=outputs, shares=shares, **options)
    preset_fields = {f"model.{field.name}" for field in fields(MDSAConfig)} - set(_NESTED.values())
    begun = as_begun(MDSATrainer, typed, given_fields(_NESTED, preset_fields))
    model = fitted_to_clips(begun.model, spec_of(header_of(outputs[0], CLIPS)))
    result = train(replace(begun, model=model))
    report_end(result, _lines(result, options["out"]))
    if export and result.reports:
        export_safetensors(Path(options["out"]) / "mdsa.pt", export)


def _lines(result: MDSAResult, out: Path) -> list[str]:
    """What is printed of a result."""
    found = (("PSNR-V", result.psnr_v), ("PSNR-A", result.psnr_a))
    shown = [f"{name} {value:.2f} dB" for name, value in found if value is not None]
    if shown and not result.is_held_out:
        shown.append("on clips it trained on: --holdout left none out")
    evaluated = ", ".join(shown) or f"PSNR is in {out}/metrics.jsonl"
    lines = [f"step {result.step:,}: {evaluated}; {out}/mdsa.pt"]
    from avmodel.training.watch import SATURATED

    if max(result.saturated.values(), default=0) > SATURATED:
        planes = ", ".join(f"{plane} {100 * share:.0f} %" for plane, share in result.saturated.items())
        lines.append(
            f"saturated latents ({planes} of the values at the edge): they hold signs, not numbers. A lower "
            f"--lr trains better; --kl-stage1-weight or an earlier stage 2 draws them in."
        )
    return lines
