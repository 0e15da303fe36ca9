"""Does joining the streams pay? Three experiments on made scenes, on one CPU core, no downloads:

    python -m tests.bench.bench_joining --out DIR [--steps N] [--seeds N]

(a) swapped: a trained model decodes with the other stream's planes taken from another clip. The PSNR lost is
    how much a stream leans on the other.
(b) streams: with one latent channel, models of video alone, sound alone, both, and both with positions.
(c) from the picture: the sound is a function of the picture at each instant. The sound's latents are zeroed
    and its encoder hears silence, in training and evaluation: the sound can come from the video alone.
    Chance is the same decoding with the video planes of another clip.

A run is one model of one seed; DIR/runs.jsonl holds the runs that are done, and the same command goes on
behind them. Runs of equal seed see the same clips in the same order: differences are paired by seed.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from scipy.stats import t as student
from torch import Tensor
from torch.nn import functional as F

from avmodel.config import MDSAConfig
from avmodel.mdsa.losses import kl_divergence
from avmodel.mdsa.model import MDSA, Clips
from avmodel.mdsa.options import LossWeights
from avmodel.training.optim import ModelOptimizer
from avprep.dsp.psnr import psnr

MODEL = MDSAConfig(
    frames=8,
    size=32,
    patch=8,
    dim=32,
    depth=1,
    heads=2,
    head_dim=16,
    projector_depth=1,
    block=(4, 2, 2),
    latent_channels=1,
)
BATCH = 16  # clips
HELD_OUT = 128  # clips
RATE = 2e-3
MUON_RATE = 0.01
SILENCE = -1.0
# With the squared error: by L1 alone many models settle on silence, the median of a picture with one tone.
WEIGHTS = LossWeights(pixel=2.0, mse=12.0)


# --- scenes ---


@dataclass(frozen=True)
class Scenes:
    """A ball that moves over a coloured ground, and a tone whose pitch is the ball's height.

    Args:
        own: the sound has a timbre that the picture does not show; without, it is a function of the picture.
    """

    config: MDSAConfig
    own: bool

    def draw(self, count: int, generator: torch.Generator) -> Clips:
        """v (count,3,T,S,S) and a (count,1,T,S,S) in [-1,1]."""
        frames, size = self.config.frames, self.config.size
        uniform = torch.rand(count, 12, generator=generator)
        times = torch.arange(frames * size) / size  # of the sound's columns, in frames
        height = self._path(uniform[:, 0:2], times)  # (count,T*S), in 0..1
        across = self._path(uniform[:, 2:4], times)
        at = slice(None, None, size)  # the instants of the frames
        picture = self._picture(height[:, at], across[:, at], uniform[:, 4:10])
        return {"v": picture, "a": self._sound(height, uniform[:, 10:12])}

    def _path(self, uniform: Tensor, times: Tensor) -> Tensor:
        turns = (0.5 + 1.5 * uniform[:, :1]) / self.config.frames
        return 0.5 + 0.35 * torch.sin(2 * math.pi * (turns * times + uniform[:, 1:]))

    def _picture(self, height: Tensor, across: Tensor, colours: Tensor) -> Tensor:
        rows = torch.linspace(0, 1, self.config.size)
        away = (rows[:, None] - height[..., None, None]) ** 2 + (rows - across[..., None, None]) ** 2
        ball = torch.sigmoid((0.15 - away.sqrt()) * 40)[:, None]  # (count,1,T,S,S)
        ground, own = (2 * c[:, :, None, None, None] - 1 for c in colours.split(3, dim=1))
        ground = ground * torch.linspace(0.3, 1, self.config.size)[:, None]
        return ground + (own - ground) * ball

    def _sound(self, height: Tensor, timbre: Tensor) -> Tensor:
        bands = torch.linspace(0, 1, self.config.size)[:, None]
        tone = torch.exp(-(((bands - height[:, None]) / 0.08) ** 2))  # (count,S,T*S)
        if self.own:
            hum = torch.exp(-(((bands - timbre[:, :1, None]) / 0.05) ** 2)) * timbre[:, 1:, None]
            tone = torch.maximum(tone, hum.expand_as(tone))
        return (2 * tone - 1).unflatten(2, (self.config.frames, -1)).transpose(1, 2)[:, None].contiguous()


# --- a run ---


@dataclass(frozen=True)
class Variant:
    name: str
    config: MDSAConfig
    sound_from_video: bool = False

    @property
    def scenes(self) -> Scenes:
        return Scenes(self.config, own=not self.sound_from_video)


VARIANTS = (
    Variant("v", replace(MODEL, streams="v")),
    Variant("a", replace(MODEL, streams="a")),
    Variant("av", MODEL),
    Variant("av, rotary", replace(MODEL, plane_positions="rotary")),
    Variant("from the picture", MODEL, sound_from_video=True),
    Variant("from the picture, rotary", replace(MODEL, plane_positions="rotary"), sound_from_video=True),
)


def reconstruct(model: MDSA, variant: Variant, clips: Clips, *, sample: torch.Generator | None = None) -> Any:
    """-> the latent that is decoded, and the posterior."""
    if variant.sound_from_video:
        clips = clips | {"a": torch.full_like(clips["a"], SILENCE)}
    posterior = model.encode({s: clips[s] for s in model.config.channels})
    latent = posterior.latent() if sample is None else posterior.sample(sample)
    if variant.sound_from_video:
        latent = torch.cat([latent[:, :, :3], torch.zeros_like(latent[:, :, 3:])], dim=2)
    return latent, posterior


def trained(variant: Variant, seed: int, steps: int) -> MDSA:
    """A model after `steps` steps of stage 2 without discriminators, cooled down over the last third."""
    torch.manual_seed(seed)
    model, generator = MDSA(variant.config), torch.Generator().manual_seed(1000 + seed)
    noise = torch.Generator().manual_seed(2000 + seed)
    adam = partial(torch.optim.Adam, betas=(0.9, 0.99), fused=True)
    optimizer = ModelOptimizer(model, "muon", adam, lr=RATE, muon_lr=MUON_RATE)
    for k in range(steps):
        clips = variant.scenes.draw(BATCH, generator)
        latent, posterior = reconstruct(model, variant, clips, sample=noise)
        out = model.decode(latent)
        loss = sum(
            WEIGHTS.pixel * F.l1_loss(out[s], clips[s]) + WEIGHTS.mse * F.mse_loss(out[s], clips[s])
            for s in out
        )
        loss = loss + WEIGHTS.kl * kl_divergence(posterior.mean, posterior.logvar)
        loss.backward()
        share = min(1, (k + 1) / 20, 3 * (steps - k) / steps)
        optimizer.step(share, torch.zeros(()))
    return model.eval()


@torch.no_grad()
def evaluated(model: MDSA, variant: Variant) -> dict[str, float]:
    """Mean PSNR of each stream on held-out clips, its own and with the other stream's planes swapped."""
    clips = variant.scenes.draw(HELD_OUT, torch.Generator().manual_seed(9))
    latent, _ = reconstruct(model, variant, clips)
    found = _psnr(model.decode(latent), clips)
    if len(model.config.channels) == 2:
        for stream, other in (("v", slice(3, 6)), ("a", slice(0, 3))):
            swapped = latent.clone()
            swapped[:, :, other] = latent[:, :, other].roll(1, dims=0)
            found[f"{stream} swapped"] = _psnr(model.decode(swapped), clips)[stream]
    return found


