"""Runs a stage over tasks: in this process, or on Ray. The only module that knows Ray.

A task is small (paths and spans) and a stage is a plain function, so the same two run anywhere. Application
errors are rows in a ledger and never reach this module; what does reach it is a lost worker, which is tried
again, or an exception of the machine (a full disk), which ends the run.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

WAITING = 1                 # tasks handed out beyond one a worker, so that none idles for the driver
_POLL_S = 1.0               # how often a stop asked for by a signal is looked at
_STORE_BYTES = 100 << 20    # Ray's object store carries results of a few hundred bytes


@dataclass(frozen=True, kw_only=True)
class RunnerConfig:
    workers: int               # 0 = in this process, without Ray
    address: str | None = None  # of a Ray cluster to join; None = start one here


@dataclass(frozen=True)
class WorkerLost:
    """A task whose process or node is gone; `seconds` since it was handed out."""

    detail: str
    seconds: float


class RunnerError(Exception):
    """Ray cannot be started or joined; a sentence that names the option."""


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
        yield _InProcess()
        return
    import ray  # costs a second; not paid in-process

    own = {"include_dashboard": False, "num_cpus": config.workers, "object_store_memory": _STORE_BYTES}
    try:
        ray.init(
            address=config.address, log_to_driver=False, logging_level="ERROR",
            **(own if config.address is None else {}),
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = f"--address {config.address}" if config.address else f"--workers {config.workers}"
        raise RunnerError(f"{where}: Ray does not answer ({error}). Where the cluster asks for a token, "
                          f"RAY_AUTH_MODE=token must be set here as it is there.") from error
    try:
        yield _OnRay(config)
    finally:
        ray.shutdown()


class _InProcess:
    """One task after the other. A native crash ends the run: that is what workers are for."""

    def map(self, stage, tasks, should_stop):
        for task in tasks:
            if should_stop():
                return
            yield task, stage(task)


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
                yield task, self._result(reference, began)

    @staticmethod
    def _result(reference: Any, began: float) -> Any:
        import ray

        try:
            return ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            raise error.as_instanceof_cause() from None
        except (
            ray.exceptions.WorkerCrashedError,
            ray.exceptions.NodeDiedError,
            ray.exceptions.OutOfMemoryError,
            ray.exceptions.ObjectLostError,
            ray.exceptions.LocalRayletDiedError,
        ) as error:
            detail = type(error).__name__
            return WorkerLost(detail, time.monotonic() - began)


def _call(stage: Callable[[Task], Result], task: Task) -> Result:
    return stage(task)


@contextmanager
def watchdog(seconds: float | None) -> Iterator[None]:
    """Ends this process if the block takes longer, even inside native code that never returns.

    Only for a worker process: its end is a lost worker, which the caller looks into. The timer lives in
    a C thread and needs no interpreter.
    """
    if seconds is None:
        yield
        return
    faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


class Quarantine:
    """Runs splittable tasks so that one that kills its process does not stop the rest.

    A task lost once is run again (a node went, memory ran out for a moment). Lost twice, its parts are
    tried apart until the single part that does it is found; the task then runs without it.
    """

    def __init__(
        self,
        *,
        parts: Callable[[Task], tuple],
        trial: Callable[[Task, tuple], Task],
        without: Callable[[Task, dict], Task],
    ) -> None:
        self._parts, self._trial, self._without = parts, trial, without

    def map(
        self,
        runner: Runner,
        stage: Callable[[Task], Result],
        tasks: Iterable[Task],
        should_stop: Callable[[], bool],
        on_lost: Callable[[Task, WorkerLost], None],
    ) -> Iterator[tuple[Task, Result]]:
        """Results of all tasks. `on_lost` hears of every lost worker."""
        lost: dict[int, int] = {}  # times, by task index
        while True:
            again: list[Task] = []
            for task, result in runner.map(stage, tasks, should_stop):
                if not isinstance(result, WorkerLost):
                    yield task, result
                    continue
                on_lost(task, result)
                lost[task.index] = lost.get(task.index, 0) + 1
                again.append(task)
            if not again or should_stop():
                return
            tasks = [t if lost[t.index] < 2 else self._isolate(runner, stage, t, should_stop) for t in again]

    def _isolate(self, runner, stage, task, should_stop):
        """The task without the parts that are lost even when tried alone."""
        culprits: dict[Any, WorkerLost] = {}
        suspects = [self._trial(task, half) for half in _halves(self._parts(task))]
        while suspects and not should_stop():
            following = []
            for suspect, result in runner.map(stage, suspects, should_stop):
                if not isinstance(result, WorkerLost):
                    continue
                parts = self._parts(suspect)
                if len(parts) == 1:
                    culprits[parts[0]] = result
                else:
                    following += [self._trial(suspect, half) for half in _halves(parts)]
            suspects = following
        return self._without(task, culprits)


def _halves(parts: tuple) -> list[tuple]:
    middle = len(parts) // 2
    return [half for half in (parts[:middle], parts[middle:]) if half]


def available_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0))
