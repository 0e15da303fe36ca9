from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from avmodel.cli import main
from avmodel.config import MDSA_PRESETS, ConfigError
from avmodel.data import ClipData, Steps, collate, step_loader
from avmodel.mdsa import train as module
from avmodel.mdsa.checkpoint import open_codec
from avmodel.mdsa.model import Posterior
from avmodel.mdsa.train import train_mdsa
from avmodel.training.checkpoints import load_checkpoint
from avmodel.training.errors import TrainingError
from avmodel.training.machine import DistributedContext
from avprep.shards.order import ClipOrder
from tests.avmodel.mdsa.made_training import config, run_command
from tests.made_clips import TINY, write_clips

CPU = DistributedContext(torch.device("cpu"))
ABLATIONS = [{}, {"mt_self_attn": False}, {"gcm_attn": False}, {"bi_block": False}]
ABLATIONS += [{"kl": "none"}, {"kl": "data"}, {"adversarial": False}, {"streams": "v"}, {"streams": "a"}]


def losses(out: Path) -> list[tuple[int, float]]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"]) for row in rows if "loss" in row]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(out / "mdsa.pt", "mdsa")["weights"]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("changes", ABLATIONS, ids=lambda c: "-".join(map(str, *c.items())) if c else "all")
def test_every_ablation_trains_both_stages(clips, tmp_path, changes):
    model = replace(MDSA_PRESETS["tiny"], **changes)
    result = train_mdsa(config(clips, tmp_path, model=model, stage1_steps=2, stage2_steps=2, disc_start=0))
    assert result.step == 4 and not result.skipped
    assert (result.psnr_v is None) == (model.streams == "a")
    assert (result.psnr_a is None) == (model.streams == "v")
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    last = [row for row in rows if "loss" in row][-1]
    stream = model.streams[0]
    assert (f"{stream}/kl" in last) == (model.kl != "none")
    assert (f"{stream}/gan" in last) == model.adversarial


@pytest.mark.parametrize(
    ("stop", "optimizer"),
    [(3, "muon"), *(pytest.param(n, "adam", marks=pytest.mark.slow) for n in (1, 3, 5))],
)
def test_an_interrupted_run_gives_the_losses_of_an_undisturbed_one(
    clips, tmp_path, stop, optimizer, monkeypatch
):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    changes = {"accumulate": 2, "modality_dropout": 0.3, "loader_workers": 0, "optimizer": optimizer}
    train_mdsa(config(clips, whole, **changes))
    inner = module.MDSATrainer.train_step

    def until_stop(trainer, batches):
        if trainer.step == stop:
            os.kill(os.getpid(), signal.SIGTERM)
        return inner(trainer, batches)

    with monkeypatch.context() as patch:
        patch.setattr(module.MDSATrainer, "train_step", until_stop)
        result = train_mdsa(config(clips, parts, **changes))
        assert result.stopped_by == signal.SIGTERM and result.step == stop + 1
    assert train_mdsa(config(clips, parts, **changes)).step == 6
    assert losses(parts) == losses(whole)
    assert same(weights(parts), weights(whole))


