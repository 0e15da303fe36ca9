"""How weights change in a step: rates, clipped gradients, steps that are left out, averaged weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from avmodel.training.checkpoints import entry, load_optimizer
from avmodel.training.muon import Muon, split_parameters
from avmodel.training.options import Optimizer as OptimizerName


def warm_up(step: int, steps: int) -> float:
    """The share of the learning rate at a step: rises linearly over the first `steps`, then 1."""
    return min(1.0, (step + 1) / steps) if steps else 1.0


def cool_down(step: int, steps: int, last: int) -> float:
    """The share of the learning rate at a step of a run of `last` steps: 1, then falls linearly to 0 over the
    final `steps`."""
    return min(1.0, (last - step) / steps) if steps else 1.0


def apply_step(optimizer: torch.optim.Optimizer, rate: float, bad: Tensor) -> None:
    """Steps a fused optimizer, unless `bad` is 1, and drops the gradients.

    The optimizer's kernel reads the flag, so that the process does not wait for the device.

    Args:
        bad: () float32 on the optimizer's device, as `NonFiniteGuard.check` gives it.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate
    fused: Any = optimizer  # torch declares neither attribute; torch.amp.GradScaler sets them in this way
    fused.grad_scale, fused.found_inf = None, bad
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


class ModelOptimizer:
    """Trains a whole model: by Adam, or by Muon where it holds matrices and by Adam elsewhere.

    Args:
        adam: makes the Adam of these parameters.
        lr: its learning rate.
        muon_lr: Muon's.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: OptimizerName,
        adam: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
        *,
        lr: float,
        muon_lr: float,
    ) -> None:
        matrices, others = split_parameters(model, optimizer)
        self.adam, self.muon = adam(others), Muon(matrices, muon_lr)
        self._lr, self._muon_lr = lr, muon_lr

    def step(self, share: float, bad: Tensor) -> None:
        """One step at this share of both rates; `bad` as of `apply_step`."""
        apply_step(self.adam, self._lr * share, bad)
        apply_step(self.muon, self._muon_lr * share, bad)

    def state(self) -> dict[str, Any]:
        """Entries of a training's state."""
        return {"optimizer": self.adam.state_dict(), "muon": self.muon.state_dict()}

    def load(self, state: dict[str, Any], path: Path) -> None:
        """Raises CheckpointError, which names `path`, where `state` does not hold this model's averages."""
        load_optimizer(self.adam, entry(state, "optimizer", dict, path), path)
        if "muon" in state:  # not in version 0.1
            load_optimizer(self.muon, entry(state, "muon", dict, path), path)


@dataclass(frozen=True)
class GradientNorms:
    """Before clipping."""

    total: Tensor  # ()
    parts: dict[str, Tensor]  # by part of the model, () each


def clip_gradients(module: nn.Module, largest: float, part_of: Callable[[str], str]) -> GradientNorms:
    """Scales all gradients so that their norm is at most `largest`.

    Args:
        part_of: the part of the model to which a parameter belongs, by the parameter's name.
    """
    gradients: dict[str, list[Tensor]] = defaultdict(list)
    for name, parameter in module.named_parameters():
        if parameter.grad is not None:
            gradients[part_of(name)].append(parameter.grad)
    parts = {part: nn.utils.get_total_norm(tensors) for part, tensors in gradients.items()}
    total = torch.stack(list(parts.values())).square().sum().sqrt()
    nn.utils.clip_grads_with_norm_(module.parameters(), largest, total)
    return GradientNorms(total, parts)


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
