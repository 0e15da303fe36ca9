"""The loop of a training run: batches, steps, what is logged and printed, evaluations and checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol, TypeVar

from torch import Tensor
from tqdm import tqdm

from avmodel.training.errors import LoaderError
from avmodel.training.log import RunLog
from avmodel.training.machine import DistributedContext
from avmodel.training.scalars import NonFiniteGuard, StepScalars
from avmodel.training.watch import Watch
from avprep.signals import StopSignal

Result = TypeVar("Result")


class Run(Protocol):
    """A training run as the loop sees it."""

    step: int  # steps done
    log: RunLog
    guard: NonFiniteGuard
    watch: Watch
    is_best: bool  # the last evaluation was the best so far

    def next_batches(self) -> list[Any]:
        """The batches of one step. Raises LoaderError."""

    def train_step(self, batches: list[Any]) -> tuple[dict[str, Tensor], Tensor]:
        """Trains one step. Returns its scalars, 'loss' among them, and the guard's flag, on the device."""

    def evaluate(self) -> None: ...

    def save(self) -> None:
        """Begins to write a checkpoint of the steps done."""

    def check_saved(self) -> None:
        """Raises what a write that has ended has raised."""

    def finish_saving(self) -> None:
        """Waits for the write. Raises what it raises."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long a run is and what happens on the way, in steps."""

    steps: int
    log_every: int
    eval_every: int
    checkpoint_every: int
    milestone_every: int  # 0: none
    batch_size: int  # samples per step
    unit: str  # the name of a sample: 'clips'

    def is_due(self, every: int, step: int) -> bool:
        """Whether something that is done every so many steps is done at this step. The last step does all."""
        return step == self.steps or (every > 0 and step % every == 0)


def run_steps(run: Run, schedule: Schedule, context: DistributedContext, stop: StopSignal) -> None:
    """Trains to the last step or to a signal, and saves a checkpoint at the end of either.

    Raises:
        LoaderError: the data cannot be read; the steps done so far are saved first.
        TrainingError: losses or gradients are NaN or Inf.
    """
    bar = tqdm(
        total=schedule.steps, initial=run.step, unit="step", disable=not context.is_first, dynamic_ncols=True
    )
    report = _Report(run, schedule, context, bar)
    with bar:
        while run.step < schedule.steps:
            batches = report.timed(lambda: _next_batches(run, context, stop))
            if batches is None:
                break
            scalars, bad = run.train_step(batches)
            run.step += 1
            report.add(scalars, bad)
            if schedule.is_due(schedule.log_every, run.step):
                report.write()
            if schedule.is_due(schedule.eval_every, run.step):
                with report.paused():
                    run.evaluate()
            every = (schedule.checkpoint_every, schedule.milestone_every)
            if run.is_best or any(schedule.is_due(n, run.step) for n in every):
                run.save()
            run.check_saved()
    if stop:
        _save_for_all(run, context)


def _save_for_all(run: Run, context: DistributedContext) -> None:
    """Saves, and returns in all processes when the first one has written: torchrun ends it soon after any
    other process has ended with an error or a signal's code."""
    try:
        run.save()
        run.finish_saving()
    finally:
        context.agreed(0)


class _State(IntEnum):
    """Of a process before a step; the highest of all processes decides what all of them do."""

    READY = 0
    STOPPED = 1  # by a signal
    FAILED = 2  # its data cannot be read


def _next_batches(run: Run, context: DistributedContext, stop: StopSignal) -> list[Any] | None:
    """The batches of this process; None if any process has been asked to stop.

    Raises:
        LoaderError: the data cannot be read in any process. The others would wait for it in the step's first
            exchange, so all end here, and the first one saves.
    """
    batches, failure = None, None
    try:
        batches = run.next_batches()
    except LoaderError as error:
        failure = error
    own = _State.FAILED if failure else _State.STOPPED if stop else _State.READY
    agreed = context.agreed(own)
    if agreed == _State.FAILED:
        _save_for_all(run, context)
        raise failure or LoaderError("another process cannot read its data; its own message says why")
    if agreed == _State.STOPPED:
        stop.join()
        return None
    return batches


class _Report:
    """The scalars of the steps in the log, and the most important ones in the bar."""

    def __init__(self, run: Run, schedule: Schedule, context: DistributedContext, bar: tqdm) -> None:
        self._run, self._schedule, self._context, self._bar = run, schedule, context, bar
        self._scalars = StepScalars()
        self._began, self._waited, self._steps = time.perf_counter(), 0.0, 0

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Around what is no part of the steps: its time counts in no rate."""
        before = time.perf_counter()
        try:
            yield
        finally:
            self._began += time.perf_counter() - before

    def timed(self, read: Callable[[], Result]) -> Result:
        """What `read` returns; its time counts as waiting for data."""
        before = time.perf_counter()
        try:
            return read()
        finally:
            self._waited += time.perf_counter() - before

    def add(self, scalars: dict[str, Tensor], bad: Tensor) -> None:
        self._scalars.add(scalars, bad)
        self._steps += 1
        self._bar.update()

    def write(self) -> None:
        """Writes the means since the last call. This waits for the device."""
        run, scalars = self._run, self._scalars.read(self._context)
        seconds = time.perf_counter() - self._began
        per_second = self._steps * self._schedule.batch_size / seconds
        speed = {f"{self._schedule.unit}_per_s": per_second, "data_wait": self._waited / seconds}
        self._began, self._waited, self._steps = time.perf_counter(), 0.0, 0
        self._report_left_out()
        if not scalars:
            return
        # Refreshed at the bar's own pace: a log file is no terminal.
        shown = {"loss": f"{scalars['loss']:.4f}", f"{self._schedule.unit}/s": f"{per_second:.2f}"}
        self._bar.set_postfix(shown, refresh=False)
        run.log.scalars(run.step, scalars | speed | {"skipped": run.guard.skipped})
        run.watch.scalars(run.step, scalars | speed)

    def _report_left_out(self) -> None:
        guard, step = self._run.guard, self._run.step
        left_out = guard.read(step)
        if left_out and self._context.is_first:
            self._bar.write(
                f"step {step}: {left_out} left out, a value is NaN or Inf ({guard.skipped} so far)"
            )
