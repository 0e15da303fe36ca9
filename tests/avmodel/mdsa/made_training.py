"""A small training run of an MDSA, and its command."""

from __future__ import annotations

from pathlib import Path

from avmodel.config import MDSA_PRESETS
from avmodel.mdsa.losses import LossWeights
from avmodel.mdsa.options import MDSATrainingOptions


def config(clips: Path, out: Path, **changes) -> MDSATrainingOptions:
    values = {
        "clips": str(clips),
        "out": str(out),
        "model": MDSA_PRESETS["tiny"],
        "loss": LossWeights(),
        "lpips": None,
        "stage1_steps": 3,
        "stage2_steps": 3,
        "disc_start": 1,
        "disc_width": 4,
        "disc_layers": 1,
        "batch_size": 2,
        "accumulate": 1,
        "lr": 1e-3,
        "warmup_steps": 2,
        "cooldown_steps": 2,
        "clip_grad": 1.0,
        "modality_dropout": 0.0,
        "holdout": 0.2,
        "seed": 0,
        "loader_workers": 0,
        "log_every": 1,
        "checkpoint_every": 2,
        "eval_every": 3,
        "eval_clips": 2,
        "checkpoint_activations": False,
        "compile": False,
        "device": "cpu",
    }
    return MDSATrainingOptions(**values | changes)


def run_command(clips: Path, out: Path, *more: str) -> list[str]:
    options = "--preset tiny --lpips none --disc-width 4 --disc-layers 1 --batch-size 2 --eval-clips 2"
    steps = "--stage1-steps 3 --stage2-steps 2 --loader-workers 0 --checkpoint-every 1 --log-every 1"
    return ["train-mdsa", "--clips", str(clips), "--out", str(out), *options.split(), *steps.split(), *more]
