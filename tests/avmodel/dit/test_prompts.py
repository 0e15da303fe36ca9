"""What each clip is asked to show: from files, and sets of labels drawn as they occur together."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from avmodel.data import LatentData
from avmodel.dit.options import SampleOptions
from avmodel.dit.prompts import Prompt, prompts_of, read_prompts
from avmodel.dit.text import CaptionTexts, LabelTexts, TextError
from tests.avmodel.dit.made_training import sample


def written(tmp_path: Path, name: str, text: str) -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_csv_and_json_lines_give_the_same_prompts(tmp_path):
    table = written(tmp_path, "a.csv", 'labels,caption,seed\nrain|thunder,,7\n,"a dog, barking",\n')
    lines = [{"labels": ["rain", "thunder"], "seed": 7}, {"caption": "a dog, barking"}]
    listed = written(tmp_path, "a.jsonl", "\n".join(map(json.dumps, lines)) + "\n\n")
    expected = [Prompt(("rain", "thunder"), "", 7), Prompt((), "a dog, barking", None)]
    assert read_prompts(table) == read_prompts(listed) == expected


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.csv", "labels,seed\nrain,-1\n", "line 2: seed = '-1' is no whole number"),
        ("a.csv", "labels,seed\nrain,1\nrain\n", "line 3 has not 2 cells"),
        ("a.csv", "name\nrain\n", "its columns are \\['name'\\]"),
        ("a.csv", "labels,mood\nrain,good\n", "line 2 has 'mood'"),
        ("a.csv", "labels\n", "it has no row"),
        ("a.jsonl", '{"labels": 5}\n', "line 1: labels = 5 are no texts"),
        ("a.jsonl", '{"labels": ["a", 1]}\n', "line 1: labels"),
        ("a.jsonl", '{"seed": 1.5}\n', "line 1: seed = 1.5"),
        ("a.jsonl", '{"seed": true}\n', "line 1: seed = True"),
        ("a.jsonl", "{}\n[1]\n", "line 2 is no object"),
        ("a.jsonl", "{\n", "line 1 is no JSON"),
        ("a.txt", "rain\n", "none of the suffixes .csv, .jsonl"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(tmp_path, name, text, message):
    with pytest.raises(TextError, match=message):
        read_prompts(written(tmp_path, name, text))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(TextError, match="nowhere.csv: it cannot be read"):
        read_prompts(tmp_path / "nowhere.csv")


SETS = [("rain",)] * 6 + [("rain", "thunder")] * 3 + [()]
COUNTS = {"rain": 9, "thunder": 3}


def test_sets_are_drawn_whole_and_as_often_as_they_occur():
    drawn = LabelTexts(COUNTS, SETS).draw(4000, torch.Generator().manual_seed(0))
    found = Counter(drawn)
    assert set(found) == set(SETS)  # thunder never without rain
    for labels in set(SETS):
        assert found[labels] / 4000 == pytest.approx(SETS.count(labels) / 10, abs=0.03)


def options(**more) -> SampleOptions:
    return SampleOptions(dit=Path("d"), mdsa=Path("m"), out=Path("o"), **more)


def test_a_row_that_the_model_does_not_know_ends_before_anything_is_made(tmp_path):
    path = written(tmp_path, "a.csv", "labels,caption\nrain,\nhail,\n")
    with pytest.raises(TextError, match="row 2: no label 'hail'"):
        prompts_of(options(prompts=path), LabelTexts(COUNTS))
    captioned = written(tmp_path, "b.csv", "caption\na dog\n")
    with pytest.raises(TextError, match="row 1: caption = 'a dog': the model was trained on labels"):
        prompts_of(options(prompts=captioned), LabelTexts(COUNTS))
    with pytest.raises(TextError, match="row 1: no embedding of 'a dog'"):
        prompts_of(options(prompts=captioned), CaptionTexts({}, 4, 2))
    with pytest.raises(TextError, match="n = 3: .* has 2 rows"):
        prompts_of(options(prompts=path, n=3), LabelTexts(COUNTS))
    with pytest.raises(TextError, match="`labels` and `caption` are not given beside it"):
        prompts_of(options(prompts=path, labels=("rain",)), LabelTexts(COUNTS))


def test_eight_clips_unless_a_number_or_a_file_says_otherwise(tmp_path):
    path = written(tmp_path, "a.csv", "labels\n" + "rain\n" * 3)
    assert len(prompts_of(options(), LabelTexts(COUNTS))) == 8
    assert len(prompts_of(options(prompts=path), LabelTexts(COUNTS))) == 3
    assert len(prompts_of(options(prompts=path, n=2), LabelTexts(COUNTS))) == 2


def test_clips_follow_the_rows_and_a_row_s_seed_gives_its_clip_wherever_it_stands(trained, mdsa, tmp_path):
    first = written(tmp_path, "a.csv", "labels,seed\nlow,5\nhigh,6\nlow,\n")
    second = written(tmp_path, "b.csv", "labels,seed\nhigh,6\nlow,5\n")
    for path in (first, second):
        done = sample(trained, mdsa, tmp_path / path.stem, "--prompts", str(path))
        assert done.exit_code == 0, done.output
    a, b = LatentData(tmp_path / "a"), LatentData(tmp_path / "b")
    assert [a[i].labels for i in range(3)] == [("low",), ("high",), ("low",)]
    assert torch.allclose(a[0].latent.float(), b[1].latent.float(), atol=2e-3)
    assert torch.allclose(a[1].latent.float(), b[0].latent.float(), atol=2e-3)
    assert not torch.allclose(a[0].latent.float(), a[2].latent.float(), atol=2e-3)
    again = sample(trained, mdsa, tmp_path / "a", "--prompts", str(first))
    assert "nothing to do: these 3 clips" in again.output
    first.write_text("labels,seed\nlow,5\nhigh,6\nlow,9\n")
    assert "nothing to do" not in sample(trained, mdsa, tmp_path / "a", "--prompts", str(first)).output
