"""`avprep score` and `select` on clips of made scenes, as a person runs them."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from avprep.cli import main
from avprep.scores.catalogue import SCORES
from avprep.shards.scores import read_scores
from avprep.shards.selection import read_selection
from avprep.shards.store import open_store

# All that need no network.
ARRAYS = [word for score in SCORES if score.cost == "array" for word in ("--only", score.name)]


def avprep(*args: object):
    return CliRunner().invoke(main, [str(a) for a in args])


@pytest.fixture(scope="module")
def clips(clip_root, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("scored") / "clips"
    media = ("--dataset", "folder", "--root", clip_root, "--label-from-folder")
    result = avprep("clip", *media, "--out", out, "--workers", 0, "--size", 64, "--shard-size", 3)
    assert result.exit_code == 0, result.output
    return out


def digests(out: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted((out / "scores").iterdir())}


@pytest.fixture(scope="module")
def scored(clips) -> Path:
    result = avprep("score", clips, "--workers", 0, *ARRAYS)
    assert result.exit_code == 0, result.output
    assert "scored 10 clips in 4 of 4 shards" in result.output
    return clips


def test_the_scores_of_flashes_and_clicks_are_sensible(scored):
    """Black pictures with white flashes and silence with clicks, at the same instants."""
    store = open_store(scored)
    rows = [
        row
        for path in sorted((scored / "scores").iterdir())
        for row in read_scores(store, int(path.stem)).to_pylist()
    ]
    assert len(rows) == 10
    for row in rows:
        assert row["problems"] == []
        assert row["luma"] < 0.4
        assert row["silent_share"] > 0.5 and row["sounding_share"] == pytest.approx(1, abs=0.02)
        assert row["phash"] is None or len(row["phash"]) == 24  # None: a frame of one colour
    assert not any(row["cut"] for row in rows)
    assert any(row["onsets"] for row in rows)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_ray_workers_write_the_bytes_of_one_process(scored, tmp_path):
    other = tmp_path / "clips"
    shutil.copytree(scored, other)
    shutil.rmtree(other / "scores")
    result = avprep("score", other, "--workers", 2, *ARRAYS)
    assert result.exit_code == 0, result.output
    assert digests(other) == digests(scored)


def test_a_second_run_has_nothing_to_do_and_a_misspelt_score_is_refused(scored):
    before = digests(scored)
    result = avprep("score", scored, "--workers", 0, *ARRAYS)
    assert result.exit_code == 0 and "nothing to do" in result.output
    assert digests(scored) == before
    result = avprep("score", scored, "--only", "loud")
    assert result.exit_code == 2
    assert "--only must be of timing, loudness" in result.output


def test_scores_left_out_say_what_to_give(scored):
    result = avprep("score", scored, "--workers", 0, "--only", "tags", "--only", "luma")
    assert result.exit_code == 0
    assert "LEFT OUT tags needs the yamnet weights: no path was given; give --weights-yamnet PATH" in (
        result.output
    )


def test_a_damaged_shard_is_named_and_ends_with_exit_code_1(scored, tmp_path):
    other = tmp_path / "clips"
    shutil.copytree(scored, other)
    shutil.rmtree(other / "scores")
    tar = sorted((other / "shards").iterdir())[0]
    tar.write_bytes(tar.read_bytes()[:-12_000])
    result = avprep("score", other, "--workers", 0, "--only", "timing")
    assert result.exit_code == 1
    assert f"DAMAGED shards/{tar.name}" in result.output
    assert len(digests(other)) == 3


def test_a_selection_is_a_list_of_keys_with_its_funnel(scored):
    rows = [row for i in range(4) for row in read_scores(open_store(scored), i).to_pylist()]
    chosen = {row["key"] for row in rows if row["silent_share"] > 0.5 and row["onsets"] >= 1}
    result = avprep("select", scored, "silent_share > 0.5 and onsets >= 1", "--name", "hq", "--order=-luma")
    assert result.exit_code == 0, result.output
    table, header = read_selection(open_store(scored), "hq")
    assert chosen and set(table["key"].to_pylist()) == chosen and len(table) == len(chosen)
    assert "10  finished clips" in result.output and f"digest {header.digest}" in result.output
    result = avprep("select", scored, "--name", "hq", "--limit", 1)
    assert result.exit_code == 2
    assert "--name hq: it is there" in result.output and "--rebuild to replace it" in result.output


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("onset > 1", "there is no column onset; the columns are residual_ms, pictures, loudness_lufs"),
        ("__import__('os').system('true') == 0", "must be a column's name"),
        ("speech > 0.5", "scores are missing: tags of 4 shards"),
    ],
)
def test_a_query_that_cannot_be_is_a_message(scored, query, said):
    result = avprep("select", scored, query, "--name", "bad")
    assert result.exit_code == 2 and said in result.output
    assert not (scored / "selections" / "bad.parquet").exists()
