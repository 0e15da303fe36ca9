"""Every hostile media file is a ledger row: no crash, hang or traceback, and no other file is read."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

import avprep
from avprep.reasons import MediaError
from avprep.shards.ledger import LedgerRow, read_ledgers
from avprep.shards.store import open_store
from tests.avprep.media.flash_click import write_flash_click
from tests.hostile.limits import MEMORY
from tests.hostile.media_corpus import corpus, references, url_entry, with_reference

TOP = Path(__file__).parents[2]
OPTIONS = "--workers 0 --frames 4 --size 32 --n-mels 16 --n-fft 256 --clips-per-source 2 --source-timeout 30"


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound movie outside of the root, with its index behind its samples."""
    path = tmp_path_factory.mktemp("other") / "other.mov"
    write_flash_click(path, seconds=2.0, events_s=(1.0,))
    data = path.read_bytes()
    assert data.index(b"mdat") < data.index(b"moov") and b"dref" in data
    return path


@pytest.fixture(scope="module")
def run(other: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, list[LedgerRow]], str, int]:
    """One run over the whole corpus: its ledger rows by source, what it said, and its greatest memory."""
    root, out = tmp_path_factory.mktemp("media"), tmp_path_factory.mktemp("run") / "out"
    for name, data in corpus(other).items():
        (root / name).write_bytes(data)
    arguments = f"clip --dataset folder --root {root} --out {out} {OPTIONS}".split()
    measured = (
        "import re, resource; from avprep.cli import main\n"
        "try:\n    main()\n"
        "finally:\n    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss\n"
        # Its own ru_maxrss would begin at that of the process that started it.
        "    own = int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
        "    print('KB', max(own, child))"
    )
    done = subprocess.run(
        [sys.executable, "-c", measured, *arguments],
        cwd=TOP,
        env=os.environ | {"PYTHONPATH": str(TOP)},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode in (0, 3), said
    rows: dict[str, list[LedgerRow]] = {}
    for _, found, _ in read_ledgers(open_store(out)):
        for row in found:
            rows.setdefault(row.source, []).append(row)
    memory = re.search(r"KB (\d+)", done.stdout)
    assert memory, said
    return rows, said, 1024 * int(memory[1])


@pytest.mark.timeout(1000)
def test_every_file_is_a_row_with_a_reason_and_nothing_is_a_traceback(run, other):
    rows, said, memory = run
    names = corpus(other).keys()
    assert rows.keys() == names and len(names) > 90
    assert "Traceback" not in said
    for row in (row for found in rows.values() for row in found):
        assert row.status == "written" or (row.reason and "\n" not in row.detail and len(row.detail) < 1000)
    assert not [name for name, found in rows.items() if any(row.reason == "crashed" for row in found)]
    assert memory < 600e6 + MEMORY  # torch, FFmpeg and the interpreter, and the limit of a source


@pytest.mark.timeout(1000)
def test_no_file_that_asks_for_another_one_gives_a_clip(run, other):
    rows, _, _ = run
    written = Counter(row.source for found in rows.values() for row in found if row.status == "written")
    assert not written.keys() & references(other).keys()
    assert written  # some mutants are sound enough


@pytest.mark.parametrize("location", ["file", "path", "pipe"])
def test_a_data_reference_is_not_opened(other, tmp_path, location):
    """Whether it is opened shows by a named pipe: to open one waits for its other end."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    entry = {
        "file": url_entry(fifo.as_uri()),
        "path": url_entry(str(fifo)),
        "pipe": url_entry(f"pipe:{fifo}"),
    }
    (tmp_path / "movie.mov").write_bytes(with_reference(other.read_bytes(), entry[location]))
    began = time.monotonic()
    with pytest.raises(MediaError):
        list(avprep.read_clips(tmp_path / "movie.mov", spec=avprep.ClipSpec(frames=4, size=32)))
    assert time.monotonic() - began < 60
