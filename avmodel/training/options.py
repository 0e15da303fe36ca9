"""The options that both trainings share, and the one rule for what a resumed run must have in common.

Every field of a config is of one of three kinds:

    compared        decides the weights: a resumed run must have the same value
    adjustable(..)  may change between two runs of one training; the checkpoint keeps the value
    runtime(..)     belongs to the machine or to a place on it: neither compared nor kept

A nested dataclass is treated field by field. A field that was not given to a resumed run takes the value that
the checkpoint has (`with_begun_values`).

Light: the command line reads the defaults here without torch.
"""

from __future__ import annotations

import dataclasses
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from avmodel.training.errors import CheckpointError, TrainingError
from avprep.credentials import require_no_credentials_in
from avprep.errors import shown

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from avprep.shards.damage import OnDamage

Device = Literal["auto", "cpu", "cuda"]
Optimizer = Literal["adam", "muon"]
OPTIMIZERS: tuple[Optimizer, ...] = ("adam", "muon")
Config = TypeVar("Config", bound="DataclassInstance")
_KIND = "kind"
_RUNTIME, _ADJUSTABLE = "runtime", "adjustable"
_EVERY = ("log_every", "eval_every", "checkpoint_every")
_SHOWN = 60  # characters of a value in a message
_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxstring, _REPR.maxother = 2, _SHOWN, _SHOWN


def runtime(default: Any = dataclasses.MISSING) -> Any:
    """A dataclass field that belongs to the machine: neither compared nor kept."""
    return dataclasses.field(default=default, metadata={_KIND: _RUNTIME})


def adjustable(default: Any) -> Any:
    """A dataclass field that may change between two runs of one training, and that its checkpoint keeps."""
    return dataclasses.field(default=default, metadata={_KIND: _ADJUSTABLE})


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(ABC):
    """What both trainings take.

    Raises:
        TrainingError: a value out of range.
        ArgumentError: an address with credentials.
    """

    out: Path = runtime()  # folder for checkpoints and logs
    start_from: Path | None = runtime(None)  # a trained checkpoint whose weights a new training starts from
    # The name of a selection of each output that is trained on: its digest is compared, not its name.
    select: str | None = runtime(None)
    shares: Sequence[float] | None = runtime(None)  # of each output; compared when they sum to 1
    batch_size: int  # samples per step, of all processes and micro-batches together
    accumulate: int = adjustable(1)  # micro-batches per step and process
    lr: float = 1e-4
    optimizer: Optimizer = "adam"  # [paper: Adam]; muon: of the matrices inside the model, Adam for the rest
    muon_lr: float = 0.02
    cooldown_steps: int = 0  # the last ones, over which the rate falls to 0
    clip_grad: float = 1.0  # largest gradient norm
    seed: int = 0
    holdout: float = 0.05  # share of sources that are not trained on
    eval_clips: int = adjustable(32)  # at most
    loader_workers: int = runtime(1)  # processes that read
    # A damaged shard ends the run, or is left out. What is trained on is compared, not this.
    on_damage: OnDamage = runtime("end")
    log_every: int = adjustable(10)  # steps
    eval_every: int = adjustable(500)  # steps
    checkpoint_every: int = adjustable(1000)  # steps
    milestone_every: int = adjustable(0)  # steps between models that are kept for good; 0: none
    keep: int = adjustable(1)  # the last checkpoints that are kept
    compile: bool = runtime(True)  # on a GPU
    peak_tflops: float | None = runtime(
        None
    )  # TFLOP/s of the device in bf16; None: its data sheet's, if known
    device: Device = runtime("auto")

    def __post_init__(self) -> None:
        require_no_credentials_in(self)
        for name in ("batch_size", "accumulate", "lr", "muon_lr", "clip_grad", *_EVERY, "eval_clips", "keep"):
            if not getattr(self, name) > 0:
                raise TrainingError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("loader_workers", "cooldown_steps", "milestone_every"):
            if not getattr(self, name) >= 0:
                raise TrainingError(f"{name} must be at least 0, not {getattr(self, name)}")
        if self.optimizer not in OPTIMIZERS:
            raise TrainingError(
                f"optimizer must be one of {', '.join(OPTIMIZERS)}, not {shown(self.optimizer, 40)!r}"
            )
        if self.peak_tflops is not None and not self.peak_tflops > 0:
            raise TrainingError(f"peak_tflops must be above 0, not {self.peak_tflops}")
        if not 0 <= self.holdout < 1:
            raise TrainingError(f"holdout must be at least 0 and below 1, not {self.holdout}")

    @property
    @abstractmethod
    def last_step(self) -> int:
        """Steps of the whole training."""

    def refuse_another_past(self, begun: Self, step: int) -> None:
        """Refuses options with which the steps that are done would have been others.

        Args:
            begun: the options with which the training was last run.
            step: steps done.

        Raises:
            TrainingError: the end moves although the rate has begun to fall towards it.
        """
        falling = min(begun.last_step, self.last_step) - self.cooldown_steps
        if self.cooldown_steps and begun.last_step != self.last_step and step > falling:
            raise TrainingError(
                f"cooldown_steps = {self.cooldown_steps}: {step} steps are done, and the rate falls towards "
                f"the last of {begun.last_step} steps; an end at {self.last_step} steps would have changed "
                f"steps that are done. Start a new training from this one's weights (`start_from`)"
            )

    def micro_batch(self, processes: int) -> int:
        """Samples per process and micro-batch.

        Raises:
            TrainingError: `batch_size` does not divide.
        """
        parts = processes * self.accumulate
        if self.batch_size % parts:
            raise TrainingError(
                f"batch_size = {self.batch_size}: the samples of a step cannot be divided equally by "
                f"{processes} processes with `accumulate` = {self.accumulate}: no multiple of {parts}"
            )
        return self.batch_size // parts