def _psnr(out: Clips, clips: Clips) -> dict[str, float]:
    return {s: psnr(clips[s], x, peak=2).mean().item() for s, x in out.items()}


# --- tables ---


def runs(folder: Path, *, steps: int, seeds: int, say: Callable[[str], None]) -> dict[tuple[str, int], dict]:
    """The results by variant and seed; those that DIR lacks are made, seed by seed."""
    file = folder / "runs.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {(r["variant"], r["seed"]): r["psnr"] for r in rows if r["steps"] == steps}
    for seed in range(seeds):
        for variant in VARIANTS:
            if (variant.name, seed) in done:
                continue
            found = evaluated(trained(variant, seed, steps), variant)
            row = {"variant": variant.name, "seed": seed, "steps": steps, "psnr": found}
            with file.open("a") as out:
                out.write(json.dumps(row) + "\n")
            done[variant.name, seed] = found
            say(json.dumps(row))
    return done


def interval(values: list[float]) -> str:
    """The mean and its 95 % interval by Student's t."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:+.2f}"
    half = student.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:+.2f} ± {half:.2f}"


def tables(done: dict[tuple[str, int], dict], seeds: int) -> list[str]:
    def of(variant: str, number: str) -> list[float]:
        return [done[variant, seed][number] for seed in range(seeds)]

    def difference(one: list[float], other: list[float]) -> str:
        return interval([x - y for x, y in zip(one, other, strict=True)])

    joint = ("av", "av, rotary")
    lines = [
        "| (a) planes swapped, dB | picture, sound's planes | sound, picture's planes |",
        "|---|---|---|",
    ]
    for name in joint:
        cells = (difference(of(name, f"{s} swapped"), of(name, s)) for s in "va")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "| (b) one latent channel, dB | PSNR-V | PSNR-A |", "|---|---|---|"]
    lines += [
        f"| {s} alone | {' | '.join(interval(of(s, s)) if s == x else '' for x in 'va')} |" for s in "va"
    ]
    for name in joint:
        lines.append(
            f"| {name}, less alone | {' | '.join(difference(of(name, s), of(s, s)) for s in 'va')} |"
        )
    cells = (difference(of("av, rotary", s), of("av", s)) for s in "va")
    lines.append(f"| av, rotary, less av | {' | '.join(cells)} |")
    lines += ["", "| (c) sound from the picture alone, dB | PSNR-A | over chance |", "|---|---|---|"]
    for name in (v.name for v in VARIANTS if v.sound_from_video):
        over = difference(of(name, "a"), of(name, "a swapped"))
        lines.append(f"| {name} | {interval(of(name, 'a'))} | {over} |")
    return lines


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Holds runs.jsonl.")
@click.option("--steps", type=click.IntRange(3), default=150, show_default=True)
@click.option("--seeds", type=click.IntRange(1), default=5, show_default=True)
def main(out: Path, steps: int, seeds: int) -> None:
    done = runs(out, steps=steps, seeds=seeds, say=click.echo)
    click.echo(f"\n{steps} steps of {BATCH} clips, {seeds} seeds: mean and 95 % interval\n")
    click.echo("\n".join(tables(done, seeds)))


if __name__ == "__main__":
    main()
