"""Faults of the machine: whatever happens to a run, the same command goes on and ends with the same tree.

The run under test is a process of its own. It is forked from a server that has the imports done, so that it
can be killed ten times in seconds. Its work runs in that process, except where the test is about the child
process, which takes seconds to start; those that start Ray are slow and marked so. A hang here would be the
bug: every test has a time limit.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

import avprep.jobs.clip
import avprep.jobs.config
import avprep.jobs.planner
import avprep.stages.clip
import avprep.stages.probe
from avprep.cli import main
from avprep.execution import RunnerConfig
from avprep.shards.ledger import finished_shards, read_ledgers
from avprep.shards.store import open_store
from avprep.shards.verify import verify
from tests.avprep.media.flash_click import write_flash_click
from tests.integration.test_job import digest

LIMIT_S = 110  # of one run; a test's own limit is higher
# What a run imports late, too: pyarrow takes pandas where it is installed.
PRELOADED = ["tests.integration.test_faults", "avprep.cli.run_clip", "pyarrow.pandas_compat", "soundfile"]


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty small sources of two clips each, a broken one and an empty one."""
    root = tmp_path_factory.mktemp("media")
    write_flash_click(root / "00.mp4", seconds=3.4)
    for i in range(1, 20):
        shutil.copy(root / "00.mp4", root / f"{i:02d}.mp4")
    (root / "broken.mp4").write_bytes((root / "00.mp4").read_bytes()[:3000])
    (root / "empty.webm").write_bytes(b"")
    return root


