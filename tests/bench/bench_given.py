"""The cost of encoding one stream beside silence or black, as `avmodel sample --given-video` must:

    python -m tests.bench.bench_given --clips CLIPS CKPT [CKPT ...]

The MDSA's encoder mixes its streams, so a video's planes depend on its sound. For clips whose sources were
held out of training: how far a stream's planes move when the other is silent or black (RMS, as a share of
the planes' own standard deviation), and the PSNR of that stream decoded from its lone planes beside the
other's true ones, against the PSNR from the true planes of both.
"""

from __future__ import annotations

from pathlib import Path

import click
import torch
from torch import Tensor

from avmodel.data import ClipBatch, ClipData, collate
from avmodel.mdsa.checkpoint import Codec, open_codec
from avprep.dsp.psnr import psnr_a, psnr_v

BATCH = 16


def alone(batch: ClipBatch, stream: str) -> ClipBatch:
    """The batch with the other stream silent or black, as `avmodel.dit.given` makes it."""
    if stream == "v":
        return ClipBatch(batch.frames, -torch.ones_like(batch.mel))
    return ClipBatch(torch.zeros_like(batch.frames), batch.mel)


def cost(codec: Codec, batches: list[ClipBatch], stream: str) -> tuple[float, float, float]:
    """(RMS move in standard deviations, PSNR from true planes, PSNR from lone planes) of a stream."""
    planes = torch.tensor([plane[0] == stream for plane in codec.header.planes])
    real = ~torch.from_numpy(codec.header.padding())
    moved, whole, lone = [], [], []
    truth: list[Tensor] = []
    for batch in batches:
        both = codec.encode(*batch).mean
        mixed = both.clone()
        mixed[:, :, planes] = codec.encode(*alone(batch, stream)).mean[:, :, planes]
        valid = (planes[:, None] & real)[None, None, :, :, None].expand_as(both)
        truth.append(both[valid])
        moved.append((mixed - both)[valid])
        for latent, found in ((both, whole), (mixed, lone)):
            frames, mel = codec.decode(latent)
            found.append(psnr_v(batch.frames, frames) if stream == "v" else psnr_a(batch.mel, mel))
    share = torch.cat(moved).square().mean().sqrt() / torch.cat(truth).std()
    return float(share), float(torch.cat(whole).mean()), float(torch.cat(lone).mean())


@click.command()
@click.option("--clips", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--holdout", type=float, default=0.05, show_default=True, help="As in training.")
@click.option("--limit", type=click.IntRange(1), default=64, show_default=True, help="Clips.")
@click.argument("ckpts", type=click.Path(path_type=Path, exists=True), nargs=-1, required=True)
def main(clips: Path, holdout: float, limit: int, ckpts: tuple[Path, ...]) -> None:
    _, data = ClipData(clips).split_by_source(holdout)
    chosen = range(min(limit, len(data)))
    batches = [collate([data[i] for i in chosen[j : j + BATCH]]) for j in range(0, len(chosen), BATCH)]
    click.echo(f"{len(chosen)} clips held out\n| checkpoint | alone | planes move | dB of both | dB alone |")
    click.echo("|---|---|---|---|---|")
    for ckpt in ckpts:
        codec = open_codec(ckpt, device="cpu", batch_size=BATCH, compile=False)
        for stream, name in (("v", "video"), ("a", "sound")):
            share, whole, lone = cost(codec, batches, stream)
            click.echo(f"| {ckpt} | {name} | {100 * share:.0f} % | {whole:.2f} | {lone:.2f} |")


if __name__ == "__main__":
    main()
