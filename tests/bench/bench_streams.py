"""What joint streams bring: the MDSA trained on both streams, on video alone and on sound alone:

    python -m tests.bench.bench_streams --clips CLIPS --out DIR [--steps 400] [--seeds 3]

CLIPS is an output of `avprep clip` that fits the small preset. Trained as `make generate` does: an eighth of
the steps in stage 1, then the KL term, which keeps the latents off their walls. All runs of a seed see the
same clips in the same order for the same number of steps; PSNR is of clips whose sources are held out, the
same for all. A run that is finished in DIR is not trained again.
"""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path

import click

from avmodel.config import MDSA_PRESETS, STREAMS
from avmodel.mdsa.losses import LossWeights
from avmodel.mdsa.options import MDSATrainingOptions
from avmodel.mdsa.train import train_mdsa

NAMES = {"av": "both streams", "v": "video alone", "a": "sound alone"}


def training(clips: Path, out: Path, *, streams: str, steps: int, seed: int) -> MDSATrainingOptions:
    return MDSATrainingOptions(
        clips=str(clips),
        out=str(out),
        model=replace(MDSA_PRESETS["small"], streams=streams, adversarial=False),
        loss=LossWeights(),
        lpips=None,
        stage1_steps=steps // 8,
        stage2_steps=steps - steps // 8,
        disc_start=0,
        disc_width=64,
        disc_layers=3,
        batch_size=4,
        accumulate=1,
        lr=1e-3,
        warmup_steps=50,
        cooldown_steps=3 * steps // 8,
        clip_grad=1.0,
        modality_dropout=0.0,
        holdout=0.1,
        seed=seed,
        loader_workers=1,
        checkpoint_every=steps,
        eval_every=steps,
        eval_clips=64,
        checkpoint_activations=False,
        compile=False,
        device="cpu",
    )


def told(values: list[float | None]) -> str:
    """'mean (each)' in dB; empty for a stream that is absent."""
    found = [value for value in values if value is not None]
    if not found:
        return ""
    return f"{statistics.mean(found):.2f} ({', '.join(f'{value:.2f}' for value in found)})"


@click.command()
@click.option("--clips", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--steps", type=click.IntRange(8), default=400, show_default=True)
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True)
def main(clips: Path, out: Path, steps: int, seeds: int) -> None:
    click.echo(f"small preset, {steps} steps of 4 clips; dB in mean over {seeds} seeds (each)")
    click.echo("| trained on | PSNR-V | PSNR-A |\n|---|---|---|")
    for streams in STREAMS:
        results = [
            train_mdsa(training(clips, out / f"{streams}-{seed}", streams=streams, steps=steps, seed=seed))
            for seed in range(seeds)
        ]
        row = told([r.psnr_v for r in results]), told([r.psnr_a for r in results])
        click.echo(f"| {NAMES[streams]} | {row[0]} | {row[1]} |")


if __name__ == "__main__":
    main()
