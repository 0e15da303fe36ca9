"""`avmodel info`."""

from __future__ import annotations

import click

from avmodel.config import MDSA_PRESETS, STDIT_PRESETS


@click.command()
@click.option("--preset", type=click.Choice(list(MDSA_PRESETS)), default="paper", show_default=True)
def info(preset: str) -> None:
    """Print a preset's parameters, FLOPs and activation memory, of the MDSA and of the STDiT."""
    from avmodel.info import mdsa_report, stdit_report

    mdsa = MDSA_PRESETS[preset]
    click.echo(f"MDSA\n{mdsa_report(mdsa)}\n\nSTDiT\n{stdit_report(STDIT_PRESETS[preset], mdsa.layout)}")
