"""Tasks that end their process: ended in time by a watchdog, found by bisection, and left out.

The runner reports what is lost; the caller defines the parts of a task and how one is left out.
"""

from __future__ import annotations

import faulthandler
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from avprep.execution.base import Result, Runner, RunnerConfig, RunnerError, Task, WorkerLost
from avprep.reasons import MediaError, Reason

# The watchdog ends a worker this much later than the time limit that the decoder itself looks at.
_WATCHDOG_FACTOR, _WATCHDOG_SLACK_S = 1.5, 10.0


def watchdog_s(source_timeout_s: float, runner: RunnerConfig) -> float | None:
    """Seconds after which a worker process is ended over one source; None where there is no such process."""
    if not runner.has_processes:
        return None
    return source_timeout_s * _WATCHDOG_FACTOR + _WATCHDOG_SLACK_S


def verdict(lost: WorkerLost, limit_s: float | None) -> MediaError:
    """Why a source that loses its worker even when it is alone is quarantined. `limit_s`: `watchdog_s`."""
    if limit_s is not None and lost.seconds >= limit_s:
        detail = f"the decoder did not return; its process was ended {limit_s:g} s after it began"
        return MediaError(Reason.TIMEOUT, detail)
    return MediaError(Reason.CRASHED, f"decoding it alone ended the process ({lost.detail})")


@contextmanager
def watchdog(seconds: float | None) -> Iterator[None]:
    """Ends this process if the block takes longer, even inside native code that never returns; None: never.

    Only for a worker process: its end is a lost worker, which the caller looks into. The timer lives in
    a C thread and needs no interpreter.
    """
    if seconds is None:
        yield
        return
    faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__ or 2)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


class Quarantine:
    """Runs splittable tasks so that one that kills its process does not stop the rest.

    A task lost once is run again (a node went, memory ran out for a moment). Lost twice, its parts are
    tried apart until the single parts that do it are found; the task then runs without them. A task that is
    lost all the same, as its parts do it together only, is run without any part.
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
        """Results of all tasks, in any order. `on_lost` is called for every lost worker.

        Yields:
            (task, result) once per task; of a task that was lost, without the parts that kill its process.

        Raises:
            RunnerError: a task is lost even without any part: it is the machine.
        """
        lost: Counter[int] = Counter()  # times, by task index
        while True:
            again: list[tuple[Task, WorkerLost]] = []
            for task, result in runner.map(stage, tasks, should_stop):
                if not isinstance(result, WorkerLost):
                    yield task, result
                    continue
                on_lost(task, result)
                lost[task.index] += 1
                again.append((task, result))
            if not again or should_stop():
                return
            tasks = [self._next_try(runner, stage, *a, lost[a[0].index], should_stop) for a in again]

    def _next_try(self, runner, stage, task, result, times, should_stop):
        """The task as it is run after it was lost that many times."""
        if times in (1, 3):
            return task
        if times == 2:
            return self._isolate(runner, stage, task, should_stop)
        if times == 4:
            return self._without(task, {part: result for part in self._parts(task)})
        raise RunnerError(
            f"task {task.index} loses its worker with nothing left to do ({result.detail}): "
            f"the fault is not in the sources. Is there memory and disk for {times} tries?"
        )

    def _isolate(self, runner, stage, task, should_stop):
        """The task without the parts that are lost even when tried alone."""
        culprits: dict[Any, WorkerLost] = {}
        once: set[Any] = set()  # parts lost alone: the second time they are believed to do it
        suspects = [self._trial(task, half) for half in _halves(self._parts(task))]
        while suspects and not should_stop():
            following = []
            for suspect, result in runner.map(stage, suspects, should_stop):
                if not isinstance(result, WorkerLost):
                    continue
                parts = self._parts(suspect)
                if len(parts) == 1 and parts[0] in once:
                    culprits[parts[0]] = result
                elif len(parts) == 1:
                    once.add(parts[0])
                    following.append(suspect)
                else:
                    following += [self._trial(suspect, half) for half in _halves(parts)]
            suspects = following
        return self._without(task, culprits)


def _halves(parts: tuple) -> list[tuple]:
    middle = len(parts) // 2
    return [half for half in (parts[:middle], parts[middle:]) if half]
