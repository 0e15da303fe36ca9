"""The process that trains or samples: its device, and its rank under torchrun."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from avprep.dsp.device import choose_device

T = TypeVar("T")


@dataclass(frozen=True)
class DistributedContext:
    """The device of this process, and its place among the processes of a torchrun."""

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
        """bfloat16 on a GPU. Nothing is cast on a CPU: bfloat16 there is 150 times slower than float32."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.on_gpu)

    def synchronize(self) -> None:
        """Waits until the device has done what it was given. Not in a step: see `StepScalars`."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def generator(self, *seeds: int) -> torch.Generator:
        """Random numbers on the device that depend on the seeds only, so that a resumed step repeats."""
        mixed = 0
        for value in seeds:
            mixed = (mixed * 1_000_003 + value + 1) % 2**63
        return torch.Generator(self.device).manual_seed(mixed)

    def parallel(self, module: nn.Module) -> nn.Module:
        """The module with its gradients averaged over the processes; the module itself if there is one."""
        if self.world == 1:
            return module
        return DistributedDataParallel(module, device_ids=[self.device.index] if self.on_gpu else None)

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over the processes."""
        if self.world > 1:
            dist.all_reduce(value)
            value /= self.world
        return value

    def max(self, value: Tensor) -> Tensor:
        """The elementwise maximum of a tensor over the processes."""
        if self.world > 1:
            dist.all_reduce(value, dist.ReduceOp.MAX)
        return value

    def agreed(self, number: int) -> int:
        """The largest of the processes' numbers. It goes through the CPU: no process waits for its GPU."""
        return int(self.max(torch.tensor(number)))

    def from_first(self, value: Callable[[], T]) -> T:
        """What `value` returns in the first process, in every process; the others do not call it."""
        held = [value() if self.is_first else None]
        if self.world > 1:
            dist.broadcast_object_list(held)
        return cast(T, held[0])

    def gathered(self, own: T) -> list[T]:
        """In the first process, what each process passed, in the order of their ranks; elsewhere nothing."""
        if self.world == 1:
            return [own]
        held: list[T | None] = [None] * self.world
        dist.gather_object(own, held if self.is_first else None)
        return cast(list[T], held) if self.is_first else []


def exchange_gradients(module: nn.Module, *, now: bool) -> AbstractContextManager[None]:
    """Around a micro-batch: DDP averages the gradients over the processes only if `now`."""
    return nullcontext() if now or not isinstance(module, DistributedDataParallel) else module.no_sync()


@contextmanager
def open_distributed(device: str) -> Iterator[DistributedContext]:
    """This process alone or, under torchrun, as one of `WORLD_SIZE`. Raises ArgumentError."""
    chosen = choose_device(device)
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if chosen.type == "cuda":
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(chosen)
        torch.set_float32_matmul_precision("high")
    if world == 1:
        yield DistributedContext(chosen)
        return
    # gloo for what stays on the CPU: see `DistributedContext.agreed`.
    dist.init_process_group("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield DistributedContext(chosen, rank, world)
    finally:
        dist.destroy_process_group()


def is_first_process() -> bool:
    """Whether this process is alone, or rank 0 of a torchrun: the one that prints and writes."""
    return int(os.environ.get("RANK", "0")) == 0
