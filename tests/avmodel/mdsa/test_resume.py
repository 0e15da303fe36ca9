"""What a resumed MDSA training must have in common with the one that began."""

from __future__ import annotations

import errno
import json
import shutil
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner

from avmodel.cli import main
from avmodel.data import ClipData
from avmodel.mdsa import train as module
from avmodel.mdsa.train import train_mdsa
from avmodel.training.checkpoints import load_checkpoint
from avmodel.training.errors import TrainingError
from avmodel.training.machine import DistributedContext
from avprep.shards.layout import ShardError
from avprep.shards.lock import lock
from avprep.shards.store import open_store
from tests.avmodel.dit.made_training import rows
from tests.avmodel.mdsa.made_training import config, run_command
from tests.made_clips import write_clips

TIMED = ("clips_per_s", "data_wait", "tflops")
CPU = DistributedContext(torch.device("cpu"))


def test_clips_of_other_sources_are_another_training(tmp_path):
    """Of equal number and options: nothing but the clips themselves differs."""
    made = write_clips(tmp_path / "clips", sources=4, clips_each=3)
    train_mdsa(config(made, tmp_path / "out", stage1_steps=1, stage2_steps=0))
    shutil.rmtree(made)
    write_clips(made, sources=6, clips_each=2)
    spec = json.loads((made / "spec.json").read_text())
    (made / "spec.json").write_text(json.dumps(spec | {"fingerprint": "made-0-4-3"}))
    with pytest.raises(TrainingError, match="begun with clips.keys = "):
        train_mdsa(config(made, tmp_path / "out", stage1_steps=1, stage2_steps=0))


def test_sources_whose_content_changed_are_another_training(tmp_path):
    """Their names, and so the clips' keys, are the same."""
    made = write_clips(tmp_path / "clips")
    train_mdsa(config(made, tmp_path / "out", stage1_steps=1, stage2_steps=0))
    shutil.rmtree(made)
    write_clips(made, seed=1)
    spec = json.loads((made / "spec.json").read_text())
    (made / "spec.json").write_text(json.dumps(spec | {"fingerprint": "made-0-4-3"}))
    with pytest.raises(TrainingError, match="begun with clips.shards = "):
        train_mdsa(config(made, tmp_path / "out", stage1_steps=1, stage2_steps=0))


def test_clips_may_move_between_two_runs(clips, tmp_path):
    shutil.copytree(clips, tmp_path / "moved")
    train_mdsa(config(clips, tmp_path / "out", stage1_steps=1, stage2_steps=0, cooldown_steps=0))
    moved = config(tmp_path / "moved", tmp_path / "out", stage1_steps=1, stage2_steps=1, cooldown_steps=0)
    assert train_mdsa(moved).step == 2


def test_the_end_is_compared_only_where_a_cooldown_counts_from_it(clips, tmp_path):
    train_mdsa(config(clips, tmp_path, stage1_steps=1, stage2_steps=1, cooldown_steps=1))
    with pytest.raises(TrainingError, match="the rate falls towards the last of 2 steps; an end at 3"):
        train_mdsa(config(clips, tmp_path, stage1_steps=1, stage2_steps=2, cooldown_steps=1))


@pytest.mark.parametrize(("then", "now"), [("none", None), ("vgg16", {"backbone": "vgg16"})])
def test_the_lpips_entry_of_the_last_version_is_read(clips, tmp_path, then, now):
    trainer = module.MDSATrainer(config(clips, tmp_path), CPU, ClipData(clips))
    assert trainer.upgraded({"lpips": then, "lr": 1}) == {"lpips": now, "lr": 1}


def test_a_training_from_before_plane_positions_goes_on_without_them_and_not_with(clips, tmp_path):
    train_mdsa(config(clips, tmp_path, stage1_steps=1, stage2_steps=0, cooldown_steps=0))
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    del state["run"]["model"]["plane_positions"]
    torch.save(state, tmp_path / "state.pt")
    later = config(clips, tmp_path, stage1_steps=1, stage2_steps=1, cooldown_steps=0)
    learned = replace(later.model, plane_positions="learned")
    with pytest.raises(TrainingError, match=r"begun with model\.plane_positions = none"):
        train_mdsa(replace(later, model=learned))
    assert train_mdsa(later).step == 2


def rows_without_times(out) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k not in TIMED} for row in rows(out)]


@pytest.mark.parametrize("killed_at", [4, 6])
def test_a_killed_and_resumed_run_logs_what_an_uninterrupted_one_logs(
    clips, tmp_path, killed_at, monkeypatch
):
    """The log's rows, the checkpoints and the evaluations are out of step with each other."""
    changes = {"stage1_steps": 3, "stage2_steps": 5, "log_every": 4, "checkpoint_every": 3, "eval_every": 5}
    changes |= {"gradient_share_every": 3}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train_mdsa(config(clips, whole, **changes))
    inner = module.MDSATrainer.train_step

    def until_death(trainer, batches):
        if trainer.step == killed_at:
            raise KeyboardInterrupt
        return inner(trainer, batches)

    with monkeypatch.context() as patch:
        patch.setattr(module.MDSATrainer, "train_step", until_death)
        with pytest.raises(KeyboardInterrupt):
            train_mdsa(config(clips, parts, **changes))
    train_mdsa(config(clips, parts, **changes))
    assert rows_without_times(parts) == rows_without_times(whole)
    lengths = {row["step"]: row["steps"] for row in rows(whole) if "loss" in row}
    assert lengths == {3: 3, 4: 1, 5: 1, 6: 1, 8: 2}


def test_two_trainings_into_one_folder_are_one_too_many(clips, tmp_path):
    with lock(open_store(tmp_path)), pytest.raises(ShardError, match="is writing there"):
        train_mdsa(config(clips, tmp_path))


def test_a_full_disk_leaves_the_last_checkpoint_to_resume_from(clips, tmp_path, monkeypatch):
    inner, calls = torch.save, []

    def full(payload, file):
        calls.append(payload["kind"])
        if len(calls) == 3:  # mdsa.pt of step 4
            file.write(b"begun")
            raise OSError(errno.ENOSPC, "No space left on device")
        inner(payload, file)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        done = CliRunner().invoke(main, run_command(clips, tmp_path / "parts"))
    assert done.exit_code == 1 and "mdsa.pt: No space left on device" in done.output
    assert load_checkpoint(tmp_path / "parts" / "mdsa.pt", "mdsa")["step"] == 1
    assert load_checkpoint(tmp_path / "parts" / "state.pt", module.STATE_KIND)["step"] == 1
    assert CliRunner().invoke(main, run_command(clips, tmp_path / "parts")).exit_code == 0
