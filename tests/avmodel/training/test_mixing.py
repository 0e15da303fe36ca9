"""Training on several outputs and on selections: the shares hold, and any reader gives the same batches."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from avmodel.cli import main
from avmodel.config import MDSA_PRESETS, STDIT_PRESETS
from avmodel.data import ClipData, LatentData, Steps, step_loader
from avmodel.dit.text import texts_of_latents
from avmodel.dit.train import train_dit
from avmodel.mdsa.checkpoint import mdsa_payload, read_codec_header
from avmodel.mdsa.model import MDSA
from avmodel.mdsa.train import train_mdsa
from avmodel.training.checkpoints import load_checkpoint, save_checkpoint
from avmodel.training.errors import TrainingError
from avprep.shards.latents import EncoderHeader
from tests.avmodel.dit.made_training import config, losses
from tests.avmodel.made_latents import write_latents
from tests.avmodel.mdsa.made_training import config as mdsa_config
from tests.made_clips import TINY, write_clips
from tests.made_selection import write_keys


@pytest.fixture(scope="module")
def header(tmp_path_factory) -> EncoderHeader:
    path = tmp_path_factory.mktemp("mdsa") / "mdsa.pt"
    save_checkpoint(path, mdsa_payload(MDSA(MDSA_PRESETS["tiny"]), TINY, 0))
    return read_codec_header(path)


@pytest.fixture
def low(header, tmp_path) -> Path:
    """10 latents of which every second one has the label 'low'."""
    return write_latents(tmp_path / "low", header, count=10)


@pytest.fixture
def far(header, tmp_path) -> Path:
    """30 latents of other clips, with other labels."""
    return write_latents(tmp_path / "far", header, first=500, count=30, levels={"far": 0.9, "near": 0.1})


def test_shares_hold_over_a_thousand_batches_whoever_reads_them(low, far):
    """One process, and two ranks, whose batches are those of one in turn."""
    data = LatentData([low, far], shares=[0.3, 0.7])

    def batches(count: int, **told: int) -> list[list[int]]:
        return list(islice(Steps(data.clip_order(0), **told), count))

    alone = batches(1000, batch=8)
    drawn = [position for batch in alone for position in batch]
    error = (0.3 * 0.7 / len(drawn)) ** 0.5
    assert abs(sum(position < 10 for position in drawn) / len(drawn) - 0.3) < 3 * error
    ranks = [batches(1000, batch=4, rank=rank, world=2) for rank in range(2)]
    assert [a + b for a, b in zip(*ranks, strict=True)] == alone
    assert batches(10, batch=8, first=700) == alone[700:710]


@pytest.mark.timeout(120)
def test_loader_processes_give_the_same_mixed_batches(low, far):
    data = LatentData([low, far], shares=[0.3, 0.7])
    loaders = [step_loader(data, Steps(data.clip_order(1), 4), workers=n, pin=False) for n in (0, 1, 2)]
    for batches in zip(*(islice(loader, 6) for loader in loaders), strict=True):
        first, *others = batches
        for other in others:
            assert torch.equal(first.latent, other.latent) and first.labels == other.labels


def test_a_mixed_training_resumes_exactly(low, far, tmp_path):
    mixed = {"shares": (0.3, 0.7)}
    train_dit(config([low, far], tmp_path / "whole", steps=6, **mixed))
    train_dit(config([low, far], tmp_path / "parts", steps=3, **mixed))
    train_dit(config([low, far], tmp_path / "parts", steps=6, shares=(3, 7)))
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"shares": (0.4, 0.6)}, r"shares = \[0.3, 0.7\], and this run has shares = \[0.4, 0.6\]"),
        ({"shares": None}, r"shares = \[0.3, 0.7\], and this run has shares = None"),
        ({"select": "some"}, r"selection = None, and this run has selection = \['[0-9a-f]+"),
    ],
)
def test_a_training_that_draws_otherwise_is_another_run(low, far, tmp_path, change, named):
    for out in (low, far):
        write_keys(out, LatentData(out).keys)  # even one of all clips
    begun = {"steps": 1, "shares": (0.3, 0.7)}
    train_dit(config([low, far], tmp_path / "out", **begun))
    with pytest.raises(TrainingError, match=f"was begun with {named}"):
        train_dit(config([low, far], tmp_path / "out", **begun | change))


def test_the_digest_of_a_selection_is_in_the_checkpoint_and_another_one_is_refused(low, tmp_path):
    keys = LatentData(low).keys
    digest = write_keys(low, keys[2:8])
    train_dit(config(low, tmp_path / "out", steps=1, select="some"))
    state = load_checkpoint(tmp_path / "out" / "state.pt", "dit training state")
    assert state["run"]["selection"] == [digest] and state["run"]["number of latents"] == 6

    write_keys(low, keys[2:8], name="renamed")
    train_dit(config(low, tmp_path / "out", steps=2, select="renamed"))
    write_keys(low, keys[3:9], name="other")
    for select in ("other", None):
        with pytest.raises(TrainingError, match=f"was begun with selection = \\['{digest[:12]}"):
            train_dit(config(low, tmp_path / "out", steps=3, select=select))


def test_an_mdsa_trains_on_the_selected_clips_and_holds_out_of_them(tmp_path):
    clips = write_clips(tmp_path / "clips", sources=20, clips_each=2)
    keys = ClipData(clips).keys
    digest = write_keys(clips, keys[:20])
    train_mdsa(mdsa_config(clips, tmp_path / "out", stage1_steps=1, stage2_steps=0, select="some"))
    state = load_checkpoint(tmp_path / "out" / "state.pt", "mdsa training state")
    assert state["run"]["selection"] == [digest] and state["run"]["number of clips"] == 20
    training, held_out = ClipData(clips, select="some").split_by_source(0.3)
    assert sorted(training.keys + held_out.keys) == sorted(keys[:20])


def test_labels_are_those_of_all_outputs_or_of_the_selected_clips(low, far):
    preset = STDIT_PRESETS["tiny"]
    assert texts_of_latents([low, far], preset).texts.counts == {"far": 15, "high": 5, "low": 5, "near": 15}
    keys = LatentData(low).keys
    found = texts_of_latents([low, far], preset, keys=set(keys[::2][:3]))
    assert found.texts.counts == {"low": 3} and found.config.classes == 1


def test_the_command_takes_outputs_with_shares(low, far, tmp_path):
    def train(*outputs: str, out: str = "out"):
        named = [part for output in outputs for part in ("--latents", output)]
        options = "--preset tiny --steps 1 --batch-size 2 --loader-workers 0 --device cpu"
        return CliRunner().invoke(
            main,
            ["train-dit", *named, "--out", str(tmp_path / out), *options.split()],
            catch_exceptions=False,
        )

    done = train(f"{low}:0.3", f"{far}:.7")
    assert done.exit_code == 0, done.output
    state = load_checkpoint(tmp_path / "out" / "state.pt", "dit training state")
    assert state["run"]["shares"] == [0.3, 0.7] and state["run"]["number of latents"] == 40
    assert train(str(low), str(far), out="even").exit_code == 0
    half = train(f"{low}:0.3", str(far), out="half")
    assert half.exit_code == 2 and f"--latents {far}: it has no share, and others have one" in half.output
    none = train(f"{low}:0", out="none")
    assert none.exit_code == 2 and "a share must be above 0" in none.output
    tiny = train(f"{low}:0.00001", f"{far}:1", out="tiny")
    assert tiny.exit_code == 2 and "shares must be at least 1/10,000 of their sum" in tiny.output
