"""Finished outputs as datasets: what an item is, in any codec and any process, and what is refused."""

from __future__ import annotations

import io
import json
import multiprocessing
import pickle
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

import avprep
from avprep.errors import ArgumentError, AvprepError, ClipNotFound
from avprep.media.mux import encode_frames
from avprep.shards.clips import load_npy, pack_clip
from avprep.shards.dataset import ClipDataset
from avprep.shards.index import index_shards
from avprep.shards.latents import EncoderHeader
from avprep.shards.layout import ShardError
from avprep.shards.ledger import read_ledger, read_ledgers, write_ledger
from avprep.shards.order import shuffled
from avprep.shards.store import open_store
from avprep.shards.tar import Members, read_shard
from avprep.shards.writer import ShardWriter
from tests.avmodel.made_latents import write_latents
from tests.made_clips import TINY, write_clips

HEADER = EncoderHeader(
    spec=TINY,
    channels=2,
    planes=("v_hw", "v_tw"),
    rows=8,
    columns=8,
    valid_rows=(8, 4),
    weights="w",
    config={},
)
ALL = ("frames", "mel", "waveform", "json")


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """12 clips in shards of 5, 5, 2."""
    return write_clips(tmp_path_factory.mktemp("made") / "clips")


def whole(out: Path) -> dict[str, Members]:
    """Every clip's files, by the plain reader."""
    found = {}
    for path in sorted((out / "shards").iterdir()):
        with open(path, "rb") as file:
            found |= dict(read_shard(file))
    return found


def rewrite(out: Path, change) -> None:
    """Each shard anew, its clips' files changed, and its ledger made to agree."""
    store = open_store(out)
    for index, rows, record in list(read_ledgers(store)):
        with store.open(record.name) as file:
            clips = list(read_shard(file))
        with store.write(record.name) as file:
            writer = ShardWriter(file)
            for key, members in clips:
                writer.add(key, change(key, members))
            digest = writer.close()
        write_ledger(store, index, rows, replace(record, sha256=digest, size=writer.size))


def as_codec(codec: str):
    def change(_key: str, members: Members) -> Members:
        return pack_clip(
            header=json.loads(members["json"]),
            mel=load_npy(members["mel.npy"]),
            waveform=np.zeros(TINY.samples, np.float32),
            sample_rate=TINY.sample_rate,
            frames=load_npy(members["frames.npy"]),
            codec=codec,
            encode_h264=lambda frames: encode_frames(frames, fps=TINY.fps),
        )

    return change


def test_an_item_is_what_lies_in_the_shard(clips):
    data, expected = avprep.ClipDataset(clips, fields=ALL), whole(clips)
    assert len(data) == len(expected) == 12
    assert list(data.keys) == list(expected)
    for position in (0, 11, 5, -1, np.int64(3)):
        item = data[position]
        members = expected[data.keys[position]]
        assert list(item) == ["key", *ALL]
        assert item["key"] == data.keys[position]
        assert np.array_equal(item["frames"], load_npy(members["frames.npy"]))
        assert item["mel"].dtype == np.float16 and np.array_equal(item["mel"], load_npy(members["mel.npy"]))
        assert item["waveform"].shape == (TINY.samples,) and item["waveform"].dtype == np.float32
        assert item["json"] == json.loads(members["json"])
        assert data.by_key(item["key"])["json"] == item["json"]
    assert [item["key"] for item in data] == list(data.keys)  # iteration ends by IndexError
    for position in (12, -13):
        with pytest.raises(IndexError, match=f"position {position} of 12 clips"):
            data[position]
    with pytest.raises(TypeError):
        data[0.5]


def test_what_is_not_asked_for_is_not_decoded(clips, monkeypatch):
    data = avprep.ClipDataset(clips, fields=["json"])
    monkeypatch.setattr("avprep.shards.decoders.unpack_frames", lambda *told: pytest.fail("decoded"))
    assert list(data[0]) == ["key", "json"]


@pytest.mark.parametrize("codec", ["jpeg", "h264"])
def test_frames_are_the_same_array_whatever_the_codec(tmp_path, codec):
    out = write_clips(tmp_path / "clips")
    raw = [item["frames"] for item in avprep.ClipDataset(out)]
    rewrite(out, as_codec(codec))
    assert not any("frames.npy" in members for members in whole(out).values())
    for frames, item, sample in zip(raw, avprep.ClipDataset(out), avprep.web_dataset(out), strict=True):
        assert item["frames"].shape == TINY.frames_shape and item["frames"].dtype == np.uint8
        assert np.abs(item["frames"].astype(int) - frames).mean() < 4
        assert np.array_equal(sample["frames"], item["frames"])
        assert sample["__key__"] == item["key"]


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_loader_processes_read_the_same_clips_after_this_one_has(clips, start):
    data = avprep.ClipDataset(clips, fields=("frames", "mel"))
    here = [data[i] for i in range(len(data))]  # shards are open here when it travels
    context = multiprocessing.get_context(start)
    loader = DataLoader(data, batch_size=4, num_workers=1, multiprocessing_context=context)
    there = list(loader)
    assert [key for batch in there for key in batch["key"]] == [item["key"] for item in here]
    frames = np.concatenate([batch["frames"].numpy() for batch in there])
    assert np.array_equal(frames, np.stack([item["frames"] for item in here]))


