"""A trained encoder's checkpoint. The one module of avprep that knows a model."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from avmodel.mdsa.checkpoint import open_codec, read_codec_header
from avprep.cli.group import Refused
from avprep.shards.latents import EncoderHeader
from avprep.stages.encoder import EncoderFactory


def open_checkpoint(path: Path) -> tuple[EncoderHeader, EncoderFactory]:
    try:
        return read_codec_header(path.absolute()), partial(open_codec, path.absolute())
    except (ValueError, OSError) as error:
        raise Refused(f"--ckpt {path}: {error}") from error
