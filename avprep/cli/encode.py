"""`avprep encode` and `avprep decode`: their options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from avprep.cli.options import media_options
from avprep.shards.captions import CAPTIONS_FILE

_DEVICES = click.Choice(("auto", "cpu", "cuda"))


class _BatchSize(click.ParamType):
    name = "N|auto"

    def convert(self, value, param, context) -> int | None:
        if value == "auto" or value is None:
            return None
        try:
            size = int(value)
        except ValueError:
            size = 0
        if size < 1:
            self.fail(f"{value} is neither a number of clips nor 'auto'", param, context)
        return size


@click.command()
@click.option("--clips", help="An output of avprep clip.")
@media_options
@click.option(
    "--ckpt", type=click.Path(path_type=Path), required=True, help="A trained MDSA (avmodel train-mdsa)."
)
@click.option("--out", required=True, help="Folder, or a URI that pyarrow.fs opens, for the latents.")
@click.option(
    "--device", type=_DEVICES, default="auto", show_default=True, help="auto: a GPU if there is one."
)
@click.option(
    "--workers",
    type=click.IntRange(0),
    help="Processes with a model each; 0 = in this process. [default: one a GPU, or one a CPU]",
)
@click.option("--address", help="Join this Ray cluster ('auto', or host:port).")
@click.option(
    "--batch-size",
    type=_BatchSize(),
    default="auto",
    show_default=True,
    help="Clips at once; auto: found by trying.",
)
@click.option("--compile/--no-compile", default=None, help="Compile the encoder. [default: on a GPU]")
@click.option("--packed", is_flag=True, help="Store the real values alone, without the planes' padding.")
@click.option("--posterior", is_flag=True, help="Store the log-variance beside the mean.")
@click.option(
    "--text-encoder",
    metavar="PATH_OR_NAME",
    help=f"CLIP text weights: {CAPTIONS_FILE}, e.g. openai/clip-vit-large-patch14.",
)
@click.option("--rebuild", is_flag=True, help="Start the output over.")
@click.pass_context
def encode(context: click.Context, **options: Any) -> None:
    """Encode clips into latent shards: those of --clips, or cut from --dataset on the way.

    To resume, run the same command again.
    """
    from avprep.cli.run_encode import run

    run(context, options)


@click.command()
@click.option("--latents", required=True, help="An output of avprep encode.")
@click.option(
    "--ckpt", type=click.Path(path_type=Path), required=True, help="The checkpoint it was made with."
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the .mp4 files.")
@click.option("--limit", type=click.IntRange(1), help="Clips in all.")
@click.option(
    "--compare",
    metavar="CLIPS",
    help="The clips that were encoded: original at the left, decoded at the right, and PSNR.",
)
@click.option(
    "--device", type=_DEVICES, default="auto", show_default=True, help="auto: a GPU if there is one."
)
@click.option("--batch-size", type=click.IntRange(1), default=8, show_default=True, help="Clips at once.")
def decode(**options: Any) -> None:
    """Decode latent shards to mp4 with sound; with --compare, measure them against their clips."""
    from avprep.cli.run_decode import run

    run(**options)
