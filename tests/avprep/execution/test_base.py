"""The scheduling loop and the configs, without any process."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avprep.errors import ArgumentError
from avprep.execution.base import PoolConfig, RunnerConfig, RunnerError, Todo, schedule


class Machine:
    """Runs tasks in order, `done_at_once` per look; a task is its own result."""

    def __init__(self, room: int, done_at_once: int = 1) -> None:
        self.room, self.done_at_once = room, done_at_once
        self.submitted: list[int] = []
        self.most = 0

    def run(self, todo: Todo[int], should_stop=lambda: False, **options):
        return schedule(
            todo,
            should_stop,
            has_room=lambda _, in_hand: len(in_hand) < self.room,
            submit=self._submit,
            wait=self._wait,
            **options,
        )

    def _submit(self, task: int) -> tuple[int, int]:
        self.submitted.append(task)
        return len(self.submitted), task

    def _wait(self, handles: list[tuple[int, int]]) -> list[tuple[int, int]]:
        self.most = max(self.most, len(handles))
        return handles[: self.done_at_once]


@given(tasks=st.lists(st.integers()), room=st.integers(1, 5), done=st.integers(1, 5))
def test_each_task_is_done_once_and_no_more_than_fit_are_in_hand(tasks, room, done):
    machine = Machine(room, done)
    results = [(task, handle[1]) for task, handle in machine.run(Todo(tasks))]
    assert results == [(task, task) for task in tasks]
    assert machine.most == min(room, len(tasks))


@given(lost=st.lists(st.integers(0, 9), max_size=8), room=st.integers(1, 5))
def test_a_task_that_is_put_back_is_done_again(lost, room):
    todo, losses, done = Todo(range(10)), deque(lost), []
    for task, _ in Machine(room).run(todo):
        if losses and losses[0] == task:
            losses.popleft()
            todo.put_back(task)
        else:
            done.append(task)
    assert sorted(done) == list(range(10))


def test_tasks_are_taken_as_there_is_room_and_not_before():
    taken = []
    endless = (taken.append(i) or i for i in iter(int, 1))
    results = Machine(room=3).run(Todo(endless))
    for _ in range(5):
        next(results)
    assert len(taken) <= 3 + 5 + 1


def test_after_a_stop_what_is_in_hand_is_finished():
    stopped, machine = [], Machine(room=3)
    done = []
    for task, _ in machine.run(Todo(range(10)), should_stop=lambda: bool(stopped)):
        done.append(task)
        stopped.append(True)
    assert done == machine.submitted == [0, 1, 2]


def test_what_is_in_hand_can_be_left_after_a_stop():
    stopped, machine = [], Machine(room=3)
    results = machine.run(Todo(range(10)), should_stop=lambda: bool(stopped), finish_in_hand=False)
    assert next(results)[0] == 0
    stopped.append(True)
    assert list(results) == []


def test_a_loop_waits_while_there_is_no_room_yet():
    """A pool whose workers have not started: nothing in hand, and tasks to come."""
    looks = []

    def wait(handles):
        looks.append(handles)
        return handles

    results = schedule(
        Todo(["task"]),
        lambda: False,
        has_room=lambda *_: len(looks) >= 2,
        submit=lambda task: task.upper(),
        wait=wait,
    )
    assert list(results) == [("task", "TASK")]
    assert looks == [[], [], ["TASK"]]


@pytest.mark.parametrize(
    ("config", "gpus", "device"),
    [
        (PoolConfig(workers=None), 0, "cpu"),
        (PoolConfig(workers=None), 2, "cuda"),
        (PoolConfig(workers=2, device="cuda"), 2, "cuda"),
        (PoolConfig(workers=8, device="cpu"), 2, "cpu"),
        (PoolConfig(workers=8), 0, "cpu"),
    ],
)
def test_the_device_is_what_was_asked_for_and_is_there(config, gpus, device):
    assert config.resolve_device(gpus) == device


@pytest.mark.parametrize(
    ("config", "gpus", "message"),
    [
        (PoolConfig(workers=0, device="cuda"), 0, "device = cuda: there is no GPU here"),
        (PoolConfig(workers=3), 2, "workers = 3: each worker takes one GPU, and there are 2"),
    ],
)
def test_a_device_that_is_missing_is_named(config, gpus, message):
    with pytest.raises(RunnerError, match=message):
        config.resolve_device(gpus)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RunnerConfig(workers=-1), "workers must be 0 or more, not -1"),
        (lambda: PoolConfig(workers=-2), "workers must be 0 or more, not -2"),
        (lambda: PoolConfig(workers=1, device="tpu"), "device must be one of auto, cpu, cuda, not 'tpu'"),
    ],
)
def test_an_argument_out_of_range_is_named_with_its_value(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()


@pytest.mark.parametrize(
    ("config", "has_processes"),
    [
        (RunnerConfig(workers=0), True),
        (RunnerConfig(workers=0, isolated=False), False),
        (RunnerConfig(workers=1, isolated=False), True),
        (RunnerConfig(workers=0, isolated=False, address="auto"), True),
    ],
)
def test_it_is_known_whether_stages_run_in_processes_of_their_own(config, has_processes):
    assert config.has_processes is has_processes
