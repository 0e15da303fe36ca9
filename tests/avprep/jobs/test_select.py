"""Selections by scores: against plain Python on the same rows, in any order of the scores, with caps."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from avprep.errors import ArgumentError
from avprep.execution import RunnerConfig
from avprep.jobs.config import ScoreJobConfig, SelectConfig
from avprep.jobs.output import JobError
from avprep.jobs.progress import Progress
from avprep.jobs.score import run_score_job
from avprep.jobs.select import run_select
from avprep.shards.clips import clip_key
from avprep.shards.lock import OutputInUse, lock
from avprep.shards.plan import PlanReader, write_plan
from avprep.shards.scores import read_scores, read_scores_record, write_scores
from avprep.shards.selection import digest_of, read_selection
from avprep.shards.store import open_store
from tests.made_clips import TINY, write_clips

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
    header = run_select(SelectConfig(clips=str(out), query=query, name=name, **{"rebuild": True} | more))[
        name
    ]
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
    found = PlanReader(open_store(scored)).values_of("labels", pa.array(whole)).to_pylist()
    labels = {key: tuple(own) for key, own in zip(whole, found, strict=True)}
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


def test_a_selection_follows_what_lies_there_now(tmp_path):
    """Nothing of an earlier selection is kept: shards made, scored or removed since count at once."""
    out = write_clips(tmp_path / "clips", seed=0)
    score_luma(out)
    first = select(out, "luma > 0.2")[0]
    assert 0 < len(first) < 12
    write_clips(out, seed=1)  # other pictures under the same keys
    score_luma(out)
    rows = [row for i in range(3) for row in read_scores(open_store(out), i).to_pylist()]
    bright = {row["key"] for row in rows if row["luma"] > 0.2}
    assert set(select(out, "luma > 0.2")[0]) == bright != set(first)
    in_shard = set(read_scores(open_store(out), 1)["key"].to_pylist())
    (out / "ledger" / "000001.parquet").unlink()
    assert set(select(out, "luma > 0.2")[0]) == bright - in_shard
    keys, header = select(out, "luma > 1")
    assert keys == [] and header.digest == digest_of([])


def score_luma(out: Path) -> None:
    run_score_job(ScoreJobConfig(clips=str(out), only=("luma",), runner=HERE), Progress())


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


# --- excluded sources, near-duplicates, splits ---------------------------------------------------------


def sources_of(out: Path, keys: list[str]) -> list[str]:
    return PlanReader(open_store(out)).values_of("source", pa.array(keys, pa.string())).to_pylist()


def test_excluded_sources_are_left_out_and_counted(scored, tmp_path):
    (tmp_path / "eval.txt").write_text("source 1\nsource 3\nsource 9\n")
    keys, header = select(scored, exclude_ids=tmp_path / "eval.txt")
    assert Counter(sources_of(scored, keys)) == {"source 0": 3, "source 2": 3}
    assert [(s.step, s.removed, s.kept) for s in header.funnel[1:]] == [("exclude_ids", 6, 6)]


@pytest.fixture
def printed(tmp_path) -> Path:
    """The clips of 4 sources; clip i of source 1 is a near copy of clip i of source 0."""
    out = write_clips(tmp_path / "clips")
    run_score_job(
        ScoreJobConfig(clips=str(out), only=("luma", "phash", "audio_print"), runner=HERE), Progress()
    )
    store, rng = open_store(out), np.random.default_rng(0)
    prints = {f"source {s}": [(rng.bytes(24), rng.bytes(12)) for _ in range(3)] for s in range(4)}
    prints["source 1"] = [(bytes([a[0] ^ 7]) + a[1:], b) for a, b in prints["source 0"]]
    for index in range(3):
        table, record = read_scores(store, index), read_scores_record(store, index)
        made = [prints[source].pop() for source in sources_of(out, table["key"].to_pylist())]
        for i, name in enumerate(("phash", "audio_print")):
            at = table.column_names.index(name)
            table = table.set_column(at, table.schema.field(at), [[row[i] for row in made]])
        write_scores(store, index, table, clips_sha256=record.clips_sha256, scores=record.scores)
    return out


def test_the_first_of_each_group_of_near_duplicates_is_kept(printed):
    order, _ = select(printed, order="luma")
    keys, header = select(printed, order="luma", near_duplicates=3)
    assert keys == [key for key in order if key in keys] and len(keys) == 9
    assert header.funnel[-1].step == "near-duplicates within 3 bits: 3 groups, the largest of 2"
    assert header.funnel[-1].removed == 3
    assert len(select(printed, order="luma", near_duplicates=2)[0]) == 12


def test_near_duplicates_are_removed_before_the_caps_count(printed):
    kept, _ = select(printed, order="luma", near_duplicates=3)
    assert select(printed, order="luma", near_duplicates=3, limit=8)[0] == kept[:8]


def test_splits_divide_the_selection_by_source(scored):
    whole, _ = select(scored, split={"a": 0.5, "b": 0.5}, seed=4)
    parts = {name: read_selection(open_store(scored), f"made-{name}") for name in "ab"}
    keys = {name: table["key"].to_pylist() for name, (table, _) in parts.items()}
    assert all(keys.values()) and sorted(keys["a"] + keys["b"]) == sorted(whole)
    assert not set(sources_of(scored, keys["a"])) & set(sources_of(scored, keys["b"]))
    for name, (_, header) in parts.items():
        assert header.funnel[-1].step == f"split {name} by source"
        assert header.funnel[-1].kept == len(keys[name])
        assert keys[name] == [key for key in whole if key in keys[name]]


@pytest.mark.parametrize("seed", range(8))
def test_splits_by_group_keep_near_duplicates_together(printed, seed: int):
    try:
        whole, _ = select(printed, near_duplicates=3, split={"a": 0.5, "b": 0.5}, by="group", seed=seed)
    except JobError as error:
        assert "split = " in str(error)
        return
    assert len(whole) == 12  # groups are kept whole
    table, _ = read_selection(open_store(printed), "made-a")
    sources = set(sources_of(printed, table["key"].to_pylist()))
    assert {"source 0", "source 1"} <= sources or not {"source 0", "source 1"} & sources


def test_a_split_without_a_clip_is_refused_and_nothing_is_written(tmp_path):
    out = write_clips(tmp_path / "clips", sources=1)
    with pytest.raises(JobError, match="^split = .: none of the 1 sources"):
        select(out, split={"a": 0.5, "b": 0.5})
    assert not (out / "selections").exists()


def test_a_split_that_is_there_is_not_replaced_and_nothing_else_is_written(scored):
    shares = {"a": 0.5, "b": 0.5}
    select(scored, split=shares, seed=4, name="kept")
    store = open_store(scored)
    before = read_selection(store, "kept")[1]
    (scored / "selections" / "kept.parquet").unlink()
    with pytest.raises(JobError, match="^name = kept-a: it is there"):
        select(scored, split=shares, seed=4, name="kept", limit=9, rebuild=False)
    assert not (scored / "selections" / "kept.parquet").exists()
    assert select(scored, split=shares, seed=4, name="kept", rebuild=False)[1] == before


def test_the_options_that_were_not_given_are_not_recorded(scored):
    """So that a selection of an earlier version equals the same one of today."""
    assert set(select(scored)[1].options) == {"order", "seed", "per_label", "limit"}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"split": {"a": 0.5}}, "split must have shares that add up to 1, not to 0.5"),
        ({"split": {"a": 1.5, "b": -0.5}}, "split must map names to shares above 0"),
        ({"split": {"../a": 1}}, "name must be"),
        ({"by": "label"}, "by must be one of source, group"),
        ({"by": "group", "split": {"a": 1}}, "by = group: it needs `split`, and `near_duplicates`"),
        ({"near_duplicates": -1}, "near_duplicates must be"),
        ({"near_duplicates": 289}, "near_duplicates must be"),
    ],
)
def test_a_split_that_cannot_be_is_refused(scored, more, said):
    with pytest.raises(ArgumentError) as caught:
        select(scored, **more)
    assert said in str(caught.value)


def test_the_digest_does_not_depend_on_the_order_of_rows_or_shards(tmp_path):
    """The same clips in other shards give the same selection and the same splits."""
    digests = set()
    for shard_size in (2, 5, 12):
        out = write_clips(tmp_path / f"clips-{shard_size}", shard_size=shard_size)
        only = ("luma", "phash", "audio_print")
        run_score_job(ScoreJobConfig(clips=str(out), only=only, runner=HERE), Progress())
        shares = {"a": 0.5, "b": 0.5}
        keys, header = select(out, "luma > 0.1", near_duplicates=20, limit=7, split=shares, seed=4)
        parts = [read_selection(open_store(out), f"made-{name}")[1].digest for name in "ab"]
        digests.add((tuple(keys), header.digest, *parts))
    assert len(digests) == 1


def test_the_list_names_source_and_start_of_the_chosen_clips_in_order(scored, tmp_path):
    keys, _ = select(scored, order="-luma", limit=4, ids=tmp_path / "chosen.tsv")
    head, *rows = [line.split("\t") for line in (tmp_path / "chosen.tsv").read_text().splitlines()]
    assert head == ["source", "start_s", "key"] and [row[2] for row in rows] == keys
    assert [row[0] for row in rows] == sources_of(scored, keys)
    assert {clip_key(row[0], round(float(row[1]) * TINY.sample_rate)) for row in rows} == set(keys)


def test_clips_are_selected_by_what_the_headers_of_their_sources_say(tmp_path):
    out = write_clips(tmp_path / "clips")
    store = open_store(out)
    plan = PlanReader(store)
    heights = {"source 0": 240, "source 1": 480, "source 2": 1080, "source 3": None}
    shards = [[replace(r, source_height=heights[r.source]) for r in plan.rows(i)] for i in range(plan.shards)]
    write_plan(store, shards, plan.history())
    keys, header = select(out, "source_height >= 480")  # without a score
    assert set(sources_of(out, keys)) == {"source 1", "source 2"}
    assert (header.funnel[1].removed, header.funnel[1].undefined) == (6, 3)
    assert sources_of(out, select(out, order="-source_height", limit=1)[0]) == ["source 2"]
