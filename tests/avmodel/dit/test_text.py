from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from avmodel.config import STDIT_PRESETS
from avmodel.dit.text import LabelTexts, TextError, read_caption_table, texts_of_latents


def test_several_labels_are_several_tokens_and_none_is_none():
    texts = LabelTexts({"rain": 3, "dog": 1})
    captions = texts.captions([("rain", "dog"), ()], ["", ""])
    assert captions.tokens[0, :2].tolist() == [1, 0]
    assert captions.mask.sum(1).tolist() == [2, 0]
    drawn = texts.draw(400, torch.Generator().manual_seed(0))
    assert 250 < sum(one == ("rain",) for one in drawn) < 350
    with pytest.raises(TextError, match="no label 'rainy'.*'rain'"):
        texts.captions([("rainy",)], [""])


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
