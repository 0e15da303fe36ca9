"""The options that say which clips are cut, which `avprep clip` and `avprep encode --dataset` both take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from avprep.datasets import DATASETS
from avprep.media.crop import CROPS
from avprep.spec import ClipSpec

DEFAULT = ClipSpec()
# Which clips are cut, of which sources: `avprep clip` and `avprep encode --dataset` take the same.
_MEDIA_OPTIONS = (
    click.option("--dataset", type=click.Choice(sorted(DATASETS)), help="Where labels come from."),
    click.option(
        "--root", type=click.Path(path_type=Path), help="The media. [default: $AVPREP_DATA/DATASET]"
    ),
    click.option("--split", help="One of the dataset's splits. [default: all]"),
    click.option(
        "--list",
        "csv",
        type=click.Path(path_type=Path),
        help="The list, where it does not lie under the root; of manifest a csv, tsv, jsonl or parquet.",
    ),
    click.option("--label-from-folder", is_flag=True, help="folder: the parent folder's name is the label."),
    click.option("--follow-links", is_flag=True, help="Enter links to folders."),
    click.option("--fps", type=int, default=DEFAULT.fps, show_default=True, help="Frames a second."),
    click.option("--frames", type=int, default=DEFAULT.frames, show_default=True, help="Frames a clip."),
    click.option(
        "--size", type=int, default=DEFAULT.size, show_default=True, help="Pixels, height and width."
    ),
    click.option("--sample-rate", type=int, default=DEFAULT.sample_rate, show_default=True, help="Hz, mono."),
    click.option("--n-fft", type=int, default=DEFAULT.n_fft, show_default=True, help="Samples, STFT window."),
    click.option("--hop", type=int, default=DEFAULT.hop, show_default=True, help="Samples between columns."),
    click.option("--n-mels", type=int, default=DEFAULT.n_mels, show_default=True, help="Mel bands."),
    click.option(
        "--stride",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        help="From one clip's start to the next's. [default: a clip's length]",
    ),
    click.option(
        "--clips-per-source", type=click.IntRange(1), help="At most, spread over it. [default: all]"
    ),
    click.option(
        "--crop",
        type=click.Choice(CROPS),
        default="center",
        show_default=True,
        help="The largest centred square, all of it between black bars, or all of it stretched.",
    ),
    click.option("--limit", type=click.IntRange(1), help="Clips in all."),
    click.option(
        "--shard-size", type=click.IntRange(1), default=256, show_default=True, help="Clips a shard."
    ),
    click.option("--drop-silent", type=float, metavar="DB", help="Leave out clips below this RMS, e.g. -60."),
    click.option(
        "--drop-static",
        type=click.FloatRange(0, 255),
        metavar="LEVEL",
        help="Leave out clips whose frames change less than this on average, e.g. 0.5.",
    ),
    click.option(
        "--drop-black",
        type=click.FloatRange(0, 255),
        metavar="LEVEL",
        help="Leave out clips darker than this on average, e.g. 3.",
    ),
    click.option(
        "--max-residual",
        type=click.FloatRange(min=0),
        metavar="MS",
        help="Leave out clips with a picture further than this from its instant, e.g. 500: the "
        "source froze, or its clock jumped.",
    ),
    click.option(
        "--source-timeout",
        type=click.FloatRange(min=0, min_open=True),
        default=600.0,
        show_default=True,
        metavar="SECONDS",
        help="Time limit for the clips of one source in a shard.",
    ),
)


def media_options(command: Callable) -> Callable:
    """A decorator: the command takes the options that say which clips are cut."""
    for option in reversed(_MEDIA_OPTIONS):
        command = option(command)
    return command
