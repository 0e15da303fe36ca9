"""An output that grows: new sources, changed ones, ones that went; latents follow. Against one made whole."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

import avprep
from avprep.cli import main
from avprep.errors import ArgumentError
from avprep.jobs.config import Growth
from avprep.jobs.output import JobError
from avprep.jobs.progress import EncodeReport
from avprep.shards.layout import PLAN_FILE
from avprep.shards.ledger import read_ledgers
from avprep.shards.plan import SCHEMA, PlanReader
from avprep.shards.store import open_store
from avprep.shards.tar import read_shard
from avprep.spec import ClipSpec
from tests.avprep.media.flash_click import write_flash_click
from tests.fake_encoder import OpenFake
from tests.integration.encode_driver import encode, media_source

SPEC = ClipSpec(size=32)
FAKE = OpenFake(SPEC)
pytestmark = pytest.mark.timeout(240)


def command(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def clip_args(root: Path, out: Path, *args: object) -> list[str]:
    small = ("--workers", 0, "--size", 32, "--shard-size", 3)
    return [str(arg) for arg in ("clip", "--dataset", "folder", "--root", root, "--out", out, *small, *args)]


def clip(root: Path, out: Path, *args: object) -> str:
    """Runs `avprep clip` to its end. Returns what it prints."""
    result = command(*clip_args(root, out, *args))
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Names and contents of media: of 1 to 3 clips each, and one that cannot be opened."""
    folder = tmp_path_factory.mktemp("files")
    found = {"x/broken.mp4": b"no media at all" * 100}
    for i, seconds in enumerate((1.7, 3.4, 5.0, 1.7, 3.4, 5.0, 3.4)):
        write_flash_click(folder / f"{i}.mp4", seconds=seconds, events_s=(0.3 + 0.1 * i, 1.2))
        found[f"{'xyz'[i % 3]}/{i}.mp4"] = (folder / f"{i}.mp4").read_bytes()
    return found


