from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from avprep.shards import lock as module
from avprep.shards.lock import NAME, OutputInUse, lock
from avprep.shards.store import LocalStore


def test_a_second_run_is_refused_with_the_first_ones_process(tmp_path):
    store = LocalStore(str(tmp_path / "out"))
    with lock(store):
        with pytest.raises(OutputInUse, match=f"out: process {os.getpid()} on .* is writing there"):
            with lock(store):
                pass
    with lock(store):  # released
        assert (store.root / module.NAME).read_text().startswith(f"process {os.getpid()} ")
    assert (store.root / module.NAME).read_text() == ""


def test_files_that_lost_writers_left_are_removed_and_others_stay(tmp_path):
    (tmp_path / "shards").mkdir()
    for name in (".spec.json.12.tmp", "shards/.clips-000000.tar.12.tmp", "notes.tmp", ".hidden"):
        (tmp_path / name).write_text("x")
    with lock(LocalStore(str(tmp_path))):
        names = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {"notes.tmp", ".hidden", module.NAME}


_HOLDER = """
import os, sys, time
from avprep.shards.lock import lock
from avprep.shards.store import LocalStore
with lock(LocalStore(sys.argv[1])):
    if not os.fork():
        os.close(1), os.close(2)
        time.sleep(4)
        os._exit(0)
    os._exit(0)  # as by SIGKILL: the child holds the lock on
"""


def test_the_children_of_a_killed_run_are_waited_for(tmp_path):
    """Longer than a running holder is: 4 s here, and a data loader may take 5."""
    root = Path(module.__file__).parents[2]
    subprocess.run([sys.executable, "-c", _HOLDER, str(tmp_path)], check=True, cwd=root, timeout=60)
    with open(tmp_path / module.NAME) as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with lock(LocalStore(str(tmp_path))):
        pass


@pytest.mark.parametrize("is_begun", [True, False])
def test_another_folder_in_the_outputs_place_ends_the_run(tmp_path, is_begun):
    """It vanished, was begun anew, and what was written there is lost as the first one comes back."""
    out = tmp_path / "out"
    with (
        pytest.raises(OSError, match="not the folder that this run began to write into"),
        lock(LocalStore(str(out))),
    ):
        out.rename(tmp_path / "elsewhere")
        out.mkdir()
        if is_begun:
            (out / NAME).touch()
        (out / ".a.tar.1.tmp").touch()
    assert (out / ".a.tar.1.tmp").exists()  # nothing is removed there


def test_an_output_that_goes_and_comes_back_is_the_same(tmp_path):
    out = tmp_path / "out"
    with lock(LocalStore(str(out))):
        out.rename(tmp_path / "elsewhere")
        (tmp_path / "elsewhere").rename(out)
