"""What `avprep decode` does: latents to mp4 files, and how near they come to their clips."""

from __future__ import annotations

from itertools import islice
from typing import Any

import click

from avprep.cli.checkpoint import open_checkpoint
from avprep.cli.common import existing
from avprep.cli.group import Refused
from avprep.cli.options import from_options
from avprep.dsp.device import choose_device
from avprep.media.mux import MuxError
from avprep.shards.latents import EncoderHeader
from avprep.shards.layout import ShardError, kind_of, read_header
from avprep.shards.selection import find_selection
from avprep.shards.store import Store
from avprep.spec import ClipSpec
from avprep.stages.decode import DecodedClip, decode_to_mp4, stored_latents
from avprep.stages.options import DecodeOptions


def run(options: dict[str, Any]) -> None:
    """Decodes what the options ask for, and reports it. Raises click.ClickException, AvprepError."""
    latents, ckpt, out = options["latents"], options["ckpt"], options["out"]
    store, how = existing(latents), from_options(DecodeOptions, options)
    device = choose_device(how.device).type
    header, open_decoder = open_checkpoint(ckpt)
    keys = None
    try:
        made_with = EncoderHeader.from_dict(read_header(store))
        if made_with.weights != header.weights:
            raise Refused(
                f"--ckpt {ckpt} is not the checkpoint that made {latents}: its weights are "
                f"{header.weights[:12]}, theirs {made_with.weights[:12]}"
            )
        originals = _originals(options["compare"], made_with) if options["compare"] else None
        if options["select"] is not None:
            keys, _ = find_selection(store, read_header(store), options["select"])
        stored = islice(stored_latents(store, made_with, originals, keys=keys), how.limit)
        decoder = open_decoder(device=device, batch_size=how.batch_size, compile=False)
        decoded = []
        for clip in decode_to_mp4(stored, decoder, out, batch_size=how.batch_size, device=device):
            decoded.append(clip)
            click.echo(f"{clip.key}.mp4{_psnrs(clip)}")
    except (ShardError, MuxError) as error:
        raise Refused(f"{latents}: {error}") from error
    if not decoded:
        chosen = "latents" if keys is None else f"latent of selection {options['select']}"
        raise Refused(f"{latents} holds no {chosen}")
    click.echo(f"{len(decoded):,} clips in {out}{_mean_psnrs(decoded)}")


def _originals(compare: str, made_with: EncoderHeader) -> Store:
    """The clips to compare with. Raises Refused for what is no output of clips, or of another spec."""
    store = existing(compare)
    header = read_header(store)
    if kind_of(header) != "clips":
        raise Refused(f"--compare {compare} holds {kind_of(header)}; it takes the clips that were encoded")
    differing = ClipSpec.from_dict(header["spec"]).differences(made_with.spec)
    if differing:
        raise Refused(f"--compare {compare}: not the clips that were encoded, these have {differing}")
    return store


def _psnrs(clip: DecodedClip) -> str:
    return "" if clip.psnr_v is None else f"  PSNR-V {clip.psnr_v:6.2f} dB  PSNR-A {clip.psnr_a:6.2f} dB"


def _mean_psnrs(clips: list[DecodedClip]) -> str:
    if clips[0].psnr_v is None:
        return ""
    video, audio = (
        sum(values) / len(clips) for values in zip(*((c.psnr_v, c.psnr_a) for c in clips), strict=True)
    )
    return f": mean PSNR-V {video:.2f} dB, PSNR-A {audio:.2f} dB"
