"""Tasks that end their process are found and left out; the rest goes on. A hang here would be the bug."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from avprep.execution import RunnerConfig, RunnerError, WorkerLost, open_runner
from avprep.execution.quarantine import verdict, watchdog, watchdog_s
from avprep.reasons import Reason
from tests.avprep.execution.jobs import Job, quarantine, stage


@dataclass
class Losses:
    lost: list[WorkerLost] = field(default_factory=list)

    def __call__(self, task: Job, lost: WorkerLost) -> None:
        self.lost.append(lost)


@pytest.mark.timeout(150)
@pytest.mark.parametrize("workers", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))])
def test_a_part_that_kills_its_process_is_found_and_the_rest_is_done(workers, tmp_path):
    jobs = [
        Job(0, ("a", "b")),
        Job(1, ("c", "crash1", "d", "e")),
        Job(2, ("f", "hang", "crash2", "g", "h")),
        Job(3, ("once", "i"), once=str(tmp_path / "once")),
    ]
    losses = Losses()
    with open_runner(RunnerConfig(workers=workers)) as runner:
        results = {
            job.index: (job.quarantined, done)
            for job, done in quarantine().map(runner, stage, iter(jobs), lambda: False, losses)
        }
    assert results == {
        0: ((), ["A", "B"]),
        1: (("crash1",), ["C", "D", "E"]),
        2: (("crash2", "hang"), ["F", "G", "H"]),
        3: ((), ["ONCE", "I"]),
    }
    assert len(losses.lost) == 2 + 2 + 1  # twice each, and once the part that fails once


class Losing:
    """A runner, without any process, that loses the tasks for which `is_lost` is true."""

    def __init__(self, is_lost: Callable[[Job], bool]) -> None:
        self.is_lost = is_lost

    def map(self, stage, tasks, should_stop):
        for job in tasks:
            yield job, WorkerLost("lost", 0.0) if self.is_lost(job) else stage(job)


def test_parts_that_are_lost_only_together_are_given_up_and_the_run_goes_on():
    def needs_too_much(job: Job) -> bool:
        return {"big1", "big2"} <= set(job.parts) - set(job.quarantined)

    losses = Losses()
    jobs = [Job(0, ("big1", "a", "b", "big2")), Job(1, ("c",))]
    results = dict(quarantine().map(Losing(needs_too_much), stage, iter(jobs), lambda: False, losses))
    assert {job.index: done for job, done in results.items()} == {0: [], 1: ["C"]}
    assert len(losses.lost) == 4


def test_a_part_that_is_lost_once_when_alone_is_not_quarantined():
    alone = iter([True, False])

    def is_lost(job: Job) -> bool:
        return len(job.parts) == 3 and len(losses.lost) < 2 or job.parts == ("a",) and next(alone)

    losses = Losses()
    jobs = [Job(0, ("a", "b", "c"))]
    results = list(quarantine().map(Losing(is_lost), stage, iter(jobs), lambda: False, losses))
    assert [(job.quarantined, done) for job, done in results] == [((), ["A", "B", "C"])]


def test_a_machine_that_loses_every_task_ends_the_run():
    with pytest.raises(RunnerError, match="the fault is not in the sources"):
        list(quarantine().map(Losing(lambda job: True), stage, iter([Job(0, ("a", "b"))]), bool, Losses()))


def test_a_watchdog_that_is_not_needed_does_nothing():
    with watchdog(60):
        assert stage(Job(0, ("a",))) == ["A"]


def test_only_a_process_that_may_be_ended_has_a_watchdog():
    assert watchdog_s(600.0, RunnerConfig(workers=0, isolated=False)) is None
    limit_s = watchdog_s(600.0, RunnerConfig(workers=0))
    assert limit_s > 600.0, "the decoder itself looks at the time limit first"


@pytest.mark.parametrize(
    ("seconds", "limit_s", "reason"),
    [(9.9, 10.0, Reason.CRASHED), (10.0, 10.0, Reason.TIMEOUT), (1e6, None, Reason.CRASHED)],
)
def test_a_process_that_the_watchdog_ended_is_a_timeout_and_any_other_a_crash(seconds, limit_s, reason):
    assert verdict(WorkerLost("killed by SIGSEGV", seconds), limit_s).reason is reason
