"""Seconds by what was done."""

from __future__ import annotations

import pickle
import time

import pytest

from avprep.seconds import Seconds


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """The clock's readings, in order."""
    readings: list[float] = []
    monkeypatch.setattr(time, "perf_counter", lambda: readings.pop(0))
    return readings


def test_blocks_of_one_name_add_up(clock):
    seconds = Seconds()
    clock += [1.0, 3.0, 10.0, 10.5]
    with seconds.measure("read"):
        pass
    with seconds.measure("read"):
        pass
    assert seconds == {"read": 2.5}


def test_a_block_that_raises_is_counted(clock):
    seconds = Seconds()
    clock += [1.0, 4.0]
    with pytest.raises(ZeroDivisionError), seconds.measure("read"):
        1 / 0  # noqa: B018
    assert seconds == {"read": 3.0}


def test_adding_keeps_what_only_one_has():
    seconds = Seconds({"read": 1.0, "write": 2.0})
    seconds.add({"write": 0.5, "mel": 4.0})
    assert seconds == {"read": 1.0, "write": 2.5, "mel": 4.0}


def test_what_was_not_done_took_no_time():
    assert Seconds()["model"] == 0


def test_a_worker_returns_it():
    seconds = pickle.loads(pickle.dumps(Seconds({"read": 1.0})))  # noqa: S301
    assert seconds == {"read": 1.0} and seconds["write"] == 0
