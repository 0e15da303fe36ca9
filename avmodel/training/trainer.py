"""What both trainers share: the folder, the checkpoint to resume from, the log, the batches.

A trainer's folder, OUT:

    state.pt        model, optimizers, step, and the run's identity: what the same command resumes from
    metrics.jsonl   and tensorboard/
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from torch import Tensor
from tqdm import tqdm

from avmodel.data import ClipData, LatentData, Steps, step_loader
from avmodel.training.checkpoints import entry, load_checkpoint, save_checkpoint
from avmodel.training.loader import (
    check_shared_memory,
    leave_dead_processes_to_the_next_read,
    reading,
    with_checksums,
)
from avmodel.training.log import RunLog
from avmodel.training.loop import NonFiniteGuard, Schedule, run_steps
from avmodel.training.machine import DistributedContext, open_distributed, stop_on_signal
from avmodel.training.options import TrainingEnd, TrainingOptions, refuse_differences
from avprep.shards.lock import lock
from avprep.shards.store import open_store

STATE_FILE = "state.pt"


class Trainer(ABC):
    """A training run: its state, and how to save and resume it. A subclass adds the model and its step."""

    state_kind: ClassVar[str]
    unit: ClassVar[str]  # the name of a sample: 'clips'
    log: RunLog

    def __init__(
        self,
        options: TrainingOptions,
        context: DistributedContext,
        data: ClipData | LatentData,
        *,
        batches_per_step: int,
    ) -> None:
        """data: what is trained on."""
        self.options, self.context = options, context
        self.out = Path(options.out)
        self.guard = NonFiniteGuard(context)
        self.step = 0  # steps done
        self._data, self._batches_per_step = data, batches_per_step
        self._batches: Generator[Any, None, None] | None = None  # opened at the first step
        if options.loader_workers and len(data):
            check_shared_memory(
                data[0],
                batch_size=options.batch_size,
                batches=batches_per_step,
                workers=options.loader_workers,
            )

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What a run that resumes from this one must have in common with it."""

    def upgraded(self, identity: dict[str, Any]) -> dict[str, Any]:
        """The identity in a checkpoint of an earlier version, in the words of this one."""
        return identity

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """The weights and optimizers, for state.pt."""

    @abstractmethod
    def load_state(self, state: dict[str, Any], path: Path) -> None:
        """Raises CheckpointError if the state is not this run's."""

    @abstractmethod
    def save_model(self) -> None:
        """Writes the checkpoint that the other commands take."""

    @abstractmethod
    def train_step(self) -> dict[str, Tensor]: ...

    @abstractmethod
    def evaluate(self) -> None: ...

    def resume(self) -> None:
        """Loads state.pt if there is one, and opens the log after its step.

        Raises:
            CheckpointError: it is damaged. TrainingError: it is another run's.
        """
        path = self.out / STATE_FILE
        self._identity = self.identity()  # hashes the keys of all clips: once per run, not per checkpoint
        if path.exists():
            state = load_checkpoint(path, self.state_kind)
            begun = self.upgraded(entry(state, "run", dict, path))
            refuse_differences(begun, self._identity, path)
            self.step = entry(state, "step", int, path)
            self.guard.skipped = entry(state, "skipped", int, path)
            self.load_state(state, path)
        self.log = RunLog(self.out, first_step=self.step, is_first=self.context.is_first)

    def save(self) -> None:
        if not self.context.is_first:
            return
        self.save_model()
        # state.pt is last: where it says that a step is done, the model's own checkpoint is there.
        progress = {"run": self._identity, "step": self.step, "skipped": self.guard.skipped}
        save_checkpoint(self.out / STATE_FILE, {"kind": self.state_kind} | progress | self.state())

    def report_left_out(self) -> None:
        """Prints the shards that are not trained on because they are damaged."""
        for damage in self._data.index.left_out:
            tqdm.write(f"not trained on: {damage}", file=sys.stderr)

    def next_batches(self) -> list[Any]:
        """The batches of one step. Raises LoaderError."""
        with reading(self.options.loader_workers):
            if self._batches is None:
                self._batches = self._read()
                leave_dead_processes_to_the_next_read()
            return [next(self._batches) for _ in range(self._batches_per_step)]

    def close(self) -> None:
        """Ends the reading and the log."""
        if self._batches is not None:
            self._batches.close()
        self.log.close()

    def _read(self) -> Generator[Any, None, None]:
        steps = Steps(
            self._data.clip_order(self.options.seed),
            self.options.batch_size,
            first=self.step * self._batches_per_step,
            rank=self.context.rank,
            world=self.context.world,
        )
        workers = self.options.loader_workers
        batches = iter(step_loader(self._data, steps, workers=workers, pin=self.context.on_gpu))
        return with_checksums(batches, self._data.index, steps)


SomeTrainer = TypeVar("SomeTrainer", bound=Trainer)


def run_training(
    options: TrainingOptions, steps: int, make: Callable[[DistributedContext], SomeTrainer]
) -> tuple[SomeTrainer, TrainingEnd]:
    """Trains, or resumes, to the last step or a signal. One run writes into `options.out` at a time.

    Raises:
        AvprepError: the data, the options or the checkpoint cannot be used; the message says which.
        OSError: the machine is at fault, as with a full disk.
    """
    with open_distributed(options.device) as context, stop_on_signal() as stop:
        with lock(open_store(options.out)) if context.is_first else nullcontext():
            trainer = make(context)
            trainer.resume()
            if context.is_first:
                trainer.report_left_out()
            try:
                run_steps(trainer, _schedule(trainer, steps), context, stop)
            finally:
                trainer.close()
    return trainer, TrainingEnd(
        step=trainer.step, skipped=trainer.guard.skipped, stopped_by=stop.number, reports=context.is_first
    )


def _schedule(trainer: Trainer, steps: int) -> Schedule:
    options = trainer.options
    return Schedule(
        steps=steps,
        eval_every=options.eval_every,
        checkpoint_every=options.checkpoint_every,
        samples_per_step=options.batch_size * trainer._batches_per_step * trainer.context.world,
        unit=trainer.unit,
    )
