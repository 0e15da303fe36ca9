"""Options whose names and defaults are those of a dataclass's fields, and the options of media.

The name of an option's parameter is the name of the argument that library messages use: `with_options` turns
it into the option's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from avprep.datasets import DATASETS
from avprep.datasets.source import DatasetOptions
from avprep.jobs.config import FromMedia, Growth, PlanOptions
from avprep.media.crop import CROPS
from avprep.spec import ClipSpec
from avprep.stages.options import ClipOptions

Options = TypeVar("Options")
Decorator = Callable[[Callable], Callable]


def option(of: type, name: str, declaration: str, **attributes: Any) -> Decorator:
    """A click option for the field `name` of the dataclass `of`, with the field's default."""
    default = getattr(of, name)
    shown = default is not None and not isinstance(default, bool)
    return click.option(
        declaration, name, default=default, show_default=shown and default != (), **attributes
    )


def from_options(of: type[Options], options: dict[str, Any], /, **more: Any) -> Options:
    """The dataclass, from the options that have the names of its fields and from `more`."""
    given = {field.name: options[field.name] for field in fields(cast(Any, of)) if field.name in options}
    return of(**given | more)


# Which clips are cut, of which sources: `avprep clip` and `avprep encode --dataset` take the same.
_MEDIA_OPTIONS = (
    click.option("--dataset", type=click.Choice(sorted(DATASETS)), help="Where labels come from."),
    click.option(
        "--root", type=click.Path(path_type=Path), help="The media. [default: $AVPREP_DATA/DATASET]"
    ),
    option(DatasetOptions, "split", "--split", help="One of the dataset's splits. [default: all]"),
    option(
        DatasetOptions,
        "list_file",
        "--list",
        type=click.Path(path_type=Path),
        metavar="PATH",
        help="The list, where it does not lie under the root; manifest: csv, tsv, jsonl, json or parquet.",
    ),
    option(
        DatasetOptions,
        "label_from_folder",
        "--label-from-folder",
        is_flag=True,
        help="folder: the parent folder's name is the label.",
    ),
    option(
        DatasetOptions,
        "exclude_labels",
        "--exclude-label",
        multiple=True,
        metavar="LABEL",
        help="Leave out sources with this label; may be repeated.",
    ),
    option(
        DatasetOptions,
        "with_ancestors",
        "--with-ancestors",
        is_flag=True,
        help="audioset: add the classes that a label is a kind of, by ontology.json.",
    ),
    option(
        DatasetOptions,
        "min_label_quality",
        "--min-label-quality",
        type=click.FloatRange(0, 1),
        metavar="SHARE",
        help="audioset: leave out labels that raters confirmed less often, by qa_true_counts.csv.",
    ),
    click.option(
        "--missing",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Write what the dataset's list names and no file is there for: an id per line.",
    ),
    option(DatasetOptions, "follow_links", "--follow-links", is_flag=True, help="Enter links to folders."),
    option(
        DatasetOptions,
        "path_column",
        "--path-column",
        metavar="NAME",
        help="manifest: the list's column of paths. [default: path]",
    ),
    option(
        DatasetOptions,
        "label_column",
        "--label-column",
        metavar="NAME",
        help="manifest: its column of labels. [default: labels]",
    ),
    option(
        DatasetOptions,
        "caption_column",
        "--caption-column",
        metavar="NAME",
        help="manifest: its column of captions. [default: caption]",
    ),
    option(
        DatasetOptions,
        "allow_outside",
        "--allow-outside",
        is_flag=True,
        help="manifest: read files outside of the root, too.",
    ),
    option(ClipSpec, "fps", "--fps", type=int, help="Frames per second."),
    option(ClipSpec, "frames", "--frames", type=int, help="Frames per clip."),
    option(ClipSpec, "size", "--size", type=int, help="Pixels, height and width."),
    option(ClipSpec, "sample_rate", "--sample-rate", type=int, help="Hz, mono."),
    option(ClipSpec, "n_fft", "--n-fft", type=int, help="Samples, STFT window."),
    option(ClipSpec, "hop", "--hop", type=int, help="Samples between columns."),
    option(ClipSpec, "n_mels", "--n-mels", type=int, help="Mel bands."),
    click.option(
        "--stride",
        "stride_s",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        help="From one clip's start to the next's. [default: a clip's length]",
    ),
    option(
        PlanOptions,
        "at_events",
        "--at-events",
        is_flag=True,
        help="audioset, --split strong: clips start where events do, with the labels of what sounds in them.",
    ),
    option(
        PlanOptions,
        "clips_per_source",
        "--clips-per-source",
        type=click.IntRange(1),
        help="At most, spread over it. [default: all]",
    ),
    option(
        ClipOptions,
        "crop",
        "--crop",
        type=click.Choice(CROPS),
        help="The largest centred square, all of it between black bars, all of it stretched, or the largest "
        "centred square between the black bars that the source has.",
    ),
    option(
        FromMedia,
        "cuts",
        "--cuts",
        metavar="[none|scenedetect|transnetv2|FILE]",
        help="No clip contains a cut of its source: cuts that this detector finds, or that a list names. "
        "[default: none]",
    ),
    option(PlanOptions, "limit", "--limit", type=click.IntRange(1), help="Clips in all."),
    option(PlanOptions, "shard_size", "--shard-size", type=click.IntRange(1), help="Clips per shard."),
    option(
        ClipOptions,
        "drop_silent_db",
        "--drop-silent",
        type=float,
        metavar="DB",
        help="Leave out clips below this RMS, e.g. -60.",
    ),
    option(
        ClipOptions,
        "drop_static",
        "--drop-static",
        type=click.FloatRange(0, 255),
        metavar="LEVEL",
        help="Leave out clips whose frames change less than this on average, e.g. 0.5.",
    ),
    option(
        ClipOptions,
        "drop_black",
        "--drop-black",
        type=click.FloatRange(0, 255),
        metavar="LEVEL",
        help="Leave out clips darker than this on average, e.g. 3.",
    ),
    option(
        ClipOptions,
        "max_residual_ms",
        "--max-residual",
        type=click.FloatRange(min=0),
        metavar="MS",
        help="Leave out clips with a frame further than this from its instant, e.g. 500: the source froze, "
        "or its clock jumped.",
    ),
    option(
        FromMedia,
        "source_timeout_s",
        "--source-timeout",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        help="Time limit for the clips of one source in a shard.",
    ),
)


def media_options(command: Callable) -> Callable:
    """A decorator: the command takes the options that say which clips are cut."""
    for decorate in reversed(_MEDIA_OPTIONS):
        command = decorate(command)
    return command


def growth_options(command: Callable) -> Callable:
    """A decorator: the command takes the options that say what is taken into a plan that is there."""
    add_new = option(
        Growth,
        "add_new",
        "--add-new",
        is_flag=True,
        help="Plan sources that are new since the first run, into new shards.",
    )
    replace_changed = option(
        Growth,
        "replace_changed",
        "--replace-changed",
        is_flag=True,
        help="Plan sources that changed since the first run anew, into new shards.",
    )
    return add_new(replace_changed(command))


# The parameters' names of the options of media.
MEDIA_NAMES = frozenset(p.name for p in click.command("media")(media_options(lambda **_: None)).params)
