"""Trainings that go on: made longer, with options that are not typed again, or from other weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from avmodel.cli import main
from avmodel.config import MDSA_PRESETS
from avmodel.data import LatentData
from avmodel.mdsa.checkpoint import load_mdsa, mdsa_payload, read_codec_header
from avmodel.mdsa.model import MDSA
from avmodel.training.checkpoints import load_checkpoint, save_checkpoint
from tests.avmodel.dit.made_training import losses, same
from tests.avmodel.made_latents import write_latents
from tests.made_clips import TINY, write_clips

TINY_MDSA = "--preset tiny --lpips none --disc-width 4 --disc-layers 1 --eval-clips 2 --device cpu"
TINY_DIT = "--preset tiny --device cpu"
LOGGED = "--log-every 1 --loader-workers 0"


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    return write_clips(tmp_path_factory.mktemp("made") / "clips", sources=6)


@pytest.fixture(scope="module")
def latents(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    save_checkpoint(folder / "mdsa.pt", mdsa_payload(MDSA(MDSA_PRESETS["tiny"]), TINY, 0))
    return write_latents(folder / "latents", read_codec_header(folder / "mdsa.pt"))


def command(text: str) -> Result:
    return CliRunner().invoke(main, text.split())


def train(text: str) -> str:
    done = command(text)
    assert done.exit_code == 0, done.output
    return done.output


def weights(path: Path, kind: str) -> dict[str, torch.Tensor]:
    return load_checkpoint(path, kind)["weights"]


# --- longer ---


def test_a_dit_of_10_and_20_more_steps_is_one_of_30(latents, tmp_path):
    rates = f"{TINY_DIT} {LOGGED} --batch-size 4 --lr 1e-3 --warmup-steps 3 --ema 0.9 --times logit-normal"
    train(f"train-dit --latents {latents} --out {tmp_path}/whole {rates} --steps 30")
    train(f"train-dit --latents {latents} --out {tmp_path}/parts {rates} --steps 10")
    assert len(losses(tmp_path / "parts")) == 10
    train(f"train-dit --latents {latents} --out {tmp_path}/parts --device cpu --steps 30")
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert len(losses(tmp_path / "whole")) == 30
    assert same(weights(tmp_path / "parts" / "dit.pt", "dit"), weights(tmp_path / "whole" / "dit.pt", "dit"))


@pytest.mark.parametrize(
    ("short", "longer", "whole"),
    [
        ((4, 6), "--stage2-steps 26", (4, 26)),
        pytest.param((10, 0), "--stage2-steps 20", (10, 20), marks=pytest.mark.slow),
        pytest.param((10, 0), "--stage1-steps 16 --stage2-steps 14", (16, 14), marks=pytest.mark.slow),
    ],
)
def test_an_mdsa_of_10_and_20_more_steps_is_one_of_30(clips, tmp_path, short, longer, whole):
    rates = f"{TINY_MDSA} {LOGGED} --batch-size 2 --lr 1e-3 --warmup-steps 3 --ema 0.9"
    steps = "--stage1-steps {} --stage2-steps {}"
    train(f"train-mdsa --clips {clips} --out {tmp_path}/whole {rates} {steps.format(*whole)}")
    train(f"train-mdsa --clips {clips} --out {tmp_path}/parts {rates} {steps.format(*short)}")
    train(f"train-mdsa --clips {clips} --out {tmp_path}/parts --device cpu {longer}")
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert len(losses(tmp_path / "whole")) == 30
    assert same(
        weights(tmp_path / "parts" / "mdsa.pt", "mdsa"), weights(tmp_path / "whole" / "mdsa.pt", "mdsa")
    )


def test_stage_1_cannot_change_once_stage_2_has_begun(clips, tmp_path):
    train(f"train-mdsa --clips {clips} --out {tmp_path} {TINY_MDSA} --stage1-steps 2 --stage2-steps 2")
    done = command(f"train-mdsa --clips {clips} --out {tmp_path} --device cpu --stage1-steps 3")
    assert done.exit_code == 2
    assert "--stage1-steps 3: 4 steps are done with --stage1-steps 2; it can change while" in done.output


def test_the_end_cannot_move_once_the_rate_falls_towards_it_and_can_before(latents, tmp_path):
    run = f"train-dit --latents {latents} --out {tmp_path} {TINY_DIT} --batch-size 4 --cooldown-steps 4"
    train(f"{run} --steps 6")
    done = command(f"train-dit --latents {latents} --out {tmp_path} --device cpu --steps 12")
    assert done.exit_code == 2
    assert "--cooldown-steps 4: 6 steps are done, and the rate falls towards the last of 6" in done.output


# --- options that are not typed again ---


def test_an_option_that_is_not_typed_has_the_value_that_the_training_began_with(latents, tmp_path):
    typed = (
        "--batch-size 4 --lr 2e-3 --ema 0.5 --packed --caption-dropout 0.3 --eval-every 2 --seed 7 --keep 3"
    )
    train(f"train-dit --latents {latents} --out {tmp_path} {TINY_DIT} {typed} --steps 10")
    train(f"train-dit --latents {latents} --out {tmp_path} --device cpu --steps 20 --keep 2")
    state = load_checkpoint(tmp_path / "state.pt", "dit training state")
    run, adjustable = state["run"], state["adjustable"]
    assert (run["batch_size"], run["lr"], run["ema"], run["seed"]) == (4, 2e-3, 0.5, 7)
    assert run["warmup_steps"] == 1  # a tenth of the first 10
    assert run["model"]["packed"] is True and run["model"]["caption_dropout"] == 0.3
    assert run["model"]["hidden"] == 32  # of preset tiny, which was not typed again
    assert (adjustable["steps"], adjustable["eval_every"], adjustable["keep"]) == (20, 2, 2)


def test_an_option_that_is_typed_with_another_value_is_refused_even_if_it_is_the_default(latents, tmp_path):
    train(f"train-dit --latents {latents} --out {tmp_path} {TINY_DIT} --batch-size 4 --lr 2e-3 --steps 2")
    for typed, name in (("--lr 1e-4", "lr = 0.002"), ("--preset small", "model.patch|model.hidden = 32")):
        done = command(f"train-dit --latents {latents} --out {tmp_path} --device cpu --steps 4 {typed}")
        assert done.exit_code == 2 and "was begun with" in done.output
        assert any(part in done.output for part in name.split("|"))


def test_nested_options_of_an_mdsa_are_taken_too(clips, tmp_path):
    typed = "--no-gcm-attn --kl none --kl-stage1-weight 1e-5 --pixel-weight 2 --disc-ramp 5 --adaptive-gan"
    run = f"--clips {clips} --out {tmp_path} --device cpu --batch-size 2"
    train(f"train-mdsa {run} {TINY_MDSA} {typed} --stage1-steps 1 --stage2-steps 1")
    train(f"train-mdsa {run} --stage2-steps 3")
    state = load_checkpoint(tmp_path / "state.pt", "mdsa training state")
    assert state["step"] == 4 and state["run"]["lpips"] is None
    assert state["run"]["model"]["gcm_attn"] is False and state["run"]["model"]["kl"] == "none"
    assert state["run"]["loss"]["kl_stage1"] == 1e-5 and state["run"]["loss"]["pixel"] == 2.0


@pytest.mark.parametrize("value", [[], "fast", {"a": 1}, None])
def test_an_option_of_another_type_in_the_checkpoint_is_refused(latents, tmp_path, value):
    run = f"train-dit --latents {latents} --out {tmp_path} --device cpu"
    train(f"{run} --preset tiny --batch-size 4 --steps 1")
    state = load_checkpoint(tmp_path / "state.pt", "dit training state")
    save_checkpoint(tmp_path / "state.pt", state | {"run": state["run"] | {"lr": value}})
    done = command(f"{run} --steps 2")
    assert done.exit_code == 2 and "its lr is" in done.output


@pytest.mark.slow
def test_a_state_of_version_0_1_is_resumed_with_the_batch_of_the_whole_step(clips, tmp_path):
    """There --batch-size was that of a micro-batch, and stage 1's steps were compared."""
    run = f"--clips {clips} --out {tmp_path} --device cpu"
    train(f"train-mdsa {run} {TINY_MDSA} --batch-size 4 --accumulate 2 --stage1-steps 2 --stage2-steps 1")
    state = load_checkpoint(tmp_path / "state.pt", "mdsa training state")
    old = state["run"] | {
        "processes": 1,
        "batch_size": 2,
        "accumulate": 2,
        "stage1_steps": 2,
        "lpips": "none",
    }
    for name in ("disc_ramp", "adaptive_gan", "ema"):
        del old[name]
    without = {name: value for name, value in state.items() if name not in ("adjustable", "best")}
    save_checkpoint(tmp_path / "state.pt", without | {"run": old})
    train(f"train-mdsa {run} --stage2-steps 3")
    state = load_checkpoint(tmp_path / "state.pt", "mdsa training state")
    assert state["step"] == 5 and state["run"]["batch_size"] == 4 and state["adjustable"]["accumulate"] == 2


