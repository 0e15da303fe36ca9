"""What the parts of bench_gpu share: the models, the timing, the rows of results."""

from __future__ import annotations

import gc
import json
import os
import statistics
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch

from avmodel.config import MDSAConfig, STDiTConfig
from avmodel.data import ClipBatch
from avmodel.mdsa.checkpoint import mdsa_payload
from avmodel.mdsa.model import MDSA
from avmodel.training.checkpoints import save_checkpoint
from avmodel.training.machine import DistributedContext
from avprep.spec import ClipSpec
from tests.bench import bench_dit

PEAK_TFLOPS = bench_dit.PEAK_TFLOPS
START_UNTIL_S = 390  # of a part; with the last row it ends within 8 minutes
Values = dict[str, Any]


class Refused(click.ClickException):
    """A message and exit code 2."""

    exit_code = 2


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What is measured and on what; the dry run differs in these fields."""

    machine: DistributedContext
    mdsa: MDSAConfig
    dit: STDiTConfig
    spec: ClipSpec
    step_batches: tuple[int, ...]
    encode_batches: tuple[int, ...]
    dit_batches: tuple[int, ...]
    sample_batches: tuple[int, ...]
    rounds: int
    disc_width: int
    disc_layers: int
    eval_every: int  # steps of the training part
    scratch: Path  # for what is too large to keep

    @property
    def dry(self) -> bool:
        return not self.machine.on_gpu

    def wait(self) -> None:
        if self.machine.on_gpu:
            torch.cuda.synchronize()

    def fresh(self) -> None:
        """Nothing compiled (inductor's files on disk stay) and an empty device."""
        torch.compiler.reset()
        gc.collect()
        if self.machine.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_gib(self) -> float | None:
        return round(torch.cuda.max_memory_allocated() / 2**30, 2) if self.machine.on_gpu else None

    def seconds(self, run: Callable[[], object], rounds: int | None = None) -> float:
        """The median of single runs, each waited for."""
        taken = []
        for _ in range(rounds or self.rounds):
            started = time.perf_counter()
            run()
            self.wait()
            taken.append(time.perf_counter() - started)
        return statistics.median(taken)

    def seconds_each(self, run: Callable[[], object]) -> float:
        """Of runs that follow each other without waiting."""
        self.wait()
        started = time.perf_counter()
        for _ in range(self.rounds):
            run()
        self.wait()
        return (time.perf_counter() - started) / self.rounds


class Results:
    """The rows of DIR/results.json."""

    def __init__(self, out: Path, device: str) -> None:
        self._path, self._device = out / "results.json", device
        self.rows: list[Values] = json.loads(self._path.read_text())["rows"] if self._path.exists() else []
        self.failed = 0
        self._started = time.monotonic()

    def start_part(self, name: str) -> None:
        self._started = time.monotonic()
        print(f"\n{name}", flush=True)

    def measure(self, name: str, run: Callable[[], Values]) -> None:
        """One row. A failure is a row too, and the other rows follow."""
        measured = {(row["name"], row["device"]) for row in self.rows if "failed" not in row}
        if (name, self._device) in measured:
            print(f"  {name}: stands in {self._path}", flush=True)
            return
        if time.monotonic() - self._started > START_UNTIL_S:
            print(f"  {name}: not begun, the part's time is over; run the same command again", flush=True)
            return
        began = time.monotonic()
        try:
            values = run()
        except torch.OutOfMemoryError:
            values = {"out_of_memory": True}
        except Exception:  # noqa: BLE001 - a fault in one row must not cost the others their device time
            values = {"failed": traceback.format_exc(limit=-4)}
        self.failed += "failed" in values
        values["row_s"] = round(time.monotonic() - began, 1)
        self.rows = [row for row in self.rows if (row["name"], row["device"]) != (name, self._device)]
        self.rows.append({"name": name, "device": self._device} | values)
        self._write()
        print(f"  {name}: {'  '.join(map(_told, values.items()))}", flush=True)

    def _write(self) -> None:
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps({"torch": torch.__version__, "rows": self.rows}, indent=1))
        os.replace(temporary, self._path)


def _told(item: tuple[str, Any]) -> str:
    name, value = item
    return f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"


def made_batch(bench: Bench, count: int) -> ClipBatch:
    """Noise, as a loader gives it: pinned where there is a GPU."""
    frames = torch.randint(0, 256, (count, *bench.spec.frames_shape), dtype=torch.uint8)
    mel = (2 * torch.rand(count, *bench.spec.mel_shape) - 1).to(torch.float16)
    return ClipBatch(*(part.pin_memory() if bench.machine.on_gpu else part for part in (frames, mel)))


def save_random_mdsa(bench: Bench) -> Path:
    """A checkpoint of random weights, to open as the commands do."""
    path = bench.scratch / "mdsa.pt"
    if not path.exists():
        torch.manual_seed(0)
        save_checkpoint(path, mdsa_payload(MDSA(bench.mdsa), bench.spec, 0))
    return path
