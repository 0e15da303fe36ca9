"""Every reader of shards says of every hostile shard what is wrong and where, soon and in little memory."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import avprep
from avmodel.data import ClipData, LatentData
from avprep.errors import AvprepError
from avprep.media.mux import decode_frames
from avprep.shards.layout import ShardError
from avprep.shards.ledger import LedgerRow, read_ledger, write_ledger
from avprep.shards.store import open_store
from avprep.shards.verify import verify
from avprep.stages.clip_input import ClipShard, read_clip_shard
from avprep.stages.decode import stored_latents
from tests.hostile.limits import limited
from tests.hostile.shard_corpus import (
    ENCODER,
    ENCODER_HEADERS,
    FRAMES,
    HEADERS,
    LATENT_FILES,
    LEDGERS,
    MELS,
    OUTPUT_HEADERS,
    SOUNDS,
    change_members,
    change_tar,
    make_output,
)
from tests.hostile.tar_corpus import TARS
from tests.made_clips import TINY

FIELDS = {"clips": ("frames", "mel", "waveform", "json"), "latents": ("latent", "json")}
DATASETS = {"clips": avprep.ClipDataset, "latents": avprep.LatentDataset}
KINDS = ("clips", "latents")


def read_dataset(out: Path, kind: str) -> list:
    return list(DATASETS[kind](out, fields=FIELDS[kind]))


def read_stream(out: Path, kind: str) -> list:
    return list(avprep.web_dataset(out, fields=FIELDS[kind]))


def read_training(out: Path, kind: str) -> list:
    data = ClipData(out) if kind == "clips" else LatentData(out)
    return [data[i] for i in range(len(data))]


def read_for_the_model(out: Path, kind: str) -> list:
    """As encode and decode read. Raises ShardError for a clip that becomes a failed row, too."""
    if kind == "latents":
        return list(stored_latents(open_store(out), ENCODER, None))
    found = list(read_clip_shard(ClipShard(str(out), 0, TINY)))
    for row in found:
        if isinstance(row, LedgerRow):
            assert (row.status, row.reason) == ("failed", "corrupt")
            raise ShardError(f"{row.key} {row.detail}")
    return found


def read_all(out: Path, kind: str) -> list:
    """As `avprep verify --deep`. Raises ShardError for the damage that it names."""
    found = [str(damage) for damage in verify(open_store(out), decode_h264=decode_frames)]
    if found:
        raise ShardError("; ".join(found))
    return []


READERS: dict[str, Callable[[Path, str], list]] = {
    "dataset": read_dataset,
    "stream": read_stream,
    "training": read_training,
    "model": read_for_the_model,
    "verify": read_all,
}


def refusals(out: Path, kind: str, readers: tuple[str, ...]) -> dict[str, str]:
    """What each reader says, within the limits. Fails where one reads on."""
    said = {}
    for name in readers:
        with limited(), pytest.raises(AvprepError) as caught:
            READERS[name](out, kind)
        said[name] = str(caught.value)
        assert "\n" not in said[name] and len(said[name]) < 1000
    return said


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_changed_is_read_by_every_reader(tmp_path, kind):
    out = make_output(kind, tmp_path / "out")
    for read in READERS.values():
        with limited():
            read(out, kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TARS)
def test_a_hostile_tar_is_refused_by_the_name_of_its_shard(tmp_path, kind, name):
    out = make_output(kind, tmp_path / "out")
    change_tar(out, TARS[name])
    said = refusals(out, kind, tuple(READERS))
    for reader, message in said.items():
        assert f"shards/{kind}-000000.tar" in message, reader


@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_hostile_clip_header_is_refused_by_the_clips_key(tmp_path, kind, name):
    out = make_output(kind, tmp_path / "out")
    key = DATASETS[kind](out).keys[0]
    change_members(out, HEADERS[name])
    # Training on clips and decoding latents read no clip headers.
    readers = {"clips": ("dataset", "stream", "model", "verify"), "latents": ("dataset", "stream", "verify")}
    said = refusals(out, kind, readers[kind])
    assert all(key in message and re.search("header|'json'", message) for message in said.values()), said


@pytest.mark.parametrize("name", [*MELS, *FRAMES])
def test_hostile_frames_and_mel_stacks_are_refused_by_the_clips_key(tmp_path, name):
    out = make_output("clips", tmp_path / "out")
    key = avprep.ClipDataset(out).keys[0]
    change_members(out, (MELS | FRAMES)[name])
    assert all(key in message for message in refusals(out, "clips", tuple(READERS)).values())


@pytest.mark.parametrize("name", SOUNDS)
def test_hostile_sound_is_refused_by_the_clips_key(tmp_path, name):
    out = make_output("clips", tmp_path / "out")
    key = avprep.ClipDataset(out).keys[0]
    change_members(out, SOUNDS[name])
    said = refusals(out, "clips", ("dataset", "stream", "verify"))
    assert all(key in message for message in said.values())


@pytest.mark.parametrize("name", LATENT_FILES)
def test_hostile_latents_are_refused_by_the_clips_key(tmp_path, name):
    out = make_output("latents", tmp_path / "out")
    key = avprep.LatentDataset(out).keys[0]
    change_members(out, LATENT_FILES[name])
    assert all(key in message for message in refusals(out, "latents", tuple(READERS)).values())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LEDGERS)
def test_a_hostile_ledger_is_refused_by_its_name(tmp_path, kind, name):
    out = make_output(kind, tmp_path / "out")
    LEDGERS[name](out)
    said = refusals(out, kind, tuple(READERS))
    assert all("ledger" in message for message in said.values()), said


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", OUTPUT_HEADERS)
def test_a_hostile_output_header_is_refused(tmp_path, kind, name):
    out = make_output(kind, tmp_path / "out")
    OUTPUT_HEADERS[name](out)
    refusals(out, kind, ("dataset", "stream", "training", "verify"))


@pytest.mark.parametrize("name", ENCODER_HEADERS)
def test_a_hostile_encoder_header_is_refused(tmp_path, name):
    out = make_output("latents", tmp_path / "out")
    ENCODER_HEADERS[name](out)
    refusals(out, "latents", ("dataset", "stream", "training", "verify"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_member_of_8_gb_that_is_there_is_not_read(tmp_path, kind):
    """The tar is as long as its header says, and takes no space on the disk: it is a hole."""
    out, size = make_output(kind, tmp_path / "out"), 8 << 30
    change_tar(out, lambda data: TARS["size of 8 GB"](data)[:512])
    store = open_store(out)
    rows, record = read_ledger(store, 0)
    with open(out / record.name, "r+b") as file:
        file.truncate(size + (1 << 20))
    write_ledger(store, 0, rows, replace(record, size=size + (1 << 20)))
    for message in refusals(out, kind, ("dataset", "stream", "training", "model")).values():
        assert f"{kind}-000000.tar" in message
