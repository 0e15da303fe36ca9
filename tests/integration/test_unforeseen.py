"""Faults of avprep in mid-run: their clips are not called damaged, and nobody can overlook them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import avprep.jobs.faults
import avprep.media.decode
import avprep.media.probe
from avprep.cli.common import FAULTS
from avprep.shards.ledger import read_ledgers
from avprep.shards.store import open_store
from tests.avprep.media.flash_click import write_flash_click
from tests.integration.test_faults import finish, start


@pytest.fixture
def media(tmp_path) -> Path:
    """Three sources of two clips each."""
    root = tmp_path / "media"
    root.mkdir()
    write_flash_click(root / "a.mp4", seconds=3.4)
    for name in "bc":
        shutil.copy(root / "a.mp4", root / f"{name}.mp4")
    return root


def fail_in_b() -> None:
    """A fault that only b.mp4 meets, in its second clip."""
    clip = avprep.media.decode._Reader._clip

    def failing(reader, start, *rest):
        if start and reader._source.path.endswith("b.mp4"):
            start = None
        return clip(reader, start, *rest)

    avprep.media.decode._Reader._clip = failing


def fail_in_all_headers() -> None:
    avprep.jobs.faults.FIRST = 2
    avprep.media.probe._parts = lambda *_: None


def fail_in_all_clips() -> None:
    avprep.jobs.faults.FIRST = 3
    avprep.media.decode._Reader._clip = lambda *_: undefined_name  # type: ignore[name-defined]  # noqa: F821


def rows_of(out: Path) -> list[tuple[str, str, str]]:
    rows = [row for _, rows, _ in read_ledgers(open_store(out)) for row in rows]
    return sorted((row.source, row.status, row.reason) for row in rows)


@pytest.mark.timeout(120)
def test_a_fault_costs_its_clips_their_rows_say_so_and_the_run_does_not_end_well(media, tmp_path):
    out = tmp_path / "out"
    code, said = finish(start(media, out, before=fail_in_b))
    whole = [(name, "written", "") for name in ("a.mp4", "a.mp4", "b.mp4", "c.mp4", "c.mp4")]
    assert rows_of(out) == sorted([*whole, ("b.mp4", "failed", "unforeseen")])
    assert code == FAULTS
    assert said.splitlines()[-1].startswith(f"FAULTS OF AVPREP: 1 of 6 planned clips of {out}"), said
    code, said = finish(start(media, out))  # nothing to do, and the fault is not forgotten
    assert code == FAULTS and "1 unforeseen: a fault of avprep itself" in said
    code, said = finish(start(media, out, "--only-failed"))  # after the fix
    assert code == 0, said
    assert rows_of(out) == sorted([*whole, ("b.mp4", "written", "")])


@pytest.mark.timeout(120)
def test_a_fault_in_all_headers_ends_the_run_before_there_is_a_plan(media, tmp_path):
    code, said = finish(start(media, tmp_path / "out", before=fail_in_all_headers))
    assert code == 2 and "the first 3 files all failed by a fault of avprep" in said, said
    assert "TypeError in avprep.media.probe, probe" in said and "Traceback" not in said
    assert not (tmp_path / "out" / "plan.parquet").exists()
    assert finish(start(media, tmp_path / "out"))[0] == 0


@pytest.mark.timeout(120)
def test_a_fault_in_all_clips_ends_the_run_and_they_can_be_tried_again(media, tmp_path):
    out = tmp_path / "out"
    code, said = finish(start(media, out, before=fail_in_all_clips))
    assert code == 2 and "the first 4 clips all failed by a fault of avprep" in said, said
    assert finish(start(media, out, "--only-failed"))[0] == 0
    assert {status for _, status, _ in rows_of(out)} == {"written"} and len(rows_of(out)) == 6
