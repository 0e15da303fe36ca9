"""Runs tasks on Ray: a runner, a pool of actors, and results in order for a worker that hands tasks on.

Ray never retries here: who lost a task, and how often, is counted by the callers.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from avprep.execution.base import (
    AHEAD,
    ATTEMPTS,
    POLL_S,
    MakeWorker,
    PoolConfig,
    Result,
    Runner,
    RunnerConfig,
    RunnerError,
    Task,
    Todo,
    WorkerLost,
    available_cpus,
    schedule,
)
from avprep.execution.cluster import open_cluster

_STORE_BYTES = 100 << 20  # Ray's object store carries results of a few hundred bytes
_SPARE = 1  # tasks handed out beyond one per worker, so that no worker waits for the driver
_START_S = 600.0  # a worker imports torch; a cluster may have to start a node for it
_NO_ROOM = f"no worker has started in {_START_S:g} s: the cluster has no room for one"


@contextmanager
def open_ray_runner(config: RunnerConfig) -> Iterator[RayRunner]:
    """A runner on the cluster of the config; a cluster that was started for it ends with the block.

    Raises:
        RunnerError: Ray cannot be started or attached to.
    """
    with open_cluster(config.address, workers=config.workers, cpus=config.workers, store_bytes=_STORE_BYTES):
        yield RayRunner(config.workers or _cluster_cpus())


@contextmanager
def open_ray_pool(config: PoolConfig, make_worker: MakeWorker) -> Iterator[RayPool]:
    """A pool of actors on the cluster of the config; a cluster that was started for it ends with the block.

    Raises:
        RunnerError: Ray does not answer, there is no such device, or there are fewer GPUs than workers.
    """
    # Actors take no CPU of Ray's: those are for tasks that the workers hand on, which then always run.
    store_bytes = _STORE_BYTES + config.store_bytes
    with open_cluster(config.address, workers=config.workers, cpus=available_cpus(), store_bytes=store_bytes):
        gpus = _cluster_gpus()
        device = config.resolve_device(gpus)
        pool = RayPool(make_worker, device, config.workers or (gpus if device == "cuda" else _cluster_cpus()))
        try:
            yield pool
        finally:
            pool.close()


def _cluster_cpus() -> int:
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def _cluster_gpus() -> int:
    import ray

    return int(ray.cluster_resources().get("GPU", 0))


# --- calls -----------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Call:
    """A task that was handed out: what Ray calls it, and since when."""

    reference: Any  # ray.ObjectRef, until the result is taken
    started: float = field(default_factory=time.monotonic)

    def result(self) -> Any:
        """The result, once. Raises what the task raised; a lost process or node is a `WorkerLost`."""
        reference, self.reference = self.reference, None  # Ray frees the object when its arrays are gone
        return _result(reference, self.started)


def _result(reference: Any, started: float) -> Any:
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.LocalRayletDiedError as error:
        raise RunnerError(
            "Ray's own process on this machine has ended, so no task can be handed out. "
            "Run the same command again to continue."
        ) from error
    except ray.exceptions.RayError as error:  # a process, a node or a result is gone, in one of many ways
        return WorkerLost(type(error).__name__, time.monotonic() - started)


def _wait(calls: list[_Call]) -> list[_Call]:
    """A call that is done, if one is within `POLL_S`."""
    import ray

    ready, _ = ray.wait([call.reference for call in calls], num_returns=1, timeout=POLL_S)
    return [call for call in calls if call.reference in ready]


def _wait_for_oldest(calls: list[_Call]) -> list[_Call]:
    return _wait(calls[:1])


def _submit_to_any_cpu(stage: Callable[[Task], Result]) -> Callable[[Task], _Call]:
    import ray

    remote = ray.remote(num_cpus=1, max_retries=0)(_call)
    return lambda task: _Call(remote.remote(stage, task))


def _call(stage: Callable[[Task], Result], task: Task) -> Result:
    return stage(task)


class RayRunner:
    """One CPU per task, and `workers` tasks at once."""

    def __init__(self, workers: int) -> None:
        self._limit = workers + _SPARE

    def map(
        self, stage: Callable[[Task], Result], tasks: Iterable[Task], should_stop: Callable[[], bool]
    ) -> Iterator[tuple[Task, Result | WorkerLost]]:
        done = schedule(
            Todo(tasks),
            should_stop,
            has_room=lambda _, in_hand: len(in_hand) < self._limit,
            submit=_submit_to_any_cpu(stage),
            wait=_wait,
        )
        for task, call in done:
            yield task, call.result()


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

    At most `ahead(CPUs)` of `weight` runs or waits to be taken: that bounds the memory. Once `should_stop()`,
    the iterator ends without the tasks in hand. `recover` returns the result of a task whose worker was lost,
    or None where it was asked to stop.
    """
    limit = ahead(_cluster_cpus())

    def has_room(task: Task, in_hand: Collection[Task]) -> bool:
        return not in_hand or sum(map(weight, in_hand)) + weight(task) <= limit

    done = schedule(
        Todo(tasks),
        should_stop,
        has_room=has_room,
        submit=_submit_to_any_cpu(stage),
        wait=_wait_for_oldest,
        finish_in_hand=False,
    )
    for task, call in done:
        result = call.result()
        if isinstance(result, WorkerLost):
            result = recover(RayRunner(1), task, result)
            if result is None:
                return
        yield result


