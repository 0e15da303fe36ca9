"""The device that arrays are computed on."""

from __future__ import annotations

import torch

from avprep.checks import DEVICES, require_one_of
from avprep.errors import ArgumentError


def choose_device(name: str) -> torch.device:
    """The device of 'auto' (a GPU if there is one), 'cpu' or 'cuda'.

    Raises:
        ArgumentError: another name, or a GPU that is not there.
    """
    require_one_of("device", name, DEVICES)
    if name == "cuda" and not torch.cuda.is_available():
        raise ArgumentError("device = cuda: torch finds no CUDA device on this machine")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
