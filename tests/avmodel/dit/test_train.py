from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.numpy import save_file
from torch.utils.data import get_worker_info

from avmodel.cli import main
from avmodel.config import STDIT_PRESETS
from avmodel.data import LatentData
from avmodel.dit import train as module
from avmodel.dit.checkpoint import KIND
from avmodel.dit.model import Captions, STDiT
from avmodel.dit.text import CaptionTexts, LabelTexts, TextError, trimmed
from avmodel.dit.train import train_dit
from avmodel.mdsa.checkpoint import read_codec_header
from avmodel.training import optim
from avmodel.training.checkpoints import load_checkpoint, save_checkpoint
from avmodel.training.errors import CheckpointError, LoaderError, TrainingError
from avmodel.training.machine import DistributedContext
from avmodel.training.muon import Muon
from avprep.errors import ArgumentError
from avprep.shards.layout import ShardError
from avprep.shards.lock import lock
from avprep.shards.store import open_store
from tests.avmodel.dit.made_training import config, losses, rows, same, sample
from tests.avmodel.made_latents import LEVELS, write_latents


@pytest.mark.parametrize(("stop", "optimizer"), [(0, "adam"), (2, "muon"), (4, "adam")])
def test_an_interrupted_run_gives_the_losses_and_weights_of_an_undisturbed_one(
    latents, tmp_path, stop, optimizer, monkeypatch
):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train_dit(config(latents, whole, optimizer=optimizer))
    inner = module.DiTTrainer.train_step

    def until_stop(trainer, batches):
        if trainer.step == stop:
            os.kill(os.getpid(), signal.SIGTERM)
        return inner(trainer, batches)

    with monkeypatch.context() as patch:
        patch.setattr(module.DiTTrainer, "train_step", until_stop)
        assert train_dit(config(latents, parts, optimizer=optimizer)).stopped_by == signal.SIGTERM
    assert train_dit(config(latents, parts, optimizer=optimizer)).step == 6
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


def test_the_held_out_loss_is_of_the_averaged_weights_on_sources_that_are_not_trained_on(latents, tmp_path):
    options = config(latents, tmp_path, holdout=0.3, eval_every=2)
    train_dit(options)
    found = [row for row in rows(tmp_path) if "held_out/loss" in row]
    assert [row["step"] for row in found] == [2, 4, 6]
    trainer = module.DiTTrainer(options, DistributedContext(torch.device("cpu")), LatentData(latents))
    assert set(trainer.training.keys).isdisjoint(trainer.held_out.keys)
    assert len(trainer.training) + len(trainer.held_out) == 24 and len(trainer.held_out) > 2
    trainer.open()
    [again] = {trainer._held_out_loss()[0] for _ in range(2)}  # not of the averaged weights
    with trainer.ema.swapped_into(trainer.model):
        averaged, by_t = trainer._held_out_loss()
    assert averaged == pytest.approx(found[-1]["held_out/loss"], abs=1e-6) and averaged != again
    assert by_t.keys() == {f"held_out/loss_t/{t}" for t in ("0.00", "0.25", "0.50", "0.75")}
    trainer.close()


TIMED = replace(STDIT_PRESETS["tiny"], stream_times=True)


def trainer_of(latents, out, **changes) -> module.DiTTrainer:
    options = config(latents, out, **changes)
    return module.DiTTrainer(options, DistributedContext(torch.device("cpu")), LatentData(latents))


def test_the_held_out_loss_with_a_time_per_stream_is_that_of_the_model_without(latents, tmp_path):
    plain = trainer_of(latents, tmp_path, holdout=0.3)
    timed = trainer_of(latents, tmp_path, holdout=0.3, model=TIMED)
    for parameter in plain.model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    timed.model.load_state_dict(plain.model.state_dict())
    loss, by_t = plain._held_out_loss()
    assert timed._held_out_loss() == (pytest.approx(loss, abs=1e-6), pytest.approx(by_t, abs=1e-6))


def test_the_held_out_loss_beside_a_given_stream_is_that_of_the_other(latents, tmp_path):
    """A new model's velocity is zero: its loss is the mean square of z1 - eps in the stream that is made."""
    trainer = trainer_of(latents, tmp_path, holdout=0.3, model=TIMED)
    data, mask = trainer.held_out, trainer.data.layout.mask()
    target = torch.stack([data[i].latent.float() - trainer._held_out_noise(i) for i in range(len(data))])
    for given, made in (("v", slice(3, 6)), ("a", slice(0, 3))):
        expected = target[:, :, made][:, :, mask[made]].square().mean().item()
        assert trainer._held_out_loss(given) == (pytest.approx(expected, rel=1e-5), {})