# --- a pool of actors --------------------------------------------------------------------------------------


class _Host:
    """A worker in a process of its own: the actor's code."""

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
class _Actor:
    """One process of the pool. A lost one is replaced by a new `_Actor`."""

    handle: Any
    ready: Any  # the reference that resolves once the process has its worker
    failures: int  # of the processes before it, which were lost before they were ready
    started: float = field(default_factory=time.monotonic)
    is_ready: bool = False
    in_hand: int = 0


@dataclass(eq=False, kw_only=True)
class _ActorCall(_Call):
    actor: _Actor


class RayPool:
    """A fixed number of actors, `AHEAD` tasks each; a lost actor is replaced and its tasks are retried."""

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
        )(_Host)
        self._arguments = (make_worker, device, count)
        self._actors = [self._start() for _ in range(count)]

    def close(self) -> None:
        import ray

        for actor in self._actors:
            ray.kill(actor.handle)

    def ask(self, question: Callable[[str], Result], poll: Callable[[], None]) -> Result:
        starting = {actor.ready: actor for actor in self._actors}
        first = _await(list(starting), poll, limit_s=_START_S)
        _result_or_raise(first)
        answer = starting[first].handle.ask.remote(question)
        return _result_or_raise(_await([answer], poll))

    def map(
        self,
        tasks: Iterable[Task],
        should_stop: Callable[[], bool],
        on_lost: Callable[[Task, WorkerLost], None],
    ) -> Iterator[tuple[Task, Any]]:
        todo = Todo(tasks)
        lost: Counter[int] = Counter()  # times, by task index
        done = schedule(
            todo, should_stop, has_room=lambda *_: self._has_room(), submit=self._submit, wait=self._wait
        )
        for task, call in done:
            call.actor.in_hand -= 1
            result = call.result()
            if not isinstance(result, WorkerLost):
                yield task, result
                continue
            on_lost(task, result)
            lost[task.index] += 1
            if lost[task.index] >= ATTEMPTS:
                raise RunnerError(
                    f"workers = {self.workers}: shard {task.index} has lost its worker {ATTEMPTS} times "
                    f"({result.detail}). Finished shards are kept. If memory ran out, use fewer workers or a "
                    f"smaller batch size."
                )
            todo.put_back(task)
            self._replace(call.actor, failures=0)

    def _has_room(self) -> bool:
        return any(actor.is_ready and actor.in_hand < AHEAD for actor in self._actors)

    def _submit(self, task: Any) -> _ActorCall:
        actor = min((a for a in self._actors if a.is_ready), key=lambda a: a.in_hand)
        actor.in_hand += 1
        return _ActorCall(actor.handle.run.remote(task), actor=actor)

    def _wait(self, calls: list[_ActorCall]) -> list[_ActorCall]:
        import ray

        starting = {actor.ready: actor for actor in self._actors if not actor.is_ready}
        references = [*(call.reference for call in calls), *starting]
        ready, _ = ray.wait(references, num_returns=1, timeout=POLL_S)
        for reference in ready:
            if reference in starting:
                self._note_started(starting[reference])
        oldest = min(actor.started for actor in self._actors)
        if len(starting) == self.workers and not ready and time.monotonic() - oldest > _START_S:
            raise RunnerError(_NO_ROOM)
        return [call for call in calls if call.reference in ready]

    def _note_started(self, actor: _Actor) -> None:
        outcome = _result(actor.ready, actor.started)
        actor.is_ready = True
        if isinstance(outcome, WorkerLost):
            if actor.failures + 1 >= ATTEMPTS:
                raise RunnerError(
                    f"workers = {self.workers}: a worker ended before it was ready, {ATTEMPTS} times "
                    f"in a row ({outcome.detail})"
                )
            self._replace(actor, failures=actor.failures + 1)

    def _replace(self, lost: _Actor, failures: int) -> None:
        """A new actor in the place of a lost one, unless that was replaced for another of its tasks."""
        if lost in self._actors:
            self._actors[self._actors.index(lost)] = self._start(failures)

    def _start(self, failures: int = 0) -> _Actor:
        handle = self._new.remote(*self._arguments)
        return _Actor(handle, handle.ready.remote(), failures)


def _await(references: list[Any], poll: Callable[[], None], limit_s: float = math.inf) -> Any:
    """The first of the references that is done. Raises RunnerError after `limit_s`."""
    import ray

    started = time.monotonic()
    while not (ready := ray.wait(references, num_returns=1, timeout=POLL_S)[0]):
        poll()
        if time.monotonic() - started > limit_s:
            raise RunnerError(_NO_ROOM)
    return ready[0]


def _result_or_raise(reference: Any) -> Any:
    result = _result(reference, time.monotonic())
    if isinstance(result, WorkerLost):
        raise RunnerError(f"a worker was lost while it started ({result.detail})")
    return result
