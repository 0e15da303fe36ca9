"""Hostile lists of sources are a message, or rows that are counted: soon, in little memory, and never a file
outside of the root."""

from __future__ import annotations

import posixpath
from pathlib import Path

import pytest

from avprep.datasets import list_dataset
from avprep.datasets.manifest import OUTSIDE, SECRET_ROWS
from avprep.datasets.source import LONGEST_TEXT, DatasetError, DatasetOptions, Listing
from tests.hostile.limits import limited
from tests.hostile.list_corpus import FILES, FORMS, PATHS

WHOLE = [(suffix, name) for suffix, files in FILES.items() for name in files]


def listed(tmp_path: Path, suffix: str, data: bytes, **options: bool) -> Listing:
    """What the list gives, within the limits. Raises DatasetError."""
    path = tmp_path / f"m.{suffix}"
    path.write_bytes(data)
    del data
    with limited():
        return list_dataset("manifest", DatasetOptions(root=tmp_path / "root", list_file=path, **options))


def assert_is_a_message(error: DatasetError) -> None:
    assert len(str(error)) < 2500 and "\n" not in str(error)
    assert "wJalrXUtn" not in str(error)


def assert_is_sound(listing: Listing) -> None:
    for source in listing.sources:
        assert not posixpath.isabs(source.path) and ".." not in source.path.split("/")
        assert "\0" not in source.path and len(source.path) <= 4096
        assert max(len(source.caption), sum(map(len, source.labels))) <= LONGEST_TEXT + len("a video of ")
        assert 0 <= source.start_s < (source.stop_s or float("inf"))
        source.path.encode()
    assert all(len(note) < 2000 and "wJalrXUtn" not in note for note in listing.notes)


@pytest.mark.parametrize("suffix", FORMS)
@pytest.mark.parametrize("name", PATHS)
def test_a_path_is_a_source_under_the_root_or_a_row_that_is_counted(tmp_path, suffix, name):
    (path, is_source) = PATHS[name]
    try:
        listing = listed(tmp_path, suffix, FORMS[suffix](path))
    except DatasetError as error:
        assert_is_a_message(error)
        assert not is_source
        return
    assert is_source
    assert_is_sound(listing)
    (source,) = listing.sources
    assert source.path == posixpath.normpath(path.strip() if suffix in ("csv", "tsv") else path)


@pytest.mark.parametrize(("suffix", "name"), WHOLE)
def test_a_hostile_list_is_a_message_or_sound_sources(tmp_path, suffix, name):
    try:
        listing = listed(tmp_path, suffix, FILES[suffix][name]())
    except DatasetError as error:
        assert_is_a_message(error)
    else:
        assert_is_sound(listing)
        assert len(listing.sources) <= 50


@pytest.mark.parametrize("path", ["/etc/passwd", "../../etc/passwd", "//etc/./passwd"])
def test_files_outside_of_the_root_are_read_only_where_that_is_allowed(tmp_path, path):
    rows = f"path\na.mp4\n{path}\n".encode()
    inside = listed(tmp_path, "csv", rows)
    assert [source.path for source in inside.sources] == ["a.mp4"]
    assert inside.notes == {OUTSIDE: 1}
    both = listed(tmp_path, "csv", rows, allow_outside=True)
    assert len(both.sources) == 2 and both.notes == {}


def test_a_row_with_credentials_is_counted_and_not_kept(tmp_path):
    rows = b"path,caption\na.mp4,s3://K:wJalrXUtn@b\nb.mp4,\ns3://K:wJalrXUtn@b/c.mp4,\n"
    listing = listed(tmp_path, "csv", rows)
    assert [source.path for source in listing.sources] == ["b.mp4"]
    assert listing.notes == {SECRET_ROWS: 2}