def put(root: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


def part(files: dict[str, bytes], number: int, of: int = 3) -> dict[str, bytes]:
    return {name: files[name] for name in sorted(files)[number::of]}


def members(out: Path) -> dict[str, dict[str, bytes]]:
    """Every clip's files by its key; no key is in two shards."""
    found: dict[str, dict[str, bytes]] = {}
    for tar in sorted((out / "shards").iterdir()):
        with open(tar, "rb") as file:
            for key, clip_files in read_shard(file):
                assert key not in found
                found[key] = dict(clip_files)
    return found


def outcomes(out: Path) -> dict[str, tuple[str, str]]:
    rows = [row for _, rows, _ in read_ledgers(open_store(out)) for row in rows]
    assert len({row.key for row in rows}) == len(rows) == PlanReader(open_store(out)).clips
    return {row.key: (row.status, row.reason) for row in rows}


def assert_made_as_whole(out: Path, root: Path, whole: Path) -> None:
    """The output has the clips, bytes and rows of one that is made at once of what is there now."""
    clip(root, whole)
    assert members(out) == members(whole) and outcomes(out) == outcomes(whole)
    stats = [json.loads((place / "stats.json").read_text()) for place in (out, whole)]
    assert stats[0]["clips"] == stats[1]["clips"] and stats[0]["reasons"] == stats[1]["reasons"]
    assert command("verify", out, "--deep").exit_code == 0


def digest(out: Path) -> dict[str, str]:
    """Shards and ledgers."""
    paths = [*(out / "shards").iterdir(), *(out / "ledger").iterdir()]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


# --- new sources -------------------------------------------------------------------------------------------


def test_a_folder_grown_three_times_gives_the_clips_of_one_made_whole(files, tmp_path):
    root, out, latents = tmp_path / "media", tmp_path / "out", tmp_path / "latents"
    before: dict[str, str] = {}
    encoded_before: dict[str, str] = {}
    for number in range(3):
        put(root, part(files, number))
        clip(root, out, "--add-new")
        encode(out, latents, fake=FAKE)
        assert digest(out).items() >= before.items()
        assert digest(latents).items() >= encoded_before.items()
        before, encoded_before = digest(out), digest(latents)
    assert_made_as_whole(out, root, tmp_path / "whole")
    encode(tmp_path / "whole", tmp_path / "whole latents", fake=FAKE)
    assert members(latents) == members(tmp_path / "whole latents")
    stats = [
        json.loads((tmp_path / name / "stats.json").read_text()) for name in ("latents", "whole latents")
    ]
    assert stats[0]["latents"] == stats[1]["latents"] and stats[0]["clips"] == stats[1]["clips"]
    assert command("verify", latents, "--deep").exit_code == 0


def test_the_generations_are_shown(files, tmp_path):
    root, out = tmp_path / "media", tmp_path / "out"
    put(root, part(files, 0))
    clip(root, out)
    assert "generation 1" not in command("status", out).output
    first = PlanReader(open_store(out))
    put(root, part(files, 1))
    assert "new since the plan was made: 3 sources (x/3.mp4, y/1.mp4, z/5.mp4); --add-new adds" in clip(
        root, out
    )
    assert PlanReader(open_store(out)).clips == first.clips
    clip(root, out, "--add-new")
    plan = PlanReader(open_store(out))
    assert plan.history().generations == (0, first.shards)
    said = command("status", out).output
    assert (
        f"generation 1: {first.shards} of {first.shards} shards, {first.clips} clips, from shard 000000"
        in said
    )
    added = plan.shards - first.shards
    assert f"generation 2: {added} of {added} shards, {plan.clips - first.clips} clips, from shard" in said
    again = clip(root, out, "--add-new")
    assert "nothing to do" in again and PlanReader(open_store(out)).history() == plan.history()


def test_new_spans_of_a_file_that_is_in_the_plan_are_added(files, tmp_path):
    root, out, whole = tmp_path / "media", tmp_path / "out", tmp_path / "whole"
    put(root, files)
    rows = ["x/3.mp4,0,1.7", "z/2.mp4,0,1.7", "z/2.mp4,1.6,3.3", "z/2.mp4,0.8,4.2", "z/5.mp4,,"]
    listing = tmp_path / "list.csv"
    for count in (2, 3, 5):
        listing.write_text("\n".join(["path,start,stop", *rows[:count]]))
        clip(root, out, "--dataset", "manifest", "--list", listing, "--add-new")
    clip(root, whole, "--dataset", "manifest", "--list", listing)
    assert members(out) == members(whole) and outcomes(out) == outcomes(whole)


def test_a_limit_holds_for_all_generations(files, tmp_path):
    root, out = tmp_path / "media", tmp_path / "out"
    put(root, {"x/0.mp4": files["x/0.mp4"]})
    clip(root, out, "--limit", 3)
    put(root, files)
    clip(root, out, "--limit", 3, "--add-new")
    assert len(outcomes(out)) == 3
    assert "new since" not in clip(root, out, "--limit", 3)


def test_an_output_of_an_earlier_version_grows(files, tmp_path):
    root, out, latents = tmp_path / "media", tmp_path / "out", tmp_path / "latents"
    put(root, part(files, 0))
    clip(root, out)
    old = pq.read_table(out / PLAN_FILE).select(SCHEMA.names[:8]).replace_schema_metadata(None)
    pq.write_table(old, out / PLAN_FILE)
    for path in (out / "ledger").iterdir():
        path.unlink()
    clip(root, out)
    encode(out, latents, fake=FAKE)
    assert "nothing to do" in clip(root, out)
    put(root, files)
    clip(root, out, "--add-new")
    report = encode(out, latents, fake=FAKE)
    assert report.made < report.shards
    clip(root, tmp_path / "whole")
    encode(tmp_path / "whole", tmp_path / "whole latents", fake=FAKE)
    assert outcomes(out) == outcomes(tmp_path / "whole")
    # No clip has the field that was new since, and nothing else differs.
    for old_output, new_output in ((out, tmp_path / "whole"), (latents, tmp_path / "whole latents")):
        grown, whole = members(old_output), members(new_output)
        assert "caption_from" not in grown.popitem()[1]["json"].decode()
        for key in grown:
            header = json.loads(whole[key].pop("json"))
            assert header.pop("caption_from") == "" and json.loads(grown[key].pop("json")) == header
            assert grown[key] == whole[key]
        assert command("verify", old_output, "--deep").exit_code == 0


def test_media_of_another_root_are_no_growth(files, tmp_path):
    put(tmp_path / "one", part(files, 0))
    put(tmp_path / "two", part(files, 1))
    clip(tmp_path / "one", tmp_path / "out")
    before = digest(tmp_path / "out")
    result = command(*clip_args(tmp_path / "two", tmp_path / "out", "--add-new"))
    assert result.exit_code == 2 and "none of the sources that" in result.output
    assert digest(tmp_path / "out") == before


def test_growing_is_an_argument_of_the_api(files, tmp_path):
    root, out = tmp_path / "media", tmp_path / "out"
    put(root, part(files, 0))
    first = avprep.clip_dataset(root, out, spec=SPEC, workers=0)
    put(root, part(files, 1))
    (root / sorted(part(files, 0))[0]).unlink()
    report = avprep.clip_dataset(root, out, spec=SPEC, workers=0)
    assert (report.new_sources, report.changed_sources, report.gone_sources) == (3, 0, 1)
    report = avprep.clip_dataset(root, out, spec=SPEC, workers=0, add_new=True)
    assert (report.new_sources, report.gone_sources) == (0, 1) and report.planned > first.planned
    with pytest.raises(ArgumentError, match="^add_new = True: it keeps what was written"):
        avprep.clip_dataset(root, out, spec=SPEC, workers=0, add_new=True, rebuild=True)


# --- sources that are others now ---------------------------------------------------------------------------


def test_changed_sources_are_named_and_clipped_anew_on_request(files, tmp_path):
    root, out, latents = tmp_path / "media", tmp_path / "out", tmp_path / "latents"
    put(root, files)
    clip(root, out)
    encode(out, latents, fake=FAKE)
    before, encoded_before = digest(out), digest(latents)
    put(root, {"x/0.mp4": files["z/2.mp4"], "x/broken.mp4": files["y/1.mp4"]})
    said = clip(root, out)
    assert "size or time than when planned: 2 files (x/0.mp4, x/broken.mp4); --replace-changed clips" in said
    assert digest(out) == before
    clip(root, out, "--replace-changed")
    assert_made_as_whole(out, root, tmp_path / "whole")
    encode(out, latents, fake=FAKE)
    encode(tmp_path / "whole", tmp_path / "whole latents", fake=FAKE)
    assert members(latents) == members(tmp_path / "whole latents")
    assert len(before.items() & digest(out).items()) >= 4
    assert len(encoded_before.items() & digest(latents).items()) >= 4
    assert "planned:" not in clip(root, out, "--replace-changed")


def test_the_last_clips_of_a_shard_may_go(files, tmp_path):
    """A shard of one source, which is replaced twice: what is left is a shard without a row."""
    root, out = tmp_path / "media", tmp_path / "out"
    put(root, {"z/2.mp4": files["z/2.mp4"], "y/1.mp4": files["y/1.mp4"]})
    clip(root, out)
    for data in (files["z/5.mp4"] + b"\0", files["x/3.mp4"]):
        put(root, {"z/2.mp4": data})
        clip(root, out, "--replace-changed")
    assert_made_as_whole(out, root, tmp_path / "whole")
    assert "generation 3" in command("status", out).output
    report = encode(out, tmp_path / "latents", fake=FAKE)
    assert report.sums.by_status["written"] == 3


def test_other_labels_are_a_change(files, tmp_path):
    root, out, whole = tmp_path / "media", tmp_path / "out", tmp_path / "whole"
    put(root, part(files, 0))
    clip(root, out)
    clip(root, out, "--label-from-folder", "--replace-changed")
    clip(root, whole, "--label-from-folder")
    assert members(out) == members(whole)


def test_sources_that_went_are_named_and_their_clips_stay(files, tmp_path):
    root, out = tmp_path / "media", tmp_path / "out"
    put(root, files)
    clip(root, out)
    before = digest(out)
    (root / "x/0.mp4").unlink()
    said = clip(root, out, "--add-new", "--replace-changed")
    assert "not there any more: 1 files of the plan (x/0.mp4); their clips stay" in said
    assert digest(out) == before


# --- a dry run ---------------------------------------------------------------------------------------------


def test_a_dry_run_of_a_growth_counts_what_the_run_adds(files, tmp_path):
    root, out = tmp_path / "media", tmp_path / "out"
    put(root, part(files, 0))
    clip(root, out)
    put(root, part(files, 1) | {sorted(part(files, 0))[-1]: files["z/5.mp4"]})
    before, plan = digest(out), PlanReader(open_store(out))
    for options in (("--add-new",), ("--replace-changed",), ("--add-new", "--replace-changed")):
        copy = tmp_path / "-".join(options)
        shutil.copytree(out, copy)
        said = clip(root, copy, *options, "--dry-run")
        assert digest(copy) == before and "nothing was written" in said
        clip(root, copy, *options)
        grown = PlanReader(open_store(copy))
        added = [row for shard in range(plan.shards, grown.shards) for row in grown.rows(shard)]
        clips = sum(not row.reason for row in added)
        assert f"added to the plan: {clips} clips of 1.6 s" in said
        assert f"in {grown.shards - plan.shards} shards" in said
        gone = plan.clips + len(added) - grown.clips
        assert ("taken out of the plan" in said) == bool(gone)
        assert f"taken out of the plan: {gone} clips" in said or not gone


def test_a_dry_run_refuses_what_the_run_would(files, tmp_path):
    root, out = tmp_path / "media", tmp_path / "out"
    put(root, part(files, 0))
    assert "plan: " in clip(root, out, "--add-new", "--dry-run") and not out.exists()  # a first run
    clip(root, out)
    for options, said in ((("--fps", 20), "spec.fps"), (("--only-failed",), "--only-failed keeps the plan")):
        result = command(*clip_args(root, out, "--add-new", "--dry-run", *options))
        assert result.exit_code != 0 and said in result.output


# --- latents in one pass -----------------------------------------------------------------------------------


def latents_of(root: Path, out: Path, **growth: bool) -> EncodeReport:
    return encode(media_source(root, SPEC, 0), out, fake=FAKE, growth=Growth(**growth))


def statistics(out: Path) -> dict:
    stats = json.loads((out / "stats.json").read_text())
    return {name: stats[name] for name in ("clips", "reasons", "latents", "labels")}


def test_latents_of_media_grow_as_clips_do(files, tmp_path):
    root, out, whole = tmp_path / "media", tmp_path / "out", tmp_path / "whole"
    put(root, part(files, 0))
    latents_of(root, out)
    before = digest(out)
    put(root, part(files, 1))
    assert latents_of(root, out).made == 0 and digest(out) == before  # they are named, and not added
    latents_of(root, out, add_new=True)
    assert digest(out).items() > before.items()
    put(root, {sorted(part(files, 0))[-1]: files["z/5.mp4"]})
    gone = next(name for name in part(files, 1) if "broken" not in name)
    (root / gone).unlink()
    latents_of(root, out, replace_changed=True)
    put(root, {gone: files[gone]})
    latents_of(root, whole)
    assert members(out) == members(whole) and outcomes(out) == outcomes(whole)
    assert statistics(out) == statistics(whole)
    assert command("verify", out, "--deep").exit_code == 0


def test_what_stands_is_not_encoded_again_for_clips_that_go(files, tmp_path):
    root, out = tmp_path / "media", tmp_path / "out"
    put(root, files)
    latents_of(root, out)
    plan = PlanReader(open_store(out))
    shards = [sorted({row.source for row in plan.rows(i) if not row.reason}) for i in range(plan.shards)]
    changed, _ = next(sources for sources in shards if len(sources) == 2)
    put(root, {changed: files["z/2.mp4" if changed != "z/2.mp4" else "z/5.mp4"]})
    report = latents_of(root, out, replace_changed=True)
    assert report.made == 1 and report.made_sums.planned == 3  # the clips of that file
    latents_of(root, tmp_path / "whole")
    assert members(out) == members(tmp_path / "whole")
    assert statistics(out)["latents"] == statistics(tmp_path / "whole")["latents"]
    assert command("verify", out, "--deep").exit_code == 0


def test_growth_goes_with_media_and_not_with_a_rebuild(files, tmp_path):
    root = tmp_path / "media"
    put(root, part(files, 0))
    clip(root, tmp_path / "clips")
    with pytest.raises(ArgumentError, match="^add_new = True: it goes with media"):
        encode(tmp_path / "clips", tmp_path / "latents", fake=FAKE, growth=Growth(add_new=True))
    with pytest.raises(ArgumentError, match="^replace_changed = True: it keeps what was written"):
        source = media_source(root, SPEC, 0)
        growth = Growth(replace_changed=True)
        encode(source, tmp_path / "latents", fake=FAKE, growth=growth, rebuild=True)


# --- scores and selections ---------------------------------------------------------------------------------


def test_scores_and_selections_of_old_shards_stay_valid(files, tmp_path):
    root, out = tmp_path / "media", tmp_path / "out"
    put(root, part(files, 0))
    clip(root, out)
    assert command("score", out, "--workers", 0, "--only", "loudness").exit_code == 0
    assert command("select", out, "all", "--name", "old").exit_code in (0, 2)
    before = {path: path.read_bytes() for path in (out / "scores").iterdir()}
    put(root, files)
    clip(root, out, "--add-new")
    assert {path: path.read_bytes() for path in (out / "scores").iterdir()} == before
    said = command("score", out, "--workers", 0, "--only", "loudness")
    assert said.exit_code == 0, said.output
    assert len(list((out / "scores").iterdir())) > len(before)
    assert {path: path.read_bytes() for path in before} == before


# --- kill -9 -----------------------------------------------------------------------------------------------


KILLED = """
import os, signal, sys
from functools import partial
from unittest.mock import patch
import avprep.jobs.config
from avprep.cli import main

avprep.jobs.config.RunnerConfig = partial(avprep.jobs.config.RunnerConfig, isolated=False)
with patch(sys.argv[1], lambda *_: os.kill(os.getpid(), signal.SIGKILL)):
    main(sys.argv[2:])
"""


def killed_at(moment: str, root: Path, out: Path, *args: object) -> None:
    """`avprep clip` in a process of its own, which is killed as it calls `moment`."""
    run = subprocess.run(
        [sys.executable, "-c", KILLED, moment, *clip_args(root, out, *args)], capture_output=True, text=True
    )
    assert run.returncode == -signal.SIGKILL, run.stderr


MOMENTS = (
    "avprep.jobs.planner.write_plan",  # nothing is written yet
    "avprep.jobs.clip.shard_task",  # the plan has grown, no shard is made
    "avprep.stages.clip.write_shard",
    "avprep.stages.clip.write_ledger",  # a tar without its ledger
    "avprep.jobs.clip.keep_stats",
)


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_while_it_grows_it_is_gone_on_with(moment, files, tmp_path):
    root, out = tmp_path / "media", tmp_path / "out"
    put(root, part(files, 0))
    clip(root, out)
    put(root, part(files, 1) | {sorted(part(files, 0))[-1]: files["z/5.mp4"]})
    grow = ("--add-new", "--replace-changed")
    killed_at(moment, root, out, *grow)
    assert [line for line in damages(out) if "without a ledger" not in line] == []
    # The plan that has grown is gone on with whether growth is asked for again or not.
    clip(root, out, *(grow if moment == MOMENTS[0] else ()))
    assert_made_as_whole(out, root, tmp_path / "whole")


def damages(out: Path) -> Iterator[str]:
    """What verify finds, but for shards that the plan has changed and the run not reached."""
    said = command("verify", out).output
    return (line for line in said.splitlines() if "DAMAGED" in line and "clips planned" not in line)


def test_latents_are_not_made_of_a_growth_that_is_not_finished(files, tmp_path):
    root, out = tmp_path / "media", tmp_path / "out"
    put(root, files)
    clip(root, out)
    put(root, {"x/0.mp4": files["z/2.mp4"]})
    killed_at("avprep.jobs.clip.shard_task", root, out, "--replace-changed")
    with pytest.raises(ArgumentError, match="shards are not made yet; finish it first"):
        encode(out, tmp_path / "latents", fake=FAKE)


def test_latents_of_other_clips_are_not_taken_for_older_ones(files, tmp_path):
    put(tmp_path / "one", part(files, 0))
    put(tmp_path / "two", part(files, 1))
    for name in ("one", "two"):
        clip(tmp_path / name, tmp_path / f"{name} clips")
    encode(tmp_path / "one clips", tmp_path / "latents", fake=FAKE)
    with pytest.raises(JobError, match="clips.plan"):
        encode(tmp_path / "two clips", tmp_path / "latents", fake=FAKE)


def test_a_copy_of_the_media_gives_the_same_clips_to_encode(files, tmp_path):
    put(tmp_path / "one", part(files, 0))
    clip(tmp_path / "one", tmp_path / "clips")
    encode(tmp_path / "clips", tmp_path / "latents", fake=FAKE)
    shutil.rmtree(tmp_path / "clips")
    for path in (tmp_path / "one").rglob("*.mp4"):
        os.utime(path, ns=(0, 0))
    clip(tmp_path / "one", tmp_path / "clips")
    assert encode(tmp_path / "clips", tmp_path / "latents", fake=FAKE).made == 0
