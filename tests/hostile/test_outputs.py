"""Outputs in which files are not files, or belong to others: every command ends soon, with a message."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

import avprep
from avprep.cli import main
from avprep.errors import AvprepError
from tests.hostile.limits import limited
from tests.made_clips import write_clips

FILES = ("spec.json", "plan.parquet", "ledger/000000.parquet", "shards/clips-000000.tar")
COMMANDS = {
    "status": ("status",),
    "status --all": ("status", "--all"),
    "verify": ("verify",),
    "verify --deep": ("verify", "--deep"),
    "select": ("select", "--name", "x"),
}


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _link(to: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.unlink()
        path.symlink_to(to)

    return change


CHANGES: dict[str, Callable[[Path], None]] = {
    "a named pipe": _pipe,
    "a folder": _folder,
    "a link to /dev/zero": _link("/dev/zero"),
    "a link to /dev/tty": _link("/dev/tty"),
    "a link to itself": lambda path: _link(path.name)(path),
    "a link to nothing": _link("nowhere"),
    "a link to /etc/passwd": _link("/etc/passwd"),
    "a hole of a terabyte": lambda path: os.truncate(path, 1 << 40),
    "empty": lambda path: path.write_bytes(b"") and None,
    "another's": lambda path: path.write_bytes(b'{"name": "x", "version": 1}' * 100) and None,
}

WHOLE_FILES = ("a link to /etc/passwd", "a hole of a terabyte", "empty", "another's")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("sound") / "out", sources=2)


@pytest.fixture
def out(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "out"))


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_is_none_ends_every_command_with_a_message(out, file, change):
    CHANGES[change](out / file)
    # A ledger that is no file is none: its shard is not finished, which only verify takes for damage.
    is_noticed = file in ("spec.json", "plan.parquet") or (change in WHOLE_FILES and "ledger" in file)
    for name, (command, *options) in COMMANDS.items():
        if change == "a hole of a terabyte" and file.endswith(".tar") and command == "verify":
            continue  # its checksum is taken, for hours, as that of any shard of that size
        with limited():
            result = CliRunner().invoke(main, [command, str(out), *options])
        assert result.exception is None or isinstance(result.exception, SystemExit), (name, result.exception)
        assert "Traceback" not in result.output and max(map(len, result.output.splitlines())) < 2000, name
        if command == "verify" or (command == "status" and is_noticed):
            assert result.exit_code != 0, name
    if not is_noticed or file == "plan.parquet":
        return
    for read in (avprep.read_ledger, avprep.ClipDataset):
        with limited(), pytest.raises((AvprepError, OSError)):
            read(out)


@pytest.mark.parametrize(
    "entries",
    [
        {"root": "/etc"},
        {"root": ["x"]},
        {"root": "x" * 1_000_000},
        {"fingerprint": "x" * 1_000_000},
        {"fingerprint": {"a": 1}},
        {"dataset": "x"},
        {"options": []},
        {"options": {"video_codec": "x\x1b[2J"}},
        {"kind": "x" * 100_000},
        {"format": "x" * 100_000},
    ],
    ids=lambda entries: json.dumps(entries)[:40],
)
def test_entries_of_a_hostile_header_end_every_command_with_a_message(out, entries):
    header = json.loads((out / "spec.json").read_text())
    (out / "spec.json").write_text(json.dumps(header | entries))
    key = avprep.read_ledger(out)["key"][0].as_py() if entries.keys().isdisjoint({"kind", "format"}) else "x"
    for command, *options in (*COMMANDS.values(), ("status", "--try", key)):
        with limited():
            result = CliRunner().invoke(main, [command, str(out), *options])
        assert result.exception is None or isinstance(result.exception, SystemExit), (command, options)
        assert max(map(len, result.output.splitlines())) < 2000, (command, options)
