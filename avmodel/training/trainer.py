"""What both trainers share: the folder, the checkpoint to resume from, the log, the batches.

A trainer's folder, OUT:

    state.pt        model, optimizers, step, and the run's identity: what the same command resumes from
    metrics.jsonl   and tensorboard/

`training.writer` says which other checkpoints are there.
"""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Generator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from torch import Tensor
from tqdm import tqdm

from avmodel.data import ClipData, LatentData, Steps, step_loader
from avmodel.training.checkpoints import entry, load_checkpoint
from avmodel.training.errors import CheckpointError
from avmodel.training.loader import (
    check_shared_memory,
    leave_dead_processes_to_the_next_read,
    reading,
    with_checksums,
)
from avmodel.training.log import RunLog
from avmodel.training.loop import Schedule, run_steps
from avmodel.training.machine import DistributedContext, open_distributed
from avmodel.training.optim import cool_down, warm_up
from avmodel.training.options import (
    TrainingEnd,
    TrainingOptions,
    adjustable_of,
    refuse_differences,
    with_begun_values,
)
from avmodel.training.peak import peak_tflops
from avmodel.training.scalars import NonFiniteGuard
from avmodel.training.source import file_identity
from avmodel.training.watch import Watch
from avmodel.training.writer import CheckpointWriter, Retention
from avprep.shards.lock import lock
from avprep.shards.store import open_store
from avprep.signals import stop_on_signal

STATE_FILE = "state.pt"
START = "weights at the start"  # of the identity: the SHA-256 of the checkpoint that was started from


