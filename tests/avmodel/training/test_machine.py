from __future__ import annotations

import os
import signal
import threading

import pytest
import torch

from avmodel.training.errors import TrainingError
from avmodel.training.machine import (
    DistributedContext,
    StopSignal,
    choose_device,
    open_distributed,
    stop_on_signal,
)

CPU = torch.device("cpu")


def test_a_process_joins_anothers_stop_and_keeps_its_own_signal():
    stop = StopSignal()
    assert not stop
    stop.join()
    assert stop and stop.number == signal.SIGTERM
    own = StopSignal()
    own.number = signal.SIGINT
    own.join()
    assert own.number == signal.SIGINT


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_to_stop_and_the_second_interrupts(number):
    before = signal.getsignal(number)
    with stop_on_signal() as stop:
        os.kill(os.getpid(), number)
        assert stop.number == number
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_a_thread_leaves_signals_to_the_caller():
    found = []

    def train() -> None:
        with stop_on_signal() as stop:
            found.append(bool(stop))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert found == [False]


def test_random_numbers_depend_on_the_seeds_only():
    def draw(*seeds: int, rank: int = 0) -> torch.Tensor:
        return torch.rand(8, generator=DistributedContext(CPU, rank, 2).generator(*seeds))

    assert torch.equal(draw(1, 5), draw(1, 5, rank=1))
    different = [draw(1, 5), draw(1, 6), draw(2, 5), draw(5, 1), draw(1, 5, 0), draw(1, 5, 1)]
    for i, a in enumerate(different):
        assert not any(torch.equal(a, b) for b in different[i + 1 :])


def test_a_device_that_is_not_there_is_refused():
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(TrainingError, match="^device must be auto, cpu or cuda, not 'tpu'"):
        choose_device("tpu")
    if not torch.cuda.is_available():
        assert choose_device("auto").type == "cpu"
        with pytest.raises(TrainingError, match="^device = cuda: "):
            choose_device("cuda")


def test_one_process_alone_needs_no_group(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with open_distributed("cpu") as context:
        assert (context.rank, context.world, context.is_first, context.on_gpu) == (0, 1, True, False)
        assert context.agreed(2) == 2 and context.max(torch.ones(2)).tolist() == [1, 1]
        assert context.mean(torch.ones(2)).tolist() == [1, 1]
        module = torch.nn.Linear(1, 1)
        assert context.parallel(module) is module
