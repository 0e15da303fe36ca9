"""`avprep`: the command line. Options become frozen dataclasses here and travel no further as options.

A module of a command holds its options and is light, so that --help is quick; what the command does is in a
`run_*` module, or is imported in the command's body.
"""

from __future__ import annotations

import click

from avprep.cli.group import CONTEXT, ErrorReportingGroup

COMMANDS = {
    "clip": ("Clip videos into frame-aligned audio-video shards.", "avprep.cli.clip:clip"),
    "decode": (
        "Decode latent shards to mp4 with sound; with --compare, measure them against their clips.",
        "avprep.cli.encode:decode",
    ),
    "encode": (
        "Encode clips into latent shards: those of --clips, or cut from --dataset on the way.",
        "avprep.cli.encode:encode",
    ),
    "invert-audio": (
        "Mel stacks (a clips directory, a shard or a .npy) to .wav files.",
        "avprep.cli.sound:invert_audio",
    ),
    "merge": (
        "Make one output of several finished ones, of clips or of latents.",
        "avprep.cli.merge:merge",
    ),
    "report": (
        "Write one page that shows OUT: clips, latents, samples or a training folder.",
        "avprep.cli.report:report",
    ),
    "score": (
        "Score finished clips: loudness, motion, cuts, bars, tags and more, in a table to select by.",
        "avprep.cli.score:score",
    ),
    "select": (
        "Choose finished clips by their scores: a list of keys, and how many each step removed.",
        "avprep.cli.select:select",
    ),
    "status": (
        "Print the ledger's sums and every failure's reason, with the command that tries it alone.",
        "avprep.cli.status:status",
    ),
    "synth": (
        "Write procedural sounding scenes as mp4, a folder a class: class, event times and captions known.",
        "avprep.cli.sound:synth",
    ),
    "verify": (
        "Re-read every shard against its ledger and checksums; exit 1 on any damage, naming it.",
        "avprep.cli.status:verify",
    ),
}
REFUSALS = frozenset({"avprep.errors.AvprepError"})


@click.group(cls=ErrorReportingGroup, lazy=COMMANDS, refusals=REFUSALS, context_settings=CONTEXT)
@click.version_option(package_name="avprep")
def main() -> None:
    """Turns sounding video into training data: clips of frames and mel spectrograms, exact in time."""