def test_a_copy_that_travelled_shares_no_open_file(clips):
    data = avprep.ClipDataset(clips)
    data[0]
    assert data._reader is not None
    assert pickle.loads(pickle.dumps(data))._reader is None  # noqa: S301 - what DataLoader does
    assert data._reader is not None


def test_a_shard_that_was_made_again_is_not_read_by_the_old_places(tmp_path):
    out = write_clips(tmp_path / "clips")
    data = avprep.ClipDataset(out)
    shard = sorted((out / "shards").iterdir())[0]
    # All clips are of one size here: without its first clip the second lies in the first's place.
    with open(shard, "rb") as file:
        kept = list(read_shard(file))[1:]
    with open(shard, "wb") as file:
        writer = ShardWriter(file)
        for key, members in kept:
            writer.add(key, members)
        writer.close()
    with pytest.raises(ShardError, match="has changed since it was indexed"):
        data[0]


def bomb(_key: str, members: Members) -> Members:
    picture = io.BytesIO()
    Image.new("RGB", (64, 64)).save(picture, "jpeg")
    rest = {name: data for name, data in members.items() if not name.startswith("frame")}
    return dict(sorted({**rest, **{f"frame{i:02d}.jpg": picture.getvalue() for i in range(4)}}.items()))


DAMAGES = {
    "cannot be read: frames of .64, 64, 3., RGB": bomb,
    "lacks 'mel.npy'": lambda key, members: {n: d for n, d in members.items() if n != "mel.npy"},
    "without frames": lambda key, members: {n: d for n, d in members.items() if not n.startswith("frame")},
    "Expecting value": lambda key, members: members | {"json": b"?"},
    "cannot be read: .*Error opening|cannot be read: .*[Ff]ormat": (
        lambda key, members: members | {"audio.flac": b"fLaC?"}
    ),
    "cannot identify image": lambda key, members: dict(
        sorted(
            (
                {n: d for n, d in members.items() if n != "frames.npy"}
                | {f"frame{i:02d}.jpg": b"\xff\xd8?" for i in range(4)}
            ).items()
        )
    ),
}


@pytest.mark.parametrize("message", DAMAGES)
def test_a_damaged_clip_is_named_and_never_an_array(tmp_path, message):
    out = write_clips(tmp_path / "clips", sources=1, clips_each=1)
    rewrite(out, DAMAGES[message])
    data = avprep.ClipDataset(out, fields=ALL)
    for read in (lambda: data[0], lambda: list(avprep.web_dataset(out, fields=ALL))):
        with pytest.raises(ShardError, match=f"clip {data.keys[0]}.*({message})"):
            read()


def test_an_output_that_is_none_of_the_kind_is_refused(clips, tmp_path):
    latents = write_latents(tmp_path / "latents", HEADER)
    with pytest.raises(ShardError, match="holds latents, not clips: avprep clip makes them"):
        avprep.ClipDataset(latents)
    with pytest.raises(ShardError, match="holds clips, not latents: avprep encode makes them"):
        avprep.LatentDataset(clips)
    for call in (avprep.ClipDataset, avprep.LatentDataset, avprep.web_dataset, avprep.read_ledger):
        with pytest.raises(ShardError, match="holds no spec.json"):
            call(tmp_path)


@pytest.mark.parametrize("fields", [["frame"], "frames", ["mel", "latent"]])
def test_unknown_fields_are_refused(clips, fields):
    for call in (avprep.ClipDataset, avprep.web_dataset):
        with pytest.raises(
            ArgumentError, match="^fields must be of frames, mel, waveform, labels, caption, json; not"
        ):
            call(clips, fields=fields)


def test_an_unknown_key_is_a_key_error_of_ours(clips):
    with pytest.raises(ClipNotFound, match="holds no finished clip with key 'x'") as caught:
        avprep.ClipDataset(clips).by_key("x")
    assert isinstance(caught.value, KeyError) and isinstance(caught.value, AvprepError)
    assert str(caught.value)[0] != '"'


