"""Selections: what is written is read back, and what was changed since is refused."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from avprep.errors import ArgumentError
from avprep.shards.layout import ShardError
from avprep.shards.selection import (
    FunnelStep,
    SelectionHeader,
    digest_of,
    read_selection,
    selection_name,
    write_selection,
)
from avprep.shards.store import LocalStore

TABLE = pa.table({"key": ["b", "a"], "shard": pa.array([1, 0], pa.int32())})
HEADER = SelectionHeader(
    query="luma > 0.5",
    options={"order": "random", "seed": 0, "per_label": None, "limit": 2},
    funnel=(FunnelStep(step="luma > 0.5", removed=3, undefined=1, kept=2),),
    fingerprint="made",
    digest=digest_of(["a", "b"]),
)


def test_what_is_written_is_read_back_in_order(tmp_path):
    store = LocalStore(str(tmp_path))
    write_selection(store, "hq-1", TABLE, HEADER)
    table, header = read_selection(store, "hq-1")
    assert table.to_pylist() == TABLE.to_pylist()
    assert header == HEADER


def test_the_digest_is_of_the_set_of_keys():
    assert digest_of(["b", "a"]) == digest_of(["a", "b"]) != digest_of(["ab"])
    # printf 'a\nb\n' | sha256sum
    assert digest_of("ba") == "911169ddaaf146aff539f58c26c489af3b892dff0fe283c1c264c65ae5aa59a2"


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a.b", "-x", "a" * 65, "a\n", "é", None])
def test_a_name_that_could_be_a_path_is_refused(name):
    with pytest.raises(ArgumentError, match="^name must be of up to 64 letters"):
        selection_name(name)


def test_a_missing_or_damaged_selection_is_named(tmp_path):
    store, path = LocalStore(str(tmp_path)), tmp_path / "selections" / "hq.parquet"
    with pytest.raises(ShardError, match="holds no selection hq"):
        read_selection(store, "hq")
    write_selection(store, "hq", TABLE, HEADER)
    metadata = pq.read_schema(path).metadata
    pq.write_table(TABLE.slice(0, 1).replace_schema_metadata(metadata), path)
    with pytest.raises(ShardError, match="hq.parquet is damaged: its keys are not those of its digest"):
        read_selection(store, "hq")
    twice = pa.concat_tables([TABLE, TABLE])
    pq.write_table(twice.replace_schema_metadata(metadata), path)
    with pytest.raises(ShardError, match="not those of its digest"):
        read_selection(store, "hq")
    for bad in ({}, {"selection": "[]"}, {"selection": "{"}, {"selection": '{"funnel": [3]}'}):
        pq.write_table(TABLE.replace_schema_metadata(bad), path)
        with pytest.raises(ShardError, match="hq.parquet is damaged: no header of a selection"):
            read_selection(store, "hq")
    pq.write_table(TABLE.drop_columns(["shard"]), path)
    with pytest.raises(ShardError, match="not those of a selection"):
        read_selection(store, "hq")
