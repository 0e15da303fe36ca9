"""`avprep`: the command line. Options become frozen dataclasses here and travel no further as options."""

from __future__ import annotations

import click

from avprep.cli.clip import clip
from avprep.cli.common import Sentences
from avprep.cli.encode import decode, encode
from avprep.cli.sound import invert_audio, synth
from avprep.cli.status import status, verify_command


@click.group(
    cls=Sentences, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(package_name="avprep")
def main() -> None:
    """Turns sounding video into training data: clips of frames and mel spectrograms, exact in time."""


for _command in (clip, encode, decode, invert_audio, synth, status, verify_command):
    main.add_command(_command)