# --- from another training's weights ---


def test_a_training_starts_from_the_weights_of_another(clips, tmp_path):
    run = f"--clips {clips} --device cpu --loader-workers 0"
    train(f"train-mdsa {run} {TINY_MDSA} --out {tmp_path}/a --no-gcm-attn --stage1-steps 3")
    first = f"{run} --lpips none --out {tmp_path}/b --from {tmp_path}/a/mdsa.pt --no-adversarial"
    output = train(f"train-mdsa {first} --stage1-steps 1 --lr 1e-30 --kl none")
    model, _ = load_mdsa(tmp_path / "a" / "mdsa.pt")
    assert f"starts from {tmp_path}/a/mdsa.pt: {len(model.state_dict())} tensors" in output
    assert same(weights(tmp_path / "a" / "mdsa.pt", "mdsa"), weights(tmp_path / "b" / "mdsa.pt", "mdsa"))


def test_weights_of_a_trained_log_variance_are_kept_without_stage_1(clips, tmp_path):
    run = f"--clips {clips} --device cpu --loader-workers 0"
    train(f"train-mdsa {run} {TINY_MDSA} --out {tmp_path}/a --stage1-steps 1 --stage2-steps 4 --lr 1e-2")
    again = f"{run} --lpips none --out {tmp_path}/b --from {tmp_path}/a/mdsa.pt --no-adversarial --lr 1e-30"
    train(f"train-mdsa {again} --stage1-steps 0 --stage2-steps 1")
    name = "heads.v_hw.logvar.weight"
    a, b = (weights(tmp_path / out / "mdsa.pt", "mdsa")[name] for out in "ab")
    assert a.any() and torch.allclose(a, b, atol=1e-20)


