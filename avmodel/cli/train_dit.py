"""`avmodel train-dit`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from avmodel.cli.training import tell_end
from avmodel.config import STDIT_PRESETS


@click.command("train-dit")
@click.option("--latents", type=click.Path(), required=True, help="An output of `avprep encode`.")
@click.option("--out", type=click.Path(), required=True, help="Folder for checkpoints and logs.")
@click.option("--preset", type=click.Choice(list(STDIT_PRESETS)), default="small", show_default=True)
@click.option("--steps", type=click.IntRange(1), default=4000, show_default=True)
@click.option(
    "--packed/--dense",
    default=False,
    show_default=True,
    help="Run on the real tokens alone: the same model, a third less work.",
)
@click.option(
    "--caption-dropout",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.1,
    show_default=True,
    help="Share of clips trained without their text, for guidance.",
)
@click.option(
    "--batch-size", type=click.IntRange(1), default=64, show_default=True, help="Latents a process and step."
)
@click.option("--lr", type=click.FloatRange(0, min_open=True), default=1e-4, show_default=True)
@click.option(
    "--warmup-steps", type=click.IntRange(0), help="[default: 5000, or a tenth of --steps if that is less]"
)
@click.option(
    "--clip-grad",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    help="The gradient's norm at most.",
)
@click.option(
    "--ema",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.9999,
    show_default=True,
    help="Decay of the averaged weights.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--mdsa", type=click.Path(path_type=Path), help="mdsa.pt, to log pictures of samples.")
@click.option(
    "--loader-workers",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    help="Processes that read latents.",
)
@click.option("--checkpoint-every", type=click.IntRange(1), default=1000, show_default=True, help="Steps.")
@click.option("--eval-every", type=click.IntRange(1), default=500, show_default=True, help="Steps.")
@click.option("--compile/--no-compile", default=True, show_default=True, help="On a GPU.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
def train_dit(preset: str, packed: bool, caption_dropout: float, **options: Any) -> None:
    """Train the diffusion transformer on latents; the same command again goes on where it stopped."""
    from avmodel.dit.train import DiTTraining
    from avmodel.dit.train import train_dit as train

    model = replace(STDIT_PRESETS[preset], packed=packed, caption_dropout=caption_dropout)
    if options["warmup_steps"] is None:
        options["warmup_steps"] = min(5000, options["steps"] // 10)
    result = train(DiTTraining(model=model, **options))
    click.echo(f"step {result.step:,}; {options['out']}/dit.pt")
    tell_end(result.skipped, result.stopped_by)
