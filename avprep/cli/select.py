"""`avprep select`: its options, and the funnel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from avprep.cli.options import from_options, option
from avprep.jobs.config import SelectConfig

if TYPE_CHECKING:
    from avprep.shards.selection import SelectionHeader


@click.command()
@click.argument("clips")
@click.argument("query", default="")
@click.option("--name", required=True, help="Of the selection: letters, digits, '_' and '-'.")
@option(
    SelectConfig,
    "per_label",
    "--per-label",
    type=click.IntRange(1),
    help="At most so many clips of each label. [default: all]",
)
@option(
    SelectConfig, "limit", "--limit", type=click.IntRange(1), help="At most so many clips. [default: all]"
)
@option(
    SelectConfig,
    "order",
    "--order",
    metavar="random|COLUMN|-COLUMN",
    help="Which come first: at random, the lowest or, with '-', the highest.",
)
@option(SelectConfig, "seed", "--seed", type=click.IntRange(0), help="Of the random order.")
@option(SelectConfig, "rebuild", "--rebuild", is_flag=True, help="Replace a selection of this name.")
def select(**options) -> None:
    """Choose finished clips by their scores: a list of keys, and how many each step removed.

    QUERY: comparisons joined by 'and', e.g. "loudness_lufs > -45 and cut == 0 and speech < 0.9". A clip of
    which a column is null is removed. Without a query, all finished clips are chosen from.
    """
    from avprep.cli.job import reported_run
    from avprep.jobs.output import absolute
    from avprep.jobs.select import run_select

    place = absolute("clips", options["clips"])
    config = from_options(SelectConfig, options, clips=place)
    with reported_run(place, "CLIPS"):
        made = run_select(config)
    _print_funnel(made, config)


def _print_funnel(made: SelectionHeader, config: SelectConfig) -> None:
    for step in made.funnel:
        undefined = f", {step.undefined:,} of them undefined" if step.undefined else ""
        removed = f"  (-{step.removed:,}{undefined})" if step.removed else ""
        click.echo(f"{step.kept:>12,}  {step.step}{removed}")
    click.echo(f"{config.clips}/selections/{config.name}.parquet: digest {made.digest}")
