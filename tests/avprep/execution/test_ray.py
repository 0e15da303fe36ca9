"""Stages, pools and tasks that workers hand on, on Ray. A hang here would be the bug: time limits on all."""

from __future__ import annotations

import pytest

from avprep.execution import PoolConfig, RunnerConfig, open_pool, open_runner
from avprep.execution.ray import map_in_order
from tests.avprep.execution.jobs import Job, quarantine, stage

JOBS = [Job(0, ("a",)), Job(1, ("b", "crash", "c")), Job(2, ("d",)), Job(3, ("once", "e")), Job(4, ("f",))]


class Handing:
    """A worker that hands its task's jobs on to free CPUs."""

    def __init__(self, device: str, count: int, in_process: bool) -> None:
        self.closed = False

    def run(self, jobs: list[Job]) -> tuple[list[list[str]], list[str]]:
        lost: list[str] = []

        def recover(runner, job, first):
            def on_lost(again, what):
                lost.append(what.detail)

            on_lost(job, first)
            tried = quarantine().map(runner, stage, [job], lambda: False, on_lost)
            return next((found for _, found in tried), None)

        results = map_in_order(
            stage,
            jobs,
            weight=lambda job: len(job.parts),
            ahead=lambda cpus: 4,
            should_stop=lambda: self.closed,
            recover=recover,
        )
        return list(results), lost

    def close(self) -> None:
        self.closed = True


@pytest.mark.timeout(150)
def test_tasks_handed_on_keep_their_order_and_lost_ones_are_recovered(tmp_path):
    jobs = [Job(j.index, j.parts, once=str(tmp_path / "once")) for j in JOBS]
    with open_pool(PoolConfig(workers=1, device="cpu"), Handing) as pool:
        assert (pool.device, pool.workers) == ("cpu", 1)
        ((_, (results, lost)),) = pool.map([jobs], lambda: False, lambda task, what: None)
    assert results == [["A"], ["B", "C"], ["D"], ["ONCE", "E"], ["F"]]
    assert len(lost) >= 3  # the crash again and again, and once the part that fails once


def refuse(job: Job) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.timeout(90)
@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_fault_of_the_machine_ends_the_run_as_itself(workers):
    with open_runner(RunnerConfig(workers=workers)) as runner:
        with pytest.raises(OSError, match="No space left") as raised:
            list(runner.map(refuse, iter([Job(0, ())]), lambda: False))
    assert type(raised.value) is OSError and raised.value.strerror == "No space left on device"
