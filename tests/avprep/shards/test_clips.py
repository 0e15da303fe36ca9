from __future__ import annotations

import ast
import io
import json
import tarfile
from collections import Counter

import numpy as np
import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st

from avprep.media.mux import decode_frames, encode_frames
from avprep.shards.clips import (
    VIDEO_CODECS,
    clip_key,
    load_npy,
    load_waveform,
    merge,
    pack_clip,
    pack_clip_header,
    unpack_frames,
)
from avprep.shards.decoders import load_clip_header
from avprep.shards.layout import MOST_CLIP_HEADER, ShardError
from avprep.shards.ledger import ShardRecord, read_record, write_ledger
from avprep.shards.store import open_store
from avprep.shards.tar import read_shard
from avprep.shards.writer import ShardWriter, write_shard
from avprep.spec import ClipSpec

SPEC = ClipSpec(frames=4, size=64)


def clip(codec: str, seed: int = 0):
    rng = np.random.default_rng(seed)
    smooth = np.linspace(0, 255, 64)[None, :, None, None] * np.ones((4, 64, 64, 3))
    return {
        "header": {"source": "a/ä.mp4", "start_s": 1.6, "labels": ["dog, barking"]},
        "mel": rng.uniform(-1, 1, (4, 8, 4)),
        "waveform": rng.uniform(-1, 1, 6400).astype(np.float32),
        "sample_rate": 16000,
        "frames": (smooth * np.array([1, 0.5, 0.2])).astype(np.uint8),
        "codec": codec,
        "encode_h264": lambda frames: encode_frames(frames, fps=10),
    }


def shard_of(clips: dict[str, dict[str, bytes]]) -> bytes:
    file = io.BytesIO()
    writer = ShardWriter(file)
    for key, members in clips.items():
        writer.add(key, members)
    writer.close()
    return file.getvalue()


@pytest.mark.parametrize("codec", VIDEO_CODECS)
def test_a_clip_comes_back(codec):
    given_clip = clip(codec)
    data = shard_of({"0123_00": pack_clip(**given_clip)})
    ((key, members),) = read_shard(io.BytesIO(data))
    assert key == "0123_00"
    frames = unpack_frames(members, (4, 64, 64, 3), decode_frames)
    error = np.abs(frames.astype(int) - given_clip["frames"])
    assert frames.dtype == np.uint8 and frames.shape == (4, 64, 64, 3)
    assert error.max() == 0 if codec == "raw" else error.mean() < 3
    assert np.array_equal(load_npy(members["mel.npy"]), given_clip["mel"].astype(np.float16))
    assert np.abs(load_waveform(members["audio.flac"], SPEC) - given_clip["waveform"]).max() <= 1 / 32768


HEADER = {"source": "a.mp4", "start_s": 0.0, "stop_s": 1.6, "caption": "", "has_audio": True}


@pytest.mark.parametrize("labels", [[], ["dog"], ["dog", "cat"], ["", "dog"]])
def test_the_labels_of_a_clip_come_back_and_have_one_type_in_the_file(labels):
    data = pack_clip_header(HEADER | {"labels": labels})
    stored = json.loads(data)["labels"]
    assert stored and all(type(label) is str for label in stored)
    assert load_clip_header(data) == HEADER | {"labels": labels}


def test_a_clip_without_labels_of_an_older_output_is_read():
    assert load_clip_header(json.dumps(HEADER | {"labels": []}).encode())["labels"] == []


def test_the_header_of_a_clip_with_labels_has_the_bytes_that_it_always_had():
    header = HEADER | {"labels": ["dög"]}
    assert (
        pack_clip_header(header)
        == (
            '{"caption": "", "has_audio": true, "labels": ["dög"], "source": "a.mp4", '
            '"start_s": 0.0, "stop_s": 1.6}'
        ).encode()
    )


@given(
    st.sampled_from(["u1", "i1", "?", "f2", "f4", "f8", "i8"]),
    st.lists(st.integers(0, 4), max_size=4),
)
def test_arrays_are_read_as_numpy_reads_them(dtype, shape):
    array = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    np.save(file := io.BytesIO(), array)
    read = load_npy(file.getvalue())
    assert read.dtype == array.dtype and read.flags.writeable
    assert np.array_equal(read, np.load(io.BytesIO(file.getvalue()))) and read.shape == array.shape


def test_no_python_is_parsed_to_read_an_array(monkeypatch):
    """Two threads that parse Python at once get a SystemError now and then before Python 3.11.8."""
    np.save(file := io.BytesIO(), np.arange(6).reshape(2, 3))

    def fail(*_):
        raise SystemError("AST constructor recursion depth mismatch")

    monkeypatch.setattr(ast, "literal_eval", fail)
    with pytest.raises(SystemError):
        np.load(io.BytesIO(file.getvalue()))
    assert load_npy(file.getvalue()).tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:9],
        lambda data: data[:60],
        lambda data: data[:-1],
        lambda data: data + b"0",
        lambda data: data.replace(b"(2, 3)", b"(2, 9)"),
        lambda data: data.replace(b"'<i8'", b"'|O8'"),
        lambda data: data.replace(b"False", b"True "),
    ],
)
def test_what_is_no_array_is_refused(damage):
    np.save(file := io.BytesIO(), np.arange(6).reshape(2, 3))
    with pytest.raises(ShardError):
        load_npy(damage(file.getvalue()))


