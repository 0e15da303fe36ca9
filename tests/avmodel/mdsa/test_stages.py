"""What the two stages of a training do beside the paper's switch, and what a run leaves when it fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from avmodel.config import MDSA_PRESETS
from avmodel.info import mdsa_training_flops
from avmodel.mdsa import train as module
from avmodel.mdsa.losses import LossWeights
from avmodel.mdsa.train import train_mdsa
from avmodel.training import optim, trainer
from avmodel.training.checkpoints import load_checkpoint
from tests.avmodel.dit.made_training import losses, rows, same
from tests.avmodel.mdsa.made_training import config, run_command

TOP = Path(__file__).parents[3]


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(path, "mdsa")["weights"]


def test_gamma_rises_over_its_ramp_and_is_logged(clips, tmp_path):
    train_mdsa(config(clips, tmp_path, stage1_steps=2, stage2_steps=5, disc_start=1, disc_ramp=2))
    assert [row["gamma"] for row in rows(tmp_path) if "loss" in row] == [0, 0, 0, 0.5, 1, 1, 1]


def test_the_adaptive_factor_and_the_discriminators_logits_are_logged(clips, tmp_path):
    changes = {"stage1_steps": 1, "stage2_steps": 1, "disc_start": 0, "adaptive_gan": True}
    train_mdsa(config(clips, tmp_path, **changes, accumulate=2, batch_size=4))
    first, last = (row for row in rows(tmp_path) if "loss" in row)
    assert last["v/adaptive"] > 0 and "v/adaptive" not in first
    for name in ("v/d2_real", "v/d2_fake", "a/d3_real", "gradient/d/v.d2", "gradient/d/a.d3"):
        assert name in last and name not in first
    assert {"gradient/encoders.v", "gradient/gcm", "gradient/heads", "gradient/decoders.a"} <= first.keys()


def test_the_model_s_flops_are_logged_per_second(clips, tmp_path):
    """tflops over samples per second is the model's FLOPs per clip, however the step is divided."""
    changes = {"stage1_steps": 2, "stage2_steps": 2, "batch_size": 4, "accumulate": 2, "peak_tflops": 0.5}
    train_mdsa(config(clips, tmp_path, **changes))
    first, *others = (row for row in rows(tmp_path) if "loss" in row)
    assert "tflops" not in first and len(others) == 3
    flops = mdsa_training_flops(MDSA_PRESETS["tiny"])
    for row in others:
        assert row["mfu"] == pytest.approx(2 * row["tflops"], abs=2e-6)
        assert row["tflops"] == pytest.approx(row["clips_per_s"] * flops / 1e12, abs=2e-6)


def test_the_parts_of_the_gradient_make_the_whole(clips, tmp_path):
    train_mdsa(config(clips, tmp_path, stage1_steps=1, stage2_steps=0))
    [row] = [row for row in rows(tmp_path) if "loss" in row]
    parts = sum(value**2 for name, value in row.items() if name.startswith("gradient/"))
    assert row["gradient_norm"] ** 2 == pytest.approx(parts, rel=1e-4)


@pytest.mark.slow
def test_a_kl_term_from_the_first_step_keeps_the_means_inside(clips, tmp_path):
    """And leaves the log-variance, which stage 1 does not train, alone."""
    spread = {}
    for weight in (0.0, 3e-2):
        out = tmp_path / str(weight)
        loss = LossWeights(kl_stage1=weight)
        options = config(clips, out, loss=loss, stage1_steps=40, stage2_steps=0, lr=5e-3, eval_every=40)
        train_mdsa(options)
        last = [row for row in rows(out) if "loss" in row][-1]
        assert ("v/kl" in last) == (weight > 0)
        heads = weights(out / "mdsa.pt")
        spread[weight] = heads["heads.v_hw.mean.weight"].norm()
        assert not heads["heads.v_hw.logvar.weight"].any()
    assert spread[3e-2] < 0.9 * spread[0.0]


