"""Does the half that is made fit the half that is given? By each way of giving it:

    python -m tests.bench.bench_beside --clips CLIPS --mdsa mdsa.pt DIT.pt [DIT.pt ...]

For clips whose sources were held out of training, the sound is made for their pictures and the pictures for
their sound, as `avmodel sample --given-video` and `--given-audio` make them, without text. A DiT trained with
`--stream-times` is sampled in both ways: the given stream without noise, and held on the path, which is the
one way of any other DiT. Every row has the same clips and the same noise.

AV-Align is that of the made half with the true given one, against the baseline in which the made halves are
exchanged between the clips: what the same events score by chance. Behind the difference stands the standard
error of AV-Align over the clips. The first rows show what can be reached: the clips themselves, and with one
half coded and decoded. There is no PSNR: many sounds fit a picture, and a made one need not be the recorded
one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import torch
from torch import Tensor

from avmodel.data import ClipBatch, ClipData, collate
from avmodel.dit.checkpoint import check_made_by, load_dit
from avmodel.dit.flow import draw_source
from avmodel.dit.given import Given, solve_beside
from avmodel.dit.guidance import guided
from avmodel.dit.model import Captions, STDiT
from avmodel.mdsa.checkpoint import Codec, open_codec
from avmodel.metrics.av_align import Events, audio_onsets, motion_peaks, score, shuffled_baseline
from avprep.dsp.griffin_lim import invert
from tests.bench.bench_given import alone

BATCH = 16
ROUNDS = 20  # of the shuffled baseline
Latents = Callable[[ClipBatch, int], Tensor]  # of a batch, whose first clip has this number


class Row(NamedTuple):
    align: float  # mean over clips
    shuffled: float  # the same with the made halves exchanged
    error: float  # standard error of `align`, over clips
    clips: int  # that have an onset or a peak


@dataclass(frozen=True)
class Held:
    """Clips that were held out, and the events of their own halves."""

    batches: list[ClipBatch]
    events: list[Events]  # of the mel stacks inverted: made sounds come the same way


def events_of(frames: Tensor, mel: Tensor, codec: Codec) -> list[Events]:
    """frames uint8 (B, T, H, W, RGB), mel (B, T, n_mels, W)."""
    spec = codec.header.spec
    waveforms = invert(mel.float(), spec).waveform.numpy()
    return [
        Events(audio_onsets(waveform, spec.sample_rate), motion_peaks(pictures.numpy()))
        for pictures, waveform in zip(frames, waveforms, strict=True)
    ]


def joined(own: Sequence[Events], made: Sequence[Events], given: str) -> list[Events]:
    """The given stream's events of `own`, the other's of `made`."""
    pairs = zip(own, made, strict=True)
    return [Events(b.onsets_s, a.peaks) if given == "v" else Events(a.onsets_s, b.peaks) for a, b in pairs]


def row_of(events: Sequence[Events], fps: float) -> Row:
    found = [score(one.onsets_s, one.peaks, fps) for one in events]
    counted = [one.align for one in found if one is not None]
    shuffled = shuffled_baseline(events, fps, rounds=ROUNDS).mean
    if not counted or shuffled is None:
        raise click.ClickException("no clip has an onset or a peak")
    error = float(np.std(counted) / len(counted) ** 0.5)
    return Row(float(np.mean(counted)), shuffled.align, error, len(counted))


def beside(codec: Codec, model: STDiT, given: str, *, stream_times: bool, steps: int) -> Latents:
    """Latents with the other stream made beside the batch's `given` one."""

    def make(batch: ClipBatch, first: int) -> Tensor:
        known = Given(given, codec.encode(*alone(batch, given)).mean, None, None)
        count = len(batch.frames)
        no_text = Captions(torch.zeros(count, 1, dtype=torch.long), torch.zeros(count, 1, dtype=torch.bool))
        if model.labels is None:
            no_text = no_text._replace(tokens=torch.zeros(count, 1, model.config.caption_dim))
        shape = model.layout.shape
        eps = torch.stack(
            [draw_source(shape, torch.Generator().manual_seed(first + i)) for i in range(count)]
        )
        v = guided(model, no_text, 1.0)
        how = {"stream_times": stream_times, "steps": steps, "solver": "euler"}
        return solve_beside(known, v, eps, model.layout, **how)

    return make


def both(codec: Codec) -> Latents:
    return lambda batch, first: codec.encode(*batch).mean


def measured(held: Held, codec: Codec, given: str, latents: Latents) -> Row:
    """AV-Align of the other stream, decoded from `latents`, with the given one."""
    made: list[Events] = []
    for i, batch in enumerate(held.batches):
        with torch.inference_mode():
            made += events_of(*codec.decode(latents(batch, i * BATCH)), codec)
    return row_of(joined(held.events, made, given), codec.header.spec.fps)


def line(name: str, given: str, way: str, row: Row) -> str:
    gain = f"{row.align - row.shuffled:+.3f} ± {row.error:.3f}"
    return f"| {name} | {given} | {way} | {row.align:.3f} | {row.shuffled:.3f} | {gain} | {row.clips} |"


@click.command()
@click.option("--clips", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--mdsa", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--holdout", type=float, default=0.05, show_default=True, help="As in training.")
@click.option("--limit", type=click.IntRange(2), default=160, show_default=True, help="Clips.")
@click.option("--steps", type=click.IntRange(1), default=30, show_default=True, help="Of the solver.")
@click.option(
    "--captions-file", type=click.Path(path_type=Path, exists=True), help="As `avmodel sample` takes it."
)
@click.argument("dits", type=click.Path(path_type=Path, exists=True), nargs=-1, required=True)
def main(
    clips: Path,
    mdsa: Path,
    holdout: float,
    limit: int,
    steps: int,
    captions_file: Path | None,
    dits: tuple[Path, ...],
) -> None:
    _, data = ClipData(clips).split_by_source(holdout)
    chosen = range(min(limit, len(data)))
    codec = open_codec(mdsa, device="cpu", batch_size=BATCH, compile=False)
    batches = [collate([data[i] for i in chosen[j : j + BATCH]]) for j in range(0, len(chosen), BATCH)]
    held = Held(batches, [one for batch in batches for one in events_of(*batch, codec)])
    click.echo(
        "| made by | given | way | AV-Align | shuffled | difference | clips |\n|---|---|---|---|---|---|---|"
    )
    click.echo(line("the clips themselves", "", "", row_of(held.events, codec.header.spec.fps)))
    for given in "va":
        click.echo(line(mdsa.name, given, "coded and decoded", measured(held, codec, given, both(codec))))
    for dit in dits:
        trained = load_dit(dit, captions_file)
        check_made_by(trained.latents, codec.header, f"mdsa = {mdsa}:", f"what {dit} was trained on")
        for given in "va":
            for clean in (False, True) if trained.model.config.stream_times else (False,):
                make = beside(codec, trained.model, given, stream_times=clean, steps=steps)
                way = "without noise" if clean else "on the path"
                click.echo(line(str(dit), given, way, measured(held, codec, given, make)))


if __name__ == "__main__":
    main()
