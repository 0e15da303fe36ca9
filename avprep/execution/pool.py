"""Workers that keep something between tasks (a model): what one is, and a pool of one in this process.

The pool of many processes is the runner's (`avprep.execution.runner.open_pool`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, TypeVar

Task = TypeVar("Task", contravariant=True)
Result = TypeVar("Result", covariant=True)

AHEAD = 2  # tasks a worker has in hand: it reads one as it makes the other
_POLL_S = 1.0  # how often a stop asked for by a signal is looked at


class Worker(Protocol[Task, Result]):
    def run(self, task: Task) -> Result:
        """Called from `AHEAD` threads at once, so that the next task is begun while one is finished."""

    def close(self) -> None:
        """Ends what the worker holds; `run` raises in whoever still waits."""


@dataclass(frozen=True, kw_only=True)
class PoolConfig:
    workers: int | None  # 0 = in this process, without Ray; None = one a GPU or, without, one a CPU
    address: str | None = None  # of a Ray cluster to join; None = start one here
    device: str = "auto"  # auto | cpu | cuda
    store_bytes: int = 0  # to add to Ray's object store, where workers hand tasks on (map_in_order)


# In a worker's process: (device, number of workers, whether it is the caller's own process) -> worker.
MakeWorker = Callable[[str, int, bool], Worker]


class InProcessPool:
    """One worker, and a thread for each task it has in hand."""

    workers = 1

    def __init__(self, worker: Worker, device: str) -> None:
        self._worker, self.device = worker, device

    def ask(self, question, poll):
        return question(self.device)

    def map(self, tasks, should_stop, on_lost):
        waiting: dict[Future, Any] = {}
        tasks = iter(tasks)
        with ThreadPoolExecutor(AHEAD) as threads:
            try:
                while True:
                    while len(waiting) < AHEAD and not should_stop():
                        task = next(tasks, None)
                        if task is None:
                            break
                        waiting[threads.submit(self._worker.run, task)] = task
                    if not waiting:
                        return
                    done, _ = wait(waiting, timeout=_POLL_S, return_when=FIRST_COMPLETED)
                    for future in done:
                        yield waiting.pop(future), future.result()
            except BaseException:
                self._worker.close()  # so that the threads of the tasks in hand end
                raise


class Todo:
    """Tasks that are not handed out: those that come, and before them those put back."""

    def __init__(self, tasks: Iterable) -> None:
        self._coming = iter(tasks)
        self._next: deque = deque()

    def __bool__(self) -> bool:
        if not self._next:
            self._next.extend(islice(self._coming, 1))
        return bool(self._next)

    def take(self) -> Any:
        return self._next.popleft()

    def put_back(self, task: Any) -> None:
        self._next.append(task)
