from __future__ import annotations

import hashlib

from avmodel.training.source import file_identity, shards_identity
from avprep.shards.index import index_shards
from avprep.shards.store import LocalStore
from tests.made_clips import write_clips


def identity(folder) -> dict[str, str]:
    return shards_identity(index_shards(LocalStore(str(folder))))


def test_equal_outputs_are_equal_wherever_they_lie(tmp_path):
    assert identity(write_clips(tmp_path / "a")) == identity(write_clips(tmp_path / "b"))


def test_other_bytes_of_the_same_clips_are_another_source(tmp_path):
    a, b = identity(write_clips(tmp_path / "a", seed=0)), identity(write_clips(tmp_path / "b", seed=1))
    assert a["keys"] == b["keys"] and a["shards"] != b["shards"]


def test_other_clips_of_equal_number_have_other_keys(tmp_path):
    a = identity(write_clips(tmp_path / "a", sources=6, clips_each=2))
    b = identity(write_clips(tmp_path / "b", sources=4, clips_each=3))
    assert a["keys"] != b["keys"]


def test_a_file_is_known_by_its_bytes(tmp_path):
    (tmp_path / "file").write_bytes(b"text")
    assert file_identity(tmp_path / "file") == hashlib.sha256(b"text").hexdigest()
