from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from avmodel.cli import main
from avmodel.config import MDSA_PRESETS
from avmodel.mdsa import reconstruct as module
from avmodel.mdsa.checkpoint import mdsa_payload
from avmodel.mdsa.model import MDSA
from avmodel.training.checkpoints import save_checkpoint
from avprep.shards.lock import lock
from avprep.shards.store import open_store
from tests.made_clips import TINY, write_clips

pytest.importorskip("av")


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    return write_clips(tmp_path_factory.mktemp("made") / "clips", sources=2, clips_each=3)


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("mdsa") / "mdsa.pt", seed=0)


def checkpoint(path: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    save_checkpoint(path, mdsa_payload(MDSA(MDSA_PRESETS["tiny"]), TINY, 0))
    return path


def reconstruct(ckpt: Path, clips: Path, out: Path, *more: str):
    command = ["reconstruct", "--ckpt", ckpt, "--clips", clips, "--out", out, "--device", "cpu", *more]
    return CliRunner().invoke(main, [str(part) for part in command])


def pictures(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("*.mp4")}


def test_what_is_done_is_not_done_again(ckpt, clips, tmp_path):
    first = reconstruct(ckpt, clips, tmp_path, "--limit", "2")
    assert first.exit_code == 0, first.output
    assert len(pictures(tmp_path)) == 2 and "2 clips in" in first.output
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.mp4")}
    again = reconstruct(ckpt, clips, tmp_path, "--limit", "2")
    assert again.output.splitlines()[0] == "nothing to do: all 2 clips are there"
    assert again.output.splitlines()[-1] == first.output.splitlines()[-1]  # the same means
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.mp4")} == times


def test_an_interrupted_run_resumes_to_the_files_of_an_undisturbed_one(ckpt, clips, tmp_path, monkeypatch):
    whole = reconstruct(ckpt, clips, tmp_path / "whole", "--batch-size", "2")
    inner, calls = module.write_mp4, []

    def killed(path, *args, **options):
        inner(path, *args, **options)
        calls.append(path)
        if len(calls) == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_mp4", killed)
        assert reconstruct(ckpt, clips, tmp_path / "parts", "--batch-size", "2").exit_code == 130
    assert len(pictures(tmp_path / "parts")) == 3
    with open(tmp_path / "parts" / module.RECORD_FILE, "a") as file:
        file.write('{"key": "cut o')
    resumed = reconstruct(ckpt, clips, tmp_path / "parts", "--batch-size", "2")
    assert resumed.output.count(".mp4  PSNR-V") == 3
    assert pictures(tmp_path / "parts") == pictures(tmp_path / "whole")
    last = [done.output.splitlines()[-1].split("PSNR-V")[1] for done in (whole, resumed)]
    assert last[0] == last[1]


def test_another_checkpoint_or_other_clips_are_made_anew(ckpt, clips, tmp_path):
    reconstruct(ckpt, clips, tmp_path / "out", "--limit", "1")
    before = pictures(tmp_path / "out")
    other = checkpoint(tmp_path / "other.pt", seed=1)
    assert "nothing to do" not in reconstruct(other, clips, tmp_path / "out", "--limit", "1").output
    assert pictures(tmp_path / "out").keys() == before.keys() and pictures(tmp_path / "out") != before


@pytest.mark.parametrize("record", ["", "[1]\n", "{\n", '{"ckpt": 1}\n{"key": 3}\n'])
def test_a_damaged_record_is_made_anew(ckpt, clips, tmp_path, record):
    (tmp_path / module.RECORD_FILE).write_text(record)
    assert reconstruct(ckpt, clips, tmp_path, "--limit", "1").exit_code == 0
    lines = [json.loads(line) for line in (tmp_path / module.RECORD_FILE).read_text().splitlines()]
    assert len(lines) == 2 and lines[1].keys() == {"key", "psnr_v", "psnr_a", "mel_psnr"}


def test_two_runs_into_one_folder_are_one_too_many(ckpt, clips, tmp_path):
    with lock(open_store(tmp_path)):
        done = reconstruct(ckpt, clips, tmp_path)
    assert done.exit_code == 2 and "is writing there" in done.output.replace("\n", " ")
