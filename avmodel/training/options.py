"""The options that both trainings share, and the one rule for what a resumed run must have in common.

The rule: every field of a config is compared, unless it is declared with `runtime(...)`: such a field may
change between two runs of one training, because it does not decide the weights. A nested dataclass is
compared field by field under the same rule.

Light: the command line reads the defaults here without torch.
"""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from avmodel.training.errors import TrainingError
from avprep.credentials import require_no_credentials_in

if TYPE_CHECKING:
    from avprep.shards.damage import OnDamage

Device = Literal["auto", "cpu", "cuda"]
DEVICES: tuple[Device, ...] = ("auto", "cpu", "cuda")
_RUNTIME = {"runtime": True}
_SHOWN = 60  # characters of a value in a message
_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxstring, _REPR.maxother = 2, _SHOWN, _SHOWN


def runtime(default: Any = dataclasses.MISSING) -> Any:
    """A dataclass field that a resumed run may change: it is not compared."""
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=_RUNTIME)
    return dataclasses.field(default=default, metadata=_RUNTIME)


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """What both trainings take.

    Raises:
        TrainingError: a value out of range.
        ArgumentError: an address with credentials.
    """

    out: Path = runtime()  # folder for checkpoints and logs
    # The name of a selection of each output that is trained on: its digest is compared, not its name.
    select: str | None = runtime(None)
    shares: Sequence[float] | None = runtime(None)  # of each output; compared when they sum to 1
    batch_size: int  # samples per process and micro-batch
    lr: float = 1e-4
    clip_grad: float = 1.0  # largest gradient norm
    seed: int = 0
    loader_workers: int = runtime(1)  # processes that read
    # A damaged shard ends the run, or is left out. What is trained on is compared, not this.
    on_damage: OnDamage = runtime("end")
    checkpoint_every: int = runtime(1000)  # steps
    eval_every: int = runtime(500)  # steps
    compile: bool = runtime(True)  # on a GPU
    device: Device = runtime("auto")

    def __post_init__(self) -> None:
        require_no_credentials_in(self)
        for name in ("batch_size", "lr", "clip_grad", "checkpoint_every", "eval_every"):
            if not getattr(self, name) > 0:
                raise TrainingError(f"{name} must be above 0, not {getattr(self, name)}")
        if self.loader_workers < 0:
            raise TrainingError(f"loader_workers must be at least 0, not {self.loader_workers}")


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
    fields = [field for field in dataclasses.fields(config) if not field.metadata.get("runtime")]
    return {field.name: _plain(getattr(config, field.name)) for field in fields}


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