class Trainer(ABC):
    """A training run: its state, and how to save and resume it. A subclass adds the model and its step."""

    state_kind: ClassVar[str]
    model_file: ClassVar[str]  # the checkpoint that the other commands take
    model_kind: ClassVar[str]  # its kind
    unit: ClassVar[str]  # the name of a sample: 'clips'
    falling: ClassVar[tuple[str, ...]]  # the losses whose rise is warned of
    log: RunLog

    def __init__(
        self, options: TrainingOptions, context: DistributedContext, data: ClipData | LatentData
    ) -> None:
        """
        Args:
            data: what is trained on.

        Raises:
            TrainingError: the batch size does not divide, or shared memory is too small.
        """
        self.options, self.context = options, context
        self.out = Path(options.out)
        self.micro_batch = options.micro_batch(context.world)
        self.guard = NonFiniteGuard(context)
        self.step = 0  # steps done
        self.flops = 0  # a subclass adds those of the model, forward and backward, not recomputed
        self.peak_tflops = peak_tflops(context.device, options.peak_tflops)
        self.is_best = False  # the last evaluation
        self._identity: dict[str, Any] = {}  # taken when the run is opened
        self._best: dict[str, Any] = {}  # score and step of the best evaluation
        self._data = data
        self._batches: Generator[Any, None, None] | None = None  # opened at the first step
        self._writer = CheckpointWriter()
        self._retention = Retention(
            out=self.out,
            model_file=self.model_file,
            state_file=STATE_FILE,
            keep=options.keep,
            milestone_every=options.milestone_every,
        )
        self.watch = Watch(self.falling, clip_grad=options.clip_grad, is_first=context.is_first)
        if options.loader_workers and len(data):
            check_shared_memory(
                data[0],
                batch_size=self.micro_batch,
                batches=options.accumulate,
                workers=options.loader_workers,
            )

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What a run that resumes from this one must have in common with it."""

    @classmethod
    def upgraded(cls, begun: dict[str, Any]) -> dict[str, Any]:
        """The options and the identity in a checkpoint of an earlier version, in the words of this one."""
        return begun

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """The weights and optimizers, for state.pt."""

    @abstractmethod
    def load_state(self, state: dict[str, Any], path: Path) -> None:
        """Raises CheckpointError if the state is not this run's."""

    @abstractmethod
    def start_from(self, path: Path) -> str:
        """Takes the weights of a trained checkpoint. Returns which were taken, to print.

        Raises:
            CheckpointError: it is damaged, or its weights do not fit this model.
        """

    @abstractmethod
    def model_payload(self) -> dict[str, Any]:
        """What the checkpoint that the other commands take holds."""

    @abstractmethod
    def train_step(self, batches: list[Any]) -> tuple[dict[str, Tensor], Tensor]: ...

    def rate_share(self, warmup_steps: int) -> float:
        """The share of the learning rates that this step has."""
        options = self.options
        return warm_up(self.step, warmup_steps) * cool_down(
            self.step, options.cooldown_steps, options.last_step
        )

    @abstractmethod
    def score(self) -> float | None:
        """Evaluates the model and logs what it finds. Called on rank 0 only.

        Returns:
            A number that is higher for a better model; None if nothing was held out.
        """

    def open(self) -> None:
        """Loads state.pt if there is one, or takes the weights to start from, and opens the log.

        Raises:
            CheckpointError: one of them is damaged. TrainingError: state.pt is another run's.
        """
        path = self.out / STATE_FILE
        self._identity = self.identity()  # hashes the keys of all clips: once per run, not per checkpoint
        first = self.options.start_from and Path(self.options.start_from)
        if first and first.exists():  # it may be gone when the run is resumed
            self._identity |= {START: file_identity(first)}
        if path.exists():
            self._resume(path)
        elif first:
            self._start(first)
        self.log = RunLog(self.out, first_step=self.step, is_first=self.context.is_first)

    def _start(self, weights: Path) -> None:
        taken = self.start_from(weights)
        if self.context.is_first:
            tqdm.write(f"starts from {weights}: {taken}", file=sys.stderr)

    def _resume(self, path: Path) -> None:
        state = load_checkpoint(path, self.state_kind)
        begun = begun_options(type(self), state, path)
        adjustable = adjustable_of(self.options)
        compared = {name: value for name, value in begun.items() if name not in adjustable}
        if START in compared:
            self._identity.setdefault(START, compared[START])
        refuse_differences(compared, self._identity, path)
        self.step = entry(state, "step", int, path)
        self.options.refuse_another_past(with_begun_values(self.options, begun, (), path), self.step)
        self.guard.skipped = entry(state, "skipped", int, path)
        if state.get("best"):
            best = entry(state, "best", dict, path)
            self._set_best(entry(best, "score", float, path), entry(best, "step", int, path))
        self.load_state(state, path)

    @property
    def has_started_from_weights(self) -> bool:
        return START in self._identity

    def print_evaluation(self, found: str) -> None:
        tqdm.write(f"step {self.step}: {found}", file=sys.stderr)

    def evaluate(self) -> None:
        """Evaluates on rank 0, and notes whether it was the best so far."""
        if not self.context.is_first:
            return
        score = self.score()
        self.is_best = False
        if score is not None and (not self._best or score > self._best["score"]):
            self.is_best = True
            self._set_best(score, self.step)

    def _set_best(self, score: float, step: int) -> None:
        self._best = {"score": score, "step": step}
        self.watch.best = f"{self._retention.best_file}, of step {step}, is the best checkpoint so far"

    def save(self) -> None:
        """Begins to write the checkpoints, on rank 0."""
        if not self.context.is_first:
            return
        # state.pt is last: where it says that a step is done, the model's own checkpoint is there.
        state = {
            "kind": self.state_kind,
            "run": self._identity,
            "adjustable": adjustable_of(self.options),
            "step": self.step,
            "skipped": self.guard.skipped,
            "best": self._best,
        }
        files = {
            self.out / self.model_file: self.model_payload(),
            self.out / STATE_FILE: state | self.state(),
        }
        self._writer.submit(files, partial(self._retention.apply, self.step, is_best=self.is_best))
        self.is_best = False

    def check_saved(self) -> None:
        """Raises what a write that has ended has raised."""
        self._writer.check()

    def finish_saving(self) -> None:
        """Waits for the write. Raises what it raises."""
        self._writer.wait()

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
            return [next(self._batches) for _ in range(self.options.accumulate)]

    def close(self) -> None:
        """Ends the reading, the log and the writing. Raises what a write has raised."""
        if self._batches is not None:
            self._batches.close()
        self.log.close()
        self._writer.close()

    def number_of(self, micro_batch: int) -> int:
        """The number of this process's micro-batch among all of the step. Random numbers are drawn by it: the
        same step on another number of processes draws the same."""
        return micro_batch * self.context.world + self.context.rank

    def _read(self) -> Generator[Any, None, None]:
        steps = Steps(
            self._data.clip_order(self.options.seed),
            self.micro_batch,
            first=self.step * self.options.accumulate,
            rank=self.context.rank,
            world=self.context.world,
        )
        workers = self.options.loader_workers
        batches = iter(step_loader(self._data, steps, workers=workers, pin=self.context.on_gpu))
        return with_checksums(batches, self._data.index, steps)


