"""`avmodel ablate` on clips made of numbers, at preset tiny."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from avmodel.ablate import run as module
from avmodel.ablate.options import FULL, VARIANTS, AblationOptions
from avmodel.ablate.run import run_cells
from avmodel.cli import main
from avmodel.config import MDSA_PRESETS, ConfigError
from avmodel.mdsa.options import LossWeights, MDSATrainingOptions
from avmodel.training.errors import TrainingError
from tests.made_clips import write_clips


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    return write_clips(tmp_path_factory.mktemp("made") / "clips", sources=8, clips_each=2)


def options(clips: Path, out: Path, **more) -> AblationOptions:
    values = {
        "variants": ("no-gcm-attn", "audio-only"),
        "seeds": 1,
        "stage1_steps": 2,
        "stage2_steps": 1,
        "batch_size": 2,
        "disc_width": 4,
        "holdout": 0.5,
        "loader_workers": 0,
    }
    return AblationOptions(clips=clips, out=out, preset="tiny", device="cpu", **values | more)


def test_cells_are_trained_once_and_read_again(clips, tmp_path, monkeypatch):
    first = list(run_cells(options(clips, tmp_path)))
    assert [cell.variant for cell in first] == [FULL, "no-gcm-attn", "audio-only"]
    assert first[2].psnr_v is None and len(first[0].psnr_v) == len(first[0].psnr_a) > 1
    assert not list(tmp_path.rglob("state.pt")) and len(list(tmp_path.rglob("mdsa.pt"))) == 3
    trained: list[object] = []
    inner = module.train_mdsa
    monkeypatch.setattr(module, "train_mdsa", lambda asked: (trained.append(asked), inner(asked))[1])
    (tmp_path / "seed-0" / "audio-only" / "result.json").unlink()
    again = list(run_cells(options(clips, tmp_path)))
    assert len(trained) == 1 and trained[0].model.streams == "a"
    assert all(np.array_equal(a.psnr_a, b.psnr_a) for a, b in zip(first, again, strict=True))


def test_results_of_other_options_or_clips_are_refused(clips, tmp_path):
    list(run_cells(options(clips, tmp_path, variants=(FULL,))))
    with pytest.raises(TrainingError, match="result.json is of other options or clips"):
        list(run_cells(options(clips, tmp_path, variants=(FULL,), lr=2e-3)))
    with pytest.raises(TrainingError, match="result.json is of other options or clips"):
        list(run_cells(options(clips, tmp_path, variants=(FULL,), stage2_steps=2)))
    result = tmp_path / "seed-0" / FULL / "result.json"
    result.write_text(json.dumps({"psnr": 1}))
    with pytest.raises(TrainingError, match="result.json is damaged"):
        list(run_cells(options(clips, tmp_path, variants=(FULL,))))


def test_how_a_cell_is_trained_is_asked_for():
    asked = options(Path("clips"), Path("out"), optimizer="muon", muon_lr=0.01, mse_weight=12.0)
    training = asked.training_of("no-kl", seed=3)
    assert (training.optimizer, training.muon_lr, training.loss.mse) == ("muon", 0.01, 12.0)
    assert (training.model.kl, training.seed, training.out) == ("none", 3, Path("out/seed-3/no-kl"))
    plain = options(Path("clips"), Path("out")).training_of(FULL, seed=0)
    assert plain.loss == LossWeights() and plain.muon_lr == MDSATrainingOptions.muon_lr


def test_without_a_held_out_source_nothing_is_trained(tmp_path):
    one = write_clips(tmp_path / "clips", sources=1, clips_each=4)
    with pytest.raises(TrainingError, match="no source of .* is held out"):
        list(run_cells(options(one, tmp_path / "out", holdout=1e-6)))
    assert not (tmp_path / "out" / "seed-0").exists()


def test_every_variant_changes_what_its_name_says():
    full = MDSA_PRESETS["small"]
    asked = options(Path("clips"), Path("out"), variants=())
    small = replace(asked, preset="small")
    assert small.trained == tuple(VARIANTS)
    changed = {name: small.model_of(name) for name in VARIANTS}
    assert changed[FULL] == full and len({repr(model) for model in changed.values()}) == len(VARIANTS)
    assert not changed["no-bi-block"].bi_block and changed["no-kl"].kl == "none"


def test_a_variant_that_the_preset_cannot_have_is_left_out_or_refused():
    asked = options(Path("clips"), Path("out"), variants=())
    assert "rotary-positions" not in asked.trained
    assert "needs dim of at least 24" in str(asked.why_not("rotary-positions"))
    with pytest.raises(ConfigError, match="rotary"):
        options(Path("clips"), Path("out"), variants=("rotary-positions",))
    with pytest.raises(TrainingError, match="variants must be of full"):
        options(Path("clips"), Path("out"), variants=("no-sound",))


def test_a_stopped_training_ends_with_the_signal_s_code(clips, tmp_path, monkeypatch):
    class Stopped:
        stopped_by, reports = 15, True

    monkeypatch.setattr(module, "train_mdsa", lambda asked: Stopped())
    arguments = [
        "ablate",
        "--clips",
        str(clips),
        "--out",
        str(tmp_path),
        "--preset",
        "tiny",
        "--device",
        "cpu",
    ]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 128 + 15 and "run the same command again to resume" in done.output
    assert not list(tmp_path.rglob("result.json"))


def test_the_command_prints_and_writes_the_table(clips, tmp_path):
    arguments = ["--clips", clips, "--out", tmp_path, "--preset", "tiny", "--variant", "no-kl", "--seeds", 1]
    arguments += ["--stage1-steps", 1, "--stage2-steps", 1, "--batch-size", 2, "--disc-width", 4]
    arguments += ["--holdout", 0.5, "--loader-workers", 0, "--device", "cpu"]
    done = CliRunner().invoke(main, ["ablate", *map(str, arguments)])
    assert done.exit_code == 0, done.output
    assert "preset tiny: 1 + 1 steps of 2 clips" in done.output and "no-kl    video" in done.output
    assert {path.name for path in tmp_path.glob("ablation.*")} == {
        "ablation.json",
        "ablation.csv",
        "ablation.md",
    }
