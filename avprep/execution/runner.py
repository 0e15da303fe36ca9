"""Runs tasks: in one child process, or on Ray. The only module that knows Ray.

    Runner   a stage, a plain function, over tasks: any free CPU takes the next one
    Pool     workers that keep something between tasks (a model), a fixed number of them

A task is small (paths and spans), so it runs anywhere. Application errors are rows in a ledger and never
reach this module; what does reach it is a lost worker, which is tried again, or an exception of the machine
(a full disk), which ends the run.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from avprep.errors import AvprepError
from avprep.execution.child import Child, ChildDied
from avprep.execution.pool import AHEAD, InProcessPool, MakeWorker, PoolConfig, Todo

Task = TypeVar("Task")
Result = TypeVar("Result")

ATTEMPTS = 3  # of a task, before its lost workers are the machine's fault
WAITING = 1  # tasks handed out beyond one a worker, so that none idles for the driver
_POLL_S = 1.0  # how often a stop asked for by a signal is looked at
_START_S = 600.0  # a worker imports torch; a cluster may have to start a node for it
_NO_ROOM = f"no worker has started in {_START_S:g} s: the cluster has no room for one"
_STORE_BYTES = 100 << 20  # Ray's object store carries results of a few hundred bytes


@dataclass(frozen=True, kw_only=True)
class RunnerConfig:
    workers: int  # 0 = one child process, without Ray
    address: str | None = None  # of a Ray cluster to join; None = start one here
    isolated: bool = True  # False: workers = 0 runs in this process, which a native crash then ends

    @property
    def has_processes(self) -> bool:
        """Whether stages run in processes that may be lost."""
        return self.isolated or self.workers > 0 or self.address is not None


@dataclass(frozen=True)
class WorkerLost:
    """A task whose process or node is gone; `seconds` since it was handed out."""

    detail: str
    seconds: float


class RunnerError(AvprepError):
    """Ray cannot be started or joined, or does no work any more; a sentence for the person who runs it."""


class Runner(Protocol):
    def map(
        self, stage: Callable[[Task], Result], tasks: Iterable[Task], should_stop: Callable[[], bool]
    ) -> Iterator[tuple[Task, Result | WorkerLost]]:
        """Results as they are ready, in any order. Once `should_stop()`, what is in hand is finished.

        Raises whatever the stage raises: a fault of the machine or of the program, not of a clip.
        """


@contextmanager
def open_runner(config: RunnerConfig) -> Iterator[Runner]:
    """The runner that the config asks for; its Ray, if it started one, ends with it."""
    if config.workers == 0 and config.address is None:
        if not config.isolated:
            yield _InProcess()
            return
        with closing(Child()) as child:
            yield _InChild(child)
        return
    with _ray(config.address, f"--workers {config.workers}", cpus=config.workers, store_bytes=_STORE_BYTES):
        yield _OnRay(config)


@contextmanager
def _ray(address: str | None, option: str, *, cpus: int, store_bytes: int) -> Iterator[None]:
    """A cluster joined, or one started here, which ends with the block."""
    import ray  # costs a second; not paid in-process

    at_sigterm = signal.getsignal(signal.SIGTERM)
    own = {"include_dashboard": False, "num_cpus": cpus, "object_store_memory": store_bytes}
    try:
        ray.init(
            # 'local': without a word Ray would join a cluster that another has started on this machine.
            address=address or "local",
            log_to_driver=False,
            logging_level="ERROR",
            **(own if address is None else {}),
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = option if address is None else f"--address {address}"
        raise RunnerError(
            f"{where}: Ray does not answer ({error}). Where the cluster asks for a token, "
            f"RAY_AUTH_MODE=token must be set here as it is there."
        ) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, at_sigterm)  # ray.init takes it; how a run stops is the caller's
    try:
        yield
    finally:
        ray.shutdown()


class _InProcess:
    """One task after the other, here: for a debugger, and where a crash may end the program."""

    def map(self, stage, tasks, should_stop):
        for task in tasks:
            if should_stop():
                return
            yield task, stage(task)


class _InChild:
    """One task after the other, in a process beside this one: a native crash is a lost worker here too."""

    def __init__(self, child: Child) -> None:
        self._child = child

    def map(self, stage, tasks, should_stop):
        for task in tasks:
            if should_stop():
                return
            began = time.monotonic()
            try:
                result = self._child.call(stage, task)
            except ChildDied as death:
                result = WorkerLost(death.detail, time.monotonic() - began)
            yield task, result


class _OnRay:
    """A bounded number of tasks in flight, one CPU each; retries are counted by the caller, not by Ray."""

    def __init__(self, config: RunnerConfig) -> None:
        self._workers = config.workers or None

    def map(self, stage, tasks, should_stop):
        import ray

        remote = ray.remote(num_cpus=1, max_retries=0)(_call)
        limit = WAITING + (self._workers or max(1, int(ray.cluster_resources().get("CPU", 1))))
        waiting: dict[Any, tuple[Any, float]] = {}
        tasks = iter(tasks)
        drained = False
        while True:
            while not drained and len(waiting) < limit and not should_stop():
                task = next(tasks, None)
                if task is None:
                    drained = True
                    break
                waiting[remote.remote(stage, task)] = task, time.monotonic()
            if not waiting:
                return
            ready, _ = ray.wait(list(waiting), num_returns=1, timeout=_POLL_S)
            for reference in ready:
                task, began = waiting.pop(reference)
                yield task, _result(reference, began)


def _result(reference: Any, began: float) -> Any:
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.LocalRayletDiedError as error:
        raise RunnerError(
            "Ray's own process on this machine has ended, and no task can be handed out any "
            "more. Run the same command again to go on."
        ) from error
    except ray.exceptions.RayError as error:  # a process, a node or a result is gone, in one of many ways
        return WorkerLost(type(error).__name__, time.monotonic() - began)


def _call(stage: Callable[[Task], Result], task: Task) -> Result:
    return stage(task)


# --- workers that keep something --------------------------------------------------------------------------


class Pool(Protocol):
    device: str  # cpu or cuda: what the workers have
    workers: int

    def map(
        self,
        tasks: Iterable[Task],
        should_stop: Callable[[], bool],
        on_lost: Callable[[Task, WorkerLost], None],
    ) -> Iterator[tuple[Task, Result]]:
        """Results as they are ready. Once `should_stop()`, what is in hand is finished.

        Raises:
            RunnerError: a task has lost its worker `ATTEMPTS` times, or no worker can be started.
            Exception: whatever a worker raises; it is not tried again.
        """

    def ask(self, question: Callable[[str], Result], poll: Callable[[], None]) -> Result:
        """The answer to a question about the device, asked where a worker is.

        `poll` is called every second or so while it is waited for; what it raises ends the waiting.

        Raises:
            RunnerError: no worker can be started.
        """


@contextmanager
def open_pool(config: PoolConfig, make_worker: MakeWorker) -> Iterator[Pool]:
    """The workers that the config asks for; they end with the block.

    Raises:
        RunnerError: there is no such device, or not as many; or Ray does not answer.
    """
    if config.workers == 0 and config.address is None:
        device = _device(config, gpus=_local_gpus())
        worker = make_worker(device, 1, True)
        try:
            yield InProcessPool(worker, device)
        finally:
            worker.close()
        return
    # Actors take no CPU of Ray's: those are for tasks that the workers hand on, which then always run.
    option = "Ray" if config.workers is None else f"--workers {config.workers}"
    with _ray(config.address, option, cpus=available_cpus(), store_bytes=_STORE_BYTES + config.store_bytes):
        import ray

        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        device = _device(config, gpus)
        count = config.workers or (gpus if device == "cuda" else max(1, int(resources.get("CPU", 1))))
        if device == "cuda" and count > gpus:
            raise RunnerError(f"--workers {count}: a worker takes one GPU, and there are {gpus}")
        pool = _RayPool(make_worker, device, count)
        try:
            yield pool
        finally:
            pool.close()


def _device(config: PoolConfig, gpus: int) -> str:
    if config.device == "auto":
        return "cuda" if gpus else "cpu"
    if config.device == "cuda" and not gpus:
        raise RunnerError("--device cuda: there is no GPU here")
    if config.device not in ("cpu", "cuda"):
        raise RunnerError(f"--device {config.device} is none of auto, cpu, cuda")
    return config.device


def _local_gpus() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


class _Actor:
    """A worker in a process of its own."""

    def __init__(self, make_worker: MakeWorker, device: str, count: int) -> None:
        self._device = device
        self._worker = make_worker(device, count, False)

    def ready(self) -> None:
        return None

    def run(self, task: Any) -> Any:
        return self._worker.run(task)

    def ask(self, question: Callable[[str], Any]) -> Any:
        return question(self._device)


@dataclass(eq=False)
class _Slot:
    """A place in the pool: its actor now, which may be the successor of lost ones."""

    actor: Any
    starting: Any | None  # what says that the actor is there; None once it is
    since: float
    failures: int = 0  # to start, one after the other


class _RayPool:
    """A fixed number of actors, two tasks each in hand; a lost one is replaced and its tasks tried again."""

    def __init__(self, make_worker: MakeWorker, device: str, count: int) -> None:
        import ray

        self.device, self.workers = device, count
        self._new = ray.remote(
            num_cpus=0,
            num_gpus=int(device == "cuda"),
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=AHEAD + 1,
            scheduling_strategy="SPREAD",
        )(_Actor)
        self._arguments = (make_worker, device, count)
        self._slots = [self._start() for _ in range(count)]

    def close(self) -> None:
        import ray

        for slot in self._slots:
            ray.kill(slot.actor)

    def ask(self, question, poll):
        starting = {slot.starting: slot for slot in self._slots}
        began = time.monotonic()
        while not (ready := _ready(list(starting))):
            poll()
            if time.monotonic() - began > _START_S:
                raise RunnerError(_NO_ROOM)
        _result_or_raise(ready[0])
        answer = starting[ready[0]].actor.ask.remote(question)
        while not _ready([answer]):
            poll()
        return _result_or_raise(answer)

    def map(self, tasks, should_stop, on_lost):
        import ray

        todo, lost = Todo(tasks), Counter()
        waiting: dict[Any, tuple[_Slot, Any, Any, float]] = {}
        while True:
            if not should_stop():
                self._hand_out(todo, waiting)
            if not waiting and (should_stop() or not todo):
                return
            starting = [slot.starting for slot in self._slots if slot.starting is not None]
            ready, _ = ray.wait([*waiting, *starting], num_returns=1, timeout=_POLL_S)
            self._look_at_starting(ready)
            for reference in (r for r in ready if r in waiting):
                slot, actor, task, began = waiting.pop(reference)
                result = _result(reference, began)
                if not isinstance(result, WorkerLost):
                    yield task, result
                    continue
                on_lost(task, result)
                lost[task.index] += 1
                if lost[task.index] >= ATTEMPTS:
                    raise RunnerError(
                        f"shard {task.index} has lost its worker {ATTEMPTS} times "
                        f"({result.detail}). What is finished is kept. Is there memory for "
                        f"{self.workers} workers? --workers and --batch-size take less."
                    )
                todo.put_back(task)
                if slot.actor is actor:
                    self._restart(slot, 0)

    def _hand_out(self, todo: Todo, waiting: dict) -> None:
        """Tasks to the workers that are there, the least busy first."""
        load = {slot: 0 for slot in self._slots if slot.starting is None}
        for slot, actor, *_ in waiting.values():
            if slot in load and slot.actor is actor:
                load[slot] += 1
        while todo and load and min(load.values()) < AHEAD:
            task = todo.take()
            slot = min(load, key=load.get)
            load[slot] += 1
            waiting[slot.actor.run.remote(task)] = slot, slot.actor, task, time.monotonic()

    def _start(self) -> _Slot:
        actor = self._new.remote(*self._arguments)
        return _Slot(actor, actor.ready.remote(), time.monotonic())

    def _restart(self, slot: _Slot, failures: int) -> None:
        started = self._start()
        slot.actor, slot.starting, slot.since, slot.failures = (
            started.actor,
            started.starting,
            started.since,
            failures,
        )

    def _look_at_starting(self, ready: list) -> None:
        for slot in self._slots:
            if slot.starting in ready:
                outcome = _result(slot.starting, slot.since)
                slot.starting = None
                if isinstance(outcome, WorkerLost):
                    if slot.failures + 1 >= ATTEMPTS:
                        raise RunnerError(
                            f"a worker ends before it begins ({outcome.detail}), {ATTEMPTS} times over"
                        )
                    self._restart(slot, slot.failures + 1)
        oldest = min(slot.since for slot in self._slots)
        if all(slot.starting is not None for slot in self._slots) and time.monotonic() - oldest > _START_S:
            raise RunnerError(_NO_ROOM)


def _ready(references: list[Any]) -> list[Any]:
    """One of the references that has its result, if one has it soon."""
    import ray

    return ray.wait(references, num_returns=1, timeout=_POLL_S)[0]


def _result_or_raise(reference: Any) -> Any:
    result = _result(reference, time.monotonic())
    if isinstance(result, WorkerLost):
        raise RunnerError(f"a worker was lost as it began ({result.detail})")
    return result


def map_in_order(
    stage: Callable[[Task], Result],
    tasks: Iterable[Task],
    *,
    weight: Callable[[Task], int],
    ahead: Callable[[int], int],
    should_stop: Callable[[], bool],
    recover: Callable[[Runner, Task, WorkerLost], Result | None],
) -> Iterator[Result]:
    """For a worker on Ray: results in the order of the tasks, which run on any free CPU of the cluster.

    At most `ahead(CPUs)` of `weight` is in flight or waits to be taken: that bounds the memory. A task runs
    to its end whether it is waited for or not, so that those in front of it always find a CPU. `recover`
    gives the result of a task whose worker was lost, or None where it was asked to stop.
    """
    import ray

    remote = ray.remote(num_cpus=1, max_retries=0)(_call)
    limit = ahead(max(1, int(ray.cluster_resources().get("CPU", 1))))
    flying: deque[tuple[Task, Any, float]] = deque()
    tasks = iter(tasks)
    coming = next(tasks, None)
    while flying or coming is not None:
        while coming is not None and (
            not flying or sum(weight(task) for task, _, _ in flying) + weight(coming) <= limit
        ):
            flying.append((coming, remote.remote(stage, coming), time.monotonic()))
            coming = next(tasks, None)
        task, reference, began = flying.popleft()
        while not ray.wait([reference], timeout=_POLL_S)[0]:
            if should_stop():
                return
        result = _result(reference, began)
        del reference  # the object goes as soon as its arrays do
        if isinstance(result, WorkerLost):
            result = recover(_OnRay(RunnerConfig(workers=1)), task, result)
            if result is None:
                return
        yield result


def available_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0))
