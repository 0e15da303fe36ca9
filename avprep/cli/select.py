"""`avprep select`: its options, and the funnel."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from avprep.cli.options import from_options, option
from avprep.jobs.config import SPLIT_BY, SelectConfig

if TYPE_CHECKING:
    from avprep.shards.selection import SelectionHeader


def _shares(_: click.Context, option: click.Parameter, value: str | None) -> dict[str, float]:
    """'train:0.9,val:0.1' as a mapping."""
    shares: dict[str, float] = {}
    for part in (value or "").split(",") if value else ():
        name, _sign, share = part.strip().partition(":")
        try:
            number = float(share)
        except ValueError:
            raise click.BadParameter(f"{part!r} is not NAME:SHARE") from None
        if name in shares:
            raise click.BadParameter(f"{name!r} is there twice")
        shares[name] = number
    return shares


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
    "exclude_ids",
    "--exclude-ids",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Leave out the sources of this list: YouTube ids, file names or paths, one per line or row.",
)
@option(
    SelectConfig,
    "near_duplicates",
    "--near-duplicates",
    type=click.IntRange(0),
    metavar="BITS",
    help="Keep one of each group of clips whose prints differ in at most so many of 288 bits, e.g. 60.",
)
@option(
    SelectConfig,
    "order",
    "--order",
    metavar="random|COLUMN|-COLUMN",
    help="Which come first: at random, the lowest or, with '-', the highest.",
)
@option(SelectConfig, "seed", "--seed", type=click.IntRange(0), help="Of the random order and the splits.")
@click.option(
    "--split",
    callback=_shares,
    metavar="NAME:SHARE,...",
    help="Divide the selection, e.g. train:0.9,val:0.1; each part is the selection NAME-PART.",
)
@option(
    SelectConfig,
    "by",
    "--by",
    type=click.Choice(SPLIT_BY),
    help="What no part of a split straddles: a source; or a source and a group of near-duplicates, all of "
    "which are then kept.",
)
@option(
    SelectConfig,
    "ids",
    "--ids",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the chosen clips' sources, starts and keys by tabs, for others to follow.",
)
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
    _print_funnel(made[config.name])
    for name, header in made.items():
        click.echo(
            f"{header.funnel[-1].kept:>12,}  {place}/selections/{name}.parquet: digest {header.digest}"
        )


def _print_funnel(made: SelectionHeader) -> None:
    for step in made.funnel:
        undefined = f", {step.undefined:,} of them undefined" if step.undefined else ""
        removed = f"  (-{step.removed:,}{undefined})" if step.removed else ""
        click.echo(f"{step.kept:>12,}  {step.step}{removed}")
