from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from avmodel.training.log import RunLog, naming


def steps_in(folder: Path) -> list[tuple[int, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"]) for row in rows]


def write_steps(folder: Path, count: int) -> None:
    log = RunLog(folder, first_step=0, is_first=True)
    for step in range(1, count + 1):
        log.scalars(step, {"loss": float(step)})
    log.close()


def test_steps_that_are_run_again_are_dropped(tmp_path):
    write_steps(tmp_path, 5)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "lo')  # the process ended here
    log = RunLog(tmp_path, first_step=3, is_first=True)
    log.scalars(4, {"loss": 40.0})
    log.close()
    assert steps_in(tmp_path) == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0)]


def test_a_kill_while_lines_are_dropped_loses_none(tmp_path, monkeypatch):
    write_steps(tmp_path, 5)

    def killed(*_paths: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            RunLog(tmp_path, first_step=3, is_first=True)
    assert [step for step, _ in steps_in(tmp_path)] == [1, 2, 3, 4, 5]


def test_only_the_first_rank_writes(tmp_path):
    log = RunLog(tmp_path, first_step=0, is_first=False)
    log.scalars(1, {"loss": 1.0})
    log.close()
    assert not list(tmp_path.iterdir())


def test_an_error_without_a_file_gets_its_name_and_others_keep_theirs(tmp_path):
    with pytest.raises(OSError) as caught, naming(tmp_path / "metrics.jsonl"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(tmp_path / "metrics.jsonl") and caught.value.errno == errno.ENOSPC
    with pytest.raises(FileNotFoundError) as caught, naming(tmp_path / "metrics.jsonl"):
        open(tmp_path / "other")
    assert caught.value.filename == str(tmp_path / "other")