def test_the_losses_beside_a_given_stream_are_logged(latents, tmp_path):
    train_dit(config(latents, tmp_path / "timed", model=TIMED, holdout=0.3))
    train_dit(config(latents, tmp_path / "plain", holdout=0.3))
    for out, logged in (("timed", True), ("plain", False)):
        [last] = [row for row in rows(tmp_path / out) if "held_out/loss" in row and row["step"] == 6]
        assert ("held_out/loss_given_v" in last and "held_out/loss_given_a" in last) is logged


def test_the_loss_by_t_is_of_the_samples_with_one_time():
    by_t = module.LossByTime(torch.device("cpu"))
    t = torch.tensor([[0.1, 0.1], [0.1, 0.9], [1.0, 0.3], [0.8, 0.8], [0.9, 0.9]])
    by_t.add(t, torch.tensor([1.0, 2.0, 3.0, 4.0, 6.0]))
    assert by_t.read("loss") == {"loss/0.00": 1.0, "loss/0.75": 5.0}


def test_a_time_per_stream_leaves_the_other_draws_as_they_are(latents, tmp_path):
    plain = trainer_of(latents, tmp_path, batch_size=512)._draws(3)
    timed = trainer_of(latents, tmp_path, batch_size=512, model=TIMED, shared_times=0.25)._draws(3)
    assert torch.equal(timed.eps, plain.eps)
    assert plain.t.shape == (512,) and timed.t.shape == (512, 2)
    assert (timed.t[:, 0] == timed.t[:, 1]).sum() == pytest.approx(128, abs=40)
    assert (timed.t == 1).sum() == pytest.approx(192, abs=45)


def test_shared_times_are_refused_without_a_time_per_stream(latents, tmp_path):
    with pytest.raises(TrainingError, match=r"shared_times = 0\.3: only a model with `stream_times`"):
        train_dit(config(latents, tmp_path, shared_times=0.3))
    with pytest.raises(TrainingError, match=r"shared_times must be from 0 to 1, not 1\.5"):
        config(latents, tmp_path, model=TIMED, shared_times=1.5)


def test_a_training_with_a_time_per_stream_resumes_and_may_start_from_a_model_without(latents, tmp_path):
    def train(out: str, *more: str) -> str:
        common = "--preset tiny --batch-size 4 --log-every 1 --loader-workers 0 --device cpu --no-compile"
        arguments = [
            "train-dit",
            "--latents",
            str(latents),
            "--out",
            str(tmp_path / out),
            *common.split(),
            *more,
        ]
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 0, done.output
        return done.output

    train("plain", "--steps", "2")
    start = ("--from", str(tmp_path / "plain" / "dit.pt"), "--stream-times", "--shared-times", "0.25")
    train("timed", "--steps", "4", *start)
    assert load_checkpoint(tmp_path / "timed" / "dit.pt", KIND)["config"]["stream_times"] is True
    train("parts", "--steps", "2", *start)
    train("parts", "--steps", "4")
    assert losses(tmp_path / "parts") == losses(tmp_path / "timed")


def test_the_best_of_the_evaluations_is_kept_and_known_to_a_resumed_run(latents, tmp_path, monkeypatch):
    scores = iter([-3.0, -1.0, -2.0, -1.5, -0.5])
    monkeypatch.setattr(module.DiTTrainer, "score", lambda trainer: next(scores))
    train_dit(config(latents, tmp_path, steps=6, eval_every=2, checkpoint_every=100))
    assert load_checkpoint(tmp_path / "dit-best.pt", KIND)["step"] == 4
    train_dit(config(latents, tmp_path, steps=8, eval_every=8))
    assert load_checkpoint(tmp_path / "dit-best.pt", KIND)["step"] == 4
    train_dit(config(latents, tmp_path, steps=10, eval_every=10))
    assert load_checkpoint(tmp_path / "dit-best.pt", KIND)["step"] == 10


@pytest.mark.parametrize("stream_times", [False, True])
def test_micro_batches_give_the_losses_of_the_whole(latents, tmp_path, stream_times):
    model = replace(STDIT_PRESETS["tiny"], stream_times=stream_times)
    train_dit(config(latents, tmp_path / "whole", model=model, batch_size=8))
    train_dit(config(latents, tmp_path / "parts", model=model, batch_size=8, accumulate=4))
    a, b = ([loss for _, loss in losses(tmp_path / out)] for out in ("whole", "parts"))
    assert a == pytest.approx(b, rel=1e-4)


def test_the_rate_falls_to_the_end(latents, tmp_path, monkeypatch):
    rates, inner = {}, optim.apply_step

    def apply_step(optimizer, rate, bad):
        rates.setdefault(type(optimizer), []).append(rate)
        inner(optimizer, rate, bad)

    monkeypatch.setattr(optim, "apply_step", apply_step)
    train_dit(config(latents, tmp_path, lr=6e-3, muon_lr=0.6, warmup_steps=2, cooldown_steps=3))
    shares = np.array([1 / 2, 1, 1, 1, 2 / 3, 1 / 3])
    assert rates == {torch.optim.AdamW: pytest.approx(6e-3 * shares), Muon: pytest.approx(0.6 * shares)}


