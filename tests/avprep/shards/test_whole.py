"""A file appears whole or not at all, by its path and by its temporary name."""

from __future__ import annotations

import pytest

from avprep.shards.whole import is_temporary, whole_file, whole_path


def test_the_temporary_name_is_one_that_is_swept(tmp_path):
    with whole_path(tmp_path / "a.mp4") as path:
        path.write_bytes(b"12")
        assert is_temporary(path.name) and path.parent == tmp_path
        assert not (tmp_path / "a.mp4").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]
    assert (tmp_path / "a.mp4").read_bytes() == b"12"


@pytest.mark.parametrize("error", [OSError("full"), KeyboardInterrupt()])
def test_a_block_that_fails_keeps_the_file_that_was_there(tmp_path, error):
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(type(error)), whole_file(tmp_path / "a") as file:
        file.write(b"new")
        raise error
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"old"]


def test_a_block_that_writes_nothing_under_its_name_fails(tmp_path):
    with pytest.raises(FileNotFoundError), whole_path(tmp_path / "a"):
        pass
    assert not list(tmp_path.iterdir())
