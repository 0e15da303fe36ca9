"""`avmodel ablate`."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import click

from avmodel.ablate.options import VARIANTS, AblationOptions
from avmodel.cli.options import device_option, option
from avmodel.cli.training import POSITIVE, SHARE
from avmodel.config import MDSA_PRESETS
from avmodel.training.options import OPTIMIZERS

_option = partial(option, AblationOptions)
_PATH = click.Path(path_type=Path)


@click.command()
@_option("clips", type=_PATH, help="An output of `avprep clip`.")
@_option("out", type=_PATH, help="Folder for the models and the table.")
@_option("preset", type=click.Choice(list(MDSA_PRESETS)))
@click.option(
    "--variant",
    "variants",
    type=click.Choice(list(VARIANTS)),
    multiple=True,
    help="May be given more than once; the full model is always trained. [default: all]",
)
@_option("seeds", type=click.IntRange(1), help="Trainings of each variant.")
@_option("stage1_steps", type=click.IntRange(0), help="Steps of L1.")
@_option("stage2_steps", type=click.IntRange(0), help="Steps with KL and discriminators, after them.")
@_option("batch_size", type=click.IntRange(1), help="Clips per step.")
@_option("lr", type=POSITIVE, help="Learning rate.")
@_option("optimizer", type=click.Choice(OPTIMIZERS), help="As of `avmodel train-mdsa`.")
@_option("muon_lr", type=POSITIVE, help="Learning rate of what Muon trains.")
@_option("mse_weight", type=click.FloatRange(0), help="As of `avmodel train-mdsa`.")
@_option("disc_width", type=click.IntRange(1), help="Channels of the discriminators' first layer.")
@_option("holdout", type=SHARE, help="Share of sources that is not trained on but measured.")
@_option("loader_workers", type=click.IntRange(0), help="Processes that read.")
@device_option(AblationOptions)
def ablate(**options: Any) -> None:
    """Train the autoencoder without each of its parts; print what each part is worth in PSNR."""
    from avmodel.ablate.run import Cell, StoppedBySignal, run_cells
    from avmodel.ablate.table import aligned, rows_of, write_table
    from avmodel.training.machine import is_first_process

    asked = AblationOptions(**options)
    budget = _budget(asked)
    for name in VARIANTS:
        why = asked.why_not(name)
        if why is not None and not asked.variants:
            click.echo(f"left out {name}: {why}")
    click.echo(budget)
    cells: list[Cell] = []
    try:
        for cell in run_cells(asked):
            cells.append(cell)
            if is_first_process():
                click.echo(_line(cell))
                write_table(asked.out, rows_of(cells), budget, {"options": asdict(asked)})
    except StoppedBySignal as stop:
        click.echo("stopped by a signal; run the same command again to resume", err=True)
        raise SystemExit(128 + stop.number) from None
    if is_first_process():
        click.echo(aligned(rows_of(cells)))


def _budget(asked: AblationOptions) -> str:
    rates = f"{asked.optimizer} at learning rate {asked.lr:g}"
    if asked.optimizer == "muon":
        rates = f"muon at learning rate {asked.muon_lr:g} (Adam {asked.lr:g})"
    squared = f"mse weight {asked.mse_weight:g}, " if asked.mse_weight else ""
    return (
        f"preset {asked.preset}: {asked.stage1_steps:,} + {asked.stage2_steps:,} steps of "
        f"{asked.batch_size} clips, {rates}, {squared}{asked.seeds} seeds, "
        f"{100 * asked.holdout:g} % of sources held out"
    )


def _line(cell: Any) -> str:
    found = (("PSNR-V", cell.psnr_v), ("PSNR-A", cell.psnr_a))
    shown = "  ".join(f"{name} {values.mean():.2f} dB" for name, values in found if values is not None)
    return f"seed {cell.seed}  {cell.variant:<18} {shown}"
