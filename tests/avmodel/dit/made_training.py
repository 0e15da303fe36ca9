"""A small training run of an STDiT, and what its tests look at."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from click.testing import CliRunner, Result

from avmodel.cli import main
from avmodel.config import STDIT_PRESETS
from avmodel.dit.options import DiTTrainingOptions


def config(latents: Path | list[Path], out: Path, **changes) -> DiTTrainingOptions:
    values = {
        "latents": latents,
        "out": str(out),
        "model": STDIT_PRESETS["tiny"],
        "batch_size": 4,
        "lr": 1e-3,
        "warmup_steps": 2,
        "clip_grad": 1.0,
        "ema": 0.9,
        "seed": 0,
        "steps": 6,
        "mdsa": None,
        "loader_workers": 0,
        "log_every": 1,
        "checkpoint_every": 2,
        "eval_every": 3,
        "compile": False,
        "device": "cpu",
    }
    return DiTTrainingOptions(**values | changes)


def rows(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def losses(out: Path) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in rows(out) if "loss" in row]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def sample(trained: Path, mdsa: Path, out: Path, *more: str) -> Result:
    arguments = ["sample", "--dit", str(trained / "dit.pt"), "--mdsa", str(mdsa), "--out", str(out)]
    return CliRunner().invoke(
        main, [*arguments, "--steps", "10", "--guidance", "2", "--device", "cpu", *more]
    )
