"""Lists through `avprep clip`: every row is a clip, or a row of the ledger that says why."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from avprep.cli import main
from avprep.shards.ledger import LedgerRow, read_ledgers
from avprep.shards.plan import PlanReader
from avprep.shards.store import open_store

pytestmark = pytest.mark.timeout(120)

ROWS = (
    "video,start,stop,tag,extra",
    "alpha/scene 0.mp4,0,1.7,dog|cat,",
    "alpha/scene 0.mp4,3,2,dog,",
    ",0,1,dog,",
    "alpha/scene 1.mp4,0,1.7",
    "gone.mp4,0,1.7,dog,",
    "beta/scene 0.mp4,100,200,dog,",
)


def clip(root: Path, out: Path, *args: object) -> Result:
    listing = ("--list", out.parent / "list.csv", "--path-column", "video", "--label-column", "tag")
    command = ("clip", "--dataset", "manifest", "--root", root, "--out", out, *listing)
    small = ("--workers", 0, "--size", 32)
    return CliRunner().invoke(main, [str(arg) for arg in (*command, *small, *args)])


def rows_of(out: Path) -> dict[str, LedgerRow]:
    found = [row for _, rows, _ in read_ledgers(open_store(out)) for row in rows]
    by_source = {row.source: row for row in found}
    assert len(by_source) == len(found)
    return by_source


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "list.csv").write_text("\n".join(ROWS))
    return tmp_path / "out"


def assert_every_row_has_its_reason(rows: dict[str, LedgerRow]) -> None:
    assert {source: (row.status, row.reason, row.detail) for source, row in rows.items() if row.reason} == {
        "list.csv:3": ("failed", "bad_row", "line 3 of list.csv: start 3 is not before stop 2"),
        "list.csv:4": ("failed", "bad_row", "line 4 of list.csv: no usable path: ''"),
        "list.csv:5": ("failed", "bad_row", "line 5 of list.csv: it has 3 cells, the header has 5"),
        "gone.mp4": ("failed", "missing", rows["gone.mp4"].detail),
        "beta/scene 0.mp4": ("filtered", "too_short", rows["beta/scene 0.mp4"].detail),
    }


def test_every_row_is_a_clip_or_a_row_of_the_ledger(clip_root, out):
    dry = clip(clip_root, out, "--dry-run").output
    assert "6 planned = 1 to make, 1 filtered, 4 failed" in dry and "3 bad_row: the row of the list" in dry
    assert clip(clip_root, out).exit_code == 0
    rows = rows_of(out)
    assert_every_row_has_its_reason(rows)
    assert rows["alpha/scene 0.mp4"].status == "written"
    tried = CliRunner().invoke(main, ["status", str(out), "--try", rows["list.csv:4"].key])
    assert tried.exit_code == 1 and "bad_row: line 4 of list.csv: no usable path" in tried.output


def test_a_row_that_names_no_file_is_never_opened_as_one(clip_root, out):
    clip(clip_root, out)
    assert clip(clip_root, out, "--only-failed").exit_code == 0
    assert_every_row_has_its_reason(rows_of(out))


def mend(out: Path, **rows: str) -> None:
    """`line3`: the row of that line."""
    lines = list(ROWS)
    for line, row in rows.items():
        lines[int(line.removeprefix("line")) - 1] = row
    (out.parent / "list.csv").write_text("\n".join(lines))


def outcomes(out: Path) -> dict[tuple[str, float], tuple[str, str, str]]:
    rows = [row for _, rows, _ in read_ledgers(open_store(out)) for row in rows]
    found = {(row.source, row.start_s): (row.status, row.reason, row.detail) for row in rows}
    assert len(found) == len(rows) == PlanReader(open_store(out)).clips
    return found


@pytest.mark.parametrize("growth", ["--add-new", "--replace-changed"])
def test_a_mended_row_becomes_its_clip(growth, clip_root, out):
    clip(clip_root, out)
    mend(out, line3="alpha/scene 0.mp4,1.7,3.4,dog,", line4="beta/scene 1.mp4,0,1.7,rain,")
    said = clip(clip_root, out).output
    assert "2 rows of the list that named no file or span (list.csv:3, list.csv:4); --add-new or" in said
    assert clip(clip_root, out, growth).exit_code == 0
    assert clip(clip_root, out.parent / "whole").exit_code == 0
    assert outcomes(out) == outcomes(out.parent / "whole")
    assert outcomes(out)["alpha/scene 0.mp4", 1.7][0] == "written"
    again = clip(clip_root, out).output
    assert "since the plan" not in again and "nothing to do" in again
    verified = CliRunner().invoke(main, ["verify", str(out), "--deep"])
    assert verified.exit_code == 0, verified.output


def test_replace_changed_adds_no_row_that_was_not_mended(clip_root, out):
    clip(clip_root, out)
    last = ROWS[-1] + "\nbeta/scene 1.mp4,0,1.7,rain,"
    mend(out, line3="alpha/scene 0.mp4,1.7,3.4,dog,", line7=last)
    clip(clip_root, out, "--replace-changed")
    sources = {source for source, _ in outcomes(out)}
    assert "list.csv:3" not in sources and "beta/scene 1.mp4" not in sources
    assert ("alpha/scene 0.mp4", 1.7) in outcomes(out)


def test_a_row_that_is_taken_out_of_the_list_goes_and_shards_stay_as_they_are(clip_root, out):
    clip(clip_root, out)
    shards = {path: path.read_bytes() for path in (out / "shards").iterdir()}
    mend(out, line5="")
    said = clip(clip_root, out, "--add-new").output
    assert "5 planned = 1 written, 1 filtered, 3 failed" in said
    assert {path: path.read_bytes() for path in (out / "shards").iterdir()} == shards
    history = PlanReader(open_store(out)).history()
    assert (len(history.generations), history.revision) == (1, 1)  # nothing was added


def test_another_fault_of_a_row_is_in_the_ledger_after_replace_changed(clip_root, out):
    clip(clip_root, out)
    mend(out, line3="alpha/scene 0.mp4,5,4,dog,")
    assert "files (list.csv:3); --replace-changed" in clip(clip_root, out).output
    clip(clip_root, out, "--replace-changed")
    detail = "line 3 of list.csv: start 5 is not before stop 4"
    assert outcomes(out)["list.csv:3", 0.0] == ("failed", "bad_row", detail)
