"""The loop of a training run, and what a step needs besides its model: rates, averages, the NaN guard."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from avmodel.training.errors import LoaderError, TrainingError
from avmodel.training.log import RunLog
from avmodel.training.machine import DistributedContext, StopSignal

BAD_STEPS = 3  # in a row that end a run


class NonFiniteGuard:
    """Counts the steps that were left out because a loss or a gradient was not finite."""

    def __init__(self, context: DistributedContext) -> None:
        self._context = context
        self.skipped = 0
        self._in_a_row = 0

    def check(self, *values: Tensor) -> bool:
        """Whether all values, of one device, are finite in all processes; only then may a step be applied."""
        finite = torch.stack([torch.isfinite(value).all() for value in values]).all()
        return not self._context.any(not bool(finite))  # one device sync, however many values

    def count(self, step: int, *, good: bool) -> None:
        """Counts a step.

        Raises:
            TrainingError: at the third bad step in a row.
        """
        self._in_a_row = 0 if good else self._in_a_row + 1
        self.skipped += not good
        if self._in_a_row == BAD_STEPS:
            raise TrainingError(
                f"step {step}: a loss or gradient is NaN or Inf for the {BAD_STEPS}rd time in a row; the "
                f"last good checkpoint is kept. A lower `lr`, or `avprep verify` on the shards, may help."
            )


def warm_up(step: int, steps: int) -> float:
    """The share of the learning rate at a step: rises linearly over the first `steps`, then 1."""
    return min(1.0, (step + 1) / steps) if steps else 1.0


def cool_down(step: int, steps: int, last: int) -> float:
    """The share of the learning rate at a step of a run of `last` steps: 1, then falls linearly to 0 over the
    final `steps`."""
    return min(1.0, (last - step) / steps) if steps else 1.0


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


class Ema:
    """A model's weights averaged over the steps: w += (1 - decay) * (model - w), in float32.

    In the first steps the decay is at most (1 + step) / (10 + step): the initial weights are forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._steps = 0
        self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        self._steps += 1
        current = model.state_dict()
        torch._foreach_lerp_(list(self.weights.values()), [current[n] for n in self.weights], 1 - decay)

    def load(self, weights: dict[str, Tensor], steps: int) -> None:
        """Resumes after `steps` updates."""
        for name, value in weights.items():
            self.weights[name].copy_(value)
        self._steps = steps

    @contextmanager
    def swapped_into(self, model: nn.Module) -> Iterator[None]:
        """The model has the averaged weights inside the block."""
        own = {name: value.detach().clone() for name, value in model.state_dict().items()}
        model.load_state_dict(self.weights)
        try:
            yield
        finally:
            model.load_state_dict(own)


class Run(Protocol):
    """A training run as the loop sees it."""

    step: int  # steps done
    log: RunLog
    guard: NonFiniteGuard

    def train_step(self) -> dict[str, Tensor]:
        """Trains one step. Returns its scalars, 'loss' among them; {} if the step was left out.

        Raises:
            LoaderError: before anything of the step was done.
        """

    def evaluate(self) -> None: ...

    def save(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long a run is and what happens on the way, in steps."""

    steps: int
    eval_every: int
    checkpoint_every: int
    samples_per_step: int
    unit: str  # the name of a sample: 'clips'


def run_steps(run: Run, schedule: Schedule, context: DistributedContext, stop: StopSignal) -> None:
    """Trains to the last step or to a signal, and saves a checkpoint at the end of either.

    Raises:
        LoaderError: the data cannot be read; the steps done so far are saved first.
    """
    bar = tqdm(
        total=schedule.steps, initial=run.step, unit="step", disable=not context.is_first, dynamic_ncols=True
    )
    with bar:
        while run.step < schedule.steps and not stop.anywhere(context):
            began = time.perf_counter()
            try:
                terms = run.train_step()
            except LoaderError:
                run.save()
                raise
            run.step += 1
            run.guard.count(run.step, good=bool(terms))
            _report(run, terms, schedule, context, bar, began)
            last = run.step == schedule.steps
            if last or run.step % schedule.eval_every == 0:
                run.evaluate()
            if last or run.step % schedule.checkpoint_every == 0:
                run.save()
    if stop:
        run.save()


def _report(
    run: Run,
    terms: dict[str, Tensor],
    schedule: Schedule,
    context: DistributedContext,
    bar: tqdm,
    began: float,
) -> None:
    bar.update()
    if terms:
        scalars = _averaged(terms, context)
        rate = schedule.samples_per_step / (time.perf_counter() - began)
        shown = {"loss": f"{scalars['loss']:.4f}", f"{schedule.unit}/s": f"{rate:.2f}"}
        bar.set_postfix(shown, refresh=False)  # refreshed at the bar's own pace: a log file is no terminal
        run.log.scalars(run.step, scalars | {f"{schedule.unit}_per_s": rate, "skipped": run.guard.skipped})
    elif context.is_first:
        bar.write(f"step {run.step}: left out, a value is NaN or Inf ({run.guard.skipped} so far)")


def _averaged(terms: dict[str, Tensor], context: DistributedContext) -> dict[str, float]:
    """The scalars of a step, averaged over the processes, in one transfer to the CPU."""
    values = context.mean(torch.stack([value.detach().float() for value in terms.values()]))
    return dict(zip(terms, values.tolist(), strict=True))
