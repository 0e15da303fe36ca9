"""A kill at every system call of an exchange: the old samples or the new ones are whole, never a mixture."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from avmodel.dit.exchange import finish_exchange, staged

OLD = {"spec.json", "ledger/000000.parquet", "shards/latents-000000.tar", "sheet.png", "notes.txt"}
OLD |= {f"{'a' * 16}_{i:011d}.{kind}" for i in range(3) for kind in ("mp4", "wav")}
NEW = {"spec.json", "ledger/000000.parquet", "shards/latents-000000.tar", "sheet.png", "request.json"}
NEW |= {f"{'b' * 16}_{i:011d}.{kind}" for i in range(2) for kind in ("mp4", "wav")}


class Killed(BaseException):
    pass


def write(folder: Path, names: set[str], text: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def files(folder: Path) -> dict[str, str]:
    """The files by name, without those of an exchange that is not over."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_text() for name, path in found.items() if not name.startswith(".")}


def exchange(out: Path) -> None:
    with staged(out) as new:
        write(new, NEW, "new")


def killed_at(monkeypatch, call: int) -> list[str]:
    """The process ends at the `call`-th change of the file system."""
    calls: list[str] = []

    def counted(name, inner):
        def change(*args, **options):
            if len(calls) == call:
                raise Killed
            calls.append(name)
            return inner(*args, **options)

        return change

    for owner, name in ((os, "rename"), (os, "replace"), (os, "unlink"), (Path, "unlink"), (Path, "mkdir")):
        monkeypatch.setattr(owner, name, counted(name, getattr(owner, name)))
    # A killed process removes nothing on its way out.
    monkeypatch.setattr(shutil, "rmtree", lambda *args, **options: None)
    return calls


KEPT = {"notes.txt": "old"}
CALLS = 55  # more than an exchange has


@pytest.mark.parametrize("call", range(CALLS))
def test_a_kill_anywhere_leaves_the_old_or_the_new(tmp_path, monkeypatch, call):
    write(tmp_path, OLD, "old")
    before = files(tmp_path)
    with monkeypatch.context() as patch:
        calls = killed_at(patch, call)
        try:
            exchange(tmp_path)
        except Killed:
            pass
    is_committed = "rename" in calls
    if not is_committed:
        assert files(tmp_path) == before  # with nothing done to repair them
    elif "ledger/000000.parquet" in (found := files(tmp_path)):
        # Whatever is finished by its ledger is of one kind.
        assert found["shards/latents-000000.tar"] == found["ledger/000000.parquet"]
    finish_exchange(tmp_path)
    expected = dict.fromkeys(NEW, "new") | KEPT if is_committed else before
    assert files(tmp_path) == expected


def test_the_kills_reach_the_end_of_an_exchange(tmp_path, monkeypatch):
    write(tmp_path, OLD, "old")
    with monkeypatch.context() as patch:
        calls = killed_at(patch, 10**6)
        exchange(tmp_path)
    assert calls.count("rename") == 2 and len(NEW) < len(calls) < CALLS


def test_an_exchange_ends_with_the_new_samples_and_nothing_else_of_its_own(tmp_path):
    write(tmp_path, OLD, "old")
    exchange(tmp_path)
    assert files(tmp_path) == dict.fromkeys(NEW, "new") | KEPT
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_an_exception_removes_what_was_begun(tmp_path):
    write(tmp_path, OLD, "old")
    with pytest.raises(ValueError), staged(tmp_path) as new:
        write(new, NEW, "new")
        raise ValueError
    assert files(tmp_path) == dict.fromkeys(OLD, "old") and not (tmp_path / ".new").exists()
