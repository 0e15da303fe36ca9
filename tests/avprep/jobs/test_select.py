"""Selections by scores: against plain Python on the same rows, in any order of the scores, with caps."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from avprep.errors import ArgumentError
from avprep.execution import RunnerConfig
from avprep.jobs.config import ScoreJobConfig, SelectConfig
from avprep.jobs.output import JobError
from avprep.jobs.progress import Progress
from avprep.jobs.score import run_score_job
from avprep.jobs.select import run_select
from avprep.shards.lock import OutputInUse, lock
from avprep.shards.plan import PlanReader
from avprep.shards.scores import read_scores, read_scores_record, write_scores
from avprep.shards.selection import digest_of, read_selection
from avprep.shards.store import open_store
from tests.made_clips import write_clips

HERE = RunnerConfig(workers=0, isolated=False)


@pytest.fixture(scope="module")
def scored(tmp_path_factory) -> Path:
    """12 clips of 4 labels in 3 shards; the loudness of two is null."""
    out = write_clips(tmp_path_factory.mktemp("select") / "clips")
    only = ("luma", "peak", "loudness", "cut", "audio_print")
    run_score_job(ScoreJobConfig(clips=str(out), only=only, runner=HERE), Progress())
    store = open_store(out)
    table, record = read_scores(store, 1), read_scores_record(store, 1)
    at = table.column_names.index("loudness_lufs")
    values = [None, None, *table["loudness_lufs"].to_pylist()[2:]]
    table = table.set_column(at, table.schema.field(at), [values])
    write_scores(store, 1, table, clips_sha256=record.clips_sha256, scores=record.scores)
    return out


@pytest.fixture(scope="module")
def rows(scored) -> list[dict]:
    return [row for i in range(3) for row in read_scores(open_store(scored), i).to_pylist()]


def select(out: Path, query: str = "", name: str = "made", **more):
    header = run_select(SelectConfig(clips=str(out), query=query, name=name, **{"rebuild": True} | more))
    table, read = read_selection(open_store(out), name)
    assert read == header and digest_of(table["key"].to_pylist()) == header.digest
    return table["key"].to_pylist(), header


def test_a_selection_is_what_plain_comparisons_choose_and_the_funnel_adds_up(scored, rows):
    middle = sorted(row["luma"] for row in rows)[6]
    query = f"luma >= {middle!r} and loudness_lufs > -60 and cut == 0"
    keys, header = select(scored, query)
    one = [row for row in rows if row["luma"] >= middle]
    two = [row for row in one if row["loudness_lufs"] is not None and row["loudness_lufs"] > -60]
    three = [row for row in two if row["cut"] == 0]
    assert 0 < len(three)
    assert sorted(keys) == sorted(row["key"] for row in three)
    assert [step.kept for step in header.funnel] == [12, len(one), len(two), len(three)]
    nulls = sum(row["loudness_lufs"] is None for row in one)
    assert [step.undefined for step in header.funnel] == [0, 0, nulls, 0]
    for before, step in zip(header.funnel, header.funnel[1:], strict=False):
        assert before.kept - step.removed == step.kept


def test_null_is_neither_above_nor_below(scored, rows):
    above, _ = select(scored, "loudness_lufs > -30")
    below, _ = select(scored, "loudness_lufs <= -30")
    assert len(above) + len(below) == 10


def test_the_order_is_a_column_up_or_down_with_nulls_last(scored, rows):
    by_luma = [row["key"] for row in sorted(rows, key=lambda row: (row["luma"], row["key"]))]
    assert select(scored, order="luma")[0] == by_luma
    down = sorted(rows, key=lambda row: (-row["luma"], row["key"]))
    assert select(scored, order="-luma", limit=5)[0] == [row["key"] for row in down[:5]]
    nulls = {row["key"] for row in rows if row["loudness_lufs"] is None}
    for order in ("loudness_lufs", "-loudness_lufs"):
        assert set(select(scored, order=order)[0][-2:]) == nulls


def test_a_random_order_follows_from_the_seed_and_the_keys_alone(scored, rows):
    first, header = select(scored, seed=1)
    assert select(scored, seed=1)[0] == first
    other, other_header = select(scored, seed=2)
    assert sorted(other) == sorted(first) and other != first
    assert header.digest == other_header.digest
    some, _ = select(scored, f"luma > {min(row['luma'] for row in rows)!r}", seed=1)
    assert len(some) == 11 and some == [key for key in first if key in some]
    assert select(scored, seed=1, limit=4)[0] == first[:4]


def test_at_most_so_many_clips_of_each_label_the_first_in_order(scored):
    whole, _ = select(scored, seed=3)
    labels = PlanReader(open_store(scored)).labels_of(set(whole))
    keys, header = select(scored, seed=3, per_label=2)
    assert Counter(label for key in keys for label in labels[key]) == {"0": 2, "1": 2, "2": 2, "3": 2}
    for label in "0123":
        assert [k for k in keys if labels[k] == (label,)] == [k for k in whole if labels[k] == (label,)][:2]
    assert [(step.step, step.kept) for step in header.funnel[1:]] == [("2 per label", 8)]
    assert len(select(scored, seed=3, per_label=2, limit=3)[0]) == 3


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"query": "luna > 1"}, "query = luna > 1: there is no column luna; the columns are residual_ms"),
        ({"query": "audio_print == 'a'"}, "audio_print holds bits"),
        ({"query": "luma > 'a'"}, "luma is a number"),
        ({"order": "luna"}, "order = luna: there is no column luna"),
        ({"order": "-audio_print"}, "order = -audio_print: audio_print holds bits"),
        ({"name": "../x"}, "name must be"),
        ({"limit": 0}, "limit must be"),
        ({"seed": 2**64}, "seed must be"),
    ],
)
def test_what_cannot_be_selected_by_is_refused_with_what_can(scored, more, said):
    with pytest.raises(ArgumentError) as caught:
        select(scored, **more)
    assert said in str(caught.value)


def test_scores_that_are_missing_or_stale_are_no_ground_for_a_selection(tmp_path):
    out = write_clips(tmp_path / "clips", seed=0)
    assert len(select(out)[0]) == 12  # by no score
    with pytest.raises(JobError, match="of 3 shards, scores are missing: luma of 3 shards"):
        select(out, "luma > 0")
    run_score_job(ScoreJobConfig(clips=str(out), only=("luma",), runner=HERE), Progress())
    assert len(select(out, "luma > 0")[0]) == 12
    write_clips(out, seed=1)
    with pytest.raises(JobError, match="luma of 3 shards"):
        select(out, "luma > 0")


def test_another_selection_is_not_replaced_unless_asked(tmp_path):
    out = write_clips(tmp_path / "clips")
    select(out, limit=3, rebuild=False)
    select(out, limit=3, rebuild=False)
    with pytest.raises(JobError, match="^name = made: it is there.*rebuild=True"):
        select(out, limit=4, rebuild=False)
    assert len(select(out, limit=4)[0]) == 4


def test_the_output_is_locked(scored):
    with lock(open_store(scored)), pytest.raises(OutputInUse):
        select(scored)
