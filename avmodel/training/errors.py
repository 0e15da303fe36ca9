"""What can be wrong with a training run or a checkpoint. Light: the command line imports it without torch."""

from __future__ import annotations

from avprep.errors import AvprepError


class CheckpointError(AvprepError, ValueError):
    """A checkpoint that cannot be used: the message names the file and what is wrong with it."""


class TrainingError(AvprepError):
    """Training cannot begin or go on: the message says why."""


class LoaderError(TrainingError):
    """The data cannot be read any further. The steps done so far are sound and can be saved."""
