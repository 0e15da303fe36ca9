"""What both trainers share: the machine, checkpoints, the log, the stop, and the watch over losses.

Nothing here knows a model. The rules it keeps:
- a checkpoint is written whole or not at all, never holds a NaN, and loads with `weights_only=True`;
- the same command goes on where the last one stopped, with the losses of an undisturbed run;
- a step whose loss or gradient is not finite is left out and counted; three in a row end the run.
"""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from avprep.errors import AvprepError

BAD_STEPS = 3  # in a row that end a run


class CheckpointError(AvprepError, ValueError):
    """A checkpoint that cannot be used; a sentence with its path."""


class TrainingError(AvprepError):
    """Training cannot begin or go on; a sentence for the person who runs it."""


# --- the machine -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Machine:
    """Where this process trains, and its place among the others of a torchrun."""

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def autocast(self) -> torch.autocast:
        """bf16 on a GPU. On a CPU nothing is cast: bf16 there is 150 times slower than float32."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.on_gpu)

    def generator(self, *seeds: int) -> torch.Generator:
        """Random numbers that depend on the seeds and the rank alone, so that a resumed step repeats."""
        mixed = 0
        for value in (*seeds, self.rank):
            mixed = (mixed * 1_000_003 + value + 1) % 2**63
        return torch.Generator(self.device).manual_seed(mixed)

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over the processes."""
        if self.world > 1:
            dist.all_reduce(value)
            value /= self.world
        return value

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process."""
        if self.world == 1:
            return flag
        value = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return bool(value.item())


def device_of(name: str) -> torch.device:
    """'auto', 'cpu' or 'cuda'. Raises TrainingError for a GPU that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise TrainingError(f"--device must be auto, cpu or cuda, not {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise TrainingError("--device cuda: torch finds no CUDA device here")
    return torch.device(name)


@contextmanager
def open_machine(device: str) -> Iterator[Machine]:
    """This process's machine; under torchrun, one of `WORLD_SIZE`."""
    kind = device_of(device)
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if kind.type == "cuda":
        kind = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(kind)
        torch.set_float32_matmul_precision("high")
    if world == 1:
        yield Machine(kind)
        return
    dist.init_process_group("nccl" if kind.type == "cuda" else "gloo")
    try:
        yield Machine(kind, rank, world)
    finally:
        dist.destroy_process_group()


class StopSignal:
    """Whether SIGINT or SIGTERM has asked to stop; the second time it is at once."""

    number: int | None = None

    def __bool__(self) -> bool:
        return self.number is not None

    def anywhere(self, machine: Machine) -> bool:
        """Whether any process has been asked to; from then on this one has too."""
        if machine.any(bool(self)) and self.number is None:
            self.number = signal.SIGTERM
        return bool(self)


@contextmanager
def stop_on_signal() -> Iterator[StopSignal]:
    stop = StopSignal()

    def handle(number: int, _frame: object) -> None:
        if stop:
            raise KeyboardInterrupt
        stop.number = number

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- checkpoints -------------------------------------------------------------------------------------------


def save_checkpoint(path: Path, payload: dict[str, Any]) -> None:
    """Writes `payload` (tensors, numbers, text, dicts and lists of them) whole or not at all.

    Raises:
        TrainingError: a tensor holds NaN or Inf; what stood at `path` stands on.
    """
    for name, tensor in _tensors(payload):
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise TrainingError(f"{path}: {name} holds NaN or Inf; the checkpoint before it is kept")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save(payload, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load_checkpoint(path: str | Path, kind: str) -> dict[str, Any]:
    """A checkpoint of `kind` (its 'kind' entry), on the CPU.

    Raises:
        CheckpointError: not there, cut off, no checkpoint, or one of another kind.
    """
    if Path(path).is_dir():
        raise CheckpointError(f"{path} is a folder; give the checkpoint (.pt) in it")
    try:
        payload = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such file") from None
    except Exception as error:  # a damaged file makes torch.load raise any of a dozen kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "weights_only" in reason:  # advice to load what may run code
            reason = "it holds more than tensors, numbers and text"
        raise CheckpointError(f"{path} is cut off or no checkpoint ({reason})") from error
    found = payload.get("kind") if isinstance(payload, dict) else None
    if found != kind:
        raise CheckpointError(f"{path} is a checkpoint of {found!r}, not of {kind!r}")
    return payload


def load_weights(model: nn.Module, weights: dict[str, Tensor], path: str | Path) -> None:
    """Raises CheckpointError where the weights are not this model's."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: its weights are not those of its config ({error})") from error


def same_run(then: dict[str, Any], now: dict[str, Any], path: Path) -> None:
    """Raises TrainingError naming the first field in which a run differs from the one it would go on with."""
    for key in sorted({*then, *now}):
        a, b = then.get(key), now.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            same_run({f"{key}.{k}": v for k, v in a.items()}, {f"{key}.{k}": v for k, v in b.items()}, path)
        elif a != b:
            raise TrainingError(
                f"{path} was begun with {key} {a}, now it is {b}; give the same, or another --out"
            )


def _tensors(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _tensors(item, f"{name}.{key}".lstrip("."))
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from _tensors(item, f"{name}.{i}")


# --- the log -----------------------------------------------------------------------------------------------


class RunLog:
    """metrics.jsonl, one line an entry, and TensorBoard beside it. Only the first process writes."""

    def __init__(self, folder: Path, *, first_step: int, is_first: bool) -> None:
        self._file = self._board = None
        if not is_first:
            return
        path = folder / "metrics.jsonl"
        if path.exists():  # what an interrupted run wrote after its last checkpoint is run again
            kept = [line for line in path.read_text().splitlines() if _step_of(line) <= first_step]
            path.write_text("".join(f"{line}\n" for line in kept))
        self._file = open(path, "a")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step + 1)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        if self._file is None:
            return
        self._file.write(json.dumps({"step": step} | {k: round(v, 6) for k, v in values.items()}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def picture(self, step: int, name: str, picture: Tensor) -> None:
        """picture: uint8 (H, W, RGB)."""
        if self._board is not None:
            self._board.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._board.close()


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf  # a line cut off by the end of its process


# --- the step ----------------------------------------------------------------------------------------------


class Health:
    """Counts the steps left out because a loss or a gradient was not finite."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.skipped = 0
        self._in_a_row = 0

    def check(self, *values: Tensor) -> bool:
        """Whether all values, of one device, are finite in all processes; a step goes on only then."""
        finite = torch.stack([torch.isfinite(value).all() for value in values]).all()
        return not self._machine.any(not bool(finite))  # one wait for the device, however many values

    def count(self, step: int, *, good: bool) -> None:
        """Counts a step.

        Raises:
            TrainingError: at the third bad step in a row.
        """
        self._in_a_row = 0 if good else self._in_a_row + 1
        self.skipped += not good
        if self._in_a_row == BAD_STEPS:
            raise TrainingError(
                f"step {step}: a loss or gradient is NaN or Inf for the {BAD_STEPS}rd time in a row; the "
                f"last good checkpoint stands. A lower --lr, or `avprep verify` on the shards, may help"
            )


def warm_up(step: int, steps: int) -> float:
    """The share of the learning rate at a step: rises in a line over the first `steps`, then 1."""
    return min(1.0, (step + 1) / steps) if steps else 1.0


def cool_down(step: int, steps: int, last: int) -> float:
    """The share of the learning rate at a step of a run of `last` steps: 1, and over the final `steps` it
    falls in a line to 0."""
    return min(1.0, (last - step) / steps) if steps else 1.0


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


class Ema:
    """A model's weights averaged over the steps: w += (1 - decay) * (model - w), in float32.

    In the first steps the decay is (1 + step) / (10 + step) at most, so that the start is forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._steps = 0
        self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        self._steps += 1
        current = model.state_dict()
        torch._foreach_lerp_(list(self.weights.values()), [current[n] for n in self.weights], 1 - decay)

    def load(self, weights: dict[str, Tensor], steps: int) -> None:
        """Goes on after `steps` updates."""
        for name, value in weights.items():
            self.weights[name].copy_(value)
        self._steps = steps

    @contextmanager
    def swapped_into(self, model: nn.Module) -> Iterator[None]:
        """The model has the averaged weights inside the block."""
        own = {name: value.detach().clone() for name, value in model.state_dict().items()}
        model.load_state_dict(self.weights)
        try:
            yield
        finally:
            model.load_state_dict(own)


class Run(Protocol):
    """A training run as the loop sees it."""

    step: int  # steps done

    def train_step(self) -> dict[str, Tensor]:
        """Trains one step. Returns its scalars, 'loss' among them; {} where the step was left out."""

    def evaluate(self) -> None: ...

    def save(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long a run is and what happens on the way, in steps."""

    steps: int
    eval_every: int
    checkpoint_every: int
    samples_per_step: int
    unit: str  # what a sample is called: 'clips'


def run_steps(
    run: Run, schedule: Schedule, machine: Machine, log: RunLog, health: Health, stop: StopSignal
) -> None:
    """Trains to the last step or to a signal; a checkpoint is there at the end of either."""
    bar = tqdm(
        total=schedule.steps, initial=run.step, unit="step", disable=not machine.is_first, dynamic_ncols=True
    )
    while run.step < schedule.steps and not stop.anywhere(machine):
        began = time.perf_counter()
        terms = run.train_step()
        run.step += 1
        bar.update()
        health.count(run.step, good=bool(terms))
        if terms:
            told = _told(terms, machine)
            rate = schedule.samples_per_step / (time.perf_counter() - began)
            shown = {"loss": f"{told['loss']:.4f}", f"{schedule.unit}/s": f"{rate:.2f}"}
            bar.set_postfix(shown, refresh=False)  # the bar's own pace: a log is no terminal
            log.scalars(run.step, told | {f"{schedule.unit}_per_s": rate, "skipped": health.skipped})
        else:
            bar.write(f"step {run.step}: left out, a value is NaN or Inf ({health.skipped} so far)")
        last = run.step == schedule.steps
        if last or run.step % schedule.eval_every == 0:
            run.evaluate()
        if last or run.step % schedule.checkpoint_every == 0:
            run.save()
    bar.close()
    if stop:
        run.save()


def _told(terms: dict[str, Tensor], machine: Machine) -> dict[str, float]:
    """The scalars of a step, averaged over the processes, brought to the CPU at once."""
    values = machine.mean(torch.stack([value.detach().float() for value in terms.values()]))
    return dict(zip(terms, values.tolist(), strict=True))
