"""Weights of a trained model for a new training: of the same model, at the same size or another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avmodel.training.checkpoints import check_weights
from avmodel.training.errors import CheckpointError

_MOST_NAMES = 3  # of tensors in a message
Fit = Callable[[str, Tensor, Tensor], Tensor | None]


def take_weights(model: nn.Module, weights: dict[str, Tensor], path: Path, fit: Fit) -> str:
    """Loads another model's weights.

    Args:
        fit: called with (name, found, own): `found`, or a tensor made of it in the shape of `own`, or None if
            it does not fit.

    Returns:
        Which were taken, to print.

    Raises:
        CheckpointError: naming weights that are missing, unknown, of another shape, or not finite.
    """
    own = model.state_dict()
    taken, fitted, wrong = {}, [], [f"{name} is unknown here" for name in weights if name not in own]
    for name, tensor in own.items():
        found = weights.get(name)
        if not isinstance(found, Tensor):
            wrong.append(f"{name} is missing")
            continue
        taken[name] = found
        made = fit(name, found, tensor)
        if made is None:
            wrong.append(f"{name} is {tuple(found.shape)} there and {tuple(tensor.shape)} here")
        elif made is not found:
            taken[name] = made
            fitted.append(f"{name} {tuple(found.shape)} -> {tuple(tensor.shape)}")
    if wrong:
        more = f" and {len(wrong) - _MOST_NAMES} more" if len(wrong) > _MOST_NAMES else ""
        raise CheckpointError(
            f"start_from = {path}: its weights do not fit: {'; '.join(wrong[:_MOST_NAMES])}{more}"
        )
    check_weights(own, taken, path)
    model.load_state_dict(taken)
    adapted = f", {len(fitted)} of them adapted ({'; '.join(fitted)})" if fitted else ""
    return f"{len(taken)} tensors{adapted}"


def only_equal_shapes(name: str, found: Tensor, own: Tensor) -> Tensor | None:
    return found if found.shape == own.shape else None


def resample_positions(name: str, found: Tensor, own: Tensor) -> Tensor | None:
    """A table of learned positions (1, 1 + L, D) for another length.

    The first, of the token that gathers the sequence, stays; the others are interpolated linearly, as usual
    for a vision transformer at another resolution.
    """
    if found.shape == own.shape:
        return found
    is_table = name.endswith("positions") and found.ndim == own.ndim == 3
    if not is_table or found.shape[::2] != own.shape[::2] or min(found.shape[1], own.shape[1]) < 2:
        return None
    rest = F.interpolate(found[:, 1:].mT, size=own.shape[1] - 1, mode="linear", align_corners=False).mT
    return torch.cat((found[:, :1], rest), dim=1)
