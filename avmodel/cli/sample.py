"""`avmodel sample`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from avmodel.dit.solver import SOLVERS


@click.command()
@click.option("--dit", type=click.Path(path_type=Path), required=True, help="dit.pt")
@click.option("--mdsa", type=click.Path(path_type=Path), required=True, help="mdsa.pt")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the clips.")
@click.option(
    "--label",
    "labels",
    multiple=True,
    help="Of every clip; may be given more than once. [default: drawn as in the training set; none "
    "beside something given]",
)
@click.option("--caption", default="", help="Where the model reads caption embeddings.")
@click.option(
    "--captions-file",
    type=click.Path(path_type=Path),
    help="captions.safetensors, where the model reads caption embeddings.",
)
@click.option("--n", type=click.IntRange(1), default=8, show_default=True, help="Clips.")
@click.option("--steps", type=click.IntRange(1), default=30, show_default=True, help="Of the solver.")
@click.option("--solver", type=click.Choice(SOLVERS), default="euler", show_default=True)
@click.option(
    "--guidance",
    type=click.FloatRange(0),
    default=4.0,
    show_default=True,
    help="Scale of classifier-free guidance; 1 is none, at half the work.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--given-video",
    type=click.Path(path_type=Path),
    help="Make the sound for the first clip's length of this video.",
)
@click.option(
    "--given-audio",
    type=click.Path(path_type=Path),
    help="Make the pictures for the first clip's length of this wav or flac.",
)
@click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True, help="Clips at once.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
def sample(**options: Any) -> None:
    """Generate clips: mp4, wav, a contact sheet, and their latents as a shard."""
    from avmodel.dit.sample import SampleOptions
    from avmodel.dit.sample import sample as samples

    for made in samples(SampleOptions(**options)):
        click.echo(f"{made.key}.mp4  {made.caption or ', '.join(made.labels) or '(no text)'}")
    click.echo(f"{options['n']:,} clips in {options['out']}; sheet.png shows them")
