"""An output: begun once, continued only as it was begun, apart from the media."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from avprep.errors import ArgumentError
from avprep.jobs.output import (
    REBUILDING,
    JobError,
    Stopped,
    absolute,
    end_rebuild,
    fingerprint_of,
    open_output,
    require_apart,
    stopping_in_order,
)
from avprep.shards.store import open_store
from avprep.shards.verify import read_header

HEADER = {"format": 1, "spec": {"fps": 10}, "options": {"crop": "center", "limit": None}}


@pytest.fixture
def store(tmp_path):
    (tmp_path / "out").mkdir()
    return open_store(tmp_path / "out")


def test_an_output_is_begun_and_continued_with_one_fingerprint(store):
    begun = open_output(store, HEADER, root="/media", rebuild=False)
    assert begun == fingerprint_of(HEADER) == read_header(store)["fingerprint"]
    assert open_output(store, HEADER, root="/elsewhere", rebuild=False) == begun
    assert read_header(store)["root"] == "/media"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"options": {"crop": "pad", "limit": None}}, "options.crop = 'center'; this run has 'pad'"),
        ({"spec": {"fps": 5}, "options": {}}, "spec.fps = 10; this run has 5"),  # the spec first
        ({"kind": "latents"}, "it holds clips, not latents"),
    ],
)
def test_another_header_is_refused_and_nothing_is_removed(store, changed, words):
    open_output(store, HEADER, root="/media", rebuild=False)
    (store.root / "stats.json").write_text("{}")
    with pytest.raises(JobError, match=f"^out = {store.uri}: .*{words}"):
        open_output(store, HEADER | changed, root="/media", rebuild=False)
    assert (store.root / "stats.json").exists() and read_header(store)["options"] == HEADER["options"]


def test_a_rebuild_removes_what_is_there_once(store):
    open_output(store, HEADER, root="/media", rebuild=False)
    for name in ("ledger", "shards"):
        (store.root / name).mkdir()
        (store.root / name / "000000").touch()
    open_output(store, HEADER, root="/media", rebuild=True)
    assert read_header(store)[REBUILDING] and not store.names("ledger") and not store.names("shards")
    (store.root / "ledger" / "000000").touch()
    open_output(store, HEADER, root="/media", rebuild=True)  # the rebuild that was interrupted goes on
    assert store.names("ledger")
    end_rebuild(store)
    open_output(store, HEADER, root="/media", rebuild=True)
    assert not store.names("ledger")


def test_a_folder_with_ledgers_and_no_header_is_left_alone(store):
    (store.root / "ledger").mkdir()
    (store.root / "ledger" / "000000.parquet").write_text("of somebody")
    with pytest.raises(JobError, match="it holds a ledger and no spec.json"):
        open_output(store, HEADER, root="/media", rebuild=True)
    assert (store.root / "ledger" / "000000.parquet").read_text() == "of somebody"


def test_a_field_without_a_value_is_the_same_as_none(store):
    """An output may be older than an option."""
    begun = open_output(store, HEADER, root="/media", rebuild=False)
    assert begun != open_output(store, HEADER | {"options": {"crop": "center"}}, root="/media", rebuild=False)


def test_what_is_remembered_is_not_compared(store):
    open_output(store, HEADER, root="/media", rebuild=False)
    found = json.loads((store.root / "spec.json").read_text())
    (store.root / "spec.json").write_text(json.dumps(found | {"batch_size": 8, "device": "cuda"}))
    open_output(store, HEADER, root="/media", rebuild=False)


@pytest.mark.parametrize(
    ("out", "root", "how"),
    [("m", "m", "is"), ("m/out", "m", "lies in"), ("m/../m/x", "m", "lies in"), ("m", "m/deep", "holds")],
)
def test_an_output_and_the_media_lie_apart(out, root, how, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArgumentError, match=f"^out = {out}: it {how} root={root}"):
        require_apart(out, Path(root))


def test_outputs_beside_the_media_or_elsewhere_are_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    require_apart("media-out", tmp_path / "media")  # a common beginning of the names is no folder
    require_apart("s3://bucket/media", tmp_path / "media")
    assert absolute("out", "a/b") == str(tmp_path / "a" / "b")
    assert absolute("out", "s3://bucket/a") == "s3://bucket/a"
    for nothing in ("", " ", None, 3):
        with pytest.raises(ArgumentError, match="^out must name a folder, not"):
            absolute("out", nothing)


def test_the_first_signal_asks_and_the_second_drops():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped) as stopped, stopping_in_order() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop()
        os.kill(os.getpid(), signal.SIGTERM)
    assert stopped.value.is_dropped and stopped.value.signal_number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(Stopped) as stopped, stopping_in_order() as stop:
        stop.check()
        os.kill(os.getpid(), signal.SIGINT)
        stop.check()
    assert not stopped.value.is_dropped and stopped.value.signal_number == signal.SIGINT
