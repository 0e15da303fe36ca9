from __future__ import annotations

import os
import time
from types import SimpleNamespace

import pytest

from avprep.shards.layout import ShardError
from avprep.shards.lock import lock
from avprep.shards.store import open_store


@pytest.fixture(params=["local", "arrow"])
def store(request, tmp_path):
    (tmp_path / "out").mkdir()
    return open_store(str(tmp_path / "out") if request.param == "local" else f"file://{tmp_path}/out")


def test_a_file_appears_when_it_is_whole(store):
    with store.write("shards/a.tar") as file:
        file.write(b"12345")
        assert not store.exists("shards/a.tar")
    assert store.exists("shards/a.tar")
    assert store.names("shards") == ["shards/a.tar"]
    with store.open("shards/a.tar") as file:
        assert file.read() == b"12345"


def test_a_failed_write_leaves_nothing_and_keeps_the_old(store):
    with store.write("ledger/0") as file:
        file.write(b"old")
    with pytest.raises(OSError, match="full"), store.write("ledger/0") as file:
        file.write(b"new")
        raise OSError("disk full")
    with store.open("ledger/0") as file:
        assert file.read() == b"old"
    assert store.names("ledger") == ["ledger/0"]


def test_what_is_not_there(store):
    assert store.names("nowhere") == []
    assert not store.exists("nowhere/x")
    store.remove("nowhere/x")
    with pytest.raises(FileNotFoundError):
        store.open("nowhere/x")


def test_a_folder_that_vanished_is_not_made_anew(tmp_path):
    store = open_store(tmp_path / "gone")
    for name in ("stats.json", "shards/a.tar"):
        with pytest.raises(FileNotFoundError), store.write(name):
            pass
    assert not (tmp_path / "gone").exists()


def test_a_killed_runs_leftovers_are_swept(tmp_path):
    store = open_store(tmp_path)
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / ".clips-000000.tar.123.tmp").write_bytes(b"half")
    assert store.names("shards") == []
    store.sweep()
    assert not list((tmp_path / "shards").iterdir())


def test_only_temporary_files_of_this_project_are_swept_and_only_where_it_writes(tmp_path):
    kept = [".note.tmp", ".a.x12.tmp", "a.12.tmp", ".12.tmp", "media/.a.mp4.12.tmp", "shards/x/.a.12.tmp"]
    swept = [".spec.json.12.tmp", "scores/.000000.parquet.7.tmp", "selections/.x.parquet.99999.tmp"]
    for name in [*kept, *swept]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / ".folder.1.tmp").mkdir()
    (tmp_path / ".link.2.tmp").symlink_to(tmp_path / ".note.tmp")
    open_store(tmp_path).sweep()
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.tmp")} == {
        *kept,
        ".folder.1.tmp",
        ".link.2.tmp",
    }


DAY_S = 24 * 3600


def aged(path, age_s: float):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"half")
    os.utime(path, (time.time() - age_s,) * 2)


def test_stale_objects_of_killed_runs_are_swept_from_an_object_store(tmp_path):
    """No lock keeps a second run out, so that what is younger than a day may be in the making."""
    stale = [
        "spec.json.12.tmp",
        "shards/clips-000000.tar.123.tmp",
        "ledger/000000.parquet.7.tmp",
        "scores/000000.parquet.7.tmp",
        "selections/x.parquet.99999.tmp",
        "cuts/000000.parquet.1.tmp",
    ]
    kept = [
        "notes.2024.tmp",  # another's: no file of an output has that name
        "shards/clips-000000.tar",
        "shards/a.x12.tmp",
        "shards/.12.tmp",
        "shards/deep/clips-000000.tar.123.tmp",
        "media/a.mp4.12.tmp",
    ]
    for name in [*stale, *kept]:
        aged(tmp_path / name, DAY_S + 60)
    aged(tmp_path / "shards" / "clips-000001.tar.5.tmp", DAY_S - 600)
    with lock(open_store(f"file://{tmp_path}")):
        left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {*kept, "shards/clips-000001.tar.5.tmp"}


def test_objects_without_a_time_are_not_swept(tmp_path, monkeypatch):
    store = open_store(f"file://{tmp_path}")
    aged(tmp_path / "spec.json.12.tmp", DAY_S + 60)
    found = SimpleNamespace(base_name="spec.json.12.tmp", mtime_ns=None)
    monkeypatch.setattr(store, "_files", lambda folder: [] if folder else [found])
    store.sweep()
    assert (tmp_path / "spec.json.12.tmp").exists()


def test_an_object_that_cannot_get_its_name_leaves_nothing_behind(tmp_path):
    store = open_store(f"file://{tmp_path}")
    (tmp_path / "ledger" / "0" / "a folder").mkdir(parents=True)
    with pytest.raises(OSError, match="ledger/0"), store.write("ledger/0") as file:
        file.write(b"new")
    assert store.names("ledger") == [] and not list(tmp_path.rglob("*.tmp"))


def test_the_names_of_the_root_are_names_of_files(store):
    for name in ("spec.json", "shards/a.tar"):
        with store.write(name) as file:
            file.write(b"x")
    assert store.names("") == ["spec.json"]
    assert store.sizes("") == {"spec.json": 1}


def test_what_is_no_regular_file_is_refused_and_does_not_block(tmp_path):
    store = open_store(tmp_path)
    os.mkfifo(tmp_path / "spec.json")
    (tmp_path / "plan.parquet").symlink_to("/dev/zero")
    for name in ("spec.json", "plan.parquet"):
        with pytest.raises(ShardError, match="no regular file"):
            store.open(name)
    assert store.names("") == []
