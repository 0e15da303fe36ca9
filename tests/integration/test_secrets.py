"""Credentials in an address reach nothing that a run prints or leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import avmodel.cli
import avprep
import avprep.cli
from avmodel.mdsa.options import ReconstructOptions
from avprep.cli.group import ErrorReportingGroup, LazyCommand
from avprep.errors import ArgumentError
from tests.avprep.media.flash_click import write_flash_click
from tests.made_clips import write_clips

SECRET = "wJalrXUtnFEMIK7MDENG"
ADDRESSES = (f"s3://AKIA4EXAMPLE:{SECRET}@bucket/x", f"s3://bucket/x?secret_access_key={SECRET}")


def _takes_text(parameter: click.Parameter) -> bool:
    return isinstance(parameter.type, (click.Path, click.types.StringParamType)) and not parameter.is_eager


def _parameters(group: ErrorReportingGroup) -> list[tuple[ErrorReportingGroup, str, click.Parameter]]:
    found = []
    for name, command in group.commands.items():
        assert isinstance(command, LazyCommand)
        found += [(group, name, p) for p in command.load().params if _takes_text(p)]
    return found


PARAMETERS = [*_parameters(avprep.cli.main), *_parameters(avmodel.cli.main)]


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize(
    ("group", "command", "parameter"), PARAMETERS, ids=[f"{c} {p.opts[0]}" for _, c, p in PARAMETERS]
)
def test_every_option_that_takes_text_refuses_credentials(group, command, parameter, address):
    option = parameter.opts[0]
    forms = [[option, address], [f"{option}={address}"]] if option.startswith("-") else [[address]]
    for given in forms:
        result = CliRunner().invoke(group, [command, *given])
        assert result.exit_code == 2
        assert "must not hold credentials" in result.output.replace("\n", " ")
        assert SECRET not in result.output and "AKIA" not in result.output
        if option.startswith("-"):
            assert f"Error: {option} must" in result.output


def test_a_misspelt_option_repeats_no_credentials():
    result = CliRunner().invoke(avprep.cli.main, ["clip", f"--oot={ADDRESSES[0]}"])
    assert result.exit_code == 2 and SECRET not in result.output


@pytest.mark.parametrize("address", ADDRESSES)
def test_every_function_that_takes_an_address_refuses_credentials(address, tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"")
    calls = {
        "out": lambda: avprep.clip_dataset(tmp_path, address),
        "sources": lambda: avprep.clip_dataset(address, tmp_path / "out"),
        "root": lambda: avprep.clip_dataset(["a.mp4"], tmp_path / "out", root=address),
        "list_file": lambda: avprep.clip_dataset(tmp_path, tmp_path / "out", list_file=address),
        "sources[0]": lambda: avprep.clip_dataset([address], tmp_path / "out", root=tmp_path),
        "clips": lambda: avprep.select(address, name="x"),
        "path": lambda: next(avprep.read_clips(address)),
        "an output's address": lambda: avprep.ClipDataset(address),
        "ckpt": lambda: ReconstructOptions(ckpt=Path(address), clips=tmp_path, out=tmp_path),
    }
    for name, call in calls.items():
        with pytest.raises(ArgumentError) as caught:
            call()
        assert str(caught.value).startswith(f"{name} must not hold credentials"), name
        assert SECRET not in str(caught.value)
    for call in (avprep.LatentDataset, avprep.web_dataset, avprep.read_ledger):
        with pytest.raises(ArgumentError, match="must not hold credentials"):
            call(address)


def test_the_errors_of_a_store_are_scrubbed(tmp_path, monkeypatch):
    """Of pyarrow.fs, whose messages may repeat what the environment gave it."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    store = avprep.shards.store.open_store(f"file://{tmp_path}/{SECRET}")
    (tmp_path / SECRET).mkdir()
    (tmp_path / SECRET / "shards").write_text("in the way")
    for call in (
        lambda: store.open("gone"),
        lambda: store.write("shards/a.tar").__enter__(),
    ):
        with pytest.raises(OSError) as caught:
            call()
        assert SECRET not in str(caught.value.strerror) and caught.value.errno is not None
        assert caught.value.__cause__ is None and caught.value.__suppress_context__


@pytest.mark.timeout(120)
def test_a_manifest_with_credentials_leaves_none_of_them_anywhere(tmp_path):
    """In every column, in the header and behind it: what the run prints and every byte that it leaves."""
    root, out = tmp_path / "media", tmp_path / "out"
    root.mkdir()
    write_flash_click(root / "a.mp4", seconds=3.4)
    rows = ["a.mp4,,,dog,a dog,train", "b.mp4,,,cat,,train"]
    for position in range(6):
        cells = ["a.mp4", "", "", "dog", "a dog", "train"]
        cells[position] = ADDRESSES[position % 2]
        rows.append(",".join(cells))
    header = f"path,start,stop,labels,caption,split,{ADDRESSES[1]}"
    text = "\n".join([header, *(f"{row}," for row in rows)])
    (root / "manifest.csv").write_text(text + "\n")
    arguments = ["clip", "--dataset", "manifest", "--root", root, "--out", out, "--workers", 0, "--size", 32]
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(Path(avprep.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-m", "avprep", *map(str, arguments)],
        capture_output=True,
        env=environment,
        check=False,
    )
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    assert "6 rows that hold credentials" in said
    assert SECRET not in said and "AKIA" not in said
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path.parent != root]
    assert len(left) > 4
    assert not [path for path in left if SECRET.encode() in path.read_bytes()]


def test_status_of_an_output_with_a_remembered_secret_repeats_none(tmp_path):
    """An output of an earlier version, or one that was made by hand."""
    out = write_clips(tmp_path / "out")
    header = (out / "spec.json").read_text()
    (out / "spec.json").write_text(header.replace('"root": "."', f'"root": "{ADDRESSES[0]}"'))
    key = avprep.ClipDataset(out).keys[0]
    for arguments in (["status", str(out)], ["verify", str(out)], ["status", str(out), "--try", key]):
        result = CliRunner().invoke(avprep.cli.main, arguments)
        assert SECRET not in result.output
