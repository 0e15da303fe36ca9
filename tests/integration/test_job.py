"""The clip job as a person runs it: `avprep clip`, `status`, `verify`, resume and refusal."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
import webdataset
from click.testing import CliRunner

from avprep.cli import main
from avprep.cli.bar import BarProgress
from avprep.reasons import FILTERED, Reason
from avprep.shards.ledger import read_ledger, read_ledgers, write_ledger
from avprep.shards.lock import lock
from avprep.shards.store import open_store
from avprep.shards.verify import verify

SMALL = ["--size", "32", "--shard-size", "3"]


def avprep(*args: object):
    return CliRunner().invoke(main, [str(a) for a in args])


def clip(root: Path, out: Path, *args: object, workers: int = 0):
    return avprep(
        "clip", "--dataset", "folder", "--root", root, "--out", out, "--workers", workers, *SMALL, *args
    )


def digest(out: Path) -> dict[str, str]:
    """Every file that a run leaves, save its timings and its lock."""
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name not in ("stats.json", ".lock")
    }


def rows_of(out: Path):
    return [row for _, rows, _ in read_ledgers(open_store(out)) for row in rows]


@pytest.fixture(scope="module")
def finished(clip_root, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished") / "out"
    result = clip(clip_root, out, "--label-from-folder")
    assert result.exit_code == 0, result.output
    return out


def test_every_planned_clip_is_written_filtered_or_failed(finished, clip_root):
    rows = rows_of(finished)
    assert {row.source for row in rows} == {
        "alpha/scene 0.mp4",
        "alpha/scene 1.mp4",
        "beta/scene 0.mp4",
        "beta/scene 1.mp4",
        "broken.mp4",
        "empty.webm",
    }
    assert {(row.source, row.status) for row in rows if row.status != "written"} == {
        ("broken.mp4", "failed"),
        ("empty.webm", "failed"),
    }
    assert len(rows) == len({row.key for row in rows}) == 2 * 2 + 2 * 3 + 2
    stats = json.loads((finished / "stats.json").read_text())
    assert stats["clips"] == {"written": 10, "filtered": 0, "failed": 2}


def test_plain_webdataset_reads_the_shards(finished):
    urls = [str(p) for p in sorted((finished / "shards").glob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8"))
    assert len(samples) == 10
    for sample in samples:
        assert sample["json"]["labels"] == [sample["json"]["source"].split("/")[0]]
        assert sample["mel.npy"].shape == (16, 128, 16)
        assert sample["frame15.jpg"].shape == (32, 32, 3)
        assert len(sample["json"]["frame_times_s"]) == 16


@pytest.mark.timeout(240)
def test_spans_past_the_end_of_a_file_end_with_it(clip_root, tmp_path):
    """What a manifest says of a file's end is not believed: the header is asked."""
    spans = {"alpha/scene 0.mp4": "0,100000", "beta/scene 0.mp4": "2,", "beta/scene 1.mp4": "50,60"}
    rows = "".join(f"{path},{span}\n" for path, span in spans.items())
    (tmp_path / "manifest.csv").write_text(f"path,start,stop\n{rows}")
    listing = ["--dataset", "manifest", "--list", tmp_path / "manifest.csv"]
    assert clip(clip_root, tmp_path / "out", *listing).exit_code == 0
    assert sorted((row.source, row.start_s, row.status, row.reason) for row in rows_of(tmp_path / "out")) == [
        ("alpha/scene 0.mp4", 0.0, "written", ""),
        ("alpha/scene 0.mp4", 1.6, "written", ""),
        ("beta/scene 0.mp4", 2.0, "written", ""),
        ("beta/scene 1.mp4", 50.0, "filtered", "too_short"),
    ]
    (short,) = [row.detail for row in rows_of(tmp_path / "out") if row.reason]
    assert short == "line 4 of the list: the span starts at 50 s, behind the end of the video at 5.720 s"


