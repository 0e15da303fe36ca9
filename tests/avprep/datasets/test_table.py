"""Manifests as other tools and other people write them; damaged and hostile ones."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from avprep.credentials import REMEDY
from avprep.datasets import list_dataset
from avprep.datasets.manifest import COLUMNS, NAN_CELLS, NO_PATH, NO_SPAN, OUTSIDE, UNNAMED
from avprep.datasets.source import DatasetError, DatasetOptions, Listing
from avprep.datasets.table import (
    LONG_ROWS,
    MAX_CELL,
    NO_UTF8_ROWS,
    OVERFULL_ROWS,
    UNREADABLE_ROWS,
    Columns,
    read_table,
)


def listing(path: Path, content: str | bytes) -> Listing:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list_dataset("manifest", DatasetOptions(root=path.parent, list_file=path))


def paths(found: Listing) -> list[str]:
    return [source.path for source in found.sources]


@pytest.mark.parametrize("late", ["x", '"a, b"', "1e999", "2026-11-26"])
def test_what_an_unread_column_holds_refuses_nothing(late, tmp_path):
    """Its type would be guessed from the first MB: nothing but nulls or numbers."""
    rows = [f"gone/{i:09d}.mp4,rain,{i if late == 'x' else ''}\n" for i in range(40_000)]
    found = listing(tmp_path / "m.csv", "path,labels,extra\n" + "".join(rows) + f"last.mp4,rain,{late}\n")
    assert len(found.sources) == 40_001
    assert found.notes == {"columns that are not read (extra)": 1}


def test_the_names_of_columns_are_found_whatever_their_case_and_blanks(tmp_path):
    text = '\ufeff Path , START, "stop",Caption \na.mp4, 1.0, 5.0, rain \n'
    (source,) = listing(tmp_path / "m.csv", text).sources
    assert (source.path, source.start_s, source.stop_s, source.caption) == ("a.mp4", 1.0, 5.0, "rain")
    table = pa.table({" Path": ["a.mp4"], "Start ": [1.0], "STOP": [5]})
    pq.write_table(table, tmp_path / "m.parquet")
    (source,) = listing(tmp_path / "m.parquet", (tmp_path / "m.parquet").read_bytes()).sources
    assert (source.path, source.start_s, source.stop_s) == ("a.mp4", 1.0, 5.0)
    (source,) = listing(tmp_path / "m.ndjson", '{"Path ": "a.mp4", "START": 1, "stop": "5.0"}\n').sources
    assert (source.path, source.start_s, source.stop_s) == ("a.mp4", 1.0, 5.0)


def damaged_parquet() -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({"path": ["a.mp4"] * 1000, "caption": ["x" * 50] * 1000}), file)
    data = bytearray(file.getvalue())
    data[40:200] = b"\xff" * 160
    return bytes(data)


def parquet(**columns: list) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def parquet_with_a_column_twice() -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["path", "path"]), file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("m.csv", "path,caption,path\na.mp4,rain,b.mp4\n", "column 'path' 2 times"),
        ("m.csv", "path,Caption ,caption\na.mp4,rain,b\n", "column 'caption' 2 times"),
        ("m.csv", "file,start\na.mp4,0\n", "no column 'path' .it has 'file', 'start'"),
        ("m.csv", "", "no column 'path'"),
        ("m.csv", "path\0\na.mp4\n", "no column 'path'"),
        ("m.csv", 'path,caption\na.mp4,"not closed\n' + "b.mp4,x\n" * 50_000, "not closed"),
        ("m.csv", "path,caption\n" + "x" * (17 << 20), "16,777,216 characters"),
        ("m.tsv", "path,start\n", "no column 'path'"),
        ("m.parquet", b"PAR1 not at all", "cannot be read"),
        ("m.parquet", damaged_parquet(), "cannot be read"),
        ("m.parquet", parquet(path=[{"a": 1}]), "'path' holds struct<a: int64>, not text"),
        ("m.parquet", parquet(path=["a"], labels=[[["b"]]]), "'labels' holds list<"),
        ("m.parquet", parquet(path=["a"], caption=[["b"]]), "'caption' holds list<"),
        ("m.parquet", parquet_with_a_column_twice(), "column 'path' 2 times"),
        ("m.json", '{"path": "a.mp4"}', "not a list of objects"),
        ("m.json", '[{"path": "a.mp4"}', "cannot be read"),
        ("m.json", "[" * 100_000, "nested too deeply"),
        ("m.yaml", "- a.mp4\n", "none of the suffixes .csv"),
    ],
    ids=lambda value: None if not isinstance(value, str) or len(value) > 60 else value,
)
def test_what_is_no_manifest_is_one_sentence(name, content, words, tmp_path):
    with pytest.raises(DatasetError, match=words) as raised:
        listing(tmp_path / name, content)
    assert len(str(raised.value)) < 1000 and "\0" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "content", "note"),
    [
        ("m.csv", b"path,caption\na.mp4,x,y\nb.mp4\ngood.mp4,z\n", {OVERFULL_ROWS: 2}),
        ("m.csv", b"path,caption\nb\xffd.mp4,x\na.mp4,\xe9\ngood.mp4,z\n", {NO_UTF8_ROWS: 2}),
        ("m.csv", b"path,caption\na\0.mp4,x\ngood.mp4,z\n", {NO_PATH: 1}),
        ("m.csv", b"path,caption\n" + b"a" * 5000 + b".mp4,x\ngood.mp4,z\n", {NO_PATH: 1}),
        (
            "m.csv",
            b"path,start,stop\ngood.mp4,0,1\na,3,2\n",
            {NO_SPAN: 1},
        ),
        ("m.csv", b"path,start,stop\ngood.mp4,nan,NaN\n", {NAN_CELLS: 2}),
        (
            "m.jsonl",
            b'{"path": "good.mp4"}\n[1]\n7\n{"path"\n{"path": {"a": 1}}\n' + b"[" * 100_000,
            {UNREADABLE_ROWS: 5},
        ),
        (
            "m.json",
            b'[{"path": "good.mp4"}, 7, [["path", "a"]], {"path": {}}, {"PATH": "b", "path": "c"}]',
            {UNREADABLE_ROWS: 4},
        ),
        (
            "m.jsonl",
            b'{"path": "a", "PATH": "b"}\n{"path": "good.mp4", "stop": null}\n',
            {UNREADABLE_ROWS: 1},
        ),
        ("m.jsonl", b'{"path": "\\ud800.mp4"}\n{"path": "good.mp4"}\n', {NO_UTF8_ROWS: 1}),
        (
            "m.jsonl",
            b'{"path": "good.mp4"}\n{"path": "a", "caption": "' + b"x" * 10_000_000 + b'"}\n',
            {LONG_ROWS: 1},
        ),
        ("m.parquet", parquet(path=["a", "good.mp4"], caption=["x" * 10_000_000, ""]), {LONG_ROWS: 1}),
    ],
    ids=range(12),
)
def test_a_row_that_cannot_be_used_is_counted_and_the_rest_is_read(name, content, note, tmp_path):
    found = listing(tmp_path / name, content)
    assert paths(found) == ["good.mp4"]
    assert found.notes == note


def test_rows_that_are_no_span_are_named_by_line_and_reason(tmp_path):
    rows = [
        'path,caption,start,stop,labels\n"a","two\nlines",3,2,',
        "b,,-1,2,",
        "c,,5,5,",
        "d,,x,,",
        "\ne,,,inf,",
        "f,,9,1,",
    ]
    found = listing(tmp_path / "m.csv", "\n".join(rows) + "\ngood.mp4,,0,1,\n")
    assert [(source.path, source.line) for source in found.sources] == [("good.mp4", 10)]
    assert found.notes == {NO_SPAN: 6}
    assert [row.fault for row in found.bad_rows] == [
        "line 3 of m.csv: start 3 is not before stop 2",
        "line 4 of m.csv: start -1 is not between 0 and 86400 s",
        "line 5 of m.csv: start 5 is not before stop 5",
        "line 6 of m.csv: 'x' is no number of seconds",
        "line 8 of m.csv: stop inf is not finite",
        "line 9 of m.csv: start 9 is not before stop 1",
    ]
    assert [row.path for row in found.bad_rows] == [f"m.csv:{line}" for line in (3, 4, 5, 6, 8, 9)]


def test_every_row_that_names_no_source_says_why(tmp_path):
    rows = [
        "path,caption",
        "a,b,c",
        ",x",
        "a\0b,x",
        "/etc/x.mp4,x",
        "https://u:p@h/x,x",
        "b\xff,x",
        "good.mp4,x",
    ]
    found = listing(tmp_path / "m.csv", "\n".join(rows).encode("latin-1"))
    assert paths(found) == ["good.mp4"]
    assert [row.fault.removeprefix("line ") for row in found.bad_rows] == [
        "2 of m.csv: it has 3 cells, the header has 2",
        "3 of m.csv: no usable path: ''",
        "4 of m.csv: no usable path: 'a\\x00b'",
        "5 of m.csv: /etc/x.mp4 lies outside of the root",
        f"6 of m.csv: it holds credentials; {REMEDY}",
        "7 of m.csv: the cell 'path' is no UTF-8",
    ]
    assert "u:p" not in str(found)
    found = listing(tmp_path / "m.jsonl", '{"path": "good.mp4"}\n[1]\n{"path": {}}\n' + "[" * 100_000)
    assert [row.fault for row in found.bad_rows] == [
        "line 2 of m.jsonl: it cannot be read: no object",
        "line 3 of m.jsonl: it cannot be read: neither text nor a number: _Object",
        "line 4 of m.jsonl: it is nested too deeply",
    ]


def test_bad_rows_are_named_up_to_a_number(tmp_path, monkeypatch):
    monkeypatch.setattr("avprep.datasets.manifest._MOST_BAD_ROWS", 2)
    found = listing(tmp_path / "m.csv", "path,caption\n" + ",x\n" * 5 + "good.mp4,\n")
    assert [row.path for row in found.bad_rows] == ["m.csv:2", "m.csv:3"]
    assert found.notes == {NO_PATH: 5, UNNAMED: 3}


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "json", "parquet"])
def test_columns_may_have_other_names(suffix, tmp_path):
    rows = [
        {"Video": "a.mp4", "tag": "dog|cat", "text": "a dog", "path": "no", "labels": "no", "caption": "no"}
    ]
    path = tmp_path / f"m.{suffix}"
    if suffix == "csv":
        path.write_text(",".join(rows[0]) + "\n" + ",".join(rows[0].values()))
    elif suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text(json.dumps(rows if suffix == "json" else rows[0]))
    options = DatasetOptions(root=tmp_path, list_file=path)
    named = replace(options, path_column="video ", label_column="tag", caption_column="TEXT")
    (source,) = list_dataset("manifest", named).sources
    assert (source.path, source.labels, source.caption) == ("a.mp4", ("dog", "cat"), "a dog")
    (source,) = list_dataset("manifest", options).sources
    assert (source.path, source.labels, source.caption) == ("no", ("no",), "no")
    (source,) = list_dataset("manifest", replace(options, path_column="video")).sources
    assert (source.path, source.caption) == ("a.mp4", "no")


def test_a_list_column_of_labels_may_have_another_name(tmp_path):
    pq.write_table(pa.table({"path": ["a"], "tags": [["x", "y"]]}), tmp_path / "m.parquet")
    options = DatasetOptions(root=tmp_path, list_file=tmp_path / "m.parquet", label_column="tags")
    assert list_dataset("manifest", options).sources[0].labels == ("x", "y")


@pytest.mark.parametrize(
    ("dataset", "columns", "words"),
    [
        ("manifest", {"path_column": "video"}, "no column 'video' .it has 'path', 'text'"),
        ("manifest", {"caption_column": "words"}, "^caption_column = 'words': .*no such column"),
        ("manifest", {"label_column": "path"}, "^label_column = 'path': it is read as path too"),
        ("manifest", {"caption_column": " "}, "^caption_column = ' ': it names no column"),
        (
            "folder",
            {"caption_column": "text"},
            "^caption_column = 'text': dataset folder has no such columns",
        ),
    ],
)
def test_a_column_that_is_not_there_is_refused(dataset, columns, words, tmp_path):
    (tmp_path / "manifest.csv").write_text("path,text\na.mp4,b\n")
    with pytest.raises(DatasetError, match=words):
        list_dataset(dataset, DatasetOptions(root=tmp_path, **columns))


@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet"])
def test_rows_are_counted_from_1(suffix, tmp_path):
    rows = [{"path": "a", "start": 3, "stop": 2}, {"path": "b", "start": 0, "stop": 2}]
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "m.parquet")
    else:
        text = json.dumps(rows) if suffix == "json" else "\n".join(map(json.dumps, rows))
        (tmp_path / f"m.{suffix}").write_text(text)
    path = tmp_path / f"m.{suffix}"
    found = listing(path, path.read_bytes())
    assert [(source.path, source.line) for source in found.sources] == [("b", 2)]
    assert found.notes == {NO_SPAN: 1}


def test_however_a_file_is_spelt_it_is_one_source(tmp_path):
    root = tmp_path / "real"
    root.mkdir()
    (tmp_path / "link").symlink_to(root)
    spellings = [
        "d/x.mp4",
        "./d/x.mp4",
        "d//x.mp4",
        "a/../d/x.mp4",
        f"{root}/d/x.mp4",
        f"{root}/../real/d/x.mp4",
        f"{tmp_path}/link/d/x.mp4",
    ]
    (root / "m.csv").write_text(
        "path\n" + "".join(f"{s}\n" for s in [*spellings, "/other/x.mp4", "../x.mp4"])
    )
    # By the link, for whom the root is the link; its own path is another spelling of it.
    options = DatasetOptions(root=tmp_path / "link", list_file=root / "m.csv", allow_outside=True)
    found = list_dataset("manifest", options)
    assert paths(found) == ["/other/x.mp4", f"{tmp_path}/x.mp4", "d/x.mp4"]
    assert found.notes == {"sources that were listed twice": len(spellings) - 1}
    inside = list_dataset("manifest", replace(options, allow_outside=False))
    assert paths(inside) == ["d/x.mp4"]
    assert inside.notes == {"sources that were listed twice": len(spellings) - 1, OUTSIDE: 2}


TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\0"), max_size=20)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.fixed_dictionaries({name: TEXT for name in COLUMNS}), min_size=1, max_size=5))
def test_every_form_of_a_table_reads_the_same(rows, tmp_path):
    """csv is written by Python's own writer; what is not text alone is left to the tests above."""
    rows = [{name: cell.strip() for name, cell in row.items()} for row in rows]
    with open(tmp_path / "t.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)
    with open(tmp_path / "t.tsv", "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, delimiter="\t", quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)
    (tmp_path / "t.json").write_text(json.dumps(rows))
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    expected = [{name: cell or None for name, cell in row.items()} for row in rows]
    for suffix in ("csv", "tsv", "jsonl", "json", "parquet"):
        found = [
            row
            for _, row in read_table(
                tmp_path / f"t.{suffix}", Columns(COLUMNS, frozenset(["labels"])), Counter()
            )
        ]
        assert found == expected


def test_a_cell_of_the_greatest_length_is_read(tmp_path):
    (source,) = listing(tmp_path / "m.csv", f"path,caption\na.mp4,{'x' * MAX_CELL}\n").sources
    assert len(source.caption) == MAX_CELL
