"""The listing against the plan: every source is the same, new, gone or changed."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from avprep.datasets.source import Event, Source, caption_of
from avprep.jobs.changes import Changes, find_changes
from avprep.jobs.config import FromMedia, Growth, PlanOptions
from avprep.jobs.events import digest_of
from avprep.media.source import file_version
from avprep.shards.clips import clip_key
from avprep.shards.plan import PlanReader, PlanRow, write_plan
from avprep.shards.store import open_store


def row(root: Path, source: Source, start: int = 0) -> PlanRow:
    return PlanRow(
        key=clip_key(source.path, start),
        shard=0,
        source=source.path,
        start=start,
        labels=source.labels,
        caption=source.caption or caption_of(source.labels),
        span_start_s=source.start_s,
        span_stop_s=source.stop_s,
        version=file_version(str(root / source.path)),
    )


def changes(root: Path, planned: list[PlanRow], listed: list[Source], limit: int | None = None) -> Changes:
    store = open_store(root / "out")
    (root / "out").mkdir(exist_ok=True)
    write_plan(store, [sorted(planned, key=lambda row: row.key)])
    source = FromMedia(dataset="made", root=root, sources=listed, plan=PlanOptions(limit=limit))
    return find_changes(source, PlanReader(store))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in "abcd":
        (tmp_path / name).write_text(name)
    return tmp_path


def test_a_listing_as_planned_has_no_change(root):
    listed = [Source(path="a"), Source(path="b", start_s=1.5, stop_s=4.0, labels=("x",), caption="y")]
    assert changes(root, [row(root, source) for source in listed], listed) == Changes(same=2)


def test_each_kind_of_change_is_told_from_the_others(root):
    planned = [row(root, Source(path=name)) for name in "abc"]
    (root / "b").write_text("longer")
    (root / "c").unlink()
    listed = [Source(path="a", labels=("new",)), Source(path="b"), Source(path="c"), Source(path="d")]
    found = changes(root, planned, listed)
    assert found == Changes([Source(path="d")], gone=["c"], overwritten=["b"], relisted=["a"], same=2)
    assert found.changed == {"a", "b"}
    assert [message.split(":")[0] for message in found.messages()] == [
        "new since the plan was made",
        "not there any more",
        "another size or time than when planned",
        "other labels, captions or spans than planned",
    ]
    assert found.after(Growth(add_new=True, replace_changed=True)) == Changes(gone=["c"], same=2)


def test_a_file_of_the_same_size_and_another_time_is_another(root):
    planned = [row(root, Source(path="a"))]
    os.utime(root / "a", ns=(1, 1))
    assert changes(root, planned, [Source(path="a")]).overwritten == ["a"]


def test_a_source_that_is_not_listed_is_gone_though_its_file_is_there(root):
    assert changes(root, [row(root, Source(path="a"))], [Source(path="b")]) == Changes(
        [Source(path="b")], gone=["a"]
    )


def bad_row(line: int, fault: str = "no path") -> Source:
    return Source(path=f"list.csv:{line}", line=line, fault=fault)


def planned_bad_row(root: Path, line: int) -> PlanRow:
    return replace(row(root, bad_row(line)), reason="bad_row", detail="no path")


def test_rows_of_a_list_that_are_mended_are_told_from_files_that_went(root):
    planned = [row(root, Source(path="a")), *(planned_bad_row(root, line) for line in (2, 3, 4))]
    mended = Source(path="b", line=3)
    listed = [Source(path="a", line=1), bad_row(2), mended, Source(path="c", line=9)]
    found = changes(root, planned, listed)
    assert found == Changes([mended, Source(path="c", line=9)], mended=["list.csv:3", "list.csv:4"], same=2)
    assert found.new_on_mended_lines() == [mended]
    assert [message.split(":")[0] for message in found.messages()][1:] == [
        "mended or removed since the plan was made"
    ]
    for growth in (Growth(add_new=True), Growth(replace_changed=True)):
        assert found.after(growth).mended == []
    # Each is one of the planned rows that a limit counts.
    assert changes(root, planned, listed, limit=4).new == found.new
    assert changes(root, planned, listed, limit=2).new == []


def test_a_row_with_another_fault_is_a_change(root):
    found = changes(root, [planned_bad_row(root, 2)], [bad_row(2, "start 3 is not before stop 2")])
    assert found == Changes(relisted=["list.csv:2"], same=1)
    assert changes(root, [planned_bad_row(root, 2)], [bad_row(2)]) == Changes(same=1)


def test_spans_of_a_file_are_sources_of_their_own(root):
    first, second = Source(path="a", start_s=0, stop_s=2), Source(path="a", start_s=2, stop_s=4)
    assert changes(root, [row(root, first)], [first, second]).new == [second]
    longer = replace(first, stop_s=3)
    assert changes(root, [row(root, first)], [longer]).relisted == ["a"]


def test_a_plan_without_spans_and_versions_is_compared_by_names_and_texts(root):
    old = replace(row(root, Source(path="a")), span_start_s=None, version="")
    (root / "a").write_text("longer")
    spans = [Source(path="a", start_s=0, stop_s=2), Source(path="a", start_s=2, stop_s=4)]
    assert changes(root, [old], spans) == Changes(same=1)
    assert changes(root, [old], [Source(path="a", caption="new")]).relisted == ["a"]


def test_events_are_compared_where_clips_start_at_them(root):
    """The labels of clips are not those of the source: a digest stands for what was listed."""
    source = Source(path="a", labels=("x", "y"), events=(Event(0, 1, ("x",)), Event(2, 3, ("y",))))
    planned = [replace(row(root, source), labels=("x",), events=digest_of(source))]
    assert changes(root, planned, [source]) == Changes(same=1)
    later = replace(source, events=(Event(0, 1, ("x",)), Event(2.001, 3, ("y",))))
    assert changes(root, planned, [later]).relisted == ["a"]
    assert changes(root, planned, [replace(source, caption="new")]).relisted == ["a"]


def test_what_a_limit_leaves_out_is_not_new(root):
    planned, listed = [row(root, Source(path="a"))], [Source(path="a"), Source(path="b")]
    assert changes(root, planned, listed, limit=1).new == []
    assert changes(root, planned, listed, limit=2).new == [Source(path="b")]


def test_more_files_than_are_asked_for_at_once_are_each_compared(root, monkeypatch):
    monkeypatch.setattr("avprep.jobs.changes._THREADS", 2)
    monkeypatch.setattr("avprep.jobs.changes._PATHS_EACH", 3)
    names = [f"many {i}" for i in range(20)]
    for name in names:
        (root / name).write_text(name)
    listed = [Source(path=name) for name in names]
    planned = [row(root, source) for source in listed]
    for name in names[::7]:
        (root / name).write_text("other")
    assert changes(root, planned, listed).overwritten == sorted(names[::7])


def test_a_path_that_no_file_can_have_has_no_version():
    assert file_version("\0") == "" == file_version("/nowhere/at all")
