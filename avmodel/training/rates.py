"""How fast the steps of a run are: samples and FLOPs per second, the share of time spent waiting for data."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Result = TypeVar("Result")


class StepRates:
    """The rates since they were last read.

    Only steps count, and the waiting for their data: neither pauses nor the first step of a process, in which
    the loader's processes start and the model is compiled.

    Args:
        unit: the name of a sample: 'clips'.
        batch_size: samples per step, of all processes.
        peak_tflops: of this process's device, in TFLOP/s; None if unknown.
    """

    def __init__(self, unit: str, batch_size: int, peak_tflops: float | None) -> None:
        self._unit, self._batch_size, self._peak_tflops = unit, batch_size, peak_tflops
        self._had_first_step = False
        self._start()

    def _start(self) -> None:
        self._began, self._waited = time.perf_counter(), 0.0
        self._steps = self._flops = 0

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Around what is no part of the steps. The device must have nothing left to do."""
        before = time.perf_counter()
        try:
            yield
        finally:
            self._began += time.perf_counter() - before

    def waiting(self, read: Callable[[], Result]) -> Result:
        """What `read` returns; its time counts as waiting for data."""
        before = time.perf_counter()
        try:
            return read()
        finally:
            self._waited += time.perf_counter() - before

    def add(self, flops: int, wait_for_device: Callable[[], None]) -> None:
        """Counts a step.

        Args:
            flops: of the model in this process's part of the step, forward and backward.
            wait_for_device: called once, after the first step.
        """
        if not self._had_first_step:
            wait_for_device()
            self._had_first_step = True
            self._start()
            return
        self._steps += 1
        self._flops += flops

    def read(self) -> dict[str, float]:
        """UNIT_per_s; data_wait (0 to 1); tflops, in TFLOP/s of this process; mfu (0 to 1), where the peak is
        known. Empty if no step counts.
        """
        seconds = time.perf_counter() - self._began
        steps, waited, tflops = self._steps, self._waited, self._flops / 1e12
        self._start()
        if not steps:
            return {}
        rates = {
            f"{self._unit}_per_s": steps * self._batch_size / seconds,
            "data_wait": waited / seconds,
            "tflops": tflops / seconds,
        }
        return rates | ({"mfu": rates["tflops"] / self._peak_tflops} if self._peak_tflops else {})
