"""Hugging Face `datasets` reads every output as it reads any WebDataset: without features that are given."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile

import avprep
from avprep.media.mux import decode_frames
from avprep.shards.store import open_store
from avprep.shards.tar import Members
from avprep.shards.verify import verify
from tests.avmodel.made_latents import write_latents
from tests.avprep.shards.test_dataset import rewrite
from tests.fake_encoder import fake_header
from tests.made_clips import TINY, write_clips

LABELS: dict[str, Callable[[str], tuple[str, ...]]] = {
    "none": lambda source: (),
    "all": lambda source: (source[-1],),
    "the first source": lambda source: ("0",) if source[-1] == "0" else (),
    "all but the first source": lambda source: () if source[-1] == "0" else (source[-1], "more"),
}


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Iterator[dict[str, Any]]]:
    """`load_dataset`, offline, with sound as the file's bytes.

    `datasets` refuses a column of sound where torchcodec cannot be imported, even to keep the bytes:
    an empty module stands in its place.
    """
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets", reason="needs Hugging Face datasets")
    monkeypatch.setattr(datasets.config, "TORCHCODEC_AVAILABLE", False)
    for name in ("torchcodec", "torchcodec.encoders"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(AudioEncoder=None))

    def read(out: Path, *, streaming: bool) -> Iterator[dict[str, Any]]:
        files = sorted(str(path) for path in (out / "shards").glob("*.tar"))
        rows = datasets.load_dataset(
            "webdataset", data_files=files, split="train", streaming=streaming, cache_dir=str(tmp_path / "hf")
        )
        if "audio.flac" in rows.features:
            rows = rows.cast_column("audio.flac", datasets.Audio(decode=False))
        return iter(rows)

    return read


@pytest.mark.timeout(60)
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("labelled", LABELS)
def test_clips_are_read_whatever_their_labels(labelled, streaming, load, tmp_path):
    """The types are inferred from the first five clips; each of the two sources has six."""
    labels_of = LABELS[labelled]
    out = write_clips(
        tmp_path / "out", sources=2, clips_each=6, shard_size=12, labels_of=labels_of, codec="jpeg"
    )
    clips = list(load(out, streaming=streaming))
    assert len(clips) == 12
    for clip in clips:
        assert clip["json"]["labels"] == (list(labels_of(clip["json"]["source"])) or [""])
        assert clip["json"]["caption"] == ""
        assert np.shape(clip["mel.npy"]) == TINY.mel_shape
        assert clip["frame03.jpg"].size == (TINY.size, TINY.size)
        waveform, rate = soundfile.read(io.BytesIO(clip["audio.flac"]["bytes"]))
        assert rate == TINY.sample_rate and len(waveform) == TINY.samples
    assert list(verify(open_store(out), decode_h264=decode_frames)) == []


@pytest.mark.timeout(60)
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("unlabelled", [0, 6, 24])
def test_latents_are_read_whatever_their_labels(unlabelled, streaming, load, tmp_path):
    header = fake_header(TINY)
    out = write_latents(tmp_path / "out", header, unlabelled=unlabelled)
    clips = list(load(out, streaming=streaming))
    assert [clip["json"]["labels"] == [""] for clip in clips] == [i < unlabelled for i in range(24)]
    assert all(np.shape(clip["latent.npy"]) == header.shape for clip in clips)
    assert list(verify(open_store(out), decode_h264=decode_frames)) == []


# --- without torchcodec ----------------------------------------------------------------------------------


@pytest.fixture
def load_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict[str, Any]]]:
    """`load_dataset` where torchcodec cannot be imported: the columns are named, sound is bytes."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets", reason="needs Hugging Face datasets")
    monkeypatch.setattr(datasets.config, "TORCHCODEC_AVAILABLE", False)
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    text = datasets.Value("string")
    columns = {f"frame{i:02}.jpg": datasets.Image() for i in range(TINY.frames)}
    columns |= {"__key__": text, "audio.flac": datasets.Value("binary")}
    columns["mel.npy"] = datasets.Array3D(TINY.mel_shape, "float16")
    columns["json"] = {"source": text, "labels": datasets.List(text), "caption": text}

    def read(*outs: Path, streaming: bool) -> list[dict[str, Any]]:
        files = sorted(str(path) for out in outs for path in (out / "shards").glob("*.tar"))
        rows = datasets.load_dataset(
            "webdataset",
            data_files=files,
            features=datasets.Features(columns),
            split="train",
            streaming=streaming,
            cache_dir=str(tmp_path / "hf"),
        )
        return list(rows)

    return read


@pytest.mark.timeout(60)
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("labelled", LABELS)
def test_clips_are_read_without_torchcodec(labelled, streaming, load_named, tmp_path):
    labels_of = LABELS[labelled]
    out = write_clips(tmp_path / "out", sources=2, clips_each=6, labels_of=labels_of, codec="jpeg")
    data = avprep.ClipDataset(out, fields=("frames", "mel", "waveform", "labels"))
    rows = load_named(out, streaming=streaming)
    assert [row["__key__"] for row in rows] == list(data.keys)
    for row, clip in zip(rows, data, strict=True):
        assert row["json"]["labels"] == (clip["labels"] or [""])
        frames = np.stack([np.asarray(row[f"frame{i:02}.jpg"]) for i in range(TINY.frames)])
        assert np.array_equal(frames, clip["frames"])
        assert np.array_equal(np.asarray(row["mel.npy"], np.float16), clip["mel"])
        waveform, _ = soundfile.read(io.BytesIO(row["audio.flac"]), dtype="float32")
        assert np.array_equal(waveform, clip["waveform"])


@pytest.mark.timeout(60)
@pytest.mark.parametrize("streaming", [False, True])
def test_an_entry_that_only_a_late_clip_has_stops_no_reader(streaming, load, load_named, tmp_path):
    """`channels_cancel` is in the headers of the clips that it applies to, and types are inferred before."""
    out = write_clips(tmp_path / "out", sources=2, clips_each=6, codec="jpeg")
    last = avprep.ClipDataset(out).keys[-1]

    def cancels(key: str, members: Members) -> Members:
        header = json.loads(members["json"]) | ({"channels_cancel": True} if key == last else {})
        return members | {"json": json.dumps(header).encode()}

    rewrite(out, cancels)
    assert len(list(load(out, streaming=streaming))) == 12
    assert len(load_named(out, streaming=streaming)) == 12