@pytest.fixture(scope="module")
def undisturbed(media, tmp_path_factory) -> dict[str, str]:
    """The digest of every file of a run that nothing disturbs."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    code, said = finish(start(media, out))
    assert code == 0, said
    return digest(out)


# --- runs as processes -----------------------------------------------------------------------------------


class Run(multiprocessing.get_context("forkserver").Process):
    """`avprep clip` in its own process; what it says goes to a file beside its output."""

    def __init__(
        self, arguments: list[str], log: Path, before: Callable[[], None] | None, isolated: bool = False
    ) -> None:
        super().__init__(daemon=False)
        self.arguments, self.log, self.before, self.isolated = arguments, log, before, isolated

    def run(self) -> None:
        os.setpgrp()
        with open(self.log, "wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
        if self.before is not None:
            self.before()
        if not self.isolated:
            avprep.jobs.config.RunnerConfig = partial(RunnerConfig, isolated=False)
        resident = memory_of_this_process("VmRSS")
        try:
            main(self.arguments)  # ends by SystemExit, whose code is the process's
        finally:
            child = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss  # which does the work
            growth = max(memory_of_this_process("VmHWM"), child) - resident
            self.log.with_suffix(".growth").write_text(str(growth))


def memory_of_this_process(field: str) -> int:
    """Bytes: VmRSS is what is resident now, VmHWM the most that ever was."""
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(f"{field}:"))


def start(
    root: Path,
    out: Path,
    *options: object,
    workers: int = 0,
    before: Callable[[], None] | None = None,
    isolated: bool = False,
) -> Run:
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
    arguments = ["clip", "--dataset", "folder", "--root", root, "--out", out, "--workers", workers]
    arguments += ["--size", 32, "--shard-size", 2, *options]
    run = Run([str(a) for a in arguments], out.with_name(f"{out.name}.log"), before, isolated)
    run.start()
    return run


def finish(run: Run) -> tuple[int, str]:
    """(exit code, all that it said); a run that does not end is killed and fails the test."""
    run.join(LIMIT_S)
    if run.exitcode is None:
        run.kill()
        run.join()
        pytest.fail(f"the run did not end in {LIMIT_S} s: {run.log.read_text()}")
    return run.exitcode, run.log.read_text()


def wait_for_shards(run: Run, out: Path, count: int) -> None:
    """Until that many shards are finished, or the run has ended."""
    while run.is_alive() and len(finished_shards(open_store(out))) < count:
        time.sleep(0.002)


def assert_finishes(media: Path, out: Path, undisturbed: dict[str, str], workers: int = 0) -> None:
    """The same command again ends well, and the tree is what it would have been."""
    code, said = finish(start(media, out, workers=workers))
    assert code == 0, said
    assert digest(out) == undisturbed


def assert_one_sentence(code: int, said: str, *words: str) -> None:
    errors = [line for line in said.splitlines() if line.startswith("Error: ")]
    assert code == 1, said
    assert "Traceback" not in said
    assert len(errors) == 1 and all(word in errors[0] for word in words), said


def assert_nothing_half_looks_whole(out: Path) -> None:
    """All that may be wrong is a shard whose ledger is not written yet: the next run makes it again."""
    store = open_store(out)
    if store.exists("plan.parquet"):
        assert [str(d) for d in verify(store) if "a shard without a ledger" not in d.detail] == []


# --- the driver is killed --------------------------------------------------------------------------------


def kill_again_and_again(
    media: Path, out: Path, workers: int, first_s: float, last_s: float, isolated: bool = False
) -> int:
    """Kills ten runs on one output at random moments. Returns how many were killed before they were done."""
    rng = random.Random(workers)
    killed = 0
    for _ in range(10):
        run = start(media, out, workers=workers, isolated=isolated)
        run.join(rng.uniform(first_s, last_s))
        run.kill()
        run.join()
        killed += run.exitcode == -signal.SIGKILL
        assert_nothing_half_looks_whole(out)
        if run.exitcode == 0:  # done before its moment: half of it is to be made again
            for ledger in sorted((out / "ledger").iterdir())[::2]:
                ledger.unlink()
    return killed


@pytest.mark.timeout(240)
@pytest.mark.parametrize("isolated", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_killed_at_ten_random_moments_the_tree_is_the_same(isolated, media, undisturbed, tmp_path):
    began = time.monotonic()
    finish(start(media, tmp_path / "timed", isolated=isolated))
    whole_s = time.monotonic() - began
    assert kill_again_and_again(media, tmp_path / "out", 0, 0.0, whole_s, isolated) > 0
    assert_finishes(media, tmp_path / "out", undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_with_its_workers_at_ten_random_moments_the_tree_is_the_same(
    workers, media, undisturbed, tmp_path
):
    began = time.monotonic()
    assert_finishes(media, tmp_path / "timed", undisturbed, workers)
    whole_s = time.monotonic() - began
    assert kill_again_and_again(media, tmp_path / "out", workers, whole_s / 3, whole_s) > 0
    assert_finishes(media, tmp_path / "out", undisturbed, workers)


# --- signals ---------------------------------------------------------------------------------------------


@pytest.mark.timeout(240)
def test_the_second_signal_drops_what_is_in_hand(media, undisturbed, tmp_path):
    run = start(media, tmp_path / "out")
    wait_for_shards(run, tmp_path / "out", 1)
    while run.is_alive():
        with suppress(ProcessLookupError):  # it has ended since
            os.kill(run.pid, signal.SIGTERM)
        time.sleep(0.001)
    code, said = finish(run)
    # Negative: one more while it was going down.
    assert code in (128 + signal.SIGTERM, -signal.SIGTERM), said
    if code > 0:
        assert "dropped" in said and "Run the same command again" in said and "Traceback" not in said
    assert_nothing_half_looks_whole(tmp_path / "out")
    assert_finishes(media, tmp_path / "out", undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("to_group", [False, True], ids=["driver", "group"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_with_workers_says_how_to_go_on(number, to_group, media, undisturbed, tmp_path):
    """To the driver alone, as `kill` does, and to the whole group, as Ctrl-C and batch systems do."""
    run = start(media, tmp_path / "out", "--shard-size", 1, workers=1)
    wait_for_shards(run, tmp_path / "out", 2)
    (os.killpg if to_group else os.kill)(run.pid, number)
    code, said = finish(run)
    assert code == 128 + number, said
    assert "Run the same command again" in said and "Traceback" not in said
    assert_nothing_half_looks_whole(tmp_path / "out")
    code, said = finish(start(media, tmp_path / "out", "--shard-size", 1))
    assert code == 0, said


# --- workers and nodes are lost --------------------------------------------------------------------------


def ray_workers(driver: int) -> list[int]:
    """The worker processes under a driver; Ray's own processes are not among them."""
    parents: dict[int, int] = {}
    found = []
    for entry in Path("/proc").iterdir():
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(") ")[2].split()[1])
            if (entry / "cmdline").read_bytes().startswith((b"ray::_call", b"ray::IDLE")):
                found.append(int(entry.name))
        except (ValueError, OSError):
            continue  # no process, or one that has just ended

    def is_under(process: int) -> bool:
        while process > 1 and process != driver:
            process = parents.get(process, 0)
        return process == driver

    return [process for process in found if is_under(process)]


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_workers_killed_as_for_their_memory_cost_no_clip(media, undisturbed, tmp_path):
    run = start(media, tmp_path / "out", workers=2)
    killed = 0
    for count in (1, 5, 9):
        wait_for_shards(run, tmp_path / "out", count)
        for process in ray_workers(run.pid):
            os.kill(process, signal.SIGKILL)
            killed += 1
    code, said = finish(run)
    assert code == 0, said
    assert killed and "worker lost" in said
    assert digest(tmp_path / "out") == undisturbed


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_node_killed_in_the_middle_costs_no_clip(media, undisturbed, tmp_path):
    ray = pytest.importorskip("ray.cluster_utils")
    cluster = ray.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        second = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        run = start(media, tmp_path / "out", "--address", cluster.address)
        wait_for_shards(run, tmp_path / "out", 4)
        cluster.remove_node(second, allow_graceful=False)
        assert run.is_alive(), "the node went too late to matter"
        code, said = finish(run)
    finally:
        cluster.shutdown()
    assert code == 0, said
    assert digest(tmp_path / "out") == undisturbed


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("cpus", [1, 2])
def test_nothing_hangs_on_few_cpus(cpus, media, undisturbed, tmp_path):
    if len(os.sched_getaffinity(0)) < cpus:
        pytest.skip(f"needs {cpus} CPUs")
    for workers in (1, 2, 3):
        out = tmp_path / f"out{workers}"
        code, said = finish(start(media, out, workers=workers, before=OnCpus(cpus)))
        assert code == 0, said
        assert digest(out) == undisturbed


