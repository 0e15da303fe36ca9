"""What the two training commands share: their common options, and how they end."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import click
from click.core import ParameterSource

from avmodel.cli.options import device_option, option
from avmodel.training.options import OPTIMIZERS, TrainingEnd
from avprep.shards.damage import ON_DAMAGE

POSITIVE = click.FloatRange(0, min_open=True)
SHARE = click.FloatRange(0, 1, max_open=True)


def training_options(config: type, *, batch_help: str) -> Callable:
    """The options of `TrainingOptions`, with the defaults of `config`."""
    options = [
        option(config, "out", type=click.Path(path_type=Path), help="Folder for checkpoints and logs."),
        option(
            config,
            "start_from",
            "--from",
            type=click.Path(path_type=Path),
            help="Start a new training from this checkpoint's weights.",
        ),
        option(config, "batch_size", type=click.IntRange(1), help=batch_help),
        option(
            config,
            "accumulate",
            type=click.IntRange(1),
            help="Micro-batches per step and process: less memory.",
        ),
        option(config, "lr", type=POSITIVE, help="Learning rate."),
        option(
            config,
            "optimizer",
            type=click.Choice(OPTIMIZERS),
            help="Muon trains the matrices inside the model, in fewer steps, and Adam the rest.",
        ),
        option(config, "muon_lr", type=POSITIVE, help="Learning rate of what Muon trains."),
        option(
            config,
            "cooldown_steps",
            type=click.IntRange(0),
            help="The last steps, over which the rate falls to 0.",
        ),
        option(config, "clip_grad", type=POSITIVE, help="Largest gradient norm."),
        option(config, "seed", type=int),
        option(
            config, "holdout", type=SHARE, help="Share of sources that is not trained on, for evaluation."
        ),
        option(config, "eval_clips", type=click.IntRange(1), help="Held-out clips per evaluation, at most."),
        option(config, "loader_workers", type=click.IntRange(0), help="Processes that read."),
        option(
            config,
            "on_damage",
            type=click.Choice(ON_DAMAGE),
            help="A damaged shard ends the run, or is left out: then all shards are read first.",
        ),
        option(config, "log_every", type=click.IntRange(1), help="Steps."),
        option(config, "eval_every", type=click.IntRange(1), help="Steps."),
        option(config, "checkpoint_every", type=click.IntRange(1), help="Steps."),
        option(config, "keep", type=click.IntRange(1), help="The last checkpoints to keep."),
        option(
            config,
            "milestone_every",
            type=click.IntRange(0),
            help="Steps between models that are kept for good. 0: none.",
        ),
        option(config, "compile", "--compile/--no-compile", help="On a GPU."),
        option(
            config,
            "peak_tflops",
            type=POSITIVE,
            help="The device's peak in bf16, in TFLOP/s, for MFU. [default: its data sheet's, if known]",
        ),
        device_option(config),
    ]

    def decorate(command: Callable) -> Callable:
        for one in reversed(options):
            command = one(command)
        return command

    return decorate


def given_fields(nested: Mapping[str, str], of_preset: Collection[str] = ()) -> set[str]:
    """The config fields whose options were given to the running command, and not left at their default.

    Args:
        nested: fields of nested configs by their option's name: {'packed': 'model.packed'}.
        of_preset: the fields that --preset decides.
    """
    context = click.get_current_context()
    left = (ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP)
    given = {name for name in context.params if context.get_parameter_source(name) not in left}
    fields = {nested.get(name, name) for name in given}
    return fields | set(of_preset) if "preset" in given else fields


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
