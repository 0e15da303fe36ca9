"""What the two training commands share: their common options, and how they end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from avmodel.cli.options import device_option, option
from avmodel.training.options import TrainingEnd
from avprep.shards.damage import ON_DAMAGE

POSITIVE = click.FloatRange(0, min_open=True)
SHARE = click.FloatRange(0, 1, max_open=True)


def training_options(config: type, *, batch_help: str) -> Callable:
    """The options of `TrainingOptions`, with the defaults of `config`."""
    options = [
        option(config, "out", type=click.Path(path_type=Path), help="Folder for checkpoints and logs."),
        option(config, "batch_size", type=click.IntRange(1), help=batch_help),
        option(config, "lr", type=POSITIVE, help="Learning rate."),
        option(config, "clip_grad", type=POSITIVE, help="Largest gradient norm."),
        option(config, "seed", type=int),
        option(config, "loader_workers", type=click.IntRange(0), help="Processes that read."),
        option(
            config,
            "on_damage",
            type=click.Choice(ON_DAMAGE),
            help="A damaged shard ends the run, or is left out: then all shards are read first.",
        ),
        option(config, "checkpoint_every", type=click.IntRange(1), help="Steps."),
        option(config, "eval_every", type=click.IntRange(1), help="Steps."),
        option(config, "compile", "--compile/--no-compile", help="On a GPU."),
        device_option(config),
    ]

    def decorate(command: Callable) -> Callable:
        for one in reversed(options):
            command = one(command)
        return command

    return decorate


def report_end(end: TrainingEnd, results: list[str]) -> None:
    """Prints how a training ended, on rank 0 only; exits with the signal's code if one ended it."""
    if end.reports:
        for line in results:
            click.echo(line)
        if end.skipped:
            click.echo(f"{end.skipped:,} steps left out: a loss or gradient was NaN or Inf")
    if end.stopped_by is not None:
        if end.reports:
            click.echo("stopped by a signal; run the same command again to resume", err=True)
        raise SystemExit(128 + end.stopped_by)