class OnCpus:
    """Leaves the process only so many CPUs."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __call__(self) -> None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: self.count])


# --- the output cannot be written ------------------------------------------------------------------------


def small_files() -> None:
    """No file may grow past 30 kB: the plan fits, a shard of two clips does not."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, resource.RLIM_INFINITY))


@pytest.mark.timeout(240)
def test_a_file_too_large_for_the_disk_is_one_sentence(media, undisturbed, tmp_path):
    assert_one_sentence(*finish(start(media, tmp_path / "out", before=small_files)), "File too large")
    assert not list((tmp_path / "out").rglob("*.tmp")) and not list((tmp_path / "out").rglob("*.tar"))
    assert_nothing_half_looks_whole(tmp_path / "out")
    assert_finishes(media, tmp_path / "out", undisturbed)


@contextmanager
def mounted(folder: Path, kind: str) -> Iterator[Path]:
    """A small file system in memory at the folder; the test is skipped where mounting is not allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", kind, "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    """Tried for a moment: a run's child that was just killed may still have a file open there."""
    command = ["mount", "-o", f"remount,{options}", str(folder)]
    for _ in range(100):
        if not subprocess.run(command, capture_output=True, check=False).returncode:
            return
        time.sleep(0.05)
    subprocess.run(command, check=True)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_full_disk_is_one_sentence_and_with_room_the_run_goes_on(workers, media, undisturbed, tmp_path):
    with mounted(tmp_path / "disk", "size=300k") as disk:
        code, said = finish(start(media, disk / "out", workers=workers, before=None))
        assert_one_sentence(code, said, os.strerror(errno.ENOSPC))
        assert finished_shards(open_store(disk / "out"))
        assert_nothing_half_looks_whole(disk / "out")
        remount(disk, "size=50m")
        assert_finishes(media, disk / "out", undisturbed, workers)


