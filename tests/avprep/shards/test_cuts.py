from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avprep.shards.cuts import SCHEMA, CutFiles, SourceCuts
from avprep.shards.layout import ShardError
from avprep.shards.store import open_store

TIMES = st.lists(st.tuples(st.floats(0, 1e5), st.floats(0, 10)), max_size=4).map(
    lambda found: tuple(sorted((before_s, before_s + length_s) for before_s, length_s in found))
)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.lists(st.tuples(st.sampled_from("abc"), TIMES), min_size=1, max_size=3)))
def test_what_is_written_is_read_and_the_last_look_at_a_source_holds(tmp_path_factory, batches):
    store = open_store(tmp_path_factory.mktemp("out"))
    expected = {}
    for i, batch in enumerate(batches):
        found = {name: SourceCuts(name, f"v{i}", times) for name, times in batch}
        CutFiles(store).write(found.values())
        expected |= found
    assert CutFiles(store).read() == expected


def test_a_source_without_cuts_has_a_row(tmp_path: Path):
    CutFiles(open_store(tmp_path)).write([SourceCuts("a", "v", ()), SourceCuts("b", "w", ((1.0, 1.5),))])
    rows = pq.read_table(tmp_path / "cuts").to_pylist()
    assert [tuple(row.values()) for row in rows] == [("a", "v", None, None, None), ("b", "w", 0, 1.0, 1.5)]


def test_no_file_is_written_over(tmp_path: Path):
    files = CutFiles(open_store(tmp_path))
    for name in "abc":
        files.write([SourceCuts(name, "v", ())])
    (tmp_path / "cuts" / "000000.parquet").unlink()
    CutFiles(open_store(tmp_path)).write([SourceCuts("d", "v", ())])
    assert set(CutFiles(open_store(tmp_path)).read()) == {"b", "c", "d"}


@pytest.mark.parametrize(
    "rows",
    [
        [("a", "v", 0, 2.0, 1.0)],
        [("a", "v", 0, float("nan"), 1.0)],
        [("a", "v", 0, 1.0, float("inf"))],
        [("a", "v", 0, 1.0, None)],
        [("a", "v", 0, 3.0, 4.0), ("a", "v", 1, 1.0, 2.0)],
        [("a", "v", 1, 1.0, 2.0)],
        [("a", "v", None, None, None), ("a", "v", 0, 1.0, 2.0)],
    ],
)
def test_damaged_times_are_refused_with_the_file_s_name(rows: list[tuple], tmp_path: Path):
    (tmp_path / "cuts").mkdir()
    table = pa.Table.from_pylist([dict(zip(SCHEMA.names, row, strict=True)) for row in rows], SCHEMA)
    pq.write_table(table, tmp_path / "cuts" / "000000.parquet")
    with pytest.raises(ShardError, match=r"cuts/000000.parquet is damaged.*remove it"):
        CutFiles(open_store(tmp_path)).read()


def test_other_columns_are_refused(tmp_path: Path):
    (tmp_path / "cuts").mkdir()
    pq.write_table(pa.table({"source": ["a"]}), tmp_path / "cuts" / "000000.parquet")
    with pytest.raises(ShardError, match="has the columns 'source', not those of cuts"):
        CutFiles(open_store(tmp_path)).read()
