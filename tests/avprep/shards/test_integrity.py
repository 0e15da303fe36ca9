"""Whether a shard is as its ledger says: what is found, when, and what is done about it."""

from __future__ import annotations

from pathlib import Path

import pytest

import avprep
from avprep.errors import ArgumentError
from avprep.shards.index import index_shards
from avprep.shards.integrity import BackgroundCheck, forget_damaged, sha256_of
from avprep.shards.layout import ShardError
from avprep.shards.ledger import ShardRecord, finished_shards, read_record, write_ledger
from avprep.shards.store import open_store
from tests.avmodel.made_latents import write_latents
from tests.hostile.shard_corpus import ENCODER
from tests.made_clips import write_clips


@pytest.fixture
def clips(tmp_path) -> Path:
    """12 clips in shards of 5, 5, 2."""
    return write_clips(tmp_path / "clips")


def shard(out: Path, index: int) -> Path:
    return sorted((out / "shards").iterdir())[index]


def flip(path: Path, at: int = -3000) -> None:
    """Flips a bit of a value: nothing but the checksum can tell."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def exchange(first: Path, second: Path) -> None:
    """Exchanges two files of equal length."""
    a, b = first.read_bytes(), second.read_bytes()
    assert len(a) == len(b)
    first.write_bytes(b)
    second.write_bytes(a)


def check_of(out: Path, **options: float) -> BackgroundCheck:
    index = index_shards(open_store(out))
    return BackgroundCheck(index.paths, index.records, **options)


# --- resume ----------------------------------------------------------------------------------------------


def test_the_ledger_of_a_missing_and_of_a_cut_shard_goes_and_no_other(clips):
    store = open_store(clips)
    assert forget_damaged(store) == []
    shard(clips, 0).write_bytes(shard(clips, 0).read_bytes()[:-1])
    shard(clips, 2).unlink()
    said = forget_damaged(store)
    assert finished_shards(store) == [1]
    assert len(said) == 2
    assert said[0].startswith("shards/clips-000000.tar has ") and "its ledger says" in said[0]
    assert said[1] == "shards/clips-000002.tar is not there, though its ledger says it is whole"


def test_a_shard_without_a_clip_has_no_file_to_miss(tmp_path):
    store = open_store(tmp_path)
    write_ledger(store, 0, [], ShardRecord("", "", 0, "made"))
    assert forget_damaged(store) == []
    assert finished_shards(store) == [0]


# --- in the background -----------------------------------------------------------------------------------


def test_every_shard_is_found_whole_once(clips):
    with check_of(clips, share=1) as check:
        check.wait()
        check.raise_damage()
    assert check.checked == 3


@pytest.mark.parametrize("damage", [flip, Path.unlink], ids=["flipped bit", "gone since"])
def test_a_damaged_shard_is_named(clips, damage):
    check = check_of(clips, share=1)
    damage(shard(clips, 1))
    with check:
        check.wait()
        with pytest.raises(ShardError, match=r"clips-000001\.tar"):
            check.raise_damage()
    assert check.checked == 1


def test_two_shards_that_were_exchanged_are_found(tmp_path):
    latents = write_latents(tmp_path / "latents", ENCODER)
    exchange(shard(latents, 0), shard(latents, 1))
    with check_of(latents, share=1) as check:
        check.wait()
        with pytest.raises(ShardError, match="its bytes are not those written"):
            check.raise_damage()


def test_a_check_that_is_left_ends_at_once(clips):
    with check_of(clips, share=1e-9) as check:  # its pause after the first bytes would take hours
        pass
    assert check.checked == 0
    assert not check._thread.is_alive()


# --- reading ---------------------------------------------------------------------------------------------

DAMAGES = {
    "missing": Path.unlink,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-600]),
    "overwritten": lambda path: path.write_bytes(b"x" * path.stat().st_size),
    "flipped bit": flip,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_shard_is_left_out_where_that_is_asked_for(clips, damage):
    keys = avprep.ClipDataset(clips).keys
    DAMAGES[damage](shard(clips, 1))
    data = avprep.ClipDataset(clips, on_damage="skip")
    assert data.keys == keys[:5] + keys[10:]
    assert [item["key"] for item in data] == list(data.keys)
    assert len(data.index.left_out) == 1 and "clips-000001.tar" in data.index.left_out[0]
    assert data.index.is_checked
    assert avprep.ClipDataset(clips, on_damage="skip").keys == data.keys


@pytest.mark.parametrize("damage", [name for name in DAMAGES if name != "flipped bit"])
def test_a_damaged_shard_ends_the_reading_where_nothing_is_asked_for(clips, damage):
    DAMAGES[damage](shard(clips, 1))
    with pytest.raises(ShardError, match=r"clips-000001\.tar"):
        avprep.ClipDataset(clips)


def test_nothing_left_is_an_error_that_names_the_damage(clips):
    for path in (clips / "shards").iterdir():
        path.unlink()
    with pytest.raises(ShardError, match=r"no finished clip; .*clips-000000\.tar is not there"):
        avprep.ClipDataset(clips, on_damage="skip")


def test_an_unknown_choice_is_refused(clips, tmp_path):
    latents = write_latents(tmp_path / "latents", ENCODER)
    for read in (
        lambda: avprep.ClipDataset(clips, on_damage="x"),
        lambda: avprep.LatentDataset(latents, on_damage="x"),
    ):
        with pytest.raises(ArgumentError, match="^on_damage must be one of end, skip, not 'x'"):
            read()


def test_a_checksum_is_that_of_the_whole_file(clips):
    record = read_record(open_store(clips), 0)
    with open(shard(clips, 0), "rb") as file:
        assert sha256_of(file) == record.sha256