def begun_options(trainer: type[Trainer], state: dict[str, Any], path: Path) -> dict[str, Any]:
    """The options and the identity of the run that wrote a state, by name. Raises CheckpointError."""
    begun = dict(entry(state, "run", dict, path))
    if "adjustable" in state:
        return trainer.upgraded(begun | entry(state, "adjustable", dict, path))
    # Version 0.1: `batch_size` was that of a process and micro-batch.
    parts = (begun.pop("processes", 1), begun.get("accumulate", 1), begun.get("batch_size"))
    if not all(type(part) is int for part in parts):
        raise CheckpointError(f"{path}: its batch size is {parts}, which is not three numbers")
    return trainer.upgraded(begun | {"batch_size": math.prod(parts)})


SomeOptions = TypeVar("SomeOptions", bound=TrainingOptions)


def as_begun(trainer: type[Trainer], options: SomeOptions, given: Collection[str]) -> SomeOptions:
    """The options of a run, with the values of the training in `options.out` where a field was not given.

    A new training that starts from a checkpoint takes that checkpoint's model in the same way.

    Args:
        given: the names of the fields that were; 'model.packed' is one of a nested config, 'model' all of it.

    Raises:
        CheckpointError: the training's state, or the checkpoint, is damaged.
    """
    path = Path(options.out) / STATE_FILE
    if path.exists():
        begun = begun_options(trainer, load_checkpoint(path, trainer.state_kind), path)
    elif options.start_from is not None:
        path = options.start_from
        begun = trainer.upgraded(
            {"model": entry(load_checkpoint(path, trainer.model_kind), "config", dict, path)}
        )
    else:
        return options
    return with_begun_values(options, begun, given, path)


SomeTrainer = TypeVar("SomeTrainer", bound=Trainer)


def run_training(
    options: TrainingOptions, make: Callable[[DistributedContext], SomeTrainer]
) -> tuple[SomeTrainer, TrainingEnd]:
    """Trains, or resumes, to the last step or a signal. One run writes into `options.out` at a time.

    Raises:
        AvprepError: the data, the options or the checkpoint cannot be used; the message says which.
        OSError: the machine is at fault, as with a full disk.
    """
    with open_distributed(options.device) as context, stop_on_signal() as stop:
        with lock(open_store(options.out)) if context.is_first else nullcontext():
            trainer = make(context)
            trainer.open()
            if context.is_first:
                trainer.report_left_out()
            try:
                run_steps(trainer, _schedule(trainer), context, stop)
            finally:
                trainer.close()
    return trainer, TrainingEnd(
        step=trainer.step, skipped=trainer.guard.skipped, stopped_by=stop.number, reports=context.is_first
    )


def _schedule(trainer: Trainer) -> Schedule:
    options = trainer.options
    return Schedule(
        steps=options.last_step,
        log_every=options.log_every,
        eval_every=options.eval_every,
        checkpoint_every=options.checkpoint_every,
        milestone_every=options.milestone_every,
        batch_size=options.batch_size,
        unit=trainer.unit,
    )
