"""The pass over an output, against its ledger; damage is listed and the rest is counted."""

from __future__ import annotations

import pytest

from avprep.report.selections import Selection, read_selections
from avprep.report.summary import scores_of, summarize
from avprep.shards.ledger import Sums, read_ledgers
from avprep.shards.store import open_store
from tests.avprep.report.made_output import HOSTILE, write_output


@pytest.fixture
def out(tmp_path):
    return write_output(tmp_path / "out")


def summary_of(out, **options):
    return summarize(
        open_store(out), **{"clips": 3, "seed": 0, "thresholds": {"loudness": [-15.0]}} | options
    )


def test_counts_are_those_of_the_ledger(out):
    summary, sums = summary_of(out), Sums()
    for _, rows, _ in read_ledgers(open_store(out)):
        sums.add(rows)
    assert (summary.sums, summary.planned, summary.finished, summary.damages) == (sums, 12, 2, [])
    assert summary.sums.by_status == {"written": 8, "filtered": 2, "failed": 2}
    assert dict(summary.labels.most_common(9)) == {"dog": 4, "$x_1$": 2, "</select><b>cat": 2}
    assert dict(summary.sources.most_common(9)) == dict.fromkeys(HOSTILE[:4], 2)
    assert summary.failing.most_common(1) == [(HOSTILE[5], 2)]
    assert [row.reason for row in summary.failures] == ["corrupt"] * 2


def test_what_the_headers_of_the_sources_say_is_counted_per_source(out):
    found = summary_of(out).of_sources
    assert {name: (h.count, h.undefined) for name, h in found.items()} == {
        "source_s": (8, 0),
        "source_fps": (0, 8),
        "source_width": (8, 0),
        "source_height": (4, 4),
    }
    assert (found["source_width"].low, found["source_width"].high) == (640, 640)


def test_the_extremes_and_the_nearest_to_a_threshold_are_chosen(out):
    summary = summary_of(out)
    assert [pick.rank for pick in summary.picks["lowest loudness"].picks] == [-23, -22, -21, -20]
    assert [-pick.rank for pick in summary.picks["highest loudness"].picks] == [-10, -11, -12, -13]
    nearest = summary.picks["nearest to loudness = -15"].picks
    assert [pick.rank for pick in nearest] == [2, 3, 4, 5]
    assert set(summary.scores) == {"loudness", "cut"}  # numbers and flags, not texts
    assert scores_of(open_store(out), 0, {"0" * 16 + "_00000000000"})["0" * 16 + "_00000000000"] == {
        "loudness": -10.0,
        "cut": 1.0,
    }


def test_the_random_clips_depend_on_the_seed_alone(out):
    first, again, other = (summary_of(out, seed=seed).picks["at random"].picks for seed in (1, 1, 2))
    assert first == again != other and len(first) == 3


def test_damaged_files_are_listed_and_the_rest_is_counted(out):
    (out / "ledger/000000.parquet").write_bytes(b"PAR1 no more")
    (out / "scores/000001.parquet").write_bytes(b"none")
    (out / "plan.parquet").write_bytes(b"none")
    shard = out / "shards/clips-000001.tar"
    shard.write_bytes(shard.read_bytes()[:1000])
    summary = summary_of(out)
    assert summary.damaged == len(summary.damages) == 4
    for name in ("ledger/000000", "scores/000001", "plan", "clips-000001.tar"):
        assert any(name in what for what in summary.damages)
    assert summary.sums.planned == 6
    assert summary.picks["at random"].picks == []  # a clip of a cut shard is not chosen


def test_a_selection_tells_its_thresholds_and_a_damaged_one_is_listed(out):
    (out / "selections/bad.parquet").write_bytes(b"none")
    (selection,), damages = read_selections(open_store(out))
    assert (selection.name, selection.clips, len(selection.digest)) == ("loud", 4, 64)
    assert selection.thresholds() == {"loudness": [-15.0], "cut": [0.5]}
    assert selection.funnel == (("all", "8"), ("loudness > -15", "4"))
    assert len(damages) == 1 and "bad.parquet" in damages[0]
    terms = Selection("a", 0, "x>=1e-3 and -2 < y and z == .5", "", ()).thresholds()
    assert terms == {"x": [0.001], "y": [-2.0], "z": [0.5]}


def test_the_clips_of_a_selection_alone_are_counted_and_chosen(out):
    keys = frozenset(f"{number:016x}_00000000000" for number in range(3))
    summary = summary_of(out, keys=keys)
    assert {pick.key for low in summary.picks.values() for pick in low.picks} == keys
    assert sum(count for _, count in summary.labels.most_common(9)) == 3
    assert summary.scores["loudness"].count == summary.residual_ms.count == 3
    assert summary.sums == summary_of(out).sums
