"""What running tasks means, whatever runs them: configs, protocols, errors, and the one scheduling loop.

Runner   a stage (a plain function) over tasks; any free CPU takes the next task
Pool     a fixed number of workers that keep something between tasks (a model)
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, Protocol, TypeVar

from avprep.checks import DEVICES, require_one_of
from avprep.errors import ArgumentError, AvprepError


class Numbered(Protocol):
    """A task, by what errors and retries call it."""

    @property
    def index(self) -> int: ...


Task = TypeVar("Task", bound=Numbered)
Result = TypeVar("Result")
Handle = TypeVar("Handle")
Given = TypeVar("Given", contravariant=True)  # a task that is taken
Made = TypeVar("Made", covariant=True)  # a result that is given

ATTEMPTS = 3  # per task of a pool; then its lost workers are the machine's fault
AHEAD = 2  # tasks per worker of a pool: it reads one while it encodes the other
POLL_S = 1.0  # how often a waiting loop looks whether it should stop


class RunnerError(AvprepError):
    """Ray cannot be started or attached to, there is no such device, or workers are lost again and again."""


@dataclass(frozen=True)
class WorkerLost:
    """The outcome of a task whose process or node is gone."""

    detail: str  # e.g. the signal that ended it
    seconds: float  # since the task was handed out


@dataclass(frozen=True, kw_only=True)
class RunnerConfig:
    """Where stages run.

    `address` names a Ray cluster to attach to ('auto' or 'HOST:PORT'). The cluster's owner is responsible for
    it: every node has the same version of Ray and Python, this package, and the media and the output under
    the same paths; its ports are reachable by trusted machines only; and token authentication is on
    (`RAY_AUTH_MODE=token` on every node and here, with the same token in `RAY_AUTH_TOKEN_PATH`). Whoever can
    reach a cluster without a token can run any program on its nodes.
    """

    workers: int  # 0 = one child process, without Ray
    address: str | None = None  # None = start Ray on this machine
    isolated: bool = True  # False: workers = 0 runs in this process, which a native crash then ends

    def __post_init__(self) -> None:
        _require_workers(self.workers)

    @property
    def uses_ray(self) -> bool:
        return self.workers > 0 or self.address is not None

    @property
    def has_processes(self) -> bool:
        """Whether stages run in processes that may be lost."""
        return self.isolated or self.uses_ray


@dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """Where workers run. For `address` see `RunnerConfig`."""

    workers: int | None  # 0 = in this process, without Ray; None = one per GPU or, without GPU, one per CPU
    address: str | None = None  # None = start Ray on this machine
    device: str = "auto"  # auto | cpu | cuda
    store_bytes: int = 0  # room in Ray's object store for what tasks of `map_in_order` return

    def __post_init__(self) -> None:
        _require_workers(self.workers)
        require_one_of("device", self.device, DEVICES)

    @property
    def uses_ray(self) -> bool:
        return self.workers != 0 or self.address is not None

    def resolve_device(self, gpus: int) -> str:
        """cpu or cuda, where there are that many GPUs.

        Raises:
            RunnerError: cuda is asked for and there is no GPU, or there are fewer GPUs than workers.
        """
        if self.device == "cpu" or (self.device == "auto" and not gpus):
            return "cpu"
        if not gpus:
            raise RunnerError("device = cuda: there is no GPU here")
        if (self.workers or 0) > gpus:
            raise RunnerError(f"workers = {self.workers}: each worker takes one GPU, and there are {gpus}")
        return "cuda"


def _require_workers(workers: int | None) -> None:
    if workers is not None and workers < 0:
        raise ArgumentError(f"workers must be 0 or more, not {workers}")


def available_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


class Runner(Protocol):
    def map(
        self, stage: Callable[[Task], Result], tasks: Iterable[Task], should_stop: Callable[[], bool]
    ) -> Iterator[tuple[Task, Result | WorkerLost]]:
        """Results as they are ready, in any order. Once `should_stop()`, only tasks in hand are finished.

        Args:
            stage: runs in a worker, so it and the tasks must pickle.
            tasks: read as there is room for them, never all at once.

        Yields:
            (task, result) once per task; (task, WorkerLost) where its process died. It is not retried here.

        Raises:
            Exception: what the stage raises, which is a fault of the machine or of the program.
        """


class Worker(Protocol[Given, Made]):
    """What a pool runs tasks on; made by a `MakeWorker` in the process that uses it."""

    def run(self, task: Given) -> Made:
        """Called from `AHEAD` threads at once, so that the next task begins while one is finished."""

    def close(self) -> None:
        """Ends what the worker holds. A `run` that goes on in another thread raises soon."""


# (device, number of workers, whether it is the caller's own process) -> worker
MakeWorker = Callable[[str, int, bool], Worker[Any, Any]]


class Pool(Protocol):
    device: str  # cpu or cuda: what the workers have
    workers: int

    def map(
        self,
        tasks: Iterable[Task],
        should_stop: Callable[[], bool],
        on_lost: Callable[[Task, WorkerLost], None],
    ) -> Iterator[tuple[Task, Any]]:
        """The workers' results as they are ready. Once `should_stop()`, only tasks in hand are finished.

        Args:
            tasks: read as there is room for them, never all at once.
            on_lost: called for each task whose worker died, before the task is retried.

        Yields:
            (task, result) once per task, in any order.

        Raises:
            RunnerError: a task has lost its worker `ATTEMPTS` times, or no worker can be started.
            Exception: what a worker raises; the task is not retried.
        """

    def ask(self, question: Callable[[str], Result], poll: Callable[[], None]) -> Result:
        """`question(device)`, computed where a worker is.

        `poll` is called about once per second while the answer is awaited; what it raises ends the waiting.

        Raises:
            RunnerError: no worker can be started.
        """


# --- scheduling ------------------------------------------------------------------------------------------


class Todo(Generic[Task]):
    """Tasks that are not handed out: those that were put back, then those that come."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._coming = iter(tasks)
        self._next: deque[Task] = deque()

    def __bool__(self) -> bool:
        if not self._next:
            self._next.extend(islice(self._coming, 1))
        return bool(self._next)

    def peek(self) -> Task:
        """The next task. Only where `bool(todo)` was true."""
        return self._next[0]

    def take(self) -> Task:
        return self._next.popleft()

    def put_back(self, task: Task) -> None:
        self._next.append(task)


def schedule(
    todo: Todo[Task],
    should_stop: Callable[[], bool],
    *,
    has_room: Callable[[Task, Collection[Task]], bool],
    submit: Callable[[Task], Handle],
    wait: Callable[[list[Handle]], Iterable[Handle]],
    finish_in_hand: bool = True,
) -> Iterator[tuple[Task, Handle]]:
    """Tasks as they are done, each with the handle that `submit` returned for it.

    `has_room` gets the next task and those in hand. `wait` gets the handles in hand, the oldest first (none
    while no task can be handed out yet). It returns those that are done, after `POLL_S` at the latest. A task
    that the caller puts back is handed out again. Once `should_stop()`, no task is handed out, and those in
    hand are finished or, without `finish_in_hand`, left.
    """
    in_hand: dict[Handle, Task] = {}
    while True:
        while not should_stop() and todo and has_room(todo.peek(), in_hand.values()):
            task: Any = todo.take()
            in_hand[submit(task)] = task
        is_over = should_stop() or not todo
        if is_over and not in_hand or should_stop() and not finish_in_hand:
            return
        for handle in wait(list(in_hand)):
            yield in_hand.pop(handle), handle
