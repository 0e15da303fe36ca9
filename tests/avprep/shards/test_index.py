from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from avprep.shards import index as module
from avprep.shards.index import ClipReader, index_shards
from avprep.shards.layout import ShardError
from avprep.shards.store import open_store
from avprep.shards.tar import read_shard
from tests.made_clips import write_clips


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    return write_clips(tmp_path_factory.mktemp("made") / "clips")


def whole(clips: Path) -> dict[str, dict[str, bytes]]:
    found = {}
    for path in sorted((clips / "shards").iterdir()):
        with open(path, "rb") as file:
            found |= dict(read_shard(file))
    return found


def test_a_clip_read_by_its_place_is_the_clip_read_in_order(clips):
    index = index_shards(open_store(clips))
    expected = whole(clips)
    assert list(index.keys) == list(expected)
    reader = ClipReader(index)
    for position in np.random.default_rng(0).permutation(len(index)):
        assert reader[position] == expected[index.keys[position]]


def test_a_subset_reads_its_own_clips(clips):
    index = index_shards(open_store(clips))
    chosen = np.array([7, 2])
    reader = ClipReader(index.subset(chosen))
    expected = whole(clips)
    assert [reader[0], reader[1]] == [expected[index.keys[7]], expected[index.keys[2]]]


def test_only_shards_with_a_ledger_count(tmp_path):
    clips = write_clips(tmp_path / "clips")
    (clips / "ledger" / "000001.parquet").unlink()
    assert len(index_shards(open_store(clips))) == 12 - 5


def test_a_shard_cut_off_is_named(tmp_path):
    clips = write_clips(tmp_path / "clips")
    shard = clips / "shards" / "clips-000000.tar"
    shard.write_bytes(shard.read_bytes()[:-600])
    with pytest.raises(ShardError, match="clips-000000.tar has .* bytes, not the"):
        index_shards(open_store(clips))


def test_a_shard_overwritten_is_named(tmp_path):
    clips = write_clips(tmp_path / "clips")
    shard = clips / "shards" / "clips-000000.tar"
    shard.write_bytes(b"x" * shard.stat().st_size)
    with pytest.raises(ShardError, match="no header of a tar member"):
        index_shards(open_store(clips))


def test_nothing_finished_is_a_sentence(tmp_path):
    with pytest.raises(ShardError, match="holds no finished clip"):
        index_shards(open_store(tmp_path))


def test_more_shards_than_may_be_open_are_read_all_the_same(clips, monkeypatch):
    monkeypatch.setattr(module, "MAX_OPEN", 2)
    index, expected = index_shards(open_store(clips)), whole(clips)
    assert len(index.paths) == 3
    reader, open_before = ClipReader(index), len(os.listdir("/proc/self/fd"))
    for position in np.random.default_rng(0).integers(0, len(index), 40):
        assert reader[int(position)] == expected[index.keys[position]]
        assert len(os.listdir("/proc/self/fd")) <= open_before + 2
