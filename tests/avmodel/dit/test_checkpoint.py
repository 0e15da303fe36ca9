"""dit.pt as hostile input: one message, in seconds, whatever it holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from avmodel.config import STDIT_PRESETS
from avmodel.data import layout_of
from avmodel.dit.checkpoint import check_made_by, dit_payload, load_dit
from avmodel.dit.model import STDiT
from avmodel.dit.text import CaptionTexts, LabelTexts, TextError
from avmodel.mdsa.checkpoint import read_codec_header
from avmodel.training.checkpoints import save_checkpoint
from avmodel.training.errors import CheckpointError


@pytest.fixture(scope="module")
def payload(mdsa) -> dict[str, Any]:
    """Of a model of one label: its table has one row."""
    header = read_codec_header(mdsa)
    config = replace(STDIT_PRESETS["tiny"], classes=1)
    model = STDiT(config, layout_of(header))
    texts = LabelTexts({"rain": 3}, [("rain",), ()])
    return dit_payload(config, model.state_dict(), header, texts, 5)


def changed(payload: dict[str, Any], entry: str, **changes: Any) -> dict[str, Any]:
    return payload | {entry: payload[entry] | changes}


def with_planes(payload: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return changed(payload, "latents", latent=payload["latents"]["latent"] | changes)


HOSTILE = {
    "a depth of a billion": lambda p: changed(p, "config", depth=10**9),
    "no heads": lambda p: changed(p, "config", heads=0),
    "a table of a million labels": lambda p: changed(p, "config", classes=10**6),
    "the largest that is allowed": lambda p: changed(p, "config", hidden=16384, heads=4, depth=128),
    "a patch that does not divide": lambda p: changed(p, "config", patch=[3, 3]),
    "a config that is text": lambda p: p | {"config": "tiny"},
    "latents that are a list": lambda p: p | {"latents": [1]},
    "latents of no kind": lambda p: changed(p, "latents", kind=None),
    "planes that are numbers": lambda p: with_planes(p, planes=[1, 2, 3, 4, 5, 6]),
    "planes without names": lambda p: with_planes(p, planes=[""] * 6),
    "one plane": lambda p: with_planes(p, planes=["v_hw"], valid_rows=[4]),
    "a stack of a billion rows": lambda p: with_planes(p, valid_rows=[10**9] * 6, rows=10**9, columns=10**9),
    "rows of text": lambda p: with_planes(p, valid_rows=["4"] * 6),
    "texts that are a list": lambda p: p | {"texts": ["rain"]},
    "labels that are a list": lambda p: p | {"texts": {"labels": ["rain"]}},
    "labels without numbers": lambda p: p | {"texts": {"labels": {"rain": "often"}}},
    "labels that are numbers": lambda p: p | {"texts": {"labels": {3: 3}}},
    "more labels than rows": lambda p: p | {"texts": {"labels": {"rain": 1, "wind": 2}}},
    "sets that are text": lambda p: changed(p, "texts", sets=["rain"]),
    "sets of unknown labels": lambda p: changed(p, "texts", sets=[["wind"]]),
    "sets of lists": lambda p: changed(p, "texts", sets=[[["rain"]]]),
    "sets that are a dict": lambda p: changed(p, "texts", sets={"rain": 1}),
    "texts of no kind": lambda p: p | {"texts": {}},
    "embeddings of no size": lambda p: p | {"texts": {"embeddings": {"width": 16}}},
    "no weights": lambda p: p | {"weights": {}},
    "weights of stride 0": lambda p: p | {"weights": {"null": torch.ones(1).expand(10**12)}},
    "no texts": lambda p: {name: value for name, value in p.items() if name != "texts"},
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_checkpoint_is_one_message(payload, tmp_path, change):
    torch.save(change(payload), tmp_path / "dit.pt")
    with pytest.raises(CheckpointError, match="dit.pt") as caught:
        load_dit(tmp_path / "dit.pt", None)
    assert len(str(caught.value)) < 1000 and "\n" not in str(caught.value)


def test_what_was_saved_is_loaded(payload, mdsa, tmp_path):
    save_checkpoint(tmp_path / "dit.pt", payload)
    trained = load_dit(tmp_path / "dit.pt", None)
    assert trained.latents == read_codec_header(mdsa) and not trained.model.training
    assert isinstance(trained.texts, LabelTexts) and trained.texts.counts == {"rain": 3}
    assert trained.texts.sets == (("rain",), ())
    weights = trained.model.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in payload["weights"].items())


def save_captions(path: Path, width: int) -> Path:
    save_file({"a video of rain": np.ones((3, width), np.float16)}, path)
    return path


def test_captions_come_from_a_file_of_the_width_that_was_trained_on(mdsa, tmp_path):
    header, config = read_codec_header(mdsa), STDIT_PRESETS["tiny"]
    texts = CaptionTexts({}, config.caption_dim, config.caption_tokens)
    weights = STDiT(config, layout_of(header)).state_dict()
    save_checkpoint(tmp_path / "dit.pt", dit_payload(config, weights, header, texts, 5))
    with pytest.raises(TextError, match="`captions_file` must name the captions.safetensors"):
        load_dit(tmp_path / "dit.pt", None)
    with pytest.raises(TextError, match="^captions_file = .*: its embeddings have 8 values, .* 16"):
        load_dit(tmp_path / "dit.pt", save_captions(tmp_path / "narrow.safetensors", 8))
    trained = load_dit(tmp_path / "dit.pt", save_captions(tmp_path / "c.safetensors", 16))
    assert trained.texts.captions([("rain",)], [""]).mask.sum() == 3


def test_a_model_of_labels_takes_no_captions(payload, tmp_path):
    save_checkpoint(tmp_path / "dit.pt", payload)
    with pytest.raises(TextError, match="^captions_file = .* was trained on labels"):
        load_dit(tmp_path / "dit.pt", tmp_path / "c.safetensors")


def test_latents_of_another_mdsa_are_refused(mdsa):
    header = read_codec_header(mdsa)
    check_made_by(header, header, "mdsa = a:", "latents = b")
    with pytest.raises(
        CheckpointError, match="^mdsa = a: its weights are .*; latents = b was made with another"
    ):
        check_made_by(replace(header, weights="0" * 64), header, "mdsa = a:", "latents = b")


def test_a_checkpoint_from_before_the_norms_and_a_time_per_stream_is_loaded_without_them(payload, tmp_path):
    added = ("qk_norm", "temporal_norm", "stream_times")
    old = {n: v for n, v in payload["config"].items() if n not in added}
    save_checkpoint(tmp_path / "dit.pt", payload | {"config": old})
    config = load_dit(tmp_path / "dit.pt", None).model.config
    assert not any(getattr(config, name) for name in added)
