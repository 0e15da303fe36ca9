"""`avprep encode` and `avprep decode`: their options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from avprep.checks import DEVICES
from avprep.cli.options import growth_options, media_options, option
from avprep.cli.outputs import one_output
from avprep.execution import PoolConfig
from avprep.jobs.config import EncodeJobConfig
from avprep.shards.layout import CAPTIONS_FILE
from avprep.stages.options import DecodeOptions, EncodeOptions

_DEVICES = click.Choice(DEVICES)


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
@click.option("--clips", multiple=True, callback=one_output, help="An output of avprep clip.")
@click.option(
    "--select", metavar="NAME", help="Encode the clips of this selection of --clips only, by avprep select."
)
@media_options
@click.option(
    "--ckpt", type=click.Path(path_type=Path), required=True, help="A trained MDSA (avmodel train-mdsa)."
)
@click.option("--out", required=True, help="Folder, or a URI that pyarrow.fs opens, for the latents.")
@option(PoolConfig, "device", "--device", type=_DEVICES, help="auto: a GPU if there is one.")
@click.option(
    "--workers",
    type=click.IntRange(0),
    help="Processes with a model each; 0 = in this process. [default: one per GPU, or one per CPU]",
)
@option(PoolConfig, "address", "--address", help="Attach to this Ray cluster ('auto', or host:port).")
@option(
    EncodeJobConfig,
    "batch_size",
    "--batch-size",
    type=_BatchSize(),
    help="Clips at once; auto: found by trying. [default: auto]",
)
@option(EncodeJobConfig, "compile", "--compile/--no-compile", help="Compile the encoder. [default: on a GPU]")
@option(
    EncodeOptions,
    "packed",
    "--packed",
    is_flag=True,
    help="Store the real values alone, without the planes' padding.",
)
@option(
    EncodeOptions, "posterior", "--posterior", is_flag=True, help="Store the log-variance beside the mean."
)
@click.option(
    "--text-encoder",
    metavar="PATH_OR_NAME",
    help=f"CLIP text weights: {CAPTIONS_FILE}, e.g. openai/clip-vit-large-patch14.",
)
@option(EncodeJobConfig, "rebuild", "--rebuild", is_flag=True, help="Start the output over.")
@growth_options
@click.pass_context
def encode(context: click.Context, **options: Any) -> None:
    """Encode clips into latent shards: those of --clips, or cut from --dataset on the way.

    To resume, run the same command again.
    """
    from avprep.cli.run_encode import run

    run(context, options)


@click.command()
@click.option(
    "--latents", required=True, multiple=True, callback=one_output, help="An output of avprep encode."
)
@click.option(
    "--select",
    metavar="NAME",
    help="Decode the clips of this selection only: of the output, or of the clips it was encoded from.",
)
@click.option(
    "--ckpt", type=click.Path(path_type=Path), required=True, help="The checkpoint it was made with."
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the .mp4 files.")
@option(DecodeOptions, "limit", "--limit", type=click.IntRange(1), help="Clips in all.")
@click.option(
    "--compare",
    multiple=True,
    callback=one_output,
    metavar="CLIPS",
    help="The clips that were encoded: original at the left, decoded at the right, and PSNR.",
)
@option(DecodeOptions, "device", "--device", type=_DEVICES, help="auto: a GPU if there is one.")
@option(DecodeOptions, "batch_size", "--batch-size", type=click.IntRange(1), help="Clips at once.")
def decode(**options: Any) -> None:
    """Decode latent shards to mp4 with sound; with --compare, measure them against their clips."""
    from avprep.cli.run_decode import run

    run(options)