def test_a_limit_asks_for_no_more_headers_than_it_needs(clip_root, tmp_path, monkeypatch):
    root = tmp_path / "media"
    root.mkdir()
    for i in range(12):
        shutil.copy(clip_root / "alpha" / "scene 0.mp4", root / f"{i:02d}.mp4")
    counts = []
    with monkeypatch.context() as patch:
        patch.setattr("avprep.jobs.planner.PROBE_BATCH", 2)
        patch.setattr(BarProgress, "_planning", lambda self, count: counts.append(count))
        assert clip(root, tmp_path / "out", "--limit", 5).exit_code == 0
    assert counts == [2, 4]
    assert len(rows_of(tmp_path / "out")) == 5


def test_a_second_run_does_nothing_and_says_so(finished, clip_root):
    before = digest(finished)
    result = clip(clip_root, finished, "--label-from-folder")
    assert "nothing to do" in result.output
    assert digest(finished) == before


def test_status_gives_sums_reasons_and_the_command_that_tries_one(finished):
    result = avprep("status", finished)
    assert "12 planned = 10 written, 0 filtered, 2 failed" in result.output
    assert "empty.webm at 0.000 s, not_media: the file is empty (0 bytes)" in result.output
    key = result.output.split("--try ")[1].split()[0]
    tried = avprep("status", finished, "--try", key)
    assert ": not_media:" in tried.output
    assert tried.exit_code == 1


def abort(*_: object) -> None:
    """In the place of a decoder that crashes."""
    os.abort()


def test_a_clip_that_crashes_its_decoder_can_be_tried_alone(finished, monkeypatch):
    key = next(row.key for row in rows_of(finished) if row.status == "written")
    tried = avprep("status", finished, "--try", key)
    assert "s of sound, residual" in tried.output and tried.exit_code == 0
    monkeypatch.setattr("avprep.cli.try_clip._read_one", abort)
    result = avprep("status", finished, "--try", key)
    assert result.exit_code == 1
    assert "crashed: decoding it ended the process (killed by SIGABRT)" in result.output


@pytest.mark.parametrize(
    ("field", "args"),
    [
        ("spec.frames", ["--frames", "8"]),
        ("options.crop", ["--crop", "pad"]),
        ("options.limit", ["--limit", "3"]),
        ("options.video_codec", ["--video-codec", "raw"]),
    ],
)
def test_a_changed_option_is_refused_with_the_field_named(finished, clip_root, field, args):
    before = digest(finished)
    result = clip(clip_root, finished, *args)
    assert result.exit_code == 2
    assert field in result.output and "--rebuild" in result.output
    assert digest(finished) == before


def test_rebuild_starts_over(clip_root, tmp_path):
    clip(clip_root, tmp_path / "out")
    assert clip(clip_root, tmp_path / "out", "--frames", "8", "--rebuild").exit_code == 0
    assert clip(clip_root, tmp_path / "plain", "--frames", "8").exit_code == 0
    ours, plain = digest(tmp_path / "out"), digest(tmp_path / "plain")
    assert ours == plain


