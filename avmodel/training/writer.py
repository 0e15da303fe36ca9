"""Checkpoints written beside the steps, and which of them are kept.

    OUT/mdsa.pt  state.pt          the last
    OUT/mdsa-best.pt               the best by its evaluation
    OUT/last/00002000/             the `keep` last, model and state, if `keep` is above 1
    OUT/milestones/mdsa-00050000.pt    every `milestone_every` steps, never removed

A file that stands in two places is stored once: they are hard links where the file system has them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avmodel.training.checkpoints import save_checkpoint
from avprep.shards.store import whole_file

LAST, MILESTONES = "last", "milestones"


class CheckpointWriter:
    """Writes checkpoints in a thread, from a copy on the CPU. One at a time: a save waits for the one before.

    A failed write is raised by the next call, whichever it is.
    """

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None  # not before the loader has forked
        self._writing: Future[None] | None = None

    def submit(self, files: dict[Path, dict[str, Any]], then: Callable[[], None]) -> None:
        """Returns once the tensors are copied: they may change from then on.

        Args:
            files: each file's payload, in the order in which they are written.
            then: called in the thread when all are written.

        Raises:
            TrainingError, OSError: the save before this one failed.
        """
        self.wait()
        copies = _on_cpu(files, {})

        def write() -> None:
            for path, payload in copies.items():
                save_checkpoint(path, payload)
            then()

        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing = self._thread.submit(write)

    def check(self) -> None:
        """Raises what a write that has ended has raised."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Waits for the write. Raises what it raises."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Waits for the write, and ends the thread. Raises what the write raises."""
        try:
            self.wait()
        finally:
            if self._thread is not None:
                self._thread.shutdown()


def _on_cpu(value: Any, copied: dict[tuple[Any, ...], Tensor]) -> Any:
    """A copy of dicts, lists and tensors. A tensor that stands in two places is copied once."""
    if isinstance(value, dict):
        return {name: _on_cpu(item, copied) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_on_cpu(item, copied) for item in value]
    if not isinstance(value, Tensor):
        return value
    memory = value.untyped_storage().data_ptr(), value.storage_offset()
    key = (value.device, *memory, value.dtype, tuple(value.shape), value.stride())
    if key not in copied or value.numel() == 0:
        copied[key] = torch.empty_like(value, device="cpu").copy_(value.detach())
    return copied[key]


@dataclass(frozen=True, kw_only=True)
class Retention:
    """Which checkpoints stay beside the last."""

    out: Path
    model_file: str  # 'mdsa.pt'
    state_file: str
    keep: int
    milestone_every: int

    @property
    def best_file(self) -> str:
        return self._named("best")

    def apply(self, step: int, *, is_best: bool) -> None:
        """After model and state of a step have been written."""
        model = self.out / self.model_file
        if is_best:
            link(model, self.out / self.best_file)
        if self.milestone_every and step % self.milestone_every == 0:
            link(model, self.out / MILESTONES / self._named(f"{step:08}"))
        if self.keep > 1:
            for name in (self.model_file, self.state_file):
                link(self.out / name, self.out / LAST / f"{step:08}" / name)
            self._remove_older(step)

    def _remove_older(self, step: int) -> None:
        """Folders of later steps stay: a run that went back has not come to them yet."""
        done = [p for p in (self.out / LAST).iterdir() if p.name.isdecimal() and int(p.name) <= step]
        for folder in sorted(done, key=lambda path: int(path.name))[: -self.keep]:
            shutil.rmtree(folder)

    def _named(self, suffix: str) -> str:
        return f"{Path(self.model_file).stem}-{suffix}.pt"


def link(source: Path, target: Path) -> None:
    """`target` becomes a hard link of `source`, or a copy on a file system without links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:  # EPERM, EOPNOTSUPP, EMLINK: file systems differ in which
        with whole_file(target) as file, open(source, "rb") as original:
            shutil.copyfileobj(original, file)
        return
    os.replace(temporary, target)
