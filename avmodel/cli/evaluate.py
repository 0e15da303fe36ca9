"""`avmodel evaluate`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from avmodel.cli.options import device_option, option
from avmodel.config import MDSA_PRESETS
from avmodel.evaluate.options import (
    PROTOCOLS,
    TABLES,
    EvaluationOptions,
    Features,
    LpipsFiles,
    TimingOptions,
)

if TYPE_CHECKING:
    from avmodel.evaluate.report import Report

TIMING_TABLE = 3
_option = partial(option, EvaluationOptions)
_PATH = click.Path(path_type=Path)


def _features(
    _context: click.Context, _option: click.Parameter, values: tuple[str, ...]
) -> tuple[Features, ...]:
    return tuple(Features.parse(value) for value in values)


@click.command()
@click.option(
    "--reference",
    type=_PATH,
    help="Real clips: an output of `avprep clip` or `avprep encode`, or a folder of video files.",
)
@_option("generated", type=_PATH, help="Likewise, or an output of `avmodel sample`.")
@_option("recon", "--recon", is_flag=True, help="Measure the MDSA's reconstructions of the reference.")
@_option("mdsa", type=_PATH, help="mdsa.pt, to decode sides that are latents.")
@click.option(
    "--features",
    multiple=True,
    metavar="NAME=PATH",
    callback=_features,
    help="A network to compare through, and its file, or for clap its folder: clap, i3d, imagebind, "
    "squeezenet, yamnet, or one of another package. May be given more than once.",
)
@click.option("--lpips-backbone", type=_PATH, help="SqueezeNet's weights, for LPIPS with --recon.")
@click.option("--lpips-heads", type=_PATH, help="LPIPS v0.1's heads for it.")
@_option("protocol", type=click.Choice(PROTOCOLS), help="Which windows are compared, and as which pictures.")
@_option("size", type=click.IntRange(16), help="Pixels that the networks see. [default: the protocol's]")
@_option("n", type=click.IntRange(2), help="Clips per side, at most.")
@_option("seeds", type=click.IntRange(1), help="Selections of clips; each is measured.")
@_option("bootstrap", type=click.IntRange(0), help="Resamples behind an interval; 0: no interval.")
@_option(
    "table",
    type=click.Choice([str(table) for table in TABLES]),
    callback=lambda _context, _option, value: None if value is None else int(value),
    help="Of the paper: prints its known rows under ours. 3 times the models instead.",
)
@_option("out", type=_PATH, help="Folder for evaluation.json, .csv and .md.")
@_option("workers", type=click.IntRange(1), help="Processes that read clips and compute features.")
@click.option(
    "--preset", type=click.Choice(list(MDSA_PRESETS)), default=TimingOptions.preset, help="With --table 3."
)
@device_option(EvaluationOptions)
def evaluate(
    reference: Path | None,
    lpips_backbone: Path | None,
    lpips_heads: Path | None,
    preset: str,
    **options: Any,
) -> None:
    """Measure generated clips against real ones, or an autoencoder's reconstructions, as the paper does."""
    if options["table"] == TIMING_TABLE:
        report = _timed(preset, options)
    else:
        if reference is None:
            raise click.UsageError("--reference is missing")
        lpips = _lpips_files(lpips_backbone, lpips_heads)
        report = _measured(EvaluationOptions(reference=reference, lpips=lpips, **options))
    click.echo(report.text())
    if options["out"] is not None:
        report.write(options["out"])


def _timed(preset: str, options: dict[str, Any]) -> Report:
    from avmodel.evaluate.timing import time_models

    return time_models(TimingOptions(preset=preset, device=options["device"]))


def _measured(options: EvaluationOptions) -> Report:
    from avmodel.evaluate.run import evaluate as run

    return run(options, _progress)


def _lpips_files(backbone: Path | None, heads: Path | None) -> LpipsFiles | None:
    if backbone is None and heads is None:
        return None
    if backbone is None or heads is None:
        raise click.UsageError("--lpips-backbone and --lpips-heads go together")
    return LpipsFiles(backbone=backbone, heads=heads)


def _progress(name: str, clips: int) -> Callable[[int], None]:
    from tqdm import tqdm

    bar = tqdm(total=clips, desc=name, unit=" clips", leave=False)

    def advance(done: int) -> None:
        bar.update(done)
        if bar.n >= clips:
            bar.close()

    return advance