def test_after_a_kill_what_the_checkpoint_does_not_know_is_run_again(clips, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train_mdsa(config(clips, whole))
    inner = module.MDSATrainer.train_step

    def until_death(trainer, batches):
        if trainer.step == 5:
            raise KeyboardInterrupt
        return inner(trainer, batches)

    with monkeypatch.context() as patch:
        patch.setattr(module.MDSATrainer, "train_step", until_death)
        with pytest.raises(KeyboardInterrupt):
            train_mdsa(config(clips, parts))
    assert losses(parts)[-1][0] == 5  # one step beyond the checkpoint of step 4
    train_mdsa(config(clips, parts))
    assert losses(parts) == losses(whole)
    assert same(weights(parts), weights(whole))


@pytest.mark.slow
def test_it_learns(clips, tmp_path):
    result = train_mdsa(
        config(clips, tmp_path, stage1_steps=100, stage2_steps=0, batch_size=4, lr=3e-3, eval_every=100)
    )
    before, after = losses(tmp_path)[0][1], losses(tmp_path)[-1][1]
    assert after < before / 3
    assert result.psnr_v > 20 and result.psnr_a > 20


def test_a_nan_in_a_batch_leaves_the_step_out(clips, tmp_path, monkeypatch):
    inner = module.MDSATrainer._read

    def one_bad(trainer):
        for i, batch in enumerate(inner(trainer)):
            if i == 1:
                batch.mel[0, 0, 0, 0] = torch.nan
            yield batch

    monkeypatch.setattr(module.MDSATrainer, "_read", one_bad)
    result = train_mdsa(config(clips, tmp_path))
    assert result.skipped == 1 and result.step == 6
    assert [step for step, _ in losses(tmp_path)] == [1, 3, 4, 5, 6]
    assert all(torch.isfinite(w).all() for w in weights(tmp_path).values())


def test_three_bad_steps_in_a_row_end_the_run_with_the_last_checkpoint_whole(clips, tmp_path, monkeypatch):
    inner, calls = module.generator_loss, []

    def diverges(*args, **options):
        calls.append(1)
        loss = inner(*args, **options)
        return loss._replace(total=loss.total * torch.nan) if len(calls) > 4 else loss  # two streams a step

    monkeypatch.setattr(module, "generator_loss", diverges)
    with pytest.raises(TrainingError, match="step 5: .* in 3 steps in a row"):
        train_mdsa(config(clips, tmp_path))
    assert load_checkpoint(tmp_path / "mdsa.pt", "mdsa")["step"] == 4
    assert losses(tmp_path)[-1][0] == 2


def test_no_checkpoint_is_overwritten_by_one_with_nan(clips, tmp_path, monkeypatch):
    inner = module.MDSATrainer.save

    def poisoned(trainer):
        if trainer.step == 4:
            with torch.no_grad():
                next(trainer.model.parameters())[0] = torch.nan
        inner(trainer)

    monkeypatch.setattr(module.MDSATrainer, "save", poisoned)
    with pytest.raises(TrainingError, match="holds NaN or Inf; the checkpoint before it is kept"):
        train_mdsa(config(clips, tmp_path))
    assert load_checkpoint(tmp_path / "mdsa.pt", "mdsa")["step"] == 3  # the best evaluation so far
    assert all(torch.isfinite(w).all() for w in weights(tmp_path).values())


def test_streams_come_in_the_order_of_the_latents_planes(clips, tmp_path):
    trainer = module.MDSATrainer(config(clips, tmp_path), CPU, ClipData(clips))
    batch = next(iter(step_loader(trainer.data, Steps(ClipOrder([12], seed=0), 2), workers=0, pin=False)))
    made = list(trainer._clips(batch, torch.Generator()))
    assert made == list(dict.fromkeys(plane[0] for plane in trainer.model.layout.planes)) == ["v", "a"]


def test_a_bad_discriminator_step_steps_nothing(clips, tmp_path, monkeypatch):
    changes = {"stage1_steps": 0, "stage2_steps": 1, "disc_start": 0}
    told = config(clips, tmp_path, **changes)
    trainer = module.MDSATrainer(told, CPU, ClipData(clips))
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    before |= {name: torch.full_like(v, -6.0) for name, v in before.items() if name.endswith("logvar.bias")}
    inner = module.DiscriminatorStep.forward

    def broken(self, *args):
        loss, terms = inner(self, *args)
        return loss * torch.nan, terms

    monkeypatch.setattr(module.DiscriminatorStep, "forward", broken)
    trainer.open()
    _, bad = trainer.train_step(trainer.next_batches())
    assert bad == 1
    after = trainer.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before if "logvar" not in name)


def test_saturated_latents_are_told(clips, tmp_path):
    result = train_mdsa(config(clips, tmp_path, stage1_steps=2, stage2_steps=0))
    assert list(result.saturated) == ["v_hw", "v_tw", "v_th", "a_hw", "a_tw", "a_th"]
    mean = torch.zeros(1, 4, 2, 4, 4)
    mean[:, :, 0, :2] = 5.0
    mask = torch.tensor([[True] * 4, [True, True, False, False]])[..., None].expand(2, 4, 4)
    mean[:, :2, 1] = -5.0  # in the padding too, where it does not count
    assert Posterior(mean, mean, mask).saturated().tolist() == [[0.5, 0.5]]


def test_silence_reaches_the_share_of_clips_that_was_asked_for(clips, tmp_path):
    trainer = module.MDSATrainer(
        config(clips, tmp_path, modality_dropout=0.5, batch_size=8),
        CPU,
        ClipData(clips),
    )
    silent = black = 0
    for step in range(50):
        batch = collate([trainer.training[i] for i in range(8)])
        seen = trainer._clips(batch, trainer.context.generator(0, step))
        silent += int((seen["a"] == -1).flatten(1).all(1).sum())
        black += int((seen["v"] == -1).flatten(1).all(1).sum())
    assert 70 < silent < 130 and 70 < black < 130


def test_what_does_not_fit_is_a_sentence(clips, tmp_path):
    with pytest.raises(ConfigError, match="takes clips of 16 frames at 64 px; these have 4 frames at 16 px"):
        train_mdsa(config(clips, tmp_path, model=MDSA_PRESETS["small"]))
    train_mdsa(config(clips, tmp_path, stage1_steps=1, stage2_steps=0))
    with pytest.raises(TrainingError, match="begun with lr = 0.001, and this run has lr = 0.1"):
        train_mdsa(config(clips, tmp_path, stage1_steps=1, stage2_steps=0, lr=0.1))
    other = replace(MDSA_PRESETS["tiny"], gcm_attn=False)
    with pytest.raises(TrainingError, match="model.gcm_attn = True, and this run has model.gcm_attn = False"):
        train_mdsa(config(clips, tmp_path, stage1_steps=1, stage2_steps=0, model=other))


