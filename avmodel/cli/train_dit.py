"""`avmodel train-dit`."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click

from avmodel.cli.options import option
from avmodel.cli.training import SHARE, given_fields, report_end, training_options
from avmodel.config import DEFAULT_PRESET, STDIT_PRESETS, STDiTConfig
from avmodel.dit.options import TIMES, DiTTrainingOptions
from avprep.cli.outputs import MixedOutput, MixedOutputType, mixture

_MODEL_FIELDS = ("packed", "caption_dropout", "qk_norm", "temporal_norm", "stream_times")
_NESTED = {name: f"model.{name}" for name in _MODEL_FIELDS}  # fields of the model by their options' names


@click.command("train-dit")
@option(
    DiTTrainingOptions,
    "latents",
    type=MixedOutputType(),
    multiple=True,
    help="An output of `avprep encode`; may be given several times, with shares.",
)
@option(
    DiTTrainingOptions,
    "select",
    metavar="NAME",
    help="Train on the clips of this selection only: of the output, or of the clips it was encoded from.",
)
@click.option("--preset", type=click.Choice(list(STDIT_PRESETS)), default=DEFAULT_PRESET, show_default=True)
@option(DiTTrainingOptions, "steps", type=click.IntRange(1), help="A finished training goes on if they rise.")
@option(
    STDiTConfig,
    "packed",
    "--packed/--dense",
    help="Run on the real tokens only: the same model, a third less work.",
)
@option(STDiTConfig, "qk_norm", "--qk-norm/--no-qk-norm", help="Normalise q and k: steadier in bf16.")
@option(
    STDiTConfig,
    "temporal_norm",
    "--temporal-norm/--no-temporal-norm",
    help="Normalise what the attention across planes reads: steadier in bf16.",
)
@option(
    STDiTConfig,
    "stream_times",
    "--stream-times/--one-time",
    help="A time per stream: also learns sound for a given video, and pictures for a given sound.",
)
@option(
    DiTTrainingOptions,
    "shared_times",
    type=click.FloatRange(0, 1),
    help="With --stream-times: share of samples that are trained to make both streams together.",
)
@option(STDiTConfig, "caption_dropout", type=SHARE, help="Share of clips trained without text, for guidance.")
@option(
    DiTTrainingOptions,
    "warmup_steps",
    type=click.IntRange(0),
    help="[default: 5000, or a tenth of --steps if that is less]",
)
@option(DiTTrainingOptions, "times", type=click.Choice(TIMES), help="How the flow's times are drawn.")
@option(DiTTrainingOptions, "ema", type=SHARE, help="Decay of the averaged weights.")
@option(
    DiTTrainingOptions, "mdsa", type=click.Path(path_type=Path), help="mdsa.pt, to log pictures of samples."
)
@training_options(DiTTrainingOptions, batch_help="Latents per step, of all processes together.")
def train_dit(preset: str, latents: tuple[MixedOutput, ...], **options: Any) -> None:
    """Train the diffusion transformer on latents; the same command again resumes where it stopped."""
    from avmodel.data import layout_of
    from avmodel.dit.train import DiTTrainer
    from avmodel.dit.train import train_dit as train
    from avmodel.fitting import fitted_stdit
    from avmodel.training.trainer import as_begun
    from avprep.shards.latents import EncoderHeader
    from avprep.shards.layout import LATENTS
    from avprep.shards.outputs import header_of

    model = replace(STDIT_PRESETS[preset], **{name: options.pop(name) for name in _MODEL_FIELDS})
    outputs, shares = mixture(latents, "--latents")
    typed = DiTTrainingOptions(model=model, latents=outputs, shares=shares, **options)
    preset_fields = {f"model.{field.name}" for field in fields(STDiTConfig)} - set(_NESTED.values())
    begun = as_begun(DiTTrainer, typed, given_fields(_NESTED, preset_fields))
    layout = layout_of(EncoderHeader.from_dict(header_of(outputs[0], LATENTS)))
    end = train(replace(begun, model=fitted_stdit(begun.model, layout)))
    report_end(end, [f"step {end.step:,}; {options['out']}/dit.pt"])
