"""`avmodel sample`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from avmodel.cli.options import device_option, option
from avmodel.dit.options import SOLVERS, SampleOptions
from avprep.errors import printable

if TYPE_CHECKING:
    from avmodel.dit.sample import Sampling

_option = partial(option, SampleOptions)
_PATH = click.Path(path_type=Path)


@click.command()
@_option("dit", type=_PATH, help="dit.pt")
@_option("mdsa", type=_PATH, help="mdsa.pt")
@_option("out", type=_PATH, help="Folder for the clips.")
@_option(
    "labels",
    "--label",
    multiple=True,
    help="Of every clip; may be given more than once. [default: sets drawn as in the training set; none "
    "with --given-video or --given-audio]",
)
@_option("caption", help="For a model that reads caption embeddings.")
@_option("captions_file", type=_PATH, help="captions.safetensors, for a model that reads caption embeddings.")
@_option(
    "prompts",
    type=_PATH,
    help="csv or JSON lines with a row per clip: labels (separated by '|'), caption, seed.",
)
@_option("n", type=click.IntRange(1), help="Clips. [default: 8, or all rows of --prompts]")
@_option("steps", type=click.IntRange(1), help="Of the solver.")
@_option("solver", type=click.Choice(SOLVERS))
@_option(
    "guidance",
    type=click.FloatRange(0),
    help="Scale of classifier-free guidance; 1 is none, at half the work.",
)
@_option("seed", type=int)
@_option("given_video", type=_PATH, help="Make the sound for the first clip's length of this video.")
@_option("given_audio", type=_PATH, help="Make the pictures for the first clip's length of this wav or flac.")
@_option("batch_size", type=click.IntRange(1), help="Clips at once.")
@device_option(SampleOptions)
def sample(**options: Any) -> None:
    """Generate clips: mp4, wav, a contact sheet, and their latents in shards. Under torchrun the processes
    share the work."""
    from avmodel.dit.sample import open_sampling
    from avmodel.training.machine import is_first_process

    is_first = is_first_process()
    with open_sampling(SampleOptions(**options)) as run:
        if is_first:
            _announce(run, options)
        if run.is_done:
            return
        for made in run:
            text = made.caption or ", ".join(made.labels) or "(no text)"
            click.echo(f"{made.key}.mp4  {printable(text)}")
    if is_first:
        click.echo(f"{run.count:,} clips in {options['out']}; sheet.png shows them")


def _announce(run: Sampling, options: dict[str, Any]) -> None:
    if run.is_done:
        click.echo(f"nothing to do: these {run.count:,} clips are in {options['out']}")
        return
    if run.earlier:
        click.echo(f"the {run.earlier:,} earlier samples in {options['out']} are replaced at the end")
    if run.resumed:
        click.echo(f"{run.resumed:,} of {run.count:,} clips are made already")
    if run.draws_single_labels:
        click.echo(
            f"{options['dit']} does not say which labels occur together: one is drawn per clip", err=True
        )
