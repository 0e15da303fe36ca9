"""`avmodel reconstruct`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from avmodel.cli.options import device_option, option
from avmodel.mdsa.options import ReconstructOptions
from avprep.cli.outputs import one_output

if TYPE_CHECKING:
    from avmodel.mdsa.reconstruct import Reconstructed

_option = partial(option, ReconstructOptions)
_PATH = click.Path(path_type=Path)


@click.command()
@_option("ckpt", type=_PATH, help="mdsa.pt")
@_option("clips", type=_PATH, multiple=True, callback=one_output, help="An output of `avprep clip`.")
@_option("out", type=_PATH, help="Folder for KEY.mp4.")
@_option("limit", type=click.IntRange(1), help="Clips, spread over all. [default: all]")
@_option("batch_size", type=click.IntRange(1), help="Clips at once.")
@device_option(ReconstructOptions)
def reconstruct(**options: Any) -> None:
    """Write clips beside their reconstructions, in picture (left, right) and sound (left, right)."""
    from avmodel.mdsa.reconstruct import open_reconstruction

    with open_reconstruction(ReconstructOptions(**options)) as run:
        rows = list(run.done)
        if not run.waiting:
            click.echo(f"nothing to do: all {len(rows):,} clips are there")
        for row in run:
            rows.append(row)
            click.echo(
                f"{row.key}.mp4  PSNR-V {row.psnr_v:6.2f} dB  PSNR-A {row.psnr_a:6.2f} dB  "
                f"heard {row.mel_psnr:6.2f} dB"
            )
    click.echo(_means(rows, options["out"]))


def _means(rows: list[Reconstructed], out: Path) -> str:
    psnr_v, psnr_a, mel_psnr = (
        sum(getattr(row, name) for row in rows) / len(rows) for name in ("psnr_v", "psnr_a", "mel_psnr")
    )
    return (
        f"{len(rows):,} clips in {out}: PSNR-V {psnr_v:.2f} dB, PSNR-A {psnr_a:.2f} dB, heard (mel PSNR "
        f"after Griffin-Lim) {mel_psnr:.2f} dB"
    )
