from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avprep.shards import plan as module
from avprep.shards.layout import PLAN_FILE, ShardError
from avprep.shards.plan import SCHEMA, PlanReader, PlanRow, write_plan
from avprep.shards.store import open_store


def shards_of(sizes: list[int]) -> list[list[PlanRow]]:
    def row(shard: int, place: int) -> PlanRow:
        reason = "corrupt" if place == 1 else ""
        labels = [f"label {shard % 2}"]
        told = {"labels": labels, "caption": "", "reason": reason}
        return PlanRow(
            key=f"{shard:04d}_{place:04d}", shard=shard, source=f"{shard}.mp4", start=place, **told
        )

    return [[row(shard, place) for place in range(size)] for shard, size in enumerate(sizes)]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return open_store(tmp_path_factory.mktemp("plan"))


@settings(deadline=None)  # the first example loads pyarrow
@given(sizes=st.lists(st.integers(1, 9), max_size=12), rows_a_group=st.integers(1, 20), data=st.data())
def test_every_shard_is_read_back_in_any_order(store, sizes, rows_a_group, data):
    shards = shards_of(sizes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ROWS_A_GROUP", rows_a_group)
        write_plan(store, shards)
    plan = PlanReader(store)
    assert (plan.shards, plan.clips) == (len(sizes), sum(sizes))
    for shard in data.draw(st.lists(st.sampled_from(range(len(sizes))))) if sizes else ():
        assert plan.rows(shard) == shards[shard]
    assert plan.clips_of(range(0, len(sizes), 2)) == sum(sizes[::2])
    broken = [row for rows in shards for row in rows if row.reason]
    assert plan.unmade() == {row.key: (row.shard, "corrupt") for row in broken}
    assert plan.keys_of({"1.mp4"}) == {row.key for row in (shards[1] if len(shards) > 1 else ())}
    spans = [(f"{i}.mp4", None, None, (f"label {i % 2}",), "", "", "", "") for i in range(len(sizes))]
    assert list(plan.spans()) == spans


def test_a_row_group_holds_whole_shards_and_many(store):
    write_plan(store, shards_of([300] * 200))
    metadata = pq.read_metadata(store.root / PLAN_FILE)
    assert metadata.num_row_groups == 4
    assert metadata.row_group(0).num_rows % 300 == 0


@pytest.mark.parametrize("columns", [8, 11])
def test_a_plan_of_an_earlier_version_does_not_know_its_later_columns(store, columns: int):
    known = PlanRow(
        key="a", shard=0, source="s", start=0, labels=("x",), caption="", version="v", source_height=480
    )
    write_plan(store, [[known]])
    table = PlanReader(store).table(0).select(SCHEMA.names[:columns])
    with store.write(PLAN_FILE) as file:
        pq.write_table(table, file, write_statistics=["shard"])
    old = PlanReader(store)
    (row,) = old.rows(0)
    assert (row.key, list(row.labels), row.source_height, row.source_fps) == ("a", ["x"], None, None)
    assert row.version == ("v" if columns == 11 else "")
    assert old.values_of("source_height", pa.array(["a", "b"])).to_pylist() == [None, None]


def test_bars_are_read_back_and_not_known_where_they_are_not(store):
    row = PlanRow(key="a", shard=0, source="s", start=0, labels=(), caption="")
    rows = [replace(row, bars=(33, 32, 0, 0)), replace(row, key="b")]
    write_plan(store, [rows])
    assert [row.bars for row in PlanReader(store).rows(0)] == [(33, 32, 0, 0), None]


@pytest.mark.parametrize(
    "bars", [(1, 2, 3), (), (1, 2, 3, 4, 5), (-1, 0, 0, 0), (128, 128, 0, 0), (0, 0, 300, 0)]
)
def test_bars_that_leave_no_picture_are_damage(store, bars: tuple[int, ...]):
    row = PlanRow(key="a", shard=0, source="s", start=0, labels=(), caption="")
    write_plan(store, [[replace(row, bars=bars)]])
    with pytest.raises(ShardError, match=r"plan.parquet is damaged \(bars"):
        PlanReader(store).rows(0)


def test_values_are_in_the_order_of_the_keys(store):
    rows = [
        PlanRow(key=key, shard=0, source=f"source {key}", start=i, labels=(), caption="")
        for i, key in enumerate("abc")
    ]
    write_plan(store, [rows])
    plan = PlanReader(store)
    assert plan.values_of("start", pa.array(["c", "x", "a"])).to_pylist() == [2, None, 0]
    assert plan.labels_of({"a", "x"}) == {"a": ()}
