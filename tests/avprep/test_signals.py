"""SIGINT and SIGTERM: the first asks, the second interrupts."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from avprep.signals import StopSignal, stop_on_signal


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