def test_a_bad_batch_leaves_the_step_out(latents, tmp_path, monkeypatch):
    inner, read = module.DiTTrainer._read, []

    def one_bad(trainer):
        for batch in inner(trainer):
            read.append(1)
            if len(read) == 2:
                batch.latent[0, 0, 0, 0, 0] = torch.nan
            yield batch

    monkeypatch.setattr(module.DiTTrainer, "_read", one_bad)
    assert train_dit(config(latents, tmp_path)).skipped == 1
    assert [step for step, _ in losses(tmp_path)] == [1, 3, 4, 5, 6]
    assert all(np.isfinite(value) for row in rows(tmp_path) for value in row.values())


def test_captions_are_as_long_as_the_longest_of_the_batch(monkeypatch):
    mask = torch.zeros(3, 77, dtype=torch.bool)
    tokens = torch.randn(3, 77, 4)
    for length, expected in ((0, 8), (8, 8), (9, 16), (77, 77)):
        mask[1, :length] = True
        assert trimmed(Captions(tokens, mask)).tokens.shape == (3, expected, 4)
        assert trimmed(Captions(tokens, mask)).mask.sum() == length


def test_trimmed_captions_give_the_same_velocity(latents):
    torch.manual_seed(0)
    layout = LatentData(latents).layout
    preset = replace(STDIT_PRESETS["tiny"], caption_dim=4, caption_tokens=77)
    model = STDiT(preset, layout)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    mask = torch.arange(77) < torch.tensor([[0], [3], [11]])
    captions = Captions(torch.randn(3, 77, 4), mask)
    z, t = torch.randn(3, *layout.shape), torch.rand(3)
    drop = torch.tensor([False, True, False])
    torch.testing.assert_close(model(z, t, captions, drop), model(z, t, trimmed(captions), drop))


def test_the_spread_of_the_latents_is_that_of_their_real_values(latents):
    data = LatentData(latents)
    everything = torch.stack([data[i].latent for i in range(len(data))]).float()
    rows_of = dict(zip(data.layout.planes, data.layout.valid_rows, strict=True))
    found = module.spread_of(data)
    for p, (plane, valid) in enumerate(rows_of.items()):
        assert found[plane] == pytest.approx(everything[:, :, p, :valid].std().item(), rel=1e-5)


def test_latents_of_another_layout_are_another_run(trained, mdsa, latents, tmp_path):
    header = replace(read_codec_header(mdsa), weights="0" * 64)
    others = write_latents(tmp_path / "others", header, count=10)
    with pytest.raises(TrainingError, match="latents' fingerprint"):
        train_dit(config(others, trained, steps=400, lr=3e-3, ema=0.98, batch_size=16))


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


def test_another_number_of_latents_than_the_run_began_with_is_another_run(latents, tmp_path):
    train_dit(config(latents, tmp_path, steps=2))
    path = tmp_path / "state.pt"
    state = load_checkpoint(path, module.STATE_KIND)
    save_checkpoint(path, state | {"run": state["run"] | {"number of latents": 25}})
    with pytest.raises(TrainingError, match="number of latents = 25, and this run has .* = 24"):
        train_dit(config(latents, tmp_path))


def test_a_damaged_shard_ends_the_training_or_is_left_out_and_named(mdsa, tmp_path, capsys):
    folder = write_latents(tmp_path / "latents", read_codec_header(mdsa))
    shard = folder / "shards" / "latents-000001.tar"
    shard.write_bytes(shard.read_bytes()[:-512])
    with pytest.raises(ShardError, match=r"latents-000001\.tar has .* bytes"):
        train_dit(config(folder, tmp_path / "out"))
    assert train_dit(config(folder, tmp_path / "out", on_damage="skip")).step == 6
    assert f"not trained on: {shard} has" in capsys.readouterr().err
    with pytest.raises(ArgumentError, match="^on_damage must be one of end, skip, not 'x'"):
        train_dit(config(folder, tmp_path / "other", on_damage="x"))


def test_a_damaged_ledger_is_left_out_too(mdsa, tmp_path):
    folder = write_latents(tmp_path / "latents", read_codec_header(mdsa))
    (folder / "ledger" / "000001.parquet").write_bytes(b"PAR1")
    assert train_dit(config(folder, tmp_path / "out", on_damage="skip", steps=1)).step == 1


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


