"""Lists of cuts as people write them, and bad ones."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from avprep.datasets.cut_list import CutList, read_cut_list
from avprep.datasets.source import DatasetError, Source
from avprep.shards.cuts import CutFiles, SourceCuts
from avprep.shards.store import open_store


def listed(path: Path, text: str) -> CutList:
    path.write_text(text)
    return read_cut_list(path)


def test_cuts_and_transitions_by_source_in_order(tmp_path: Path):
    cuts = listed(
        tmp_path / "cuts.csv",
        "source,cut_s,before_s,after_s\nb/1.mp4,9.5,,\na.mp4,12.5,,\na.mp4,,3.0,4.25\nc.mp4,,,\n",
    )
    assert cuts.of("a.mp4") == [(3.0, 4.25), (12.499, 12.501)]
    assert cuts.of("b/1.mp4") == [(9.499, 9.501)]
    assert cuts.of("c.mp4") == cuts.of("d.mp4") == []
    assert cuts.names([Source(path=path) for path in ("a.mp4", "c.mp4", "d.mp4")]) == 2


def test_parquet_and_json_lines_hold_what_csv_holds(tmp_path: Path):
    table = pa.table({"source": ["a", "a", "b"], "cut_s": [1.5, 0.5, None]})
    pq.write_table(table, tmp_path / "cuts.parquet")
    lines = '{"source": "a", "cut_s": 1.5}\n{"source": "a", "cut_s": 0.5}\n{"source": "b"}\n'
    for cuts in (read_cut_list(tmp_path / "cuts.parquet"), listed(tmp_path / "cuts.jsonl", lines)):
        assert cuts.of("a") == [(0.499, 0.501), (1.499, 1.501)]
        assert cuts.names([Source(path="b")]) == 1


def test_the_cuts_that_an_output_keeps_are_a_list_to_the_last_bit(tmp_path: Path):
    files, times = CutFiles(open_store(tmp_path)), ((1 / 3, 0.7), (1.1, 1.1 + 1 / 30))
    files.write([SourceCuts("a", "old", ((9.0, 9.5),)), SourceCuts("b", "1", ())])
    files.write([SourceCuts("a", "new", times)])
    cuts = read_cut_list(tmp_path / "cuts")
    assert cuts.of("a") == list(times)
    assert cuts.names([Source(path="b")]) == 1


def test_another_list_has_another_identity(tmp_path: Path):
    text = "source,cut_s\na,1.0\n"
    one, same = listed(tmp_path / "1.csv", text), listed(tmp_path / "2.csv", text)
    assert one.identity == same.identity != listed(tmp_path / "3.csv", text + "a,2.0\n").identity


@pytest.mark.parametrize(
    "row, message",
    [
        ("a,x,,", "line 3: cut_s = 'x' is no number of seconds"),
        ("a,nan,,", "line 3: cut_s = nan is no time of a source"),
        ("a,-1,,", "line 3: cut_s = -1 is no time"),
        ("a,1e9,,", "line 3: cut_s = 1e9 is no time"),
        (",1.0,,", "line 3: it names no source"),
        ("a,1.0,2.0,3.0", "line 3: it has cut_s, before_s, after_s; a cut has cut_s, or"),
        ("a,,2.0,", "line 3: it has before_s; a cut has"),
        ("a,,2.0,1.0", "line 3: before_s = 2 is later than after_s = 1"),
        ("a,1.0", "line 3: it has 2 cells, the header has 4"),
    ],
)
def test_a_row_that_is_no_cut_is_named_with_its_line(row: str, message: str, tmp_path: Path):
    with pytest.raises(DatasetError, match=message):
        listed(tmp_path / "cuts.csv", f"source,cut_s,before_s,after_s\na,1.0,,\n{row}\n")


@pytest.mark.parametrize("name", ["gone.csv", "folder", "cuts.xls", "headless.csv"])
def test_what_is_no_list_is_refused(name: str, tmp_path: Path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "cuts.xls").write_text("source,cut_s\na,1.0\n")
    (tmp_path / "headless.csv").write_text("a,1.0\n")
    with pytest.raises(DatasetError, match=name):
        read_cut_list(tmp_path / name)