@pytest.mark.slow
def test_another_resolution_takes_the_weights_and_names_those_it_resized(tmp_path):
    small = write_clips(tmp_path / "small", sources=4)
    large = write_clips(tmp_path / "large", sources=4, spec=replace(TINY, size=32))
    train(f"train-mdsa --clips {small} {TINY_MDSA} --out {tmp_path}/a --stage1-steps 1")
    output = train(
        f"train-mdsa --clips {large} --lpips none --device cpu --out {tmp_path}/b "
        f"--from {tmp_path}/a/mdsa.pt --stage1-steps 1"
    )
    assert "4 of them adapted (encoders.v.projectors.planes.tw.positions (1, 5, 16) -> (1, 9, 16)" in output
    model, header = load_mdsa(tmp_path / "b" / "mdsa.pt")
    assert model.config.size == 32 and header.rows == 8


def test_weights_that_do_not_fit_are_refused_by_name(clips, tmp_path):
    run = f"--clips {clips} --lpips none --device cpu"
    train(f"train-mdsa {run} {TINY_MDSA} --out {tmp_path}/a --stage1-steps 1 --no-gcm-attn")
    done = command(f"train-mdsa {run} --out {tmp_path}/b --from {tmp_path}/a/mdsa.pt --gcm-attn")
    assert done.exit_code == 2
    assert f"--from {tmp_path}/a/mdsa.pt: its weights do not fit: gcm." in done.output
    assert not (tmp_path / "b" / "state.pt").exists()


def test_a_dit_for_other_labels_keeps_the_rows_of_equal_names(latents, tmp_path):
    run = f"--latents {latents} --device cpu --batch-size 4"
    train(f"train-dit {run} --preset tiny --out {tmp_path}/a --steps 2")
    header = LatentData(latents).encoder
    others = write_latents(tmp_path / "others", header, levels={"ant": 0.5, "low": 0.0})
    output = train(
        f"train-dit --latents {others} --device cpu --batch-size 4 --from {tmp_path}/a/dit.pt "
        f"--out {tmp_path}/b --steps 1 --lr 1e-30 --seed 5"
    )
    assert "1 of them adapted (labels.weight (2, 16) -> (2, 16))" in output
    a, b = (weights(tmp_path / out / "dit.pt", "dit")["labels.weight"] for out in "ab")
    assert torch.equal(a[1], b[1])  # 'low' of high, low, and of ant, low
    assert not torch.equal(a[0], b[0])


def test_a_run_that_began_from_other_weights_is_refused(clips, tmp_path):
    run = f"--clips {clips} --lpips none --device cpu"
    for name in "ab":
        seed = f"--seed {ord(name)}"
        train(f"train-mdsa {run} {TINY_MDSA} --out {tmp_path}/{name} --stage1-steps 1 {seed}")
    train(f"train-mdsa {run} --out {tmp_path}/c --from {tmp_path}/a/mdsa.pt --stage1-steps 1")
    train(f"train-mdsa {run} --out {tmp_path}/c --stage1-steps 2")  # it need not be typed again
    (tmp_path / "a" / "mdsa.pt").unlink()  # nor be there
    train(f"train-mdsa {run} --out {tmp_path}/c --from {tmp_path}/a/mdsa.pt --stage1-steps 2")
    done = command(f"train-mdsa {run} --out {tmp_path}/c --from {tmp_path}/b/mdsa.pt --stage1-steps 3")
    assert done.exit_code == 2 and "was begun with weights at the start = " in done.output