def relabelled(folder: Path, names: dict[str, str], mdsa: Path) -> Path:
    """The same latents with other labels, as a rebuild writes them after folders were renamed."""
    shutil.rmtree(folder)
    return write_latents(folder, read_codec_header(mdsa), levels={names[k]: v for k, v in LEVELS.items()})


def test_other_labels_of_equal_number_are_another_training(mdsa, tmp_path):
    folder = write_latents(tmp_path / "latents", read_codec_header(mdsa))
    train_dit(config(folder, tmp_path / "out", steps=2))
    relabelled(folder, {"low": "ant", "high": "zoo"}, mdsa)
    with pytest.raises(TrainingError, match=r"texts.labels = \['high', 'low'\], and .*'ant', 'zoo'"):
        train_dit(config(folder, tmp_path / "out"))


def test_exchanged_labels_are_another_training(mdsa, tmp_path):
    """The table of labels is the same; which clip has which is not."""
    folder = write_latents(tmp_path / "latents", read_codec_header(mdsa))
    train_dit(config(folder, tmp_path / "out", steps=2))
    relabelled(folder, {"low": "high", "high": "low"}, mdsa)
    with pytest.raises(TrainingError, match="begun with latents.shards = "):
        train_dit(config(folder, tmp_path / "out"))


def test_exchanged_caption_embeddings_are_another_training(mdsa, tmp_path):
    folder = write_latents(tmp_path / "latents", read_codec_header(mdsa))
    rng = np.random.default_rng(0)

    def embed(encoder: str) -> None:
        table = {f"a video of {label}": rng.normal(size=(3, 12)).astype(np.float16) for label in LEVELS}
        save_file(table, folder / "captions.safetensors", metadata={"text_encoder": encoder})

    embed("clip")
    train_dit(config(folder, tmp_path / "out", steps=2))
    embed("clip")
    with pytest.raises(TrainingError, match="begun with texts.captions.safetensors = "):
        train_dit(config(folder, tmp_path / "out"))
    embed("t5")
    with pytest.raises(TrainingError, match="texts.text encoder = clip, and this run has .* = t5"):
        train_dit(config(folder, tmp_path / "out"))


def test_a_state_of_the_last_version_is_resumed(latents, tmp_path):
    """It knows the fingerprint and the number of latents, but not their bytes."""
    train_dit(config(latents, tmp_path / "whole"))
    train_dit(config(latents, tmp_path / "parts", steps=4))
    path = tmp_path / "parts" / "state.pt"
    state = load_checkpoint(path, module.STATE_KIND)
    for name in ("texts", "latents"):
        del state["run"][name]
    save_checkpoint(path, state)
    assert train_dit(config(latents, tmp_path / "parts")).step == 6
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("run", [], "its entry 'run' is list, not dict"),
        ("step", None, "its entry 'step' is NoneType, not int"),
        ("model", {}, "its weights are not those of its config"),
        ("ema", {"null": torch.ones(3)}, "its weights are not those of its config"),
        ("optimizer", {"state": {0: {"exp_avg": torch.ones(3)}}}, "its optimizer's averages"),
    ],
)
def test_a_state_whose_entries_are_wrong_is_refused_with_the_entry_named(
    latents, tmp_path, entry, value, message
):
    train_dit(config(latents, tmp_path, steps=2))
    path = tmp_path / "state.pt"
    save_checkpoint(path, load_checkpoint(path, module.STATE_KIND) | {entry: value})
    with pytest.raises(CheckpointError, match=message):
        train_dit(config(latents, tmp_path))


def test_two_trainings_into_one_folder_are_one_too_many(latents, tmp_path):
    with lock(open_store(tmp_path)), pytest.raises(ShardError, match="is writing there"):
        train_dit(config(latents, tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {".lock"}


@pytest.mark.timeout(60)
def test_a_reader_that_dies_ends_the_run_with_a_checkpoint_to_resume_from(latents, tmp_path, monkeypatch):
    train_dit(config(latents, tmp_path / "whole"))
    inner = LatentData.__getitem__

    def dying(self, position):
        if get_worker_info() is not None:  # and not the run, which reads the held-out clips itself
            if self.reads == 14:  # items of the fourth batch
                os.kill(os.getpid(), signal.SIGKILL)
            self.reads += 1
        return inner(self, position)

    with monkeypatch.context() as patch:
        patch.setattr(LatentData, "reads", 0, raising=False)
        patch.setattr(LatentData, "__getitem__", dying)
        with pytest.raises(LoaderError, match="a process that reads the data has died"):
            train_dit(config(latents, tmp_path / "parts", loader_workers=1, checkpoint_every=100))
    assert load_checkpoint(tmp_path / "parts" / "state.pt", module.STATE_KIND)["step"] <= 3
    assert train_dit(config(latents, tmp_path / "parts")).step == 6
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
