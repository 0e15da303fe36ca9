"""The score job: what is stored is not computed again, and what is stale is."""

from __future__ import annotations

from pathlib import Path

import pytest

import avprep.stages.score as stage
from avprep.errors import ArgumentError
from avprep.execution import RunnerConfig
from avprep.jobs.config import ScoreJobConfig
from avprep.jobs.progress import Progress, ScoreReport
from avprep.jobs.score import available, run_score_job
from avprep.scores.base import ScoreUnavailable, WeightPaths
from avprep.scores.catalogue import SCORES
from avprep.shards.ledger import read_record
from avprep.shards.lock import OutputInUse, lock
from avprep.shards.scores import read_scores, read_scores_record, write_scores
from avprep.shards.store import open_store
from avprep.stages.stored_scores import stored_scores
from tests.conftest import shared_file
from tests.made_clips import write_clips

HERE = RunnerConfig(workers=0, isolated=False)


def score(out: Path, *only: str, **more) -> ScoreReport:
    return run_score_job(ScoreJobConfig(clips=str(out), only=only, runner=HERE, **more), Progress())


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return write_clips(tmp_path / "clips")


def test_a_second_run_computes_nothing_and_a_new_score_only_that(out, monkeypatch):
    report = score(out, "luma")
    assert (report.shards, report.made, report.clips, report.problems) == (3, 3, 12, 0)
    assert score(out, "luma").made == 0
    tasks = []
    real = stage.score_shard
    monkeypatch.setattr(stage, "score_shard", lambda task, guard: tasks.append(task) or real(task))
    assert score(out, "peak", "luma").made == 3
    assert {(task.scores, tuple(task.kept)) for task in tasks} == {(("peak",), ("luma",))}
    assert list(read_scores_record(open_store(out), 2).scores) == ["peak", "luma"]  # the catalogue's order
    tasks.clear()
    (out / "scores" / "000001.parquet").unlink()
    assert score(out, "peak").made == 1
    assert [task.index for task in tasks] == [1]
    assert score(out, "peak", rebuild=True).made == 3


def test_the_scores_of_a_shard_that_was_made_again_are_computed_again(tmp_path):
    out = write_clips(tmp_path / "clips", seed=0)
    score(out, "luma", "peak")
    stale = read_scores(open_store(out), 0)["luma"].to_pylist()
    write_clips(out, seed=1)  # other pictures under the same keys
    assert score(out, "luma").made == 3
    table = read_scores(open_store(out), 0)
    assert table["luma"].to_pylist() != stale
    assert "peak_dbfs" not in table.column_names  # of the clips that were
    assert read_scores_record(open_store(out), 0).clips_sha256 == read_record(open_store(out), 0).sha256


def test_an_unknown_name_is_answered_with_the_known_ones(out):
    with pytest.raises(ArgumentError, match="^only must be of timing, loudness.*; not 'loud'$"):
        score(out, "loud")


def test_a_score_without_its_weights_is_left_out_and_alone_refused(out, tmp_path):
    report = score(out, "luma", "tags")
    assert report.scores == ("luma",)
    assert report.left_out == ("tags needs the yamnet weights: no path was given; give weights_yamnet=PATH",)
    with pytest.raises(ScoreUnavailable, match="tags needs the yamnet weights"):
        score(out, "tags")
    (tmp_path / "w.npz").write_bytes(b"no weights")
    (tmp_path / "yamnet_class_map.csv").write_text("")
    with pytest.raises(ScoreUnavailable, match="tags needs the yamnet weights"):
        score(out, "tags", weights_yamnet=tmp_path / "w.npz")


def test_a_score_whose_module_is_not_installed_is_left_out(monkeypatch):
    monkeypatch.setattr("avprep.scores.base.find_spec", lambda name: None if name == "cv2" else name)
    found, left_out = available(list(SCORES), WeightPaths())
    assert {left.score.name for left in left_out} == {"motion", "av_align", "tags"}
    assert "needs cv2, which is not installed: pip install 'avprep[tags]'" in left_out[0].why
    assert len(found) + len(left_out) == len(SCORES)


def test_weights_that_changed_are_computed_with_again_and_without_any_they_stay(out):
    """The stored SHA-256 is that of the weights that computed the column."""
    yamnet, store = shared_file("weights", "yamnet_int8.npz"), open_store(out)
    score(out, "tags", weights_yamnet=yamnet)
    stored = read_scores_record(store, 0)
    assert score(out, "tags", weights_yamnet=yamnet).made == 0
    assert score(out, "luma").made == 3
    assert read_scores_record(store, 0).scores == {"luma": "", "tags": stored.scores["tags"]}
    older = {"luma": "", "tags": "of older weights"}
    write_scores(store, 0, read_scores(store, 0), clips_sha256=stored.clips_sha256, scores=older)
    assert score(out, "tags", weights_yamnet=yamnet).made == 1
    assert read_scores_record(store, 0).scores == {"luma": "", "tags": stored.scores["tags"]}


def test_scores_of_an_earlier_edition_are_not_used_and_computed_again(out):
    store = open_store(out)
    score(out, "luma", "av_align")
    now = read_scores_record(store, 0)
    assert now.scores == {"luma": "", "av_align": " edition 2"}
    older = {"luma": "", "av_align": ""}
    write_scores(store, 0, read_scores(store, 0), clips_sha256=now.clips_sha256, scores=older)
    assert stored_scores(read_scores_record(store, 0), read_record(store, 0)) == {"luma": ""}
    assert score(out, "luma", "av_align").made == 1
    assert read_scores_record(store, 0) == now


def test_damaged_shards_are_left_alone_and_named(out):
    name = read_record(open_store(out), 1).name
    (out / name).write_bytes((out / name).read_bytes()[:-3000])
    report = score(out, "luma")
    assert (report.made, report.clips) == (2, 7)
    assert len(report.damaged) == 1 and name in report.damaged[0]


def test_the_output_is_locked(out):
    with lock(open_store(out)), pytest.raises(OutputInUse):
        score(out, "luma")