@dataclass(frozen=True, kw_only=True)
class TrainingEnd:
    """How a run ended."""

    step: int  # steps done
    skipped: int  # steps left out: a loss or gradient was NaN or Inf
    stopped_by: int | None  # the signal's number
    reports: bool  # rank 0 of a torchrun: the one process that prints


def identity_of(config: Any) -> dict[str, Any]:
    """The fields of a config dataclass that a resumed run must have in common, by name.

    Nested dataclasses become dicts, tuples become lists: as a checkpoint gives them back.
    """
    return _fields_of(config, None)


def adjustable_of(config: Any) -> dict[str, Any]:
    """The adjustable fields of a config dataclass, by name, in the same form."""
    return _fields_of(config, _ADJUSTABLE)


def _fields_of(config: Any, kind: str | None) -> dict[str, Any]:
    fields = [field for field in dataclasses.fields(config) if field.metadata.get(_KIND) == kind]
    return {field.name: _plain(getattr(config, field.name)) for field in fields}


def with_begun_values(
    config: Config, begun: dict[str, Any], given: Collection[str], path: Path, prefix: str = ""
) -> Config:
    """The config with the values of a training that was begun, in each field that was not given.

    Args:
        begun: values by field, as `identity_of` and `adjustable_of` give them; a field that it lacks keeps
            its value.
        given: names of fields; 'model.packed' is one of a nested config, 'model' is all of it.
        path: the checkpoint that holds `begun`, for a message.

    Raises:
        CheckpointError: a value of another type than the field's.
    """
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        name, own = prefix + field.name, getattr(config, field.name)
        if name in given or field.name not in begun or field.metadata.get(_KIND) == _RUNTIME:
            continue
        value = begun[field.name]
        if dataclasses.is_dataclass(own) and not isinstance(own, type) and isinstance(value, dict):
            changes[field.name] = with_begun_values(own, value, given, path, f"{name}.")
        else:
            changes[field.name] = _in_the_type_of(own, value, f"{path}: its {name}")
    return dataclasses.replace(config, **changes)


def _in_the_type_of(own: Any, value: Any, what: str) -> Any:
    """A value from a checkpoint, as the field that holds `own` has it. Raises CheckpointError."""
    if isinstance(own, tuple) and isinstance(value, list):
        return tuple(value)
    if type(own) is float and type(value) is int:
        return float(value)
    is_left_out = value is None and dataclasses.is_dataclass(own)
    if type(value) is not type(own) and not is_left_out:
        raise CheckpointError(f"{what} is {type(value).__name__}, not {type(own).__name__}")
    return value


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return identity_of(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def refuse_differences(then: dict[str, Any], now: dict[str, Any], path: Path) -> None:
    """Compares the identity that the checkpoint `path` holds with that of the run that resumes from it.

    A checkpoint of an earlier version lacks the entries that were added since. They cannot be compared, and
    the run goes on: refusing it would end every training at each release.

    Raises:
        TrainingError: naming the first entry that differs.
    """
    for name, a, b in _differences(then, now):
        raise TrainingError(
            f"{path} was begun with {name} = {_shortened(a)}, and this run has {name} = {_shortened(b)}. "
            f"Use the same value to resume, or another `out` to start a new training."
        )


def _differences(then: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[tuple[str, Any, Any]]:
    found = []
    for name in [*now, *(name for name in then if name not in now)]:
        if name not in then:
            continue
        a, b = then[name], now.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            found += _differences(a, b, f"{prefix}{name}.")
        elif a != b:
            found.append((f"{prefix}{name}", a, b))
    return found


def _shortened(value: Any) -> str:
    """A value of a checkpoint, which may be of any size and nest any number of times."""
    if isinstance(value, str):
        return value[:_SHOWN]
    return _REPR.repr(value)
