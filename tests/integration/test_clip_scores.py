"""`avprep clip --score`: the scores are those that `avprep score` writes of the finished output, whatever
happens between a shard and its scores."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import avprep
import avprep.jobs.clip as job
import avprep.stages.score as stage
from avprep.cli import main
from avprep.errors import ArgumentError
from avprep.execution.base import WorkerLost
from avprep.scenes.synth import write_scenes
from avprep.scores.catalogue import SCORES
from avprep.shards.ledger import read_ledgers
from avprep.shards.scores import read_scores, read_scores_record
from avprep.shards.store import open_store
from avprep.spec import ClipSpec
from avprep.stages.tasks import ShardTask
from tests.avprep.media.flash_click import write_flash_click

ARRAYS = ",".join(score.name for score in SCORES if score.cost == "array")  # all that need no network
FEW = "timing,peak,luma"
pytestmark = pytest.mark.timeout(240)


def avprep_command(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def clip(root: Path, out: Path, *args: object, exit_code: int = 0) -> str:
    small = ("--workers", 0, "--size", 32, "--shard-size", 3)
    result = avprep_command("clip", "--dataset", "folder", "--root", root, "--out", out, *small, *args)
    assert result.exit_code == exit_code, result.output
    return result.output


def score(out: Path, names: str) -> str:
    only = [word for name in names.split(",") for word in ("--only", name)]
    result = avprep_command("score", out, "--workers", 0, *only)
    assert result.exit_code == 0, result.output
    return result.output


def digests(out: Path, *folders: str) -> dict[str, str]:
    paths = sorted(path for folder in folders for path in (out / folder).iterdir())
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


def assert_in_step(out: Path, names: str) -> None:
    """Each finished shard has these scores, of its bytes and of its written clips, in order."""
    store = open_store(out)
    for index, rows, record in read_ledgers(store):
        if not record.name:
            continue
        stored = read_scores_record(store, index)
        assert stored is not None and stored.clips_sha256 == record.sha256
        assert list(stored.scores) == names.split(",")
        written = [row.key for row in rows if row.status == "written"]
        assert read_scores(store, index)["key"].to_pylist() == written
    assert score(out, names).startswith("nothing to do")


# --- equal to the score job --------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["jpeg", "raw", "h264"])
def test_the_files_are_those_of_the_score_job_and_the_shards_those_without_scores(clip_root, tmp_path, codec):
    plain, scored = tmp_path / "plain", tmp_path / "scored"
    clip(clip_root, plain, "--video-codec", codec)
    said = clip(clip_root, scored, "--video-codec", codec, "--score", ARRAYS)
    assert "scored 10 clips in 4 of 4 shards\n" in said
    assert digests(scored, "shards", "ledger") == digests(plain, "shards", "ledger")
    assert (scored / "spec.json").read_text() == (plain / "spec.json").read_text()
    score(plain, ARRAYS)
    assert digests(scored, "scores") == digests(plain, "scores")
    assert len(digests(scored, "scores")) == 4
    assert json.loads((scored / "stats.json").read_text())["last_run"]["worker_seconds"]["score"] > 0


def test_frames_are_scored_as_they_are_stored_not_as_they_were_decoded(tmp_path):
    """JPEG changes pictures: scores of the raw frames would be others."""
    write_scenes(tmp_path / "scenes", n=1, seed=0, seconds=2, size=64)
    for codec in ("jpeg", "raw"):
        clip(tmp_path / "scenes", tmp_path / codec, "--video-codec", codec, "--score", "sharpness")
    jpeg, raw = (read_scores(open_store(tmp_path / c), 0)["sharpness"].to_pylist() for c in ("jpeg", "raw"))
    assert jpeg != raw and jpeg == pytest.approx(raw, rel=0.5)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_one_and_two_ray_workers_write_the_bytes_of_one_process(clip_root, tmp_path):
    for workers in (0, 1, 2):
        clip(clip_root, tmp_path / f"{workers}", "--workers", workers, "--score", ARRAYS)
    here, one, two = (digests(tmp_path / f"{n}", "scores", "shards") for n in (0, 1, 2))
    assert here == one == two


# --- resumed, made again, grown ----------------------------------------------------------------------------


def test_an_output_that_stands_without_scores_gets_them(clip_root, tmp_path):
    plain, later = tmp_path / "plain", tmp_path / "later"
    for out in (plain, later):
        clip(clip_root, out)
    (later / "ledger" / "000001.parquet").unlink()  # one shard is made by the run that scores
    said = clip(clip_root, later, "--score", FEW)
    assert "3 finished shards lack scores" in said and "scored 10 clips in 4 of 4 shards" in said
    score(plain, FEW)
    assert digests(later, "scores", "shards") == digests(plain, "scores", "shards")
    assert "nothing to do: timing, peak, luma of all 4 shards" in clip(clip_root, later, "--score", FEW)


@pytest.mark.parametrize("completed_by", ["clip", "score"])
def test_a_run_that_ends_between_a_shard_and_its_scores_is_completed(
    clip_root, tmp_path, monkeypatch, completed_by
):
    out, whole = tmp_path / "out", tmp_path / "whole"
    clip(clip_root, whole, "--score", FEW)
    real = stage.write_scores

    def full(store, index, table, **more):
        if index == 2:
            raise OSError(28, "No space left on device")
        real(store, index, table, **more)

    with monkeypatch.context() as patched:
        patched.setattr(stage, "write_scores", full)
        clip(clip_root, out, "--score", FEW, exit_code=1)
    assert len(digests(out, "ledger")) == 3 and len(digests(out, "scores")) == 2
    if completed_by == "clip":
        assert "1 finished shards lack scores" in clip(clip_root, out, "--score", FEW)
    else:
        clip(clip_root, out)
        assert "scored 5 clips in 2 of 4 shards" in score(out, FEW)
    assert digests(out, "scores", "shards", "ledger") == digests(whole, "scores", "shards", "ledger")


def test_sources_that_are_tried_again_or_added_bring_their_scores(clip_root, tmp_path):
    root, out = tmp_path / "media", tmp_path / "out"
    shutil.copytree(clip_root, root)
    clip(root, out, "--score", FEW)
    before = digests(out, "scores")
    shutil.copy(root / "beta" / "scene 1.mp4", root / "broken.mp4")
    said = clip(root, out, "--score", FEW, "--only-failed")
    said += clip(root, out, "--score", FEW, "--only-failed")  # nothing fails any more but an empty file
    assert "finished shards lack scores" not in said  # all were scored as they were made
    assert_in_step(out, FEW)
    assert digests(out, "scores") != before
    write_flash_click(root / "gamma.mp4", seconds=3.4)
    said = clip(root, out, "--score", FEW, "--add-new")
    assert "finished shards lack scores" not in said
    assert_in_step(out, FEW)
    os.utime(root / "gamma.mp4", (1, 1))
    clip(root, out, "--score", FEW, "--replace-changed")
    assert_in_step(out, FEW)


def test_other_stored_scores_stay_where_the_bytes_stay_and_go_where_they_change(clip_root, tmp_path):
    root, out = tmp_path / "media", tmp_path / "out"
    shutil.copytree(clip_root, root)
    clip(root, out, "--score", "luma")
    score(out, "peak")
    clip(root, out, "--score", "luma", "--only-failed")  # makes shards again: the same bytes
    stored = [read_scores_record(open_store(out), i) for i in range(4)]
    assert [list(record.scores) for record in stored if record] == [["peak", "luma"]] * 4
    shutil.copy(root / "beta" / "scene 1.mp4", root / "broken.mp4")
    clip(root, out, "--score", "luma", "--only-failed")
    store = open_store(out)
    for index, rows, record in read_ledgers(store):
        found = read_scores_record(store, index)
        assert found is not None and found.clips_sha256 == record.sha256
        is_changed = any(row.source == "broken.mp4" and row.status == "written" for row in rows)
        assert list(found.scores) == (["luma"] if is_changed else ["peak", "luma"])


def test_a_damaged_file_of_scores_is_replaced_with_its_shard_and_named_otherwise(clip_root, tmp_path):
    out = tmp_path / "out"
    clip(clip_root, out, "--score", FEW)
    whole = digests(out, "scores")
    for index in (0, 1):
        (out / "scores" / f"00000{index}.parquet").write_bytes(b"no parquet")
    (out / "ledger" / "000000.parquet").unlink()
    said = clip(clip_root, out, "--score", FEW, exit_code=2)
    assert "000001.parquet is damaged" in said and "remove it and run avprep score" in said
    (out / "scores" / "000001.parquet").unlink()
    clip(clip_root, out, "--score", FEW)
    assert digests(out, "scores") == whole


class _LosesScoring:
    """A runner whose worker is lost wherever a shard is made with scores."""

    def __init__(self, *_: object) -> None:
        self.tried: list[bool] = []  # whether each task was a trial

    def map(self, stage, tasks, should_stop):
        for task in tasks:
            is_shard = isinstance(task, ShardTask)
            self.tried.append(is_shard and task.is_trial)
            is_lost = is_shard and task.scoring is not None and not task.is_trial
            yield task, WorkerLost("SIGSEGV", 0.1) if is_lost else stage(task)


def test_no_clip_is_given_up_for_a_score_that_ends_the_process(clip_root, tmp_path, monkeypatch):
    out, whole = tmp_path / "out", tmp_path / "whole"
    clip(clip_root, whole, "--score", FEW)
    monkeypatch.setattr(job, "LazyRunner", _LosesScoring)
    assert "4 finished shards lack scores" in clip(clip_root, out, "--score", FEW)
    assert digests(out, "shards", "scores") == digests(whole, "shards", "scores")


# --- what is asked for -------------------------------------------------------------------------------------


def test_a_score_that_cannot_be_is_refused_before_anything_is_made(clip_root, tmp_path):
    out = tmp_path / "out"
    assert "--score must be of timing, loudness" in clip(clip_root, out, "--score", "loud", exit_code=2)
    said = clip(clip_root, out, "--score", "tags", exit_code=2)
    assert "tags needs the yamnet weights: no path was given; give --weights-yamnet PATH" in said
    said = clip(clip_root, out, "--weights-yamnet", "w.npz", exit_code=2)
    assert "--weights-yamnet w.npz: only scores need it; give --score" in said
    assert not out.exists()
    assert "LEFT OUT tags needs" in clip(clip_root, out, "--score", "luma,tags")
    assert_in_step(out, "luma")


def test_a_dry_run_counts_what_scores_cost_and_writes_nothing(clip_root, tmp_path):
    said = clip(clip_root, tmp_path / "out", "--score", FEW, "--dry-run")
    assert "core-hours" in said and not (tmp_path / "out").exists()


def test_the_function_takes_the_names_and_reports_what_was_scored(clip_root, tmp_path):
    options = {"spec": ClipSpec(size=32), "shard_size": 3, "workers": 0}
    report = avprep.clip_dataset(clip_root, tmp_path / "out", score=["luma", "tags"], **options)
    assert report.scored is not None
    assert (report.scored.made, report.scored.clips, report.scored.scores) == (4, 10, ("luma",))
    assert "tags needs the yamnet weights" in report.scored.left_out[0]
    assert avprep.clip_dataset(clip_root, tmp_path / "plain", **options).scored is None
    for wrong in ("luma", []):
        with pytest.raises(ArgumentError, match="^score must be 'all' or a list of names, not "):
            avprep.clip_dataset(clip_root, tmp_path / "out", score=wrong, **options)