def test_the_average_of_stage_2_is_what_is_saved_and_evaluated(clips, tmp_path):
    changes = {"stage1_steps": 2, "stage2_steps": 3}
    train_mdsa(config(clips, tmp_path / "plain", **changes))
    train_mdsa(config(clips, tmp_path / "ema", **changes, ema=0.9))
    plain, averaged = (weights(tmp_path / out / "mdsa.pt") for out in ("plain", "ema"))
    assert losses(tmp_path / "plain") == losses(tmp_path / "ema")  # what trains is not the average
    assert not same(plain, averaged)
    state = load_checkpoint(tmp_path / "ema" / "state.pt", module.STATE_KIND)
    assert same(state["model"], plain) and same(state["ema"], averaged)


@pytest.mark.slow
def test_an_average_is_resumed(clips, tmp_path):
    run = {"stage1_steps": 2, "ema": 0.9, "cooldown_steps": 0}
    train_mdsa(config(clips, tmp_path / "whole", **run, stage2_steps=4))
    for steps in (1, 4):
        train_mdsa(config(clips, tmp_path / "parts", **run, stage2_steps=steps))
    assert same(weights(tmp_path / "whole" / "mdsa.pt"), weights(tmp_path / "parts" / "mdsa.pt"))


def test_a_run_that_collapses_in_stage_2_warns_in_time_and_leaves_a_good_checkpoint(
    clips, tmp_path, monkeypatch, capsys
):
    inner = optim.warm_up
    monkeypatch.setattr(trainer, "warm_up", lambda step, n: inner(step, n) * (1 if step < 60 else 1e3))
    run = {"lr": 3e-3, "batch_size": 4, "log_every": 5, "eval_every": 20, "checkpoint_every": 20}
    stages = {"stage1_steps": 60, "stage2_steps": 30, "disc_start": 0, "cooldown_steps": 0}
    result = train_mdsa(config(clips, tmp_path, **run, **stages))
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning: v/l1 + a/l1" in line]
    assert warnings[0].startswith("step 65: ")
    assert "mdsa-best.pt, of step 60, is the best checkpoint so far" in warnings[0]
    assert load_checkpoint(tmp_path / "mdsa.pt", "mdsa")["step"] == 90
    assert load_checkpoint(tmp_path / "mdsa-best.pt", "mdsa")["step"] == 60
    by_step = {row["step"]: row["held_out/psnr_v"] for row in rows(tmp_path) if "held_out/psnr_v" in row}
    assert by_step[60] > result.psnr_v + 5


DYING = """
import os, signal, sys, torch
from avmodel.cli import main
save = torch.save
def dying(payload, file):
    if payload["kind"] == "mdsa training state" and payload["step"] == 4:
        file.write(b"half of it")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    save(payload, file)
torch.save = dying
main(sys.argv[1:])
"""


@pytest.mark.timeout(180)
def test_a_kill_while_a_checkpoint_is_written_loses_the_steps_since_the_one_before(clips, tmp_path):
    train_mdsa(config(clips, tmp_path / "whole", cooldown_steps=0))
    run = run_command(clips, tmp_path / "parts", "--holdout", "0.2", "--disc-start", "1", "--lr", "1e-3")
    run += ["--warmup-steps", "2", "--device", "cpu", "--no-compile", "--checkpoint-every", "2"]
    run[run.index("--stage2-steps") + 1] = "3"
    environment = os.environ | {"PYTHONPATH": str(TOP), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", DYING, *run, "--eval-every", "100"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert load_checkpoint(tmp_path / "parts" / "mdsa.pt", "mdsa")["step"] == 4  # it is written first
    assert load_checkpoint(tmp_path / "parts" / "state.pt", module.STATE_KIND)["step"] == 2
    train_mdsa(config(clips, tmp_path / "parts", cooldown_steps=0))
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert same(weights(tmp_path / "whole" / "mdsa.pt"), weights(tmp_path / "parts" / "mdsa.pt"))


def test_discriminators_that_are_off_are_in_no_scalar(clips, tmp_path):
    model = replace(MDSA_PRESETS["tiny"], adversarial=False)
    train_mdsa(config(clips, tmp_path, model=model, stage1_steps=1, stage2_steps=2, adaptive_gan=True))
    names = {name for row in rows(tmp_path) for name in row}
    assert not any("d2" in name or "gan" in name or "adaptive" in name for name in names)
