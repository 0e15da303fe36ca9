from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from avprep.scores.base import (
    Column,
    OpenScore,
    Score,
    ScoreError,
    WeightPaths,
    needed_fields,
    open_scores,
    without_weights,
)
from avprep.scores.catalogue import COLUMNS, SCORES
from avprep.scores.clip import ScoredClip
from tests.avprep.scores.made import SPEC, clip_of

LEVEL = Score(
    name="level",
    columns=(Column(name="level", kind="float", unit="dB", low=-10, high=10, meaning="made up"),),
    needs=("waveform",),
    cost="array",
    open=without_weights(lambda clip: {"level": float(clip.waveform[0])}),
    source="made up",
)


def opened(values: dict) -> OpenScore:
    return OpenScore(score=LEVEL, measure=lambda clip: values)


def test_a_value_and_a_null_pass():
    assert opened({"level": -10.0})(clip_of()) == {"level": -10.0}
    assert opened({"level": None})(clip_of()) == {"level": None}


@pytest.mark.parametrize(
    "values, words",
    [
        ({"level": 10.1}, r"column level lies in \[-10, 10\], not at 10.1"),
        ({"level": float("nan")}, "not at nan"),
        ({"level": 3}, "column level is float, not int 3"),
        ({"level": np.float64(3)}, "not float64"),
        ({"other": 1.0}, r"score level gives \['other'\], its columns are \['level'\]"),
        ({}, "its columns are"),
    ],
)
def test_a_value_that_is_not_of_the_column_is_refused(values: dict, words: str):
    with pytest.raises(ScoreError, match=words):
        opened(values)(clip_of())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_refused_where_there_are_no_bounds(value: float):
    with pytest.raises(ScoreError, match="column x"):
        Column(name="x", kind="float", unit="", meaning="").check(value)


@pytest.mark.parametrize(
    "kind, high, good, bad",
    [("bool", None, True, 1), ("int", 3, 3, True), ("bits", 16, b"ab", b"abc"), ("text", None, "a", b"a")],
)
def test_kinds_of_columns(kind: str, high: float | None, good: object, bad: object):
    column = Column(name="x", kind=kind, unit="", high=high, meaning="")
    column.check(good)
    with pytest.raises(ScoreError, match="column x"):
        column.check(bad)


def test_a_score_whose_package_is_missing_is_left_out_with_what_to_install():
    missing = replace(LEVEL, name="other", modules=("no_such_module",), extra="tags")
    found, left_out = open_scores([LEVEL, missing])
    assert [score.score.name for score in found] == ["level"]
    assert [item.why for item in left_out] == [
        "other needs no_such_module, which is not installed: pip install 'avprep[tags]'"
    ]


@pytest.mark.parametrize(
    "given, words", [(None, "no path was given"), (Path("/no/such.npz"), "/no/such.npz is no file")]
)
def test_a_score_whose_weights_are_missing_is_left_out(given: Path | None, words: str):
    needy = replace(LEVEL, weights="yamnet")
    found, left_out = open_scores([needy], WeightPaths(yamnet=given))
    assert not found and words in left_out[0].why and "yamnet" in left_out[0].why


def test_an_error_of_the_machine_is_not_taken_for_a_missing_package():
    def fail(paths: WeightPaths) -> None:
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        open_scores([replace(LEVEL, open=fail)])


def test_a_field_that_was_not_decoded_is_no_value():
    with pytest.raises(KeyError, match="waveform"):
        LEVEL.open(WeightPaths())(ScoredClip(SPEC, {}))


def test_names_are_unique_and_every_score_says_what_it_is():
    names = [column.name for column in COLUMNS]
    assert len(set(names)) == len(names) and len({score.name for score in SCORES}) == len(SCORES)
    for score in SCORES:
        assert score.source and score.needs and score.columns
        assert bool(score.modules) == bool(score.extra)
        assert all(column.meaning and column.name.isidentifier() for column in score.columns)
        assert all(column.high % 8 == 0 for column in score.columns if column.kind == "bits")


def test_the_fields_that_scores_need_are_those_that_they_read():
    """Each score runs on a clip that holds its fields and no other."""
    clip = clip_of(header={"sounding_s": 1.6})
    of_arrays = [score for score in SCORES if score.cost == "array"]
    opened_scores, _ = open_scores(of_arrays)
    assert len(opened_scores) == len(of_arrays) > 0
    for score in opened_scores:
        fields = {name: clip.fields[name] for name in score.score.needs}
        score(ScoredClip(SPEC, fields))
    assert needed_fields(SCORES) == ("frames", "json", "mel", "waveform")
    assert needed_fields([LEVEL]) == ("waveform",)
