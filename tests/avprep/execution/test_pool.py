"""Workers that hand tasks on: results in order, lost helpers found. A hang here would be the bug."""

from __future__ import annotations

import pytest

from avprep.execution.pool import PoolConfig, Todo
from avprep.execution.runner import RunnerError, map_in_order, open_pool
from tests.avprep.execution.test_runner import Job, quarantine, stage

JOBS = [Job(0, ("a",)), Job(1, ("b", "crash", "c")), Job(2, ("d",)), Job(3, ("once", "e")), Job(4, ("f",))]


class Handing:
    """A worker that has others do its task's jobs."""

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
def test_helpers_that_are_lost_are_found_and_the_order_is_kept(tmp_path):
    jobs = [Job(j.index, j.parts, once=str(tmp_path / "once")) for j in JOBS]
    with open_pool(PoolConfig(workers=1, device="cpu"), Handing) as pool:
        assert (pool.device, pool.workers) == ("cpu", 1)
        ((_, (results, lost)),) = pool.map([jobs], lambda: False, lambda task, what: None)
    assert results == [["A"], ["B", "C"], ["D"], ["ONCE", "E"], ["F"]]
    assert len(lost) >= 3  # the crash again and again, and the one that was only unlucky


def test_a_pool_in_this_process_runs_tasks_and_ends():
    class Doubling:
        closed = False

        def run(self, task: int) -> int:
            return 2 * task

        def close(self) -> None:
            Doubling.closed = True

    with open_pool(PoolConfig(workers=0, device="cpu"), lambda *_: Doubling()) as pool:
        assert pool.ask(lambda device: device, lambda: None) == "cpu"
        assert dict(pool.map(range(5), lambda: False, lambda *_: None)) == {i: 2 * i for i in range(5)}
        assert list(pool.map(range(5), lambda: True, lambda *_: None)) == []
    assert Doubling.closed


def test_a_device_that_is_not_there_is_a_sentence(monkeypatch):
    monkeypatch.setattr("avprep.execution.runner._local_gpus", lambda: 0)
    with pytest.raises(RunnerError, match="--device cuda: there is no GPU here"):
        with open_pool(PoolConfig(workers=0, device="cuda"), Handing):
            pass


def test_what_is_put_back_is_not_lost():
    todo = Todo([1, 2])
    first = todo.take() if todo else None
    todo.put_back(first)
    taken = []
    while todo:
        taken.append(todo.take())
    assert sorted(taken) == [1, 2]
