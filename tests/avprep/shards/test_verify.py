"""`verify`: no damage in what was written, every damage in what was not, and what only a deep check sees."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from avprep.media.mux import decode_frames
from avprep.shards.clips import save_npy
from avprep.shards.store import open_store
from avprep.shards.verify import repair, verify
from tests.avmodel.made_latents import write_latents
from tests.hostile.shard_corpus import ENCODER, change_members
from tests.made_clips import TINY, write_clips


def damages(out: Path, *, deep: bool = False) -> list[str]:
    decode = decode_frames if deep else None
    return [str(damage) for damage in verify(open_store(out), decode_h264=decode)]


@pytest.mark.parametrize("deep", [False, True])
def test_what_was_written_is_without_damage(tmp_path, deep):
    assert damages(write_clips(tmp_path / "clips"), deep=deep) == []
    for packed in (False, True):
        assert damages(write_latents(tmp_path / f"latents {packed}", ENCODER, packed=packed), deep=deep) == []


def test_each_file_that_is_not_as_written_is_named(tmp_path):
    out = write_clips(tmp_path / "clips")
    (out / "shards" / "clips-000000.tar").unlink()
    data = (out / "shards" / "clips-000001.tar").read_bytes()
    (out / "shards" / "clips-000001.tar").write_bytes(data[:-1] + b"x")
    (out / "shards" / "clips-000009.tar").write_bytes(data)
    (out / "ledger" / "000002.parquet").write_bytes(b"x")
    found = damages(out)
    for name in ("clips-000000.tar: .*not there", "clips-000001.tar: .*not those written"):
        assert any(re.search(name, damage) for damage in found), found
    assert any(damage.startswith("ledger/000002.parquet: cannot be read") for damage in found)
    assert any(damage.startswith("shards/clips-000009.tar: a shard without a ledger") for damage in found)


def test_every_shard_is_reported_as_it_is_done(tmp_path):
    seen: list[int] = []
    list(verify(open_store(write_clips(tmp_path / "clips")), seen.append))
    assert seen == [0, 1, 2]


def stated(**values):
    return lambda members: members | {"json": json.dumps(json.loads(members["json"]) | values).encode()}


@pytest.mark.parametrize("kind", ["clips", "latents"])
@pytest.mark.parametrize("values", [{"labels": ["cat"]}, {"caption": "a cat"}, {"source": "cat.mp4"}])
def test_only_a_deep_check_compares_texts_with_the_plan(tmp_path, kind, values):
    out = write_clips(tmp_path / "out") if kind == "clips" else write_latents(tmp_path / "out", ENCODER)
    change_members(out, stated(**values))
    shallow = [damage for damage in damages(out) if "sums" not in damage]  # which count labels
    assert shallow == []
    assert any("plan's" in damage for damage in damages(out, deep=True))


def test_only_a_deep_check_decodes_frames(tmp_path):
    out = write_clips(tmp_path / "out")
    frames = np.zeros((1, *TINY.frames_shape[1:]), np.uint8)
    change_members(out, lambda members: members | {"frames.npy": save_npy(frames)})
    assert damages(out) == []
    (found,) = damages(out, deep=True)
    assert "frames of uint8 (1, 16, 16, 3)" in found


def test_padding_and_packing_are_those_of_the_header(tmp_path):
    out = write_latents(tmp_path / "out", ENCODER)
    change_members(out, lambda m: m | {"latent.npy": save_npy(np.full(ENCODER.shape, 0.5, np.float16))})
    assert any("padding that is not zero" in damage for damage in damages(out))
    change_members(out, lambda m: m | {"latent.npy": save_npy(np.zeros(ENCODER.values, np.float16))})
    assert any("stored otherwise than spec.json says" in damage for damage in damages(out))


def _files(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_repair_removes_what_is_damaged_and_nothing_that_is_whole(tmp_path):
    out = write_clips(tmp_path / "clips", sources=8)  # shards 0 to 4
    tar = (out / "shards" / "clips-000000.tar").read_bytes()
    (out / "shards" / "clips-000000.tar").unlink()
    (out / "shards" / "clips-000001.tar").write_bytes(tar[:-1] + b"x")
    (out / "ledger" / "000002.parquet").write_bytes(b"x")
    (out / "shards" / "clips-000009.tar").write_bytes(tar)  # of no plan
    (out / "ledger" / "000009.parquet").write_bytes((out / "ledger" / "000000.parquet").read_bytes())
    (out / "shards" / "clips-000010.tar").write_bytes(tar)  # without a ledger, too
    (out / "ledger" / "000003.parquet").unlink()  # an interrupted run
    (out / "shards" / "notes.txt").write_bytes(b"of another program")
    before, store = _files(out), open_store(out)
    removed, left = repair(store, list(verify(store)))
    gone = {
        "ledger/000000.parquet",
        "ledger/000001.parquet",
        "ledger/000002.parquet",
        "shards/clips-000003.tar",
    }
    assert set(removed) == gone and len(removed) == len(gone)
    kept = {damage.name for damage in left}
    assert {"shards/notes.txt", "shards/clips-000010.tar", "ledger/000009.parquet"} <= kept
    assert kept.isdisjoint(gone)
    assert _files(out) == {name: data for name, data in before.items() if name not in gone}


def test_repair_of_what_is_whole_removes_nothing(tmp_path):
    out = write_clips(tmp_path / "clips")
    before, store = _files(out), open_store(out)
    assert repair(store, verify(store)) == ([], [])
    assert _files(out) == before