def test_the_command_trains_reconstructs_and_exports(clips, tmp_path):
    pytest.importorskip("av")
    out = tmp_path / "run"
    done = CliRunner().invoke(main, run_command(clips, out, "--export", str(tmp_path / "mdsa.safetensors")))
    assert done.exit_code == 0, done.output
    assert "step 5: PSNR-V" in done.output
    from safetensors.torch import load_file

    assert same(load_file(tmp_path / "mdsa.safetensors"), weights(out))
    arguments = ["reconstruct", "--ckpt", str(out / "mdsa.pt"), "--clips", str(clips), "--limit", "2"]
    shown = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "shown")])
    assert shown.exit_code == 0, shown.output
    assert len(list((tmp_path / "shown").glob("*.mp4"))) == 2
    assert "2 clips in" in shown.output


def test_a_damaged_checkpoint_is_a_sentence(clips, tmp_path):
    assert CliRunner().invoke(main, run_command(clips, tmp_path)).exit_code == 0
    path = tmp_path / "mdsa.pt"
    path.write_bytes(path.read_bytes()[:-5000])
    shown = CliRunner().invoke(
        main, ["reconstruct", "--ckpt", str(path), "--clips", str(clips), "--out", str(tmp_path / "x")]
    )
    assert shown.exit_code == 2 and "is cut off or no checkpoint" in shown.output
    state = tmp_path / "state.pt"
    whole = state.read_bytes()
    state.write_bytes(whole[: len(whole) // 2])
    again = CliRunner().invoke(main, run_command(clips, tmp_path))
    assert again.exit_code == 2 and "is cut off or no checkpoint" in again.output
    assert state.read_bytes() == whole[: len(whole) // 2]


def test_clips_of_another_spec_are_a_sentence(clips, tmp_path):
    assert CliRunner().invoke(main, run_command(clips, tmp_path / "run")).exit_code == 0
    others = write_clips(tmp_path / "others", spec=replace(TINY, n_mels=8))
    shown = CliRunner().invoke(
        main,
        f"reconstruct --ckpt {tmp_path}/run/mdsa.pt --clips {others} --out {tmp_path}/x".split(),
    )
    assert shown.exit_code == 2 and "was trained on other clips" in shown.output.replace("\n", " ")


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "to_group", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["alone", "group"]
)
def test_a_signal_ends_the_command_with_its_code_and_a_checkpoint(to_group, clips, tmp_path):
    """To its group as well, as timeout, systemd, Slurm and torchrun send it: the loaders are in it."""
    command = [sys.executable, "-m", "avmodel", *run_command(clips, tmp_path)]
    command[command.index("--stage1-steps") + 1] = "100000"
    command[command.index("--loader-workers") + 1] = "2"
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not (tmp_path / "mdsa.pt").exists():
        time.sleep(0.2)
        assert process.poll() is None
    (os.killpg if to_group else os.kill)(process.pid, signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 143, told
    assert "run the same command again to resume" in told


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_two_processes_stay_in_step(clips, tmp_path):
    """torchrun on gloo: the weights are those of one process with the same clips a step, to rounding."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        "29533",
    ]
    command += [
        "-m",
        "avmodel",
        *run_command(clips, tmp_path / "two", "--no-adversarial", "--kl", "none"),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("step 5: ") == 1  # rank 0 alone reports
    one = run_command(clips, tmp_path / "one", "--no-adversarial", "--kl", "none", "--accumulate", "2")
    assert CliRunner().invoke(main, one).exit_code == 0
    steps = zip(losses(tmp_path / "two")[:3], losses(tmp_path / "one")[:3], strict=True)
    for (step, two), (_, alone) in steps:  # stage 1: nothing is drawn
        assert two == pytest.approx(alone, rel=1e-3), step


def test_the_codec_gives_back_what_reconstruct_measures(clips, tmp_path):
    train_mdsa(config(clips, tmp_path))
    codec = open_codec(tmp_path / "mdsa.pt", device="cpu", batch_size=4, compile=True)
    batch = collate([ClipData(clips)[i] for i in range(4)])
    latents = codec.encode(batch.frames, batch.mel)
    assert latents.mean.shape == (4, *codec.header.shape) and latents.mean.abs().max() < 1
    padding = torch.from_numpy(codec.header.padding())
    assert not latents.mean[:, :, padding].any()
    alone = codec.encode(batch.frames[:1], batch.mel[:1])
    assert torch.allclose(alone.mean, latents.mean[:1], atol=1e-5)
    frames, mel = codec.decode(latents.mean)
    assert frames.shape == batch.frames.shape and frames.dtype == torch.uint8
    assert mel.shape == batch.mel.shape and np.abs(mel.numpy()).max() <= 1
