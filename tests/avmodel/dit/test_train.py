"""From made latents to a trained STDiT to samples, on the tiny presets."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner
from safetensors.numpy import save_file

from avmodel.cli import main
from avmodel.config import MDSA_PRESETS, STDIT_PRESETS
from avmodel.data import LatentData
from avmodel.dit import train as module
from avmodel.dit.checkpoint import KIND
from avmodel.dit.options import DiTTrainingOptions
from avmodel.dit.text import CaptionTexts, LabelTexts, TextError
from avmodel.dit.train import train_dit
from avmodel.mdsa.checkpoint import mdsa_payload, read_codec_header
from avmodel.mdsa.model import MDSA
from avmodel.training.checkpoints import load_checkpoint, save_checkpoint
from avmodel.training.errors import CheckpointError, TrainingError
from avprep.shards.store import open_store
from avprep.shards.verify import verify
from tests.avmodel.made_latents import LEVELS, write_latents
from tests.made_clips import TINY


@pytest.fixture(scope="module")
def mdsa(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("mdsa") / "mdsa.pt"
    save_checkpoint(path, mdsa_payload(MDSA(MDSA_PRESETS["tiny"]), TINY, 0))
    return path


@pytest.fixture(scope="module")
def latents(mdsa, tmp_path_factory) -> Path:
    return write_latents(tmp_path_factory.mktemp("made") / "latents", read_codec_header(mdsa))


@pytest.fixture(scope="module")
def trained(latents, mdsa, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("dit")
    train_dit(config(latents, out, steps=300, lr=3e-3, ema=0.98, batch_size=16, mdsa=mdsa, eval_every=300))
    return out


def config(latents: Path, out: Path, **changes) -> DiTTrainingOptions:
    values = {
        "latents": str(latents),
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


@pytest.mark.parametrize("stop", [0, 2, 4])
def test_an_interrupted_run_gives_the_losses_and_weights_of_an_undisturbed_one(
    latents, tmp_path, stop, monkeypatch
):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train_dit(config(latents, whole))
    inner = module.DiTTrainer.train_step

    def until_stop(trainer):
        if trainer.step == stop:
            os.kill(os.getpid(), signal.SIGTERM)
        return inner(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(module.DiTTrainer, "train_step", until_stop)
        assert train_dit(config(latents, parts)).stopped_by == signal.SIGTERM
    assert train_dit(config(latents, parts)).step == 6
    assert losses(parts) == losses(whole)
    for name in ("dit.pt", "state.pt"):
        kind = KIND if name == "dit.pt" else module.STATE_KIND
        a, b = load_checkpoint(whole / name, kind), load_checkpoint(parts / name, kind)
        part = "weights" if name == "dit.pt" else "ema"
        assert same(a[part], b[part])


def test_packed_latents_train_to_the_same_losses(latents, mdsa, tmp_path):
    packed = write_latents(tmp_path / "packed", read_codec_header(mdsa), packed=True)
    train_dit(config(latents, tmp_path / "a"))
    train_dit(config(packed, tmp_path / "b"))
    assert losses(tmp_path / "a") == losses(tmp_path / "b")


def test_the_loss_is_told_by_t(trained):
    by_t = [row for row in rows(trained) if "loss_t/0.00" in row]
    assert by_t and all(f"loss_t/{t}" in by_t[-1] for t in ("0.00", "0.25", "0.50", "0.75"))


def sample(trained: Path, mdsa: Path, out: Path, *more: str):
    arguments = ["sample", "--dit", str(trained / "dit.pt"), "--mdsa", str(mdsa), "--out", str(out)]
    return CliRunner().invoke(
        main, [*arguments, "--steps", "10", "--guidance", "2", "--device", "cpu", *more]
    )


def test_samples_have_the_label_that_was_asked_for(trained, mdsa, tmp_path):
    for label, level in LEVELS.items():
        done = sample(trained, mdsa, tmp_path / label, "--label", label, "--n", "6")
        assert done.exit_code == 0, done.output
        data = LatentData(tmp_path / label)
        mask = data.layout.mask()
        means = [float(data[i].latent.float()[:, mask].mean()) for i in range(6)]
        assert all(abs(mean - level) < 0.25 for mean in means), means
        assert all(not data[i].latent[:, ~mask].any() for i in range(6))


def digest(out: Path) -> dict[str, str]:
    names = [p for p in sorted(out.rglob("*")) if p.is_file()]
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in names}


def test_only_a_folder_of_samples_is_sampled_into(trained, mdsa, latents, tmp_path):
    before = digest(latents)
    done = sample(trained, mdsa, latents, "--n", "1")
    assert done.exit_code == 2 and "holds latents that another command made" in done.output
    assert digest(latents) == before
    assert sample(trained, mdsa, tmp_path / "out", "--n", "3").exit_code == 0
    assert sample(trained, mdsa, tmp_path / "out", "--n", "1").exit_code == 0
    assert len(list((tmp_path / "out").glob("*.mp4"))) == 1  # none of the earlier ones beside it


def test_a_seed_gives_its_bytes_again_and_the_output_is_one_of_latents(trained, mdsa, tmp_path):
    runs = [tmp_path / name for name in "abc"]
    assert sample(trained, mdsa, runs[0], "--n", "5").exit_code == 0
    assert sample(trained, mdsa, runs[1], "--n", "5").exit_code == 0
    assert sample(trained, mdsa, runs[2], "--n", "5", "--seed", "1").exit_code == 0
    a, b, c = map(digest, runs)
    assert a == b
    assert {name for name in a if name.endswith(".mp4")}.isdisjoint(
        name for name in c if name.endswith(".mp4")
    )
    assert len([name for name in a if name.endswith(".wav")]) == 5 and "sheet.png" in a
    assert not list(verify(open_store(runs[0])))
    told = json.loads((runs[0] / "samples.json").read_text())
    assert len(told) == 5 and {one["labels"][0] for one in told} <= set(LEVELS)


def test_the_batch_size_changes_a_sample_by_rounding_alone(trained, mdsa, tmp_path):
    assert sample(trained, mdsa, tmp_path / "a", "--n", "5", "--batch-size", "5").exit_code == 0
    assert sample(trained, mdsa, tmp_path / "b", "--n", "5", "--batch-size", "2").exit_code == 0
    a, b = LatentData(tmp_path / "a"), LatentData(tmp_path / "b")
    assert a.index.keys == b.index.keys
    for i in range(5):
        assert torch.allclose(a[i].latent.float(), b[i].latent.float(), atol=2e-3)


def test_what_is_given_is_kept(trained, mdsa, tmp_path):
    wave = (0.2 * np.sin(np.arange(TINY.samples * 2) * 0.1)).astype(np.float32)
    soundfile.write(tmp_path / "given.wav", wave, TINY.sample_rate)
    done = sample(trained, mdsa, tmp_path / "out", "--given-audio", str(tmp_path / "given.wav"), "--n", "2")
    assert done.exit_code == 0, done.output
    from avmodel.dit.given import read_given
    from avmodel.mdsa.checkpoint import open_codec

    codec = open_codec(mdsa, device="cpu", batch_size=2, compile=False)
    known = read_given(codec, None, tmp_path / "given.wav").latent[0]
    data = LatentData(tmp_path / "out")
    for i in range(2):
        assert torch.equal(data[i].latent[:, 3:], known[:, 3:].half())
        assert not torch.equal(data[i].latent[:, :3], known[:, :3].half())
    heard, _ = soundfile.read(next((tmp_path / "out").glob("*.wav")), dtype="float32")
    assert np.abs(heard - wave[: TINY.samples]).max() < 1e-4


def test_a_given_video_is_shown_as_given(trained, mdsa, tmp_path):
    from avmodel.dit.given import read_frames
    from tests.avprep.media.flash_click import write_flash_click

    write_flash_click(tmp_path / "given.mp4", seconds=4.0)
    done = sample(trained, mdsa, tmp_path / "out", "--given-video", str(tmp_path / "given.mp4"), "--n", "1")
    assert done.exit_code == 0, done.output
    assert read_frames(tmp_path / "given.mp4", TINY).shape == TINY.frames_shape


@pytest.mark.parametrize("streams", ["v", "a"])
def test_a_model_of_one_stream_takes_none_for_the_other(streams, tmp_path):
    from avmodel.dit.given import GivenError, read_given
    from avmodel.mdsa.checkpoint import open_codec

    path = tmp_path / "one.pt"
    model = MDSA(replace(MDSA_PRESETS["tiny"], streams=streams))
    save_checkpoint(path, mdsa_payload(model, TINY, 0))
    codec = open_codec(path, device="cpu", batch_size=1, compile=False)
    with pytest.raises(GivenError, match="given_audio = .*any.wav: the MDSA has only one stream"):
        read_given(codec, None, tmp_path / "any.wav")


def test_what_cannot_be_is_a_sentence(trained, mdsa, latents, tmp_path):
    unknown = sample(trained, mdsa, tmp_path / "a", "--label", "hi")
    assert unknown.exit_code == 2 and "no label 'hi'" in unknown.output and "'high'" in unknown.output
    torch.manual_seed(1)
    other = tmp_path / "other.pt"
    save_checkpoint(other, mdsa_payload(MDSA(MDSA_PRESETS["tiny"]), TINY, 0))
    wrong = sample(trained, other, tmp_path / "a")
    assert wrong.exit_code == 2 and "another MDSA's" in wrong.output.replace("\n", " ")
    both = sample(trained, mdsa, tmp_path / "a", "--given-video", "x.mp4", "--given-audio", "x.wav")
    assert both.exit_code == 2 and "nothing left to make" in both.output
    missing = sample(trained, mdsa, tmp_path / "a", "--given-audio", str(tmp_path / "no.wav"))
    assert missing.exit_code == 2 and "--given-audio" in missing.output
    with pytest.raises(CheckpointError, match="another MDSA's"):
        train_dit(config(latents, tmp_path / "b", mdsa=other))
    with pytest.raises(TrainingError, match="begun with batch_size = 16, and this run has batch_size = 4"):
        train_dit(config(latents, trained, lr=3e-3, ema=0.98))


def test_latents_of_another_layout_are_another_run(trained, mdsa, latents, tmp_path):
    header = replace(read_codec_header(mdsa), weights="0" * 64)
    others = write_latents(tmp_path / "others", header, count=10)
    with pytest.raises(TrainingError, match="latents' fingerprint"):
        train_dit(config(others, trained, steps=400, lr=3e-3, ema=0.98, batch_size=16))


def test_a_caption_says_nothing_to_a_model_of_labels(trained, mdsa, tmp_path):
    done = sample(trained, mdsa, tmp_path / "out", "--caption", "a low sound")
    assert done.exit_code == 2 and "trained on labels" in done.output.replace("\n", " ")


def test_latents_without_labels_train_and_sample(mdsa, tmp_path):
    folder = write_latents(tmp_path / "bare", read_codec_header(mdsa))
    stats = json.loads((folder / "stats.json").read_text())
    (folder / "stats.json").write_text(json.dumps(stats | {"labels": {}}))
    with pytest.raises(TextError, match="no label '(low|high)' among the 0 trained on$"):
        train_dit(config(folder, tmp_path / "a"))  # the clips name labels that the statistics do not
    assert LabelTexts({}).draw(3, torch.Generator()) == [()] * 3
    (folder / "stats.json").unlink()
    with pytest.raises(TextError, match="to its end first"):
        train_dit(config(folder, tmp_path / "b"))


def test_more_latents_than_the_run_began_with_are_another_run(mdsa, tmp_path, monkeypatch):
    folder = write_latents(tmp_path / "latents", read_codec_header(mdsa))
    train_dit(config(folder, tmp_path / "out", steps=2))
    monkeypatch.setattr(LatentData, "__len__", lambda self: 25)
    with pytest.raises(TrainingError, match="number of latents = 24, and this run has .* = 25"):
        train_dit(config(folder, tmp_path / "out"))


def test_several_labels_are_several_tokens_and_none_is_none():
    texts = LabelTexts({"rain": 3, "dog": 1})
    captions = texts.captions([("rain", "dog"), ()], ["", ""])
    assert captions.tokens[0, :2].tolist() == [1, 0]
    assert captions.mask.sum(1).tolist() == [2, 0]
    drawn = texts.draw(400, torch.Generator().manual_seed(0))
    assert 250 < sum(one == ("rain",) for one in drawn) < 350
    with pytest.raises(TextError, match="no label 'rainy'.*'rain'"):
        texts.captions([("rainy",)], [""])


def test_caption_embeddings_are_read_where_the_latents_carry_them(latents, mdsa, tmp_path):
    rng = np.random.default_rng(0)
    folder = write_latents(tmp_path / "captioned", read_codec_header(mdsa))
    table = {f"a video of {label}": rng.normal(size=(3, 12)).astype(np.float16) for label in LEVELS}
    save_file(table, folder / "captions.safetensors")
    train_dit(config(folder, tmp_path / "out"))
    payload = load_checkpoint(tmp_path / "out" / "dit.pt", KIND)
    assert payload["config"]["caption_dim"] == 12 and payload["config"]["classes"] == 0
    file = str(folder / "captions.safetensors")
    done = sample(
        tmp_path / "out", mdsa, tmp_path / "s", "--label", "low", "--n", "1", "--captions-file", file
    )
    assert done.exit_code == 0, done.output
    without = sample(tmp_path / "out", mdsa, tmp_path / "s", "--label", "low", "--n", "1")
    assert without.exit_code == 2 and "--captions-file" in without.output
    texts = CaptionTexts(table, 12, 4)
    captions = texts.captions([("low", "high"), ()], ["", ""])
    assert captions.mask.sum(1).tolist() == [4, 0]
    joint = {"a video of low, high": np.ones((2, 12), np.float16)}
    captions = CaptionTexts(table | joint, 12, 4).captions([("low", "high")], [""])
    assert captions.mask.sum().item() == 2 and captions.tokens[0, :2].eq(1).all()


def test_no_text_is_cut_off(mdsa, tmp_path):
    folder = write_latents(tmp_path / "captioned", read_codec_header(mdsa))
    table = {f"a video of {label}": np.ones((9, 12), np.float16) for label in LEVELS}
    save_file(table, folder / "captions.safetensors")
    train_dit(config(folder, tmp_path / "out", steps=1))
    assert load_checkpoint(tmp_path / "out" / "dit.pt", KIND)["config"]["caption_tokens"] == 9
