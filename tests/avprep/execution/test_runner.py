"""Lost workers: found, isolated, and no reason to stop. A hang here would be the bug: time limits on all."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from avprep.execution.quarantine import Quarantine, watchdog
from avprep.execution.runner import RunnerConfig, RunnerError, WorkerLost, open_runner


@dataclass(frozen=True)
class Job:
    index: int
    parts: tuple[str, ...]
    quarantined: tuple[str, ...] = ()
    once: str = ""


@dataclass
class Told:
    lost: list[WorkerLost] = field(default_factory=list)

    def __call__(self, task: Job, lost: WorkerLost) -> None:
        self.lost.append(lost)


def stage(job: Job) -> list[str]:
    """Upper-cases its parts; some parts end the process, one of them only the first time."""
    done = []
    for part in job.parts:
        if part in job.quarantined:
            continue
        if part.startswith("crash"):
            os._exit(139)
        if part.startswith("hang"):
            with watchdog(1.0):
                time.sleep(60)
        if part == "once" and not os.path.exists(job.once):
            with open(job.once, "w"):
                pass
            os._exit(1)
        done.append(part.upper())
    return done


def quarantine() -> Quarantine:
    return Quarantine(
        parts=lambda job: job.parts,
        trial=lambda job, parts: replace(job, parts=parts),
        without=lambda job, lost: replace(job, quarantined=tuple(sorted(lost))),
    )


@pytest.mark.timeout(150)
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_part_that_kills_its_process_is_found_and_the_rest_is_done(workers, tmp_path):
    jobs = [
        Job(0, ("a", "b")),
        Job(1, ("c", "crash1", "d", "e")),
        Job(2, ("f", "hang", "crash2", "g", "h")),
        Job(3, ("once", "i"), once=str(tmp_path / "once")),
    ]
    told = Told()
    with open_runner(RunnerConfig(workers=workers)) as runner:
        results = {
            job.index: (job.quarantined, done)
            for job, done in quarantine().map(runner, stage, iter(jobs), lambda: False, told)
        }
    assert results == {
        0: ((), ["A", "B"]),
        1: (("crash1",), ["C", "D", "E"]),
        2: (("crash2", "hang"), ["F", "G", "H"]),
        3: ((), ["ONCE", "I"]),
    }
    assert len(told.lost) == 2 + 2 + 1  # twice each, and the one that was only unlucky once


def refuse(job: Job) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.timeout(90)
@pytest.mark.parametrize("workers", [0, 1])
def test_a_fault_of_the_machine_ends_the_run_as_itself(workers):
    at_sigterm = signal.getsignal(signal.SIGTERM)
    with open_runner(RunnerConfig(workers=workers)) as runner:
        with pytest.raises(OSError, match="No space left") as raised:
            list(runner.map(refuse, iter([Job(0, ())]), lambda: False))
        assert signal.getsignal(signal.SIGTERM) is at_sigterm, "Ray took the signal that stops a run"
    assert type(raised.value) is OSError and raised.value.strerror == "No space left on device"


def process_id(_: object) -> tuple[int, int]:
    return os.getpid(), os.getpgid(0)


@pytest.mark.timeout(60)
def test_without_ray_one_child_of_its_own_process_group_runs_all_tasks():
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
    """Else it would go on writing into an output that the next run has taken."""
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


class Lost:
    """A runner whose tasks are lost, without any process, where `is_lost` says so."""

    def __init__(self, is_lost: Callable[[Job], bool]) -> None:
        self.is_lost = is_lost

    def map(self, stage, tasks, should_stop):
        for job in tasks:
            yield job, WorkerLost("lost", 0.0) if self.is_lost(job) else stage(job)


def test_parts_that_are_lost_only_together_are_given_up_and_the_run_goes_on():
    def needs_too_much(job: Job) -> bool:
        return {"big1", "big2"} <= set(job.parts) - set(job.quarantined)

    told = Told()
    jobs = [Job(0, ("big1", "a", "b", "big2")), Job(1, ("c",))]
    results = dict(quarantine().map(Lost(needs_too_much), stage, iter(jobs), lambda: False, told))
    assert {job.index: done for job, done in results.items()} == {0: [], 1: ["C"]}
    assert len(told.lost) == 4


def test_a_part_that_is_lost_alone_once_was_only_unlucky():
    alone = iter([True, False])

    def is_lost(job: Job) -> bool:
        return len(job.parts) == 3 and not told_twice() or job.parts == ("a",) and next(alone)

    def told_twice() -> bool:
        return len(told.lost) >= 2

    told = Told()
    jobs = [Job(0, ("a", "b", "c"))]
    results = list(quarantine().map(Lost(is_lost), stage, iter(jobs), lambda: False, told))
    assert [(job.quarantined, done) for job, done in results] == [((), ["A", "B", "C"])]


def test_a_machine_that_loses_every_task_ends_the_run():
    with pytest.raises(RunnerError, match="the fault is not in the sources"):
        list(quarantine().map(Lost(lambda job: True), stage, iter([Job(0, ("a", "b"))]), bool, Told()))


def test_in_the_child_process_nothing_is_begun_after_a_stop():
    asked = []

    def should_stop() -> bool:
        return len(asked) >= 2

    with open_runner(RunnerConfig(workers=0)) as runner:
        for job, _ in runner.map(stage, (Job(i, ("a",)) for i in range(10)), should_stop):
            asked.append(job.index)
    assert asked == [0, 1]


def test_a_watchdog_that_is_not_needed_does_nothing():
    with watchdog(60):
        assert stage(Job(0, ("a",))) == ["A"]


@pytest.mark.timeout(120)
def test_anothers_cluster_on_this_machine_is_not_joined(monkeypatch):
    """Ray joins one that it finds, where it is not told to start its own."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with open_runner(RunnerConfig(workers=1)) as runner:
        assert [result for _, result in runner.map(abs, [-1], lambda: False)] == [1]
