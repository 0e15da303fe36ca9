"""Files of scores: what is written is read back, and what others wrote is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from avprep.shards.layout import ShardError
from avprep.shards.scores import KEY, PROBLEMS, read_scores, read_scores_record, write_scores
from avprep.shards.store import LocalStore

TABLE = pa.table(
    {"key": ["a", "b"], "luma": [0.5, None], "problems": [[], ["luma: no"]]},
    pa.schema([KEY, pa.field("luma", pa.float64()), PROBLEMS]),
)
METADATA = {"clips_sha256": "cafe", "scores": json.dumps({"luma": ""})}


def test_what_is_written_is_read_back(tmp_path):
    store = LocalStore(str(tmp_path))
    assert read_scores_record(store, 3) is None
    write_scores(store, 3, TABLE, clips_sha256="cafe", scores={"luma": "", "tags": "beef"})
    assert (tmp_path / "scores" / "000003.parquet").is_file()
    assert read_scores(store, 3).to_pylist() == TABLE.to_pylist()
    assert read_scores(store, 3, ["luma"]).to_pydict() == {"luma": [0.5, None]}
    record = read_scores_record(store, 3)
    assert (record.clips_sha256, record.scores) == ("cafe", {"luma": "", "tags": "beef"})
    assert record.columns == {"luma": pa.float64()}


def test_equal_scores_are_equal_bytes(tmp_path):
    store = LocalStore(str(tmp_path))
    for index in (0, 1):
        write_scores(store, index, TABLE, clips_sha256="cafe", scores={"luma": ""})
    first, second = ((tmp_path / "scores" / f"00000{i}.parquet").read_bytes() for i in (0, 1))
    assert first == second


def _put(root: Path, table: pa.Table, metadata: dict[str, str]) -> LocalStore:
    (root / "scores").mkdir()
    pq.write_table(table.replace_schema_metadata(metadata), root / "scores" / "000000.parquet")
    return LocalStore(str(root))


@pytest.mark.parametrize(
    ("table", "metadata", "said"),
    [
        (TABLE.drop_columns(["key"]), METADATA, "not those of scores"),
        (TABLE.drop_columns(["problems"]), METADATA, "not those of scores"),
        (TABLE.set_column(1, "luma", pa.array([[0.5], None])), METADATA, "columns that no score has"),
        (TABLE.rename_columns(["key", "key", "problems"]), METADATA, "columns that no score has"),
        (TABLE, {"scores": "{}"}, "clips_sha256"),
        (TABLE, METADATA | {"scores": "[" * 100_000}, "no entry of a file of scores"),
        (TABLE, METADATA | {"scores": '{"luma": 3}'}, "no table of names"),
    ],
    ids=["no key", "no problems", "nested", "twice", "no sha256", "deep", "no names"],
)
def test_a_file_that_is_none_of_scores_is_refused_by_name(tmp_path, table, metadata, said):
    store = _put(tmp_path, table, metadata)
    for read in (read_scores, read_scores_record):
        with pytest.raises(ShardError, match=said) as caught:
            read(store, 0)
        assert "scores/000000.parquet" in str(caught.value)


def test_a_damaged_file_is_refused_by_name(tmp_path):
    store = _put(tmp_path, TABLE, METADATA)
    path = tmp_path / "scores" / "000000.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ShardError, match="scores/000000.parquet is damaged.*avprep score"):
        read_scores(store, 0)


def test_a_missing_column_is_named(tmp_path):
    with pytest.raises(ShardError, match="000000.parquet has no column motion"):
        read_scores(_put(tmp_path, TABLE, METADATA), 0, ["key", "motion"])
