"""`avmodel`: the command line. Options become frozen dataclasses here and travel no further as options.

The module of a command holds its options and is light, so that --help is quick; what the command runs is
imported in its body.
"""

from __future__ import annotations

import click

from avprep.cli.group import CONTEXT, ErrorReportingGroup

COMMANDS = {
    "ablate": (
        "Train the autoencoder without each of its parts; print what each part is worth in PSNR.",
        "avmodel.cli.ablate:ablate",
    ),
    "evaluate": (
        "Measure generated clips against real ones, or an autoencoder's reconstructions, as the paper does.",
        "avmodel.cli.evaluate:evaluate",
    ),
    "info": (
        "Print the clips that a preset takes, its parameters, FLOPs and activation memory.",
        "avmodel.cli.info:info",
    ),
    "reconstruct": (
        "Write clips beside their reconstructions, in picture (left, right) and sound (left, right).",
        "avmodel.cli.reconstruct:reconstruct",
    ),
    "sample": (
        "Generate clips: mp4, wav, a contact sheet, and their latents in shards.",
        "avmodel.cli.sample:sample",
    ),
    "train-dit": (
        "Train the diffusion transformer on latents; the same command again resumes where it stopped.",
        "avmodel.cli.train_dit:train_dit",
    ),
    "train-mdsa": (
        "Train the autoencoder on clips; the same command again resumes where it stopped.",
        "avmodel.cli.train_mdsa:train_mdsa",
    ),
}
REFUSALS = frozenset({"avprep.errors.AvprepError"})


@click.group(cls=ErrorReportingGroup, lazy=COMMANDS, refusals=REFUSALS, context_settings=CONTEXT)
@click.version_option(package_name="avprep")
def main() -> None:
    """Trains on what avprep prepares: the MDSA autoencoder, and the STDiT that generates its latents."""