@pytest.mark.timeout(240)
def test_an_output_that_turned_read_only_is_one_sentence(media, undisturbed, tmp_path):
    with mounted(tmp_path / "disk", "size=50m") as disk:
        run = start(media, disk / "out")
        wait_for_shards(run, disk / "out", 2)
        run.kill()
        run.join()
        remount(disk, "ro")
        before = digest(disk / "out")
        other = tmp_path / "said"
        other.mkdir()
        run = Run([*run.arguments], other / "log", None)
        run.start()
        assert_one_sentence(*finish(run), os.strerror(errno.EROFS))
        assert digest(disk / "out") == before
        remount(disk, "rw")
        assert_finishes(media, disk / "out", undisturbed)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("folder", ["shards", "ledger"])
def test_a_folder_that_cannot_be_written_is_one_sentence(folder, media, undisturbed, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / folder).write_text("in the way")
    assert_one_sentence(*finish(start(media, out)), "cannot be written")
    assert finished_shards(open_store(out)) == []
    (out / folder).unlink()
    assert_finishes(media, out, undisturbed)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_an_output_that_vanishes_is_one_sentence_and_is_not_made_anew(workers, media, undisturbed, tmp_path):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    run = start(media, out, workers=workers)
    wait_for_shards(run, out, 2)
    out.rename(elsewhere)
    assert_one_sentence(*finish(run), "cannot be written")
    assert not out.exists()
    elsewhere.rename(out)
    assert_nothing_half_looks_whole(out)
    assert_finishes(media, out, undisturbed, workers)


@pytest.mark.timeout(240)
def test_another_disk_in_the_outputs_place_ends_the_run(media, undisturbed, tmp_path):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    run = start(media, out)
    wait_for_shards(run, out, 2)
    (tmp_path / "empty").mkdir()
    out.rename(elsewhere)
    (tmp_path / "empty").rename(out)
    assert_one_sentence(*finish(run), "cannot be written")
    assert not (out / "stats.json").exists()
    shutil.rmtree(out)
    elsewhere.rename(out)
    assert_finishes(media, out, undisturbed)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("when", [pytest.param("planning", marks=pytest.mark.slow), "making"])
def test_a_source_that_takes_its_process_down_is_a_row_without_ray_too(when, media, undisturbed, tmp_path):
    root = tmp_path / "media"
    shutil.copytree(media, root)
    shutil.copy(media / "00.mp4", root / KILLER)
    code, said = finish(start(root, tmp_path / "out", before=DiesOf(when), isolated=True))
    assert code == 0, said
    rows = [row for _, rows, _ in read_ledgers(open_store(tmp_path / "out")) for row in rows]
    assert {(row.status, row.reason) for row in rows if row.source == KILLER} == {("failed", "crashed")}
    assert all("killed by SIGABRT" in row.detail for row in rows if row.source == KILLER)
    assert sum(row.status == "written" for row in rows) == 20 * 2


KILLER = "killer.mp4"


def _open_or_die(module: object, opens: str) -> None:
    """Replaces what opens a source, so that one of them aborts the process as a fault in FFmpeg does."""
    true_open = getattr(module, opens)

    def open_or_die(path: str, *args: object):
        if path.endswith(KILLER):
            os.abort()
        return true_open(path, *args)

    setattr(module, opens, open_or_die)


class DyingProbeStage(avprep.jobs.planner.ProbeStage):
    def __call__(self, task):
        _open_or_die(avprep.stages.probe, "probe")
        return super().__call__(task)


class DyingClipStage(avprep.jobs.clip.ClipStage):
    def __call__(self, task):
        _open_or_die(avprep.stages.clip, "open_source")
        return super().__call__(task)


@dataclass(frozen=True)
class DiesOf:
    """Before a run: its workers, which are other processes, get a stage that dies."""

    when: str

    def __call__(self) -> None:
        if self.when == "planning":
            avprep.jobs.planner.ProbeStage = DyingProbeStage
        else:
            avprep.jobs.clip.ClipStage = DyingClipStage


def test_no_clip_is_lost_or_doubled(media, undisturbed, tmp_path):
    """What all of the above compare with holds every clip once."""
    code, said = finish(start(media, tmp_path / "out"))
    assert code == 0, said
    rows = [row for _, rows, _ in read_ledgers(open_store(tmp_path / "out")) for row in rows]
    assert len(rows) == len({row.key for row in rows}) == 20 * 2 + 2
    assert sum(row.status == "written" for row in rows) == 40
