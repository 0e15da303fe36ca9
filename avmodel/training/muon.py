"""Muon (Jordan et al. 2024) for the matrices inside a model: momentum with its singular values made about 1.

torch.optim.Muon does the same, one matrix at a time and in bfloat16, which most CPUs multiply a hundred times
slower than float32. Here matrices of one shape are updated together, and in float32 on a CPU.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from avmodel.training.options import Optimizer as OptimizerName

MOMENTUM = 0.95
SMALLEST = 16  # rows and columns: below that a matrix embeds or reads a few values, which Adam does better
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration
ITERATIONS = 5


def muon_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The weights that Muon trains: of linear maps with at least SMALLEST inputs and outputs."""
    linear = (module for module in model.modules() if isinstance(module, nn.Linear))
    return [cast(nn.Parameter, m.weight) for m in linear if min(m.weight.shape) >= SMALLEST]


def split_parameters(
    model: nn.Module, optimizer: OptimizerName
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(what Muon trains, what Adam trains): all parameters of the model, in the model's order."""
    matrices = muon_matrices(model) if optimizer == "muon" else []
    chosen = {id(weight) for weight in matrices}
    return matrices, [weight for weight in model.parameters() if id(weight) not in chosen]


def orthogonalized(matrices: Tensor) -> Tensor:
    """(n, rows, columns) -> the same shape: singular values between about 0.7 and 1.2, vectors kept.

    Five steps of a Newton-Schulz iteration on each matrix, which is divided by its norm first.
    """
    x = matrices.bfloat16() if matrices.is_cuda else matrices.float()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    is_tall = x.shape[1] > x.shape[2]
    x = x.mT if is_tall else x
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if is_tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """W -= lr * sqrt(max(1, rows / columns)) * orthogonalized(Nesterov momentum of the gradients).

    Takes matrices only. Like torch's fused optimizers it reads a flag on the device and leaves the step out
    where that is 1: `avmodel.training.optim.apply_step` sets it.
    """

    found_inf: Tensor | None = None  # () float32

    def __init__(self, matrices: Iterable[nn.Parameter], lr: float) -> None:
        # As a group, which may be empty.
        super().__init__([{"params": list(matrices)}], {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    by_shape[weight.shape].append(weight)
            for weights in by_shape.values():
                self._step(weights, group["lr"])

    def _step(self, weights: list[Tensor], lr: float) -> None:
        """One step of matrices of one shape."""
        momenta = torch.stack([self._momentum(weight) for weight in weights])
        gradients = torch.stack([weight.grad for weight in weights if weight.grad is not None])
        bad = torch.zeros((), device=momenta.device) if self.found_inf is None else self.found_inf
        gradients = torch.where(bad > 0, momenta, gradients)  # they may be NaN: the momenta stay as they are
        momenta = momenta.lerp(gradients, 1 - MOMENTUM)
        rows, columns = momenta.shape[1:]
        rate = lr * max(1.0, rows / columns) ** 0.5 * (1 - bad)
        updates = rate * orthogonalized(gradients.lerp(momenta, MOMENTUM))
        torch._foreach_copy_([self._momentum(weight) for weight in weights], list(momenta))
        torch._foreach_sub_(weights, list(updates))

    def _momentum(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        return state["momentum"]
