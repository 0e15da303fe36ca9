"""Without Ray: one child process for stages, and a pool of one worker in this process."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time

import pytest

from avprep.execution import PoolConfig, RunnerConfig, RunnerError, open_pool, open_runner
from tests.avprep.execution.jobs import Job, process_id, stage


@pytest.mark.timeout(60)
def test_one_child_in_its_own_process_group_runs_all_tasks():
    with open_runner(RunnerConfig(workers=0)) as runner:
        results = [result for _, result in runner.map(process_id, range(3), lambda: False)]
        (child, group), *others = results
        assert others == [(child, group)] * 2
        assert child == group != os.getpgid(0), "Ctrl-C would reach it"
        assert child != os.getpid()
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def run_child_until_killed(started: str) -> None:
    with open_runner(RunnerConfig(workers=0)) as runner:
        for _, (child, _) in runner.map(process_id, [None], lambda: False):
            with open(started, "w") as file:
                file.write(str(child))
        list(runner.map(sleep, [60.0], lambda: False))


@pytest.mark.timeout(60)
def test_the_child_ends_with_the_run_that_is_killed(tmp_path):
    """Otherwise it would write into an output that the next run has taken."""
    run = multiprocessing.get_context("fork").Process(
        target=run_child_until_killed, args=(str(tmp_path / "started"),)
    )
    run.start()
    while not (tmp_path / "started").exists() or not (tmp_path / "started").read_text():
        time.sleep(0.01)
    child = int((tmp_path / "started").read_text())
    run.kill()
    run.join()
    ends = time.monotonic() + 10
    while is_running(child) and time.monotonic() < ends:
        time.sleep(0.01)
    assert not is_running(child)


def is_running(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(") ")[2][0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.timeout(60)
@pytest.mark.parametrize("isolated", [True, False])
def test_no_task_begins_after_a_stop(isolated):
    done = []
    with open_runner(RunnerConfig(workers=0, isolated=isolated)) as runner:
        jobs = (Job(i, ("a",)) for i in range(10))
        for job, _ in runner.map(stage, jobs, lambda: len(done) >= 2):
            done.append(job.index)
    assert done == [0, 1]


class Doubling:
    def __init__(self) -> None:
        self.is_closed = threading.Event()

    def run(self, task: int) -> int:
        return 2 * task

    def close(self) -> None:
        self.is_closed.set()


def test_a_pool_in_this_process_runs_tasks_and_closes_its_worker():
    worker = Doubling()
    with open_pool(PoolConfig(workers=0, device="cpu"), lambda *_: worker) as pool:
        assert pool.ask(lambda device: device, lambda: None) == "cpu"
        assert dict(pool.map(range(5), lambda: False, lambda *_: None)) == {i: 2 * i for i in range(5)}
        assert list(pool.map(range(5), lambda: True, lambda *_: None)) == []
        assert not worker.is_closed.is_set()
    assert worker.is_closed.is_set()


class Failing(Doubling):
    """The first task fails; the others wait until the worker is closed."""

    def run(self, task: int) -> int:
        if task == 0:
            raise OSError(28, "No space left on device")
        self.is_closed.wait()
        raise RuntimeError("closed")


@pytest.mark.timeout(30)
def test_a_task_that_fails_ends_the_pool_with_its_error_and_frees_the_others():
    with open_pool(PoolConfig(workers=0, device="cpu"), lambda *_: Failing()) as pool:
        with pytest.raises(OSError, match="No space left"):
            list(pool.map(range(5), lambda: False, lambda *_: None))


def test_a_device_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr("avprep.execution.local._gpus", lambda: 0)
    with pytest.raises(RunnerError, match="device = cuda: there is no GPU here"):
        with open_pool(PoolConfig(workers=0, device="cuda"), lambda *_: Doubling()):
            pass
