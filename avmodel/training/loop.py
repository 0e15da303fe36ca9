"""The loop of a training run: batches, steps, what is logged and printed, evaluations and checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

from torch import Tensor
from tqdm import tqdm

from avmodel.training.errors import LoaderError
from avmodel.training.log import RunLog
from avmodel.training.machine import DistributedContext
from avmodel.training.rates import StepRates
from avmodel.training.scalars import NonFiniteGuard, StepScalars
from avmodel.training.watch import Watch
from avprep.signals import StopSignal


class Run(Protocol):
    """A training run as the loop sees it."""

    step: int  # steps done
    flops: int  # of the model in what this process has trained on, forward and backward, not recomputed
    peak_tflops: float | None  # of the device, in TFLOP/s; None if unknown
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

    def saves(self, step: int) -> bool:
        """Whether a checkpoint is due, whatever an evaluation finds."""
        return self.is_due(self.checkpoint_every, step) or self.is_due(self.milestone_every, step)

    def ends_row(self, step: int) -> bool:
        """Whether the means of a row of the log end at this step.

        They do wherever a checkpoint may be written. A run that resumes from it then writes the rows of one
        that was never interrupted, and the sums, which each process has its own of, need not be kept.
        """
        return self.saves(step) or self.is_due(self.log_every, step) or self.is_due(self.eval_every, step)


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
            batches = report.rates.waiting(lambda: _next_batches(run, context, stop, report))
            if batches is None:
                break
            scalars, bad = run.train_step(batches)
            run.step += 1
            report.add(scalars, bad)
            if schedule.ends_row(run.step):
                report.write()
            with report.rates.paused():
                if schedule.is_due(schedule.eval_every, run.step):
                    run.evaluate()
                if run.is_best or schedule.saves(run.step):
                    run.save()
                run.check_saved()
        if stop:
            _save_for_all(run, context, report)


def _save_for_all(run: Run, context: DistributedContext, report: _Report) -> None:
    """Saves, and returns in all processes when the first one has written: torchrun ends it soon after any
    other process has ended with an error or a signal's code."""
    try:
        report.write()
        run.save()
        run.finish_saving()
    finally:
        context.agreed(0)


class _State(IntEnum):
    """Of a process before a step; the highest of all processes decides what all of them do."""

    READY = 0
    STOPPED = 1  # by a signal
    FAILED = 2  # its data cannot be read


def _next_batches(
    run: Run, context: DistributedContext, stop: StopSignal, report: _Report
) -> list[Any] | None:
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
        _save_for_all(run, context, report)
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
        self._written, self._flops = run.step, run.flops
        self.rates = StepRates(schedule.unit, schedule.batch_size, run.peak_tflops)

    def add(self, scalars: dict[str, Tensor], bad: Tensor) -> None:
        self._scalars.add(scalars, bad)
        self.rates.add(self._run.flops - self._flops, self._context.synchronize)
        self._flops = self._run.flops
        self._bar.update()

    def write(self) -> None:
        """Writes a row: the means since the last one, and how many steps they cover. Waits for the device."""
        run, scalars = self._run, self._scalars.read(self._context)
        rates = self.rates.read()
        steps, self._written = run.step - self._written, run.step
        self._report_left_out()
        if not scalars:
            return
        self._show(scalars["loss"], rates)
        run.log.scalars(run.step, scalars | rates | {"steps": steps, "skipped": run.guard.skipped})
        run.watch.scalars(run.step, scalars | rates)

    def _show(self, loss: float, rates: dict[str, float]) -> None:
        shown, unit = {"loss": f"{loss:.4f}"}, self._schedule.unit
        if rates:
            shown[f"{unit}/s"] = f"{rates[f'{unit}_per_s']:.2f}"
        if "mfu" in rates:
            shown["MFU"] = f"{100 * rates['mfu']:.0f} %"
        # Refreshed at the bar's own pace: a log file is no terminal.
        self._bar.set_postfix(shown, refresh=False)

    def _report_left_out(self) -> None:
        guard, step = self._run.guard, self._run.step
        left_out = guard.read(step)
        if left_out and self._context.is_first:
            self._bar.write(
                f"step {step}: {left_out} left out, a value is NaN or Inf ({guard.skipped} so far)"
            )
