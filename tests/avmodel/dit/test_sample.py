"""`avmodel sample` on an STDiT that has learned two labels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from avmodel.config import MDSA_PRESETS, STDIT_PRESETS
from avmodel.data import LatentData
from avmodel.dit import output
from avmodel.dit import sample as module
from avmodel.dit.model import STDiT
from avmodel.dit.train import train_dit
from avmodel.mdsa.checkpoint import mdsa_payload
from avmodel.mdsa.model import MDSA
from avmodel.training.checkpoints import save_checkpoint
from avmodel.training.errors import CheckpointError, TrainingError
from avprep.shards.lock import lock
from avprep.shards.store import open_store
from avprep.shards.verify import verify
from tests.avmodel.dit.made_training import config, sample
from tests.avmodel.made_latents import LEVELS
from tests.made_clips import TINY


def digest(out: Path) -> dict[str, str]:
    names = [p for p in sorted(out.rglob("*")) if p.is_file() and p.name != ".lock"]
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in names}


def test_samples_have_the_label_that_was_asked_for(trained, mdsa, tmp_path):
    for label, level in LEVELS.items():
        done = sample(trained, mdsa, tmp_path / label, "--label", label, "--n", "6")
        assert done.exit_code == 0, done.output
        data = LatentData(tmp_path / label)
        mask = data.layout.mask()
        means = [float(data[i].latent.float()[:, mask].mean()) for i in range(6)]
        assert all(abs(mean - level) < 0.25 for mean in means), means
        assert all(not data[i].latent[:, ~mask].any() for i in range(6))


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


@pytest.mark.parametrize("stream_times", [False, True])
def test_a_model_with_a_time_per_stream_sees_what_is_given_without_noise(
    latents, mdsa, tmp_path, monkeypatch, stream_times
):
    model = replace(STDIT_PRESETS["tiny"], stream_times=stream_times)
    train_dit(config(latents, tmp_path, model=model, steps=2))
    wave = (0.2 * np.sin(np.arange(TINY.samples) * 0.1)).astype(np.float32)
    soundfile.write(tmp_path / "given.wav", wave, TINY.sample_rate)
    times, inner = [], STDiT.forward
    monkeypatch.setattr(
        STDiT, "forward", lambda s, z, t, *more: times.append(t[0].tolist()) or inner(s, z, t, *more)
    )
    arguments = ("--given-audio", str(tmp_path / "given.wav"), "--n", "1")
    done = sample(tmp_path, mdsa, tmp_path / "out", *arguments)
    assert done.exit_code == 0, done.output
    assert times == pytest.approx(
        np.stack([np.arange(10) / 10, np.ones(10)], 1) if stream_times else np.arange(10) / 10
    )


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


def test_a_caption_says_nothing_to_a_model_of_labels(trained, mdsa, tmp_path):
    done = sample(trained, mdsa, tmp_path / "out", "--caption", "a low sound")
    assert done.exit_code == 2 and "trained on labels" in done.output.replace("\n", " ")


def test_the_same_command_again_does_nothing_and_another_replaces(trained, mdsa, tmp_path):
    out = tmp_path / "out"
    assert sample(trained, mdsa, out, "--n", "3").exit_code == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.name != ".lock"}
    again = sample(trained, mdsa, out, "--n", "3")
    assert again.exit_code == 0 and f"nothing to do: these 3 clips are in {out}" in again.output
    assert {path: path.stat().st_mtime_ns for path in before} == before
    (out / "notes.txt").write_text("kept")
    other = sample(trained, mdsa, out, "--n", "2", "--seed", "1")
    assert f"the 3 earlier samples in {out} are replaced at the end" in other.output
    assert len(list(out.glob("*.mp4"))) == 2 and (out / "notes.txt").exists()
    next(out.glob("*.wav")).unlink()
    assert "nothing to do" not in sample(trained, mdsa, out, "--n", "2", "--seed", "1").output
    assert len(list(out.glob("*.wav"))) == 2


def test_a_failure_in_the_middle_leaves_the_earlier_samples_whole(trained, mdsa, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert sample(trained, mdsa, out, "--n", "3").exit_code == 0
    before = digest(out)
    inner, calls = module.write_mp4, []

    def failing(*args, **options):
        calls.append(1)
        if len(calls) == 3:
            raise OSError(28, "No space left on device", "clip.mp4")
        inner(*args, **options)

    monkeypatch.setattr(module, "write_mp4", failing)
    done = sample(trained, mdsa, out, "--n", "4", "--seed", "1")
    assert done.exit_code == 1 and "clip.mp4: No space left on device" in done.output
    assert digest(out) == before


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_latents_with_nan_are_never_written(trained, mdsa, tmp_path, monkeypatch, bad):
    monkeypatch.setattr(
        module, "solve_beside", lambda given, v, eps, *_, **options: torch.full_like(eps, bad)
    )
    done = sample(trained, mdsa, tmp_path / "out", "--n", "2")
    assert done.exit_code == 2 and "--dit " in done.output and "NaN or Inf" in done.output.replace("\n", " ")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]


def test_two_samplings_into_one_folder_are_one_too_many(trained, mdsa, tmp_path):
    with lock(open_store(tmp_path)):
        done = sample(trained, mdsa, tmp_path, "--n", "1")
    assert done.exit_code == 2 and "is writing there" in done.output.replace("\n", " ")


def without_room_at(clip: int) -> Callable[..., None]:
    """`write_mp4` on a disk that is full at the clip of that number."""
    inner, calls = module.write_mp4, []

    def write(*args, **options) -> None:
        calls.append(1)
        if len(calls) == clip:
            raise OSError(28, "No space left on device", "clip.mp4")
        inner(*args, **options)

    return write


def test_a_killed_run_goes_on_after_its_last_whole_shard(trained, mdsa, tmp_path, monkeypatch):
    """Shards of two clips; the third fails. What was made is kept, and the result is that of one run."""
    monkeypatch.setattr(output, "SHARD_SIZE", 2)
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert sample(trained, mdsa, whole, "--n", "7").exit_code == 0
    inner = module.write_mp4
    with monkeypatch.context() as patched:
        patched.setattr(module, "write_mp4", without_room_at(6))
        assert sample(trained, mdsa, out, "--n", "7").exit_code == 1
    assert not list(out.glob("*.mp4"))  # nothing is half there
    made: list[object] = []
    monkeypatch.setattr(
        module, "write_mp4", lambda *args, **options: (made.append(args), inner(*args, **options))
    )
    done = sample(trained, mdsa, out, "--n", "7")
    assert done.exit_code == 0 and len(made) == 3
    assert "4 of 7 clips are made already" in done.output
    assert digest(out) == digest(whole)
    assert not list(verify(open_store(out))) and len(LatentData(out)) == 7


def test_another_request_does_not_go_on_with_what_a_killed_run_left(trained, mdsa, tmp_path, monkeypatch):
    monkeypatch.setattr(output, "SHARD_SIZE", 2)
    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(module, "write_mp4", without_room_at(4))
        assert sample(trained, mdsa, out, "--n", "4").exit_code == 1
    assert sample(trained, mdsa, out, "--n", "4", "--seed", "1").exit_code == 0
    assert sample(trained, mdsa, tmp_path / "whole", "--n", "4", "--seed", "1").exit_code == 0
    assert digest(out) == digest(tmp_path / "whole")