@pytest.mark.parametrize("kind", ["flip", "cut", "gone", "row", "stray"])
def test_verify_names_any_damage(kind, clip_root, tmp_path):
    out = tmp_path / "out"
    clip(clip_root, out)
    assert list(verify(open_store(out))) == []
    whole = digest(out)
    shard = sorted((out / "shards").glob("*.tar"))[0]
    data = bytearray(shard.read_bytes())
    named = shard.name
    if kind == "flip":
        data[len(data) // 2] ^= 1
        shard.write_bytes(data)
    elif kind == "cut":
        shard.write_bytes(data[: len(data) // 2])
    elif kind == "gone":
        shard.unlink()
    elif kind == "row":
        ledgers = sorted((out / "ledger").iterdir())
        ledgers[1].write_bytes(ledgers[0].read_bytes())
        named = ledgers[1].name
    elif kind == "stray":
        (out / "shards" / "clips-000099.tar").write_bytes(data)
        named = "clips-000099.tar"
    result = avprep("verify", out)
    assert result.exit_code == 1
    assert named in result.output
    repaired = avprep("verify", out, "--repair")
    if kind == "stray":  # which no command would make again
        assert (
            repaired.exit_code == 1
            and "removed " not in repaired.output
            and (out / "shards" / named).exists()
        )
        return
    assert repaired.exit_code == 0 and "removed " in repaired.output
    assert clip(clip_root, out).exit_code == 0
    assert avprep("verify", out, "--repair").exit_code == 0
    assert digest(out) == whole


def test_verify_repair_takes_the_lock_and_leaves_files_of_others(clip_root, tmp_path):
    out = tmp_path / "out"
    clip(clip_root, out)
    (out / "shards" / "notes.txt").write_text("mine")
    with lock(open_store(out)):
        assert "is writing there" in avprep("verify", out, "--repair").output.replace("\n", " ")
    result = avprep("verify", out, "--repair")
    assert result.exit_code == 1 and "1 were not removed" in result.output
    assert (out / "shards" / "notes.txt").read_text() == "mine"


def stats_of(out: Path) -> dict:
    stats = json.loads((out / "stats.json").read_text())
    stats.pop("last_run", None)
    return stats


def test_a_finished_run_without_its_stats_gets_them_from_the_same_command(clip_root, tmp_path):
    out = tmp_path / "out"
    clip(clip_root, out)
    before = stats_of(out)
    (out / "stats.json").unlink()
    assert "nothing to do" in clip(clip_root, out).output
    assert stats_of(out) == before
    written = (out / "stats.json").stat().st_mtime_ns
    clip(clip_root, out)
    assert (out / "stats.json").stat().st_mtime_ns == written  # nothing is written where nothing has changed


def test_a_run_that_is_killed_before_its_stats_is_mended_by_the_next(clip_root, tmp_path):
    """The stats of an earlier run lie there, and are not those of the ledgers."""
    out = tmp_path / "out"
    clip(clip_root, out)
    before = stats_of(out)
    for name in ("000000", "000001"):
        (out / "ledger" / f"{name}.parquet").unlink()
    (out / "stats.json").write_text(json.dumps(before | {"clips": {"written": 5}}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("avprep.jobs.clip.keep_stats", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        process = os.fork()
        if not process:
            clip(clip_root, out)
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
    assert stats_of(out) != before
    assert "nothing to do" in clip(clip_root, out).output
    assert stats_of(out) == before


def test_a_removed_ledger_is_made_again_to_the_same_bytes(clip_root, tmp_path):
    out = tmp_path / "out"
    clip(clip_root, out)
    before = digest(out)
    sorted((out / "ledger").iterdir())[1].unlink()
    assert "made 1 of" in clip(clip_root, out).output
    assert digest(out) == before


def test_only_failed_tries_again_and_gives_what_a_whole_run_would(clip_root, tmp_path):
    root = tmp_path / "media"
    root.mkdir()
    for path in clip_root.rglob("*.mp4"):
        (root / path.name.replace(" ", path.parent.name)).write_bytes(path.read_bytes())
    clip(root, tmp_path / "out")
    assert any(row.source == "broken.mp4" and row.status == "failed" for row in rows_of(tmp_path / "out"))
    whole = (root / "scenealpha0.mp4").read_bytes()
    (root / "broken.mp4").write_bytes(whole)
    result = clip(root, tmp_path / "out", "--only-failed")
    assert result.exit_code == 0, result.output
    rows = rows_of(tmp_path / "out")
    assert [row.status for row in rows if row.source == "broken.mp4"] == ["written", "written"]
    assert avprep("verify", tmp_path / "out").exit_code == 0
    assert sum(json.loads((tmp_path / "out" / "stats.json").read_text())["clips"].values()) == len(rows)
    assert clip(root, tmp_path / "fresh").exit_code == 0
    fresh = {row.key: row.status for row in rows_of(tmp_path / "fresh")}
    assert {row.key: row.status for row in rows} == fresh


@pytest.mark.slow
def test_only_failed_opens_new_shards_for_what_no_longer_fits(clip_root, tmp_path):
    root = tmp_path / "media"
    shutil.copytree(clip_root, root)
    (root / "empty.webm").unlink()
    args = ["--shard-size", 4, "--stride", 0.1]
    clip(root, tmp_path / "out", *args)
    shutil.copy(root / "beta" / "scene 1.mp4", root / "broken.mp4")
    for _ in range(2):  # and again, when nothing is left to mend
        assert clip(root, tmp_path / "out", "--only-failed", *args).exit_code == 0
        rows = rows_of(tmp_path / "out")
        assert sum(row.source == "broken.mp4" and row.status == "written" for row in rows) > 30
        assert avprep("verify", tmp_path / "out").exit_code == 0
    clip(root, tmp_path / "fresh", *args)
    assert {row.key for row in rows} == {row.key for row in rows_of(tmp_path / "fresh")}


def test_only_failed_gives_up_no_clip_that_stands(clip_root, tmp_path):
    """A source with written clips and failed ones, tried again while it is gone."""
    root = tmp_path / "media"
    root.mkdir()
    whole = (clip_root / "beta" / "scene 1.mp4").read_bytes()
    (root / "a.mp4").write_bytes(whole)
    (root / "b.mp4").write_bytes(whole)
    out = tmp_path / "out"
    clip(root, out)
    before, name = digest(out), "ledger/000000.parquet"
    store = open_store(out)
    rows, record = read_ledger(store, 0)
    lost = dataclasses.replace(rows[-1], status="failed", reason="corrupt", residual_ms=None)
    write_ledger(store, 0, [*rows[:-1], lost], record)
    (root / f"{lost.source}").rename(tmp_path / "away")
    assert clip(root, out, "--only-failed").exit_code == 0
    after = {row.key: row.status for row in read_ledger(store, 0)[0]}
    assert after == {row.key: "written" for row in rows[:-1]} | {lost.key: "failed"}
    (tmp_path / "away").rename(root / lost.source)
    assert clip(root, out, "--only-failed").exit_code == 0
    assert digest(out) == before and name in before


def test_only_failed_that_is_killed_leaves_no_ledger_beside_anothers_tar(clip_root, tmp_path, monkeypatch):
    out = tmp_path / "out"
    clip(clip_root, out)
    shutil.copytree(clip_root, tmp_path / "media")
    shutil.copy(clip_root / "beta" / "scene 1.mp4", tmp_path / "media" / "broken.mp4")
    with monkeypatch.context() as patch:
        patch.setattr("avprep.stages.clip.write_ledger", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        process = os.fork()
        if not process:
            clip(tmp_path / "media", out, "--only-failed")
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
    assert [str(d) for d in verify(open_store(out)) if "a shard without a ledger" not in d.detail] == []
    assert clip(tmp_path / "media", out).exit_code == 0
    assert avprep("verify", out).exit_code == 0


def test_a_rebuild_that_was_stopped_is_gone_on_with(clip_root, tmp_path):
    out = tmp_path / "out"
    clip(clip_root, out)
    before = digest(out)
    monotonic = {path.name: path.stat().st_mtime_ns for path in (out / "ledger").iterdir()}
    header = json.loads((out / "spec.json").read_text())
    (out / "spec.json").write_text(json.dumps(header | {"rebuilding": True}, indent=2, sort_keys=True))
    (out / "ledger" / "000001.parquet").unlink()
    assert "made 1 of" in clip(clip_root, out, "--rebuild").output
    assert digest(out) == before
    again = clip(clip_root, out, "--rebuild")
    assert "made 1 of" not in again.output  # that one was over: this one starts over
    assert digest(out) == before
    assert all((out / "ledger" / name).stat().st_mtime_ns > then for name, then in monotonic.items())


@pytest.mark.parametrize("what", ["empty", "gone"])
@pytest.mark.parametrize("when", ["planning", "making"])
def test_media_that_are_gone_are_a_sentence_and_no_row(when, what, clip_root, tmp_path):
    root, out = tmp_path / "media", tmp_path / "out"
    shutil.copytree(clip_root, root)
    listing = ["--dataset", "manifest", "--list", tmp_path / "manifest.csv"]
    paths = sorted(str(path.relative_to(root)) for path in root.rglob("scene*.mp4"))
    (tmp_path / "manifest.csv").write_text("path\n" + "".join(f"{p}\n" for p in paths))
    if when == "making":
        assert clip(root, out, *listing).exit_code == 0
        for name in ("ledger", "shards"):
            shutil.rmtree(out / name)
    root.rename(tmp_path / "unmounted")
    if what == "empty":
        root.mkdir()
    result = clip(root, out, *listing)
    assert result.exit_code == 1, result.output
    assert "is its disk mounted?" in result.output.replace("\n", " ") and "Traceback" not in result.output
    assert not rows_of(out)
    shutil.rmtree(root, ignore_errors=True)
    (tmp_path / "unmounted").rename(root)
    assert clip(root, out, *listing).exit_code == 0
    assert {row.status for row in rows_of(out)} == {"written"}


def test_rebuild_takes_nothing_away_that_cannot_be_made_anew(clip_root, tmp_path):
    root, out = tmp_path / "media", tmp_path / "out"
    shutil.copytree(clip_root, root)
    (tmp_path / "manifest.csv").write_text("path\nalpha/scene 0.mp4\nbeta/scene 1.mp4\n")
    listing = ["--dataset", "manifest", "--list", tmp_path / "manifest.csv"]
    assert clip(root, out, *listing).exit_code == 0
    before = digest(out)
    result = clip(root, out, *listing, "--rebuild", "--only-failed")
    assert result.exit_code == 2 and "give one of them" in result.output.replace("\n", " ")
    shutil.rmtree(root)
    root.mkdir()
    result = clip(root, out, *listing, "--rebuild")
    assert result.exit_code == 1 and "is its disk mounted?" in result.output.replace("\n", " ")
    result = clip(root, out, "--rebuild")
    assert result.exit_code == 2 and "folder has no source" in result.output.replace("\n", " ")
    assert digest(out) == before


@pytest.mark.parametrize("args", [(), ("--dry-run",)])
def test_no_source_is_a_sentence_and_no_plan(args, tmp_path):
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "notes.txt").write_text("no media")
    result = clip(tmp_path / "media", tmp_path / "out", *args)
    assert result.exit_code == 2 and "1 files that are no media" in result.output.replace("\n", " ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["spec.json", "plan.parquet", "ledger/000000.parquet"])
@pytest.mark.parametrize("command", ["clip", "status", "verify"])
def test_a_cut_file_of_an_output_is_named(command, name, finished, clip_root, tmp_path):
    out = shutil.copytree(finished, tmp_path / "out")
    (out / name).write_bytes((out / name).read_bytes()[:40])
    if command == "clip":
        result = clip(clip_root, out, "--label-from-folder")
    else:
        result = avprep(command, out)
    assert result.exit_code in (1, 2) and isinstance(result.exception, SystemExit)
    assert name in result.output.replace("\n", "")


def test_what_is_no_output_is_a_sentence(finished, tmp_path):
    for where in (finished / "shards" / "clips-000000.tar", tmp_path, tmp_path / "none", "foo://y"):
        result = avprep("status", where)
        assert result.exit_code in (1, 2) and isinstance(result.exception, SystemExit), where
        assert str(where) in result.output.replace("\n", "")


def test_other_labels_than_the_plans_are_told(clip_root, tmp_path):
    clip(clip_root, tmp_path / "out")
    result = clip(clip_root, tmp_path / "out", "--label-from-folder")
    # In the folders, not at the top: those that are whole, and have a label now.
    words = "other labels, captions or spans than planned: 4 files (alpha/scene 0.mp4"
    assert words in result.output.replace("\n", " ")
    assert "other labels" not in clip(clip_root, tmp_path / "out").output


def test_two_spans_of_a_file_keep_their_own_labels(clip_root, tmp_path):
    """They interleave in the shard: the clips of one lie between those of the other."""
    (tmp_path / "manifest.csv").write_text(
        "path,start,stop,labels\nalpha/scene 1.mp4,0,5.7,one\nalpha/scene 1.mp4,0.8,5.6,two\n"
    )
    args = ["--dataset", "manifest", "--list", tmp_path / "manifest.csv", "--shard-size", 9]
    assert clip(clip_root, tmp_path / "out", *args).exit_code == 0
    urls = [str(p) for p in (tmp_path / "out" / "shards").glob("*.tar")]
    found = [sample["json"] for sample in webdataset.WebDataset(urls, shardshuffle=False).decode()]
    assert [(clip["start_s"], clip["labels"]) for clip in found] == [
        (0.0, ["one"]),
        (0.8, ["two"]),
        (1.6, ["one"]),
        (2.4, ["two"]),
        (3.2, ["one"]),
        (4.0, ["two"]),
    ]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--drop-silent", "-60"], "silent"),
        (["--drop-black", "254"], "black"),
        (["--drop-static", "250"], "static"),
        (["--max-residual", "0"], "residual"),
    ],
)
def test_filters_count_what_they_leave_out(args, words, clip_root, tmp_path):
    clip(clip_root, tmp_path / "out", *args)
    rows = rows_of(tmp_path / "out")
    filtered = [row for row in rows if row.status == "filtered"]
    assert {row.reason for row in filtered} <= {words}
    assert len(filtered) == (2 if words == "silent" else 10)  # two clips hold no click
    assert avprep("verify", tmp_path / "out").exit_code == 0


@pytest.mark.parametrize(("limit_ms", "reason"), [(1500, "residual"), (2500, "")])
def test_a_picture_that_stands_still_over_a_jump_of_the_clock_is_filtered_on_request(
    limit_ms, reason, tmp_path
):
    """A source that froze for two seconds: its clips before and after are kept whatever the limit."""
    root = tmp_path / "media"
    root.mkdir()
    write_frozen(root / "frozen.mp4", shown_s=2.0, frozen_s=2.0)
    result = clip(root, tmp_path / "out", "--max-residual", limit_ms, "--stride", 0.5)
    assert result.exit_code == 0, result.output
    rows = {row.start_s: row for row in rows_of(tmp_path / "out")}
    assert {rows[s].status for s in (0.0, 4.0)} == {"written"}
    assert rows[2.0].reason == rows[2.5].reason == reason
    assert avprep("verify", tmp_path / "out").exit_code == 0


def write_frozen(path: Path, *, shown_s: float, frozen_s: float) -> None:
    """10 pictures a second for `shown_s`, none for `frozen_s`, and 3 s of pictures more."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        count = round(10 * shown_s)
        for i in range(count + 30):
            level = np.full((64, 64, 3), 5 * i % 256, np.uint8)
            frame = av.VideoFrame.from_ndarray(level, format="rgb24")
            frame.pts = i if i < count else i + round(10 * frozen_s)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_an_output_from_before_an_option_goes_on_without_it(clip_root, tmp_path):
    out = tmp_path / "out"
    clip(clip_root, out)
    before = digest(out)
    spec = json.loads((out / "spec.json").read_text())
    assert "max_residual_ms" not in spec["options"]
    (out / "ledger" / "000001.parquet").unlink()
    assert "made 1 of" in clip(clip_root, out).output
    assert digest(out) == before
    result = clip(clip_root, out, "--max-residual", 100)
    assert result.exit_code == 2 and "options.max_residual_ms" in result.output.replace("\n", "")


def test_status_says_of_every_reason_what_it_means_and_what_to_do(finished):
    (line,) = [line for line in avprep("status", finished).output.splitlines() if "2 not_media: " in line]
    assert Reason.NOT_MEDIA.meaning in line and Reason.NOT_MEDIA.advice in line


def test_reasons_are_told_in_full_and_name_no_option():
    for reason in Reason:
        assert len(reason.meaning) > 10 and len(reason.advice) > 10
        assert "--" not in reason.meaning + reason.advice, "options belong to the command line"
    assert {reason.value for reason in FILTERED} == {
        "too_short",
        "cut",
        "no_event",
        "silent",
        "static",
        "black",
        "residual",
        "unselected",
    }


@pytest.mark.parametrize(
    ("root", "out", "words"),
    [
        ("media", "media", "is --root"),
        ("media", "media/out", "lies in --root"),
        ("media", "media/../media/out", "lies in --root"),
        ("media", "link/out", "lies in --root"),
        ("media/deep", "media", "holds --root"),
        ("media", "", "--out must name a folder, not ''"),
        ("media", " ", "--out must name a folder, not ' '"),
    ],
)
def test_an_output_among_the_media_is_refused(root, out, words, clip_root, tmp_path, monkeypatch):
    shutil.copytree(clip_root, tmp_path / "media")
    shutil.copytree(clip_root, tmp_path / "media" / "deep")
    (tmp_path / "link").symlink_to("media")
    monkeypatch.chdir(tmp_path)
    before = digest(tmp_path / "media")
    result = avprep("clip", "--dataset", "folder", "--root", root, "--out", out, "--workers", 0, "--rebuild")
    assert result.exit_code == 2 and words in result.output.replace("\n", " ")
    assert digest(tmp_path / "media") == before


def test_dry_run_prints_the_plan_and_writes_nothing(clip_root, tmp_path):
    result = clip(clip_root, tmp_path / "out", "--dry-run")
    assert "plan: 10 clips of 1.6 s from 6 files in 4 shards" in result.output
    assert "12 planned = 10 to make, 0 filtered, 2 failed" in result.output
    assert "at most 3 of one source, " in result.output and "scene 1.mp4; --clips-per-source" in result.output
    assert not (tmp_path / "out").exists()
    assert "nothing was written" in result.output


def test_dry_run_measures_a_sample_of_the_clips(clip_root, tmp_path, finished):
    said = clip(clip_root, tmp_path / "out", "--label-from-folder", "--dry-run").output
    measured = re.search(r"time: about (\S+) core-hours, .* measured on (\d+) clips of sources", said)
    assert float(measured[1]) > 0 and 8 <= int(measured[2]) <= 8 * 3
    # Nearly all of the ten clips are among those measured: their size is that of the shards, but for headers.
    stated = float(re.search(r"disk: about (\S+) kB as jpeg", said)[1])
    held = sum(path.stat().st_size for path in (finished / "shards").iterdir()) / 1000
    assert 0.5 * held < stated < held


def test_dry_run_counts_a_source_of_many_shards_as_one(clip_root, tmp_path):
    result = clip(clip_root, tmp_path / "out", "--dry-run", "--stride", "0.1")
    assert "from 6 files" in result.output
    assert "at most 42 of one source" in result.output  # (5.7 s - 1.6 s) / 0.1 s + 1, in shards of 3


def test_dry_run_counts_a_list_as_the_run_does(clip_root, tmp_path):
    """Two spans of one file, one behind its end, and a file that is not there."""
    rows = "alpha/scene 0.mp4,0,2\nalpha/scene 0.mp4,60,70\nbeta/scene 0.mp4,0,3.4\ngone.mp4,,\n"
    (tmp_path / "manifest.csv").write_text(f"path,start,stop\n{rows}")
    listing = ["--dataset", "manifest", "--list", tmp_path / "manifest.csv"]
    planned = clip(clip_root, tmp_path / "out", *listing, "--dry-run").output
    made = clip(clip_root, tmp_path / "out", *listing).output
    assert "5 planned = 3 to make, 1 filtered, 1 failed\n" in planned
    assert "3 clips of 1.6 s from 3 files" in planned
    assert "5 planned = 3 written, 1 filtered, 1 failed\n" in made
    reasons = [line for line in made.splitlines() if "To do:" in line]
    assert len(reasons) == 2
    assert [line for line in planned.splitlines() if "To do:" in line] == reasons


def test_a_run_without_any_clip_says_so_last_and_exits_with_3(clip_root, tmp_path):
    args = ("--drop-black", 254, "--video-codec", "raw")
    for _ in ("made", "nothing to do"):
        result = clip(clip_root, tmp_path / "out", *args)
        assert result.exit_code == 3
        last = result.output.splitlines()[-1]
        assert last.startswith(f"NO CLIP WAS WRITTEN: {tmp_path / 'out'} holds none of 12 planned clips.")
        assert "10 of them: black: the pictures are black" in last and "--drop-black" in last


def test_a_resumed_run_that_adds_no_clip_to_those_that_are_there_succeeds(finished, clip_root, tmp_path):
    out = shutil.copytree(finished, tmp_path / "out")
    index = next(i for i, rows, _ in read_ledgers(open_store(out)) if any(r.status == "failed" for r in rows))
    (out / "ledger" / f"{index:06d}.parquet").unlink()
    result = clip(clip_root, out, "--label-from-folder")
    assert result.exit_code == 0 and "NO CLIP" not in result.output


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--drop-silent", "60"], "Error: --drop-silent must be at most 0 dB of full scale, not 60.0"),
        (["--hop", "96"], "hop 80 or 100"),
        (["--fps", "0"], "Error: --fps must be a whole number from 1"),
        (["--split", "train"], "--split 'train': folder has no such split"),
        (["--stride", "0.00001"], "Error: --stride 1e-05 s is sample 0 at 16000 Hz"),
        (["--stride", "nan"], "Error: --stride must be a number of seconds, not nan"),
        (["--drop-black", "nan"], "Error: --drop-black must be from 0 to 255, not nan"),
        (["--source-timeout", "inf"], "Error: --source-timeout must be a number above 0, not inf"),
        (["--list", "x.csv"], "Error: --list x.csv: dataset folder takes every file"),
        (["--only-failed"], "Error: --only-failed: "),
        (["--only-failed", "--rebuild"], "and --rebuild starts over; give one of them"),
        (["--root", "/nowhere"], "no folder /nowhere"),
    ],
)
def test_a_bad_option_is_a_sentence(args, words, clip_root, tmp_path):
    result = clip(clip_root, tmp_path / "out", *args)
    assert result.exit_code == 2
    assert words in result.output


def test_without_a_root_the_layout_is_explained(tmp_path, monkeypatch):
    monkeypatch.setenv("AVPREP_DATA", str(tmp_path))
    result = avprep("clip", "--dataset", "audioset", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "AVPREP_DATA" in result.output and "balanced_train_segments.csv" in result.output


def test_an_output_that_cannot_be_written_is_one_sentence(clip_root, tmp_path):
    (tmp_path / "file").write_text("in the way")
    result = clip(clip_root, tmp_path / "file" / "out")
    assert result.exit_code == 1
    assert "cannot be written" in result.output


def start(root: Path, out: Path, workers: int) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        "avprep",
        "clip",
        "--dataset",
        "folder",
        "--root",
        root,
        "--out",
        out,
        "--workers",
        workers,
        *SMALL,
    ]
    return subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.timeout(120)
def test_two_runs_on_one_output_are_one_too_many(clip_root, tmp_path):
    import fcntl

    out = tmp_path / "out"
    out.mkdir()
    with open(out / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = clip(clip_root, out)
    assert result.exit_code == 2
    assert "is writing there" in result.output


@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGINT])
def test_a_signal_finishes_what_is_in_hand_and_says_how_to_go_on(number, clip_root, tmp_path):
    out = tmp_path / "out"
    running = start(clip_root, out, workers=0)
    while not (out / "ledger").exists() and running.poll() is None:
        time.sleep(0.02)
    running.send_signal(number)
    said, _ = running.communicate(timeout=240)
    assert running.returncode in (128 + number, 0)  # 0: it was done before it heard
    if running.returncode:
        assert "Run the same command again" in said
    assert clip(clip_root, out).exit_code == 0
    assert clip(clip_root, tmp_path / "undisturbed").exit_code == 0
    assert digest(out) == digest(tmp_path / "undisturbed")


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_killed_again_and_again_the_tree_is_the_same(clip_root, tmp_path):
    out = tmp_path / "out"
    for wait_s in (2.6, 3.0, 3.3, 3.6):
        running = start(clip_root, out, workers=0)
        time.sleep(wait_s)
        os.kill(running.pid, signal.SIGKILL)
        running.communicate()
    assert clip(clip_root, out).exit_code == 0
    assert clip(clip_root, tmp_path / "undisturbed").exit_code == 0
    assert digest(out) == digest(tmp_path / "undisturbed")


@pytest.mark.timeout(240)
@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_ray_workers_give_the_same_bytes(workers, clip_root, finished, tmp_path):
    running = subprocess.run(
        [
            sys.executable,
            "-m",
            "avprep",
            "clip",
            "--dataset",
            "folder",
            "--root",
            clip_root,
            "--out",
            tmp_path / "out",
            "--workers",
            str(workers),
            "--label-from-folder",
            *SMALL,
        ],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert running.returncode == 0, running.stderr
    assert digest(tmp_path / "out") == digest(finished)
