"""Runs tasks on this machine without Ray: in this process, or in one child process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

from avprep.execution.base import (
    AHEAD,
    POLL_S,
    MakeWorker,
    PoolConfig,
    Result,
    Task,
    Todo,
    Worker,
    WorkerLost,
    schedule,
)
from avprep.execution.child import Child, ChildDied


class InProcessRunner:
    """One task after the other in this process: for a debugger, and where a crash may end the program."""

    def map(
        self, stage: Callable[[Task], Result], tasks: Iterable[Task], should_stop: Callable[[], bool]
    ) -> Iterator[tuple[Task, Result | WorkerLost]]:
        for task in tasks:
            if should_stop():
                return
            yield task, self._call(stage, task)

    def _call(self, stage: Callable[[Task], Result], task: Task) -> Result | WorkerLost:
        return stage(task)


class ChildRunner(InProcessRunner):
    """One task after the other in a child process, so that a native crash is a lost worker."""

    def __init__(self) -> None:
        self._child = Child()

    def _call(self, stage: Callable[[Task], Result], task: Task) -> Result | WorkerLost:
        started = time.monotonic()
        try:
            return self._child.call(stage, task)
        except ChildDied as death:
            return WorkerLost(death.detail, time.monotonic() - started)

    def close(self) -> None:
        self._child.close()


@contextmanager
def open_local_pool(config: PoolConfig, make_worker: MakeWorker) -> Iterator[InProcessPool]:
    """One worker in this process, whatever `config.workers` says.

    Raises:
        RunnerError: there is no such device.
    """
    device = config.resolve_device(_gpus())
    worker = make_worker(device, 1, True)
    try:
        yield InProcessPool(worker, device)
    finally:
        worker.close()


def _gpus() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


class InProcessPool:
    """One worker, and a thread for each of its tasks in hand."""

    workers = 1

    def __init__(self, worker: Worker, device: str) -> None:
        self._worker, self.device = worker, device

    def ask(self, question: Callable[[str], Result], poll: Callable[[], None]) -> Result:
        return question(self.device)

    def map(
        self,
        tasks: Iterable[Task],
        should_stop: Callable[[], bool],
        on_lost: Callable[[Task, WorkerLost], None],
    ) -> Iterator[tuple[Task, Any]]:
        with ThreadPoolExecutor(AHEAD, "task") as threads:
            try:
                done = schedule(
                    Todo(tasks),
                    should_stop,
                    has_room=lambda _, in_hand: len(in_hand) < AHEAD,
                    submit=lambda task: threads.submit(self._worker.run, task),
                    wait=_first_done,
                )
                for task, future in done:
                    yield task, future.result()
            except BaseException:
                self._worker.close()  # so that the threads of the tasks in hand end
                raise


def _first_done(futures: list[Future]) -> set[Future]:
    return wait(futures, timeout=POLL_S, return_when=FIRST_COMPLETED).done
