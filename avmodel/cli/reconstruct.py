"""`avmodel reconstruct`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


@click.command()
@click.option("--ckpt", type=click.Path(path_type=Path), required=True, help="mdsa.pt")
@click.option("--clips", type=click.Path(), required=True, help="An output of `avprep clip`.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for KEY.mp4.")
@click.option("--limit", type=click.IntRange(1), help="Clips, spread over all. [default: all]")
@click.option("--batch-size", type=click.IntRange(1), default=8, show_default=True)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
def reconstruct(**options: Any) -> None:
    """Write clips beside their reconstructions, in picture (left, right) and sound (left, right)."""
    from avmodel.mdsa.reconstruct import ReconstructOptions
    from avmodel.mdsa.reconstruct import reconstruct as reconstructed

    rows = []
    for row in reconstructed(ReconstructOptions(**options)):
        rows.append((row.psnr_v, row.psnr_a, row.mel_psnr))
        click.echo(
            f"{row.key}.mp4  PSNR-V {row.psnr_v:6.2f} dB  PSNR-A {row.psnr_a:6.2f} dB  "
            f"heard {row.mel_psnr:6.2f} dB"
        )
    means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    click.echo(
        f"{len(rows):,} clips in {options['out']}: PSNR-V {means[0]:.2f} dB, "
        f"PSNR-A {means[1]:.2f} dB, heard (mel PSNR after Griffin-Lim) {means[2]:.2f} dB"
    )
