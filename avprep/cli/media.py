"""The media options of a command become a source of clips: its dataset is listed and the listing printed."""

from __future__ import annotations

import os
from typing import Any

import click

from avprep.checks import samples_of
from avprep.cli.group import with_options
from avprep.cli.options import from_options
from avprep.datasets import default_root, list_dataset
from avprep.datasets.cut_list import CutList
from avprep.datasets.source import DatasetOptions, Listing, Source
from avprep.execution import RunnerConfig
from avprep.jobs.config import FromMedia, PlanOptions
from avprep.jobs.cuts import chosen_cuts, require_named
from avprep.jobs.output import require_apart
from avprep.spec import ClipSpec
from avprep.stages.options import ClipOptions


def listed_media(options: dict[str, Any], runner: RunnerConfig) -> FromMedia:
    """The clips that the options ask for; the sources are listed, and the listing is printed.

    Raises:
        AvprepError: a value out of range, an output among the media, a dataset that cannot be listed.
    """
    spec = from_options(ClipSpec, options)
    stride_s, dataset = options["stride_s"], options["dataset"]
    stride = None if stride_s is None else samples_of("stride_s", stride_s, spec, least=1)
    plan = from_options(PlanOptions, options, stride_samples=stride)
    clip = from_options(ClipOptions, options, spec=spec)
    root = options["root"] or default_root(dataset, os.environ)
    require_apart(options["out"], root)
    cuts = chosen_cuts(options["cuts"])
    listing = list_dataset(dataset, from_options(DatasetOptions, options, root=root))
    _print_listing(dataset, listing)
    sources = [*listing.sources, *listing.bad_rows]
    if isinstance(cuts, CutList):
        _print_cut_list(cuts, sources)
    if options["missing"] is not None:
        options["missing"].parent.mkdir(parents=True, exist_ok=True)  # in the folder of an output to come
        options["missing"].write_text("".join(f"{line}\n" for line in listing.missing), encoding="utf-8")
    return from_options(
        FromMedia,
        options,
        root=listing.root.absolute(),
        sources=sources,
        plan=plan,
        clip=clip,
        runner=runner,
        cuts=cuts,
    )


def _print_listing(dataset: str, listing: Listing) -> None:
    click.echo(f"{dataset}: {len(listing.sources):,} sources under {listing.root}")
    for what, count in listing.notes.items():
        click.echo(f"  {count:,} {with_options(what)}")


def _print_cut_list(cuts: CutList, sources: list[Source]) -> None:
    named, files = require_named(cuts, sources), len({source.path for source in sources})
    click.echo(f"  {files - named:,} of {files:,} files are not in {cuts.path}: taken for single shots")
