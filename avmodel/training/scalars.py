"""Scalars of the steps, and the guard against NaN, both kept on the device: reading them waits for it, and a
run reads them every `log_every` steps."""

from __future__ import annotations

import torch
from torch import Tensor

from avmodel.training.errors import TrainingError
from avmodel.training.machine import DistributedContext

BAD_STEPS = 3  # in a row that end a run


class NonFiniteGuard:
    """Counts the steps that were left out because a loss or a gradient was not finite."""

    def __init__(self, context: DistributedContext) -> None:
        self._context = context
        self.skipped = 0  # as last read
        self._counts = torch.zeros(3, device=context.device)  # left out, in a row now, longest row

    def check(self, *values: Tensor) -> Tensor:
        """Counts a step.

        Args:
            values: losses and gradient norms, on the device.

        Returns:
            () float32: 1 if a value is not finite in any process, so that the step must be left out; else 0.
        """
        finite = torch.stack([torch.isfinite(value).all() for value in values]).all()
        bad = self._context.max(1 - finite.float())
        in_a_row = (self._counts[1] + bad) * bad
        self._counts = torch.stack(
            (self._counts[0] + bad, in_a_row, torch.maximum(self._counts[2], in_a_row))
        )
        return bad

    def read(self, step: int) -> int:
        """The steps that were left out since the last reading.

        Raises:
            TrainingError: at least three in a row.
        """
        new, in_a_row, longest = (int(count) for count in self._counts.tolist())
        self.skipped += new
        self._counts = torch.tensor([0.0, in_a_row, in_a_row], device=self._counts.device)
        if longest >= BAD_STEPS:
            raise TrainingError(
                f"step {step}: a loss or gradient was NaN or Inf in {longest} steps in a row; the last "
                f"good checkpoint is kept. A lower `lr`, or `avprep verify` on the shards, may help."
            )
        return new


class StepScalars:
    """Means of the steps' scalars since they were last read, without the steps that were left out."""

    def __init__(self) -> None:
        # By the scalars' names, which change when a stage begins: their sums, and the number of steps.
        self._sums: dict[tuple[str, ...], tuple[Tensor, Tensor]] = {}

    def add(self, scalars: dict[str, Tensor], bad: Tensor) -> None:
        names = tuple(scalars)
        values = torch.stack([value.detach().float() for value in scalars.values()])
        values = torch.where(bad > 0, torch.zeros_like(values), values)
        sums, steps = self._sums.get(names, (torch.zeros_like(values), torch.zeros_like(bad)))
        self._sums[names] = sums + values, steps + 1 - bad

    def read(self, context: DistributedContext) -> dict[str, float]:
        """The means over steps and processes; {} if every step was left out."""
        sums: dict[str, float] = {}
        steps: dict[str, float] = {}
        for names, (total, count) in self._sums.items():
            *totals, n = context.mean(torch.cat((total, count[None]))).tolist()
            for name, value in zip(names, totals, strict=True):
                sums[name], steps[name] = sums.get(name, 0.0) + value, steps.get(name, 0.0) + n
        self._sums = {}
        return {name: value / steps[name] for name, value in sums.items() if steps[name]}
