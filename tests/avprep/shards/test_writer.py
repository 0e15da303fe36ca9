"""The writer of outputs: what the readers find, and when a file is there."""

from __future__ import annotations

import hashlib

import pytest

from avprep.seconds import Seconds
from avprep.shards.layout import CLIPS, ShardError, clips_header, read_header
from avprep.shards.ledger import read_ledger
from avprep.shards.plan import PlanReader, PlanRow
from avprep.shards.store import open_store
from avprep.shards.tar import read_named_shard
from avprep.shards.writer import OutputWriter, write_shard

HEADER = clips_header(spec={}, options={}, dataset={})


def row(key: str, shard: int, start: int = 0) -> PlanRow:
    return PlanRow(key=key, shard=shard, source=f"{key}.mp4", start=start, labels=("dog",), caption="")


def test_an_output_is_read_back_as_it_was_given(tmp_path):
    store = open_store(tmp_path)
    writer = OutputWriter(store, CLIPS, HEADER, fingerprint="made", root="media")
    writer.plan([[row("a", 0), row("b", 0, 8000)], [row("c", 1)]])
    writer.shard(0, [{"json": b"{}"}, {"json": b"[]"}], sample_rate=16000, entries=lambda: {"more": "x"})
    assert read_header(store) == HEADER | {"fingerprint": "made", "root": "media"}
    assert PlanReader(store).shards == 2
    rows, record = read_ledger(store, 0)
    assert [(r.key, r.start_s, r.status) for r in rows] == [("a", 0.0, "written"), ("b", 0.5, "written")]
    assert list(read_named_shard(store, record.name, 1 << 20)) == [
        ("a", {"json": b"{}"}),
        ("b", {"json": b"[]"}),
    ]
    assert record.extra == {"more": "x"}
    data = (tmp_path / record.name).read_bytes()
    assert (record.size, record.sha256) == (len(data), hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize("clips", [[], [{"json": b"{}"}] * 2], ids=["too few", "too many"])
def test_clips_that_are_not_the_plans_are_refused_and_nothing_is_finished(tmp_path, clips):
    store = open_store(tmp_path)
    writer = OutputWriter(store, CLIPS, HEADER, fingerprint="made", root=".")
    writer.plan([[row("a", 0)]])
    with pytest.raises(ValueError, match="zip"):
        writer.shard(0, clips, sample_rate=16000)
    assert store.names("ledger") == store.names("shards") == []


def test_a_shard_that_fails_leaves_the_one_before_it(tmp_path):
    def clips(end):
        yield "a", {"json": b"{}"}
        yield end, {"json": b"{}"}

    store, name = open_store(tmp_path), "shards/clips-000000.tar"
    made = write_shard(store, name, 0, clips("b"), "f", Seconds())
    with pytest.raises(ShardError, match="keys must ascend"):
        write_shard(store, name, 0, clips("a"), "f", Seconds())
    assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == made.sha256
    assert store.names("shards") == [name]