@pytest.mark.parametrize("codec", VIDEO_CODECS)
def test_equal_clips_give_equal_bytes(codec):
    a, b = (shard_of({"k_0": pack_clip(**clip(codec))}) for _ in range(2))
    assert a == b
    with tarfile.open(fileobj=io.BytesIO(a)) as tar:
        assert {(m.mtime, m.uid, m.uname) for m in tar} == {(0, 0, "")}


def test_plain_webdataset_reads_it(tmp_path):
    path = tmp_path / "clips-000000.tar"
    path.write_bytes(shard_of({f"k_{i}": pack_clip(**clip("jpeg", i)) for i in range(3)}))
    samples = list(webdataset.WebDataset(str(path), shardshuffle=False).decode("rgb8"))
    assert [s["__key__"] for s in samples] == ["k_0", "k_1", "k_2"]
    assert samples[0]["json"]["labels"] == ["dog, barking"]
    assert samples[0]["mel.npy"].shape == (4, 8, 4)
    assert samples[0]["frame00.jpg"].shape == (64, 64, 3)


def test_a_cut_shard_is_damage_not_fewer_clips():
    data = shard_of({f"k_{i}": pack_clip(**clip("raw", i)) for i in range(3)})
    for length in (10, len(data) // 2, len(data) // 2 + 300):
        with pytest.raises(ShardError, match="damaged or cut off"):
            list(read_shard(io.BytesIO(data[:length])))


def test_a_member_with_a_path_is_refused():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        entry = tarfile.TarInfo("../evil.json")
        tar.addfile(entry, io.BytesIO())
    with pytest.raises(ShardError, match="evil"):
        list(read_shard(io.BytesIO(file.getvalue())))


def test_keys_must_ascend():
    writer = ShardWriter(io.BytesIO())
    writer.add("b", {"json": b"{}"})
    with pytest.raises(ShardError, match="must ascend"):
        writer.add("a", {"json": b"{}"})


@given(st.text(min_size=1, max_size=40), st.integers(0, 10**10))
def test_keys_hold_no_path_and_sort_by_time_within_a_source(path, start):
    key = clip_key(path, start)
    assert set(key) <= set("0123456789abcdef_")
    assert clip_key(path, start + 1) > key
    assert clip_key(path, 0)[:16] == key[:16]


@given(st.sets(st.integers(0, 20)), st.sets(st.integers(0, 20)))
def test_merging_is_a_sorted_union_where_the_new_counts(old, new):
    def clips(keys, value):
        return {f"{k:02d}": {"json": value} for k in sorted(keys)}

    merged = list(merge(iter(clips(old, b"old").items()), clips(new, b"new")))
    assert merged == sorted((clips(old, b"old") | clips(new, b"new")).items())


@pytest.mark.parametrize("codec", VIDEO_CODECS)
def test_more_than_a_hundred_frames_keep_their_order(codec):
    level = np.linspace(0, 255, 130).astype(np.uint8)
    frames = np.broadcast_to(level[:, None, None, None], (130, 16, 16, 3))
    members = pack_clip(**clip(codec) | {"frames": frames})
    back = unpack_frames(members, (130, 16, 16, 3), decode_frames).mean((1, 2, 3))
    assert np.abs(back - level).max() < 3
    assert list(members) == sorted(members)


def test_a_worker_that_outlived_its_run_leaves_the_next_ones_ledger(tmp_path):
    """Killed with its driver, but not yet: meanwhile the same command has made the shard."""
    store, name = open_store(tmp_path), "shards/clips-000000.tar"
    members = pack_clip(**clip("raw"))
    made = write_shard(store, name, 0, iter([("0123_00", members)]), "f", Counter())
    write_ledger(store, 0, [], made)
    assert write_shard(store, name, 0, iter([("0123_00", members)]), "f", Counter()) == made
    assert read_record(store, 0) == made
    older = ShardRecord(name, "another's", 1, "f")  # of an --only-failed that began before this ledger
    write_shard(store, name, 0, iter([("0123_01", members)]), "f", Counter(), older)
    assert read_record(store, 0) == made
    write_shard(store, name, 0, iter([("0123_01", members)]), "f", Counter(), made)
    assert not store.exists("ledger/000000.parquet")


def test_a_header_that_no_reader_would_take_is_not_written():
    fitting = pack_clip_header(HEADER | {"labels": [], "caption": "x" * (MOST_CLIP_HEADER - 200)})
    assert load_clip_header(fitting)["caption"]
    with pytest.raises(ShardError, match="at most 4,194,304 are read"):
        pack_clip_header(HEADER | {"labels": [], "caption": "x" * MOST_CLIP_HEADER})
