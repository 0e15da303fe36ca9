"""Trains and measures the cells of an ablation, seed by seed; a finished cell is not done again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from avmodel.ablate.options import AblationOptions
from avmodel.data import ClipData, collate
from avmodel.mdsa.checkpoint import open_codec
from avmodel.mdsa.options import MDSATrainingOptions
from avmodel.mdsa.train import train_mdsa
from avmodel.training.errors import TrainingError
from avmodel.training.options import identity_of
from avmodel.training.source import shards_identity
from avmodel.training.trainer import STATE_FILE
from avprep.dsp.psnr import psnr_a, psnr_v
from avprep.errors import AvprepError
from avprep.shards.store import whole_file

RESULT_FILE = "result.json"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One variant trained from one seed."""

    variant: str
    seed: int
    psnr_v: np.ndarray | None  # float64 (clips,) dB, in the order of the held-out clips; None: no such stream
    psnr_a: np.ndarray | None


class StoppedBySignal(AvprepError):
    """A training was stopped; the same command again resumes."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by signal {number}")
        self.number = number


def run_cells(options: AblationOptions) -> Iterator[Cell]:
    """The cells as they are finished, seed by seed, so that a part of the work holds whole comparisons.

    Raises:
        StoppedBySignal: SIGINT or SIGTERM; the cell's checkpoint is saved.
        TrainingError: no source is held out, or an earlier result is of other options or clips.
        AvprepError: as `train_mdsa`.
    """
    data = ClipData(options.clips)
    held_out = data.split_by_source(options.holdout)[1]
    if not len(held_out):
        raise TrainingError(f"holdout = {options.holdout}: no source of {options.clips} is held out")
    clips = shards_identity(data.index)
    for seed in range(options.seeds):
        for variant in options.trained:
            training = options.training_of(variant, seed)
            steps = [options.stage1_steps, options.stage2_steps]
            request = {"training": _plain(identity_of(training)), "steps": steps, "clips": clips}
            found = _read(training.out / RESULT_FILE, request)
            if found is None:
                found = _train(training, held_out, request)
            yield Cell(variant=variant, seed=seed, psnr_v=found.get("v"), psnr_a=found.get("a"))


def _train(
    training: MDSATrainingOptions, held_out: ClipData, request: dict[str, Any]
) -> dict[str, np.ndarray]:
    training.out.mkdir(parents=True, exist_ok=True)
    end = train_mdsa(training)
    if end.stopped_by is not None:
        raise StoppedBySignal(end.stopped_by)
    found = _psnr(training, held_out)
    if end.reports:  # of a torchrun: one process writes
        with whole_file(training.out / RESULT_FILE) as file:
            listed = {name: values.tolist() for name, values in found.items()}
            file.write(json.dumps({"request": request, "psnr": listed}).encode())
        (training.out / STATE_FILE).unlink(missing_ok=True)  # optimizers: two thirds of the space
    return found


def _psnr(training: MDSATrainingOptions, held_out: ClipData) -> dict[str, np.ndarray]:
    """By stream: dB of each held-out clip."""
    size = training.batch_size
    codec = open_codec(training.out / "mdsa.pt", device=training.device, batch_size=size, compile=False)
    found: dict[str, list[torch.Tensor]] = {stream: [] for stream in training.model.streams}
    for first in range(0, len(held_out), size):
        batch = collate([held_out[i] for i in range(first, min(first + size, len(held_out)))])
        frames, mel = codec.decode(codec.encode(batch.frames, batch.mel).mean)
        if "v" in found:
            found["v"].append(psnr_v(batch.frames, frames))
        if "a" in found:
            found["a"].append(psnr_a(batch.mel, mel))
    return {stream: torch.cat(values).numpy() for stream, values in found.items()}


def _read(path: Path, request: dict[str, Any]) -> dict[str, np.ndarray] | None:
    """The result of a finished cell; None if it is not finished."""
    try:
        stored = json.loads(path.read_bytes())
        if stored["request"] != request:
            raise TrainingError(
                f"{os.fspath(path)} is of other options or clips. Use the same values to resume, or another "
                f"`out`"
            )
        return {stream: np.array(values, np.float64) for stream, values in stored["psnr"].items()}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, TrainingError):
            raise
        raise TrainingError(f"{path} is damaged: {error!r}; remove it to measure the cell again") from error


def _plain(identity: dict[str, Any]) -> Any:
    """As JSON gives it back."""
    return json.loads(json.dumps(identity))
