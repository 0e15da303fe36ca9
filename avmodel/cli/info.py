"""`avmodel info`."""

from __future__ import annotations

import click

from avmodel.config import MDSA_PRESETS, STDIT_PRESETS
from avprep.spec import ClipSpec


@click.command()
@click.option("--preset", type=click.Choice(list(MDSA_PRESETS)), default="paper", show_default=True)
@click.option("--frames", type=click.IntRange(1), help="Of a clip. [default: the preset's]")
@click.option("--size", type=click.IntRange(1), help="Pixels, height and width. [default: the preset's]")
@click.option("--fps", type=click.IntRange(1), default=ClipSpec.fps, show_default=True, help="Of the clips.")
def info(preset: str, frames: int | None, size: int | None, fps: int) -> None:
    """Print the clips that a preset takes, its parameters, FLOPs and activation memory."""
    from avmodel.fitting import clip_command, fitted_mdsa, fitted_stdit
    from avmodel.info import mdsa_report, stdit_report

    own = MDSA_PRESETS[preset]
    mdsa = fitted_mdsa(own, frames=frames or own.frames, size=size or own.size)
    stdit = fitted_stdit(STDIT_PRESETS[preset], mdsa.layout)
    click.echo(f"clips that fit: {clip_command(mdsa, fps)}")
    click.echo(f"latent {mdsa.layout.shape}, blocks {mdsa.block}, patch of the STDiT {stdit.patch}\n")
    click.echo(f"MDSA\n{mdsa_report(mdsa)}\n\nSTDiT\n{stdit_report(stdit, mdsa.layout)}")
