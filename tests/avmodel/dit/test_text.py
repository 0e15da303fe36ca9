from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from avmodel.config import MDSA_PRESETS, STDIT_PRESETS
from avmodel.data import LatentData
from avmodel.dit import text as module
from avmodel.dit.text import LabelTexts, TextError, label_sets, read_caption_table, texts_of_latents
from avmodel.mdsa.checkpoint import mdsa_payload, read_codec_header
from avmodel.mdsa.model import MDSA
from avmodel.training.checkpoints import save_checkpoint
from tests.avmodel.made_latents import write_latents
from tests.made_clips import TINY


def test_several_labels_are_several_tokens_and_none_is_none():
    texts = LabelTexts({"rain": 3, "dog": 1})
    captions = texts.captions([("rain", "dog"), ()], ["", ""])
    assert captions.tokens[0, :2].tolist() == [1, 0]
    assert captions.mask.sum(1).tolist() == [2, 0]
    drawn = texts.draw(400, torch.Generator().manual_seed(0))
    assert 250 < sum(one == ("rain",) for one in drawn) < 350
    with pytest.raises(TextError, match="no label 'rainy'.*'rain'"):
        texts.captions([("rainy",)], [""])


def test_sets_of_labels_are_drawn_whole_and_as_often_as_they_occur():
    sets = [("dog", "rain"), ("dog", "rain"), ("cat",), ()]
    texts = LabelTexts({"rain": 2, "dog": 2, "cat": 1}, sets)
    drawn = Counter(texts.draw(4000, torch.Generator().manual_seed(0)))
    assert drawn.keys() == set(sets)
    assert drawn["dog", "rain"] == pytest.approx(2000, abs=200) and drawn[()] == pytest.approx(1000, abs=150)


def test_the_sets_are_those_of_clips_spread_over_the_training_set(tmp_path, monkeypatch):
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "mdsa.pt", mdsa_payload(MDSA(MDSA_PRESETS["tiny"]), TINY, 0))
    folder = write_latents(tmp_path / "latents", read_codec_header(tmp_path / "mdsa.pt"), unlabelled=4)
    data = LatentData(folder)
    assert Counter(label_sets([folder], data.keys)) == Counter(data[i].labels for i in range(len(data)))
    monkeypatch.setattr(module, "LABEL_SETS", 6)
    assert label_sets([folder], data.keys) == [data[i].labels for i in range(0, 24, 4)]


@pytest.mark.parametrize(
    ("stats", "message"),
    [
        ("[]", "is damaged"),
        ("{", "is damaged"),
        ("{}", "is damaged: KeyError"),
        ('{"labels": ["cat", "dog"]}', "its labels are not names with numbers"),
        ('{"labels": {"cat": -1}}', "its labels are not names with numbers"),
        ('{"labels": {"cat": "many"}}', "its labels are not names with numbers"),
        ("[" * 100_000, "is damaged"),
    ],
)
def test_damaged_statistics_are_refused(tmp_path, stats, message):
    (tmp_path / "stats.json").write_text(stats)
    with pytest.raises(TextError, match=message):
        texts_of_latents([tmp_path], STDIT_PRESETS["tiny"])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"a": np.ones((3, 4), np.float16), "b": np.ones((3, 5), np.float16)}, "shapes .* differ"),
        ({"a": np.ones(3, np.float16)}, "shapes"),
        ({}, "shapes"),
        ({"a": np.full((3, 4), np.nan, np.float16)}, "NaN or Inf"),
    ],
)
def test_a_table_of_captions_that_is_none_is_refused(tmp_path, table, message):
    save_file(table, tmp_path / "captions.safetensors")
    with pytest.raises(TextError, match=message):
        read_caption_table(tmp_path / "captions.safetensors")
    (tmp_path / "captions.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(TextError, match="is no captions.safetensors"):
        read_caption_table(tmp_path / "captions.safetensors")


def test_the_identity_of_labels_is_their_names_in_the_order_of_the_table(tmp_path):
    (tmp_path / "stats.json").write_text(json.dumps({"labels": {"dog": 1, "cat": 5}}))
    texts, config, identity = texts_of_latents([tmp_path], STDIT_PRESETS["tiny"])
    assert identity == {"labels": ["cat", "dog"]} and config.classes == 2
    assert texts.captions([("cat",), ("dog",)], ["", ""]).tokens[:, 0].tolist() == [0, 1]
