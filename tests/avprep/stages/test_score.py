"""The score stage: a row per clip, kept columns, problems of single clips, damaged shards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import avprep.stages.score as stage
from avprep.reasons import MediaError, Reason
from avprep.scores.base import OpenScore, ScoreError, WeightPaths
from avprep.scores.catalogue import SCORES
from avprep.scores.clip import ScoredClip
from avprep.shards.dataset import ClipDataset
from avprep.shards.ledger import read_ledger
from avprep.shards.scores import read_scores, read_scores_record
from avprep.shards.store import open_store
from avprep.stages.score import score_shard
from avprep.stages.tasks import ScoreTask
from tests.made_clips import TINY, write_clips


def task_of(out: Path, *scores: str, index: int = 0) -> ScoreTask:
    rows, record = read_ledger(open_store(out), index)
    keys = tuple(row.key for row in rows)
    return ScoreTask(
        index=index,
        clips=str(out),
        spec=TINY,
        name=record.name,
        sha256=record.sha256,
        keys=keys,
        scores=scores,
    )


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return write_clips(tmp_path / "clips")


def test_every_value_is_that_of_the_score_of_the_clip(out):
    names = ("luma", "peak", "timing")
    assert score_shard(task_of(out, *names, index=1)).clips == 5
    table = read_scores(open_store(out), 1)
    data = ClipDataset(out, fields=("frames", "waveform", "json"), decode_h264=lambda data, shape: None)
    for row in table.to_pylist():
        clip, expected = ScoredClip(TINY, data.by_key(row["key"])), {}
        for score in SCORES:
            if score.name in names:
                expected |= OpenScore(score=score, measure=score.open(WeightPaths()))(clip)
        assert {name: row[name] for name in expected} == expected
        assert row["problems"] == []


def test_a_score_that_is_added_keeps_the_others_and_gives_the_bytes_of_one_run(out):
    store, path = open_store(out), out / "scores" / "000000.parquet"
    score_shard(task_of(out, "luma", "peak"))
    at_once = path.read_bytes()
    path.unlink()
    score_shard(task_of(out, "luma"))
    score_shard(replace(task_of(out, "peak"), kept={"luma": ""}))
    assert path.read_bytes() == at_once
    score_shard(replace(task_of(out, "peak"), kept={"luma": "of older weights"}))
    assert read_scores_record(store, 0).scores == {"peak": "", "luma": "of older weights"}


def test_a_clip_that_a_score_refuses_has_nulls_of_that_score_and_the_reason(out, monkeypatch):
    task, calls = task_of(out, "luma", "peak"), []

    def opened(names, yamnet):
        def measure(clip):
            calls.append(clip)
            if len(calls) == 2:
                raise ScoreError("not of this one")
            return {"luma": 0.25}

        luma, peak = (next(s for s in SCORES if s.name == name) for name in ("luma", "peak"))
        return OpenScore(score=luma, measure=measure), OpenScore(score=peak, measure=peak.open(WeightPaths()))

    monkeypatch.setattr(stage, "_opened", opened)
    result = score_shard(task)
    assert (result.clips, result.problems) == (5, 1)
    table = read_scores(open_store(out), 0)
    assert table["luma"].to_pylist() == [0.25, None, 0.25, 0.25, 0.25]
    assert table["peak_dbfs"].null_count == 0
    assert table["problems"].to_pylist() == [[], ["luma: not of this one"], [], [], []]
    monkeypatch.undo()
    score_shard(replace(task, scores=("peak",), kept={"luma": ""}))
    assert read_scores(open_store(out), 0)["problems"].to_pylist()[1] == ["luma: not of this one"]
    score_shard(replace(task, scores=("luma",), kept={"peak": ""}))
    assert read_scores(open_store(out), 0)["problems"].to_pylist()[1] == []


def test_a_quarantined_clip_has_nulls_and_the_verdict(out):
    task = task_of(out, "luma")
    lost = {task.keys[1]: MediaError(Reason.CRASHED, "ended its process")}
    assert score_shard(task.without(lost)).problems == 1
    row = read_scores(open_store(out), 0).to_pylist()[1]
    assert row["luma"] is None and "ended its process" in row["problems"][0]


def test_a_trial_writes_nothing(out):
    task = task_of(out, "luma")
    assert score_shard(task.trial(task.keys[1:3])).clips == 2
    assert not (out / "scores").exists()


def test_a_damaged_shard_has_no_scores(out):
    task = task_of(out, "luma")
    path = out / task.name
    whole = path.read_bytes()
    middle = whole.index(b"mel.npy") + 3000  # a value of a mel stack, which luma does not read
    for damaged, said in (
        (whole[:-12_000], "cut off"),
        (whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :], "not those written"),
    ):
        path.write_bytes(damaged)
        assert said in score_shard(task).damage
    path.write_bytes(whole)
    assert "other clips" in score_shard(replace(task, keys=task.keys[:-1])).damage
    path.unlink()
    assert "is not there" in score_shard(task).damage
    assert not (out / "scores").exists()
