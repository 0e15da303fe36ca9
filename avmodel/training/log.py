"""The log of a run: metrics.jsonl, one line per entry, and TensorBoard beside it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from avprep.shards.store import LocalStore


class RunLog:
    """Writes scalars and pictures. Only rank 0 writes; the other ranks' calls do nothing.

    Raises:
        OSError: the disk is full, with the file's name.
    """

    def __init__(self, folder: Path, *, first_step: int, is_first: bool) -> None:
        self._file: TextIO | None = None
        self._board: SummaryWriter | None = None
        self._path = folder / "metrics.jsonl"
        if not is_first:
            return
        with naming(self._path):
            if self._path.exists():
                _drop_after(self._path, first_step)
            self._file = open(self._path, "a")
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step + 1)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        if self._file is None or self._board is None:
            return
        with naming(self._path):
            self._file.write(json.dumps({"step": step} | {k: round(v, 6) for k, v in values.items()}) + "\n")
            self._file.flush()
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def picture(self, step: int, name: str, picture: Tensor) -> None:
        """picture: uint8 (H, W, RGB)."""
        if self._board is not None:
            with naming(self._path):
                self._board.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        if self._file is not None and self._board is not None:
            with naming(self._path):
                self._file.close()
                self._board.close()


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Gives an OSError of the block the file's name, which a failed write does not carry."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def _drop_after(path: Path, step: int) -> None:
    """Removes the lines of later steps: an interrupted run wrote them after its last checkpoint, and those
    steps are run again. The file is replaced in one go, so that a kill loses nothing."""
    kept = [line for line in path.read_text().splitlines() if _step_of(line) <= step]
    with LocalStore(str(path.parent)).write(path.name) as file:
        file.write("".join(f"{line}\n" for line in kept).encode())


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf  # cut off when its process ended