def test_only_finished_shards_count(tmp_path):
    out = write_clips(tmp_path / "clips")
    (out / "ledger" / "000001.parquet").unlink()
    keys = [key for key in whole(out) if key not in list(whole(out))[5:10]]
    assert list(avprep.ClipDataset(out).keys) == keys
    assert [sample["__key__"] for sample in avprep.web_dataset(out)] == keys
    assert avprep.read_ledger(out)["key"].to_pylist() == keys


# --- latents -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
def test_latents_are_the_stack_however_they_are_stored(tmp_path, packed):
    out = write_latents(tmp_path / "latents", HEADER, packed=packed)
    plain = write_latents(tmp_path / "plain", HEADER)
    data = avprep.LatentDataset(out)
    assert len(data) == 24 and data.encoder == HEADER and data.spec == TINY
    for item, sample, expected in zip(data, avprep.web_dataset(out), whole(plain).values(), strict=True):
        assert item["latent"].dtype == np.float16
        assert np.array_equal(item["latent"], load_npy(expected["latent.npy"]))
        assert np.array_equal(sample["latent"], item["latent"])
        assert item["json"]["labels"][0] in ("low", "high")
    with pytest.raises(ArgumentError, match="fields must be of latent, labels, caption, json; not 'logvar'"):
        avprep.LatentDataset(out, fields=["logvar"])


# --- order -------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), taken=st.integers(0, 40))
def test_an_order_goes_on_where_it_was_left_and_shows_each_clip_once_an_epoch(clips, seed, taken):
    data = _data(clips)
    row = list(islice(data.order(seed=seed), 48))
    epoch, position = divmod(taken, len(data))
    assert list(islice(data.order(seed=seed, epoch=epoch, position=position), 48 - taken)) == row[taken:]
    assert list(islice(data.order(seed=seed, position=taken), 48 - taken)) == row[taken:]
    assert all(sorted(row[i : i + 12]) == list(range(12)) for i in (0, 12, 24, 36))
    assert row[:12] == shuffled(12, seed, 0).tolist() and row[:12] != row[12:24]


def _data(clips: Path) -> ClipDataset:
    return avprep.ClipDataset(clips, fields=["json"])


def test_an_order_begins_nowhere_before_the_first(clips):
    with pytest.raises(ArgumentError, match="^position must be at least 0, not -1"):
        _data(clips).order(seed=0, position=-1)


# --- streams and ledgers -----------------------------------------------------------------------------------


def test_a_shuffled_stream_shows_every_clip_once_and_a_seed_repeats_it(clips):
    def keys(**told) -> list[str]:
        return [sample["__key__"] for sample in avprep.web_dataset(clips, fields=["mel"], **told)]

    whole_order = keys()
    assert whole_order == list(avprep.ClipDataset(clips).keys)
    assert keys(shuffle=100, seed=3) == keys(shuffle=100, seed=3) != keys(shuffle=100, seed=4)
    assert sorted(keys(shuffle=100)) == sorted(keys(shuffle=100, seed=3)) == sorted(whole_order)
    assert keys(shuffle=100, seed=3) != whole_order


def test_loader_workers_share_the_stream(clips):
    loader = DataLoader(avprep.web_dataset(clips, fields=["mel"]), batch_size=None, num_workers=2)
    assert sorted(sample["__key__"] for sample in loader) == sorted(avprep.ClipDataset(clips).keys)


def test_a_stream_of_what_webdataset_would_cut_is_refused(tmp_path):
    out = write_clips(tmp_path / "clips#1")
    with pytest.raises(ArgumentError, match="^out = .*clips#1: webdataset takes"):
        avprep.web_dataset(out)
    assert len(avprep.ClipDataset(out)) == 12


def test_the_ledger_is_a_table_of_every_row(clips):
    table = avprep.read_ledger(clips)
    store = open_store(clips)
    rows = [row for index in range(3) for row in read_ledger(store, index)[0]]
    assert table.to_pylist() == [{name: getattr(row, name) for name in table.column_names} for row in rows]
    assert table.schema.metadata is None


def test_a_ledger_with_other_columns_is_named(tmp_path):
    out = write_clips(tmp_path / "clips")
    pq.write_table(pa.table({"key": ["a"]}), out / "ledger" / "000001.parquet")
    with pytest.raises(ShardError, match=r"000001.parquet has the columns 'key', not those of a ledger"):
        avprep.read_ledger(out)


def test_a_ledger_of_nothing_finished_has_the_columns(tmp_path):
    out = write_clips(tmp_path / "clips")
    for path in (out / "ledger").iterdir():
        path.unlink()
    table = avprep.read_ledger(out)
    assert table.num_rows == 0 and "residual_ms" in table.column_names
    with pytest.raises(ShardError, match="holds no finished clip"):
        index_shards(open_store(out))
    with pytest.raises(ShardError, match="holds no finished clip"):
        avprep.web_dataset(out)
