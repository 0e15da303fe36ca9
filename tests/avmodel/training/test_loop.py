from __future__ import annotations

import pytest
import torch

from avmodel.training import loop as module
from avmodel.training.errors import LoaderError, TrainingError
from avmodel.training.loop import Schedule, run_steps
from avmodel.training.machine import DistributedContext
from avmodel.training.scalars import NonFiniteGuard
from avmodel.training.watch import Watch
from avprep.signals import StopSignal

CPU = DistributedContext(torch.device("cpu"))


class FakeRun:
    """Counts what the loop asks for; `bad` steps are left out, the loader fails at step `failing`."""

    def __init__(
        self,
        bad: frozenset[int] = frozenset(),
        *,
        failing: int = -1,
        best: frozenset[int] = frozenset(),
        stop: StopSignal | None = None,
    ) -> None:
        self.step, self.bad, self.failing, self.best, self.stop = 0, bad, failing, best, stop
        self.is_best = False
        self.saved: list[int] = []
        self.finished = -1
        self.evaluated: list[int] = []
        self.logged: list[tuple[int, float]] = []
        self.log = self
        self.guard = NonFiniteGuard(CPU)
        self.watch = Watch((), clip_grad=1.0)

    def next_batches(self) -> list[int]:
        if self.step == self.failing:
            raise LoaderError("a process that reads has died")
        return [self.step]

    def train_step(self, batches: list[int]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        if self.stop is not None and self.step == 2:
            self.stop.number = 15
        loss = torch.tensor(float("nan") if self.step in self.bad else self.step + 1.0)
        return {"loss": loss}, self.guard.check(loss)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self.logged.append((step, values["loss"]))

    def evaluate(self) -> None:
        self.evaluated.append(self.step)
        self.is_best = self.step in self.best

    def save(self) -> None:
        self.saved.append(self.step)
        self.is_best = False

    def check_saved(self) -> None:
        pass

    def finish_saving(self) -> None:
        self.finished = self.step


def run(fake: FakeRun, stop: StopSignal | None = None, *, log_every: int = 1, milestones: int = 0) -> FakeRun:
    schedule = Schedule(
        steps=7,
        log_every=log_every,
        eval_every=2,
        checkpoint_every=3,
        milestone_every=milestones,
        batch_size=1,
        unit="clips",
    )
    run_steps(fake, schedule, CPU, StopSignal() if stop is None else stop)
    return fake


def test_evaluations_and_checkpoints_come_in_their_steps_and_at_the_end():
    done = run(FakeRun())
    assert (done.step, done.evaluated, done.saved) == (7, [2, 4, 6, 7], [3, 6, 7])


def test_milestones_and_the_best_evaluations_are_saved_too():
    assert run(FakeRun(), milestones=5).saved == [3, 5, 6, 7]
    assert run(FakeRun(best=frozenset({2, 6}))).saved == [2, 3, 6, 7]


def test_the_log_has_the_mean_of_the_steps_since_the_last_entry():
    assert run(FakeRun(), log_every=3).logged == [(3, 2.0), (6, 5.0), (7, 7.0)]
    assert run(FakeRun(frozenset({1, 6})), log_every=3).logged == [(3, 2.0), (6, 5.0)]  # of steps 1 and 3


def test_rates_count_reading_and_steps_but_no_evaluations(monkeypatch):
    """By a clock that goes on by 1 s per batch and 3 s per step, and by 100 s per evaluation."""
    now, found = [0.0], []

    def taking(seconds: float, method):
        def slow(self, *arguments):
            now[0] += seconds
            return method(self, *arguments)

        return slow

    for name, seconds in (("next_batches", 1.0), ("train_step", 3.0), ("evaluate", 100.0)):
        monkeypatch.setattr(FakeRun, name, taking(seconds, getattr(FakeRun, name)))
    monkeypatch.setattr(FakeRun, "scalars", lambda self, step, values: found.append(values))
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    run(FakeRun(), log_every=3)
    assert [row["clips_per_s"] for row in found] == [0.25, 0.25, 0.25]
    assert [row["data_wait"] for row in found] == [0.25, 0.25, 0.25]


def test_a_signal_ends_the_run_after_its_step_with_a_checkpoint():
    stop = StopSignal()
    done = run(FakeRun(stop=stop), stop)
    assert done.step == done.finished == 3 and done.saved[-1] == 3


def test_a_failed_loader_ends_the_run_with_a_checkpoint_of_the_steps_done():
    failing = FakeRun(failing=5)
    with pytest.raises(LoaderError, match="has died"):
        run(failing)
    assert failing.step == 5 and failing.saved == [3, 5]


def test_a_failed_loader_of_another_process_ends_this_one_too(monkeypatch):
    """As all processes agree on the worst state of any: here, the other one's at the third step."""
    others = iter([0, 0, 2, 0])
    monkeypatch.setattr(DistributedContext, "agreed", lambda self, own: max(own, next(others)))
    fake = FakeRun()
    with pytest.raises(LoaderError, match="another process cannot read its data"):
        run(fake)
    assert fake.saved == [2] and fake.finished == 2 and next(others, None) is None  # all wait for the save


def test_steps_that_were_left_out_are_printed_by_the_first_rank_only(capsys, monkeypatch):
    run(FakeRun(frozenset({1})))
    assert "step 2: 1 left out, a value is NaN or Inf (1 so far)" in "".join(capsys.readouterr())
    monkeypatch.setattr(DistributedContext, "is_first", False)
    run(FakeRun(frozenset({1})))
    assert "".join(capsys.readouterr()) == ""


def test_three_bad_steps_in_a_row_end_the_run_without_a_checkpoint():
    bad = FakeRun(frozenset({3, 4, 5}))
    with pytest.raises(TrainingError, match="step 6: .* in 3 steps in a row"):
        run(bad)
    assert bad.saved == [3]


def test_three_bad_steps_between_two_readings_end_the_run_at_the_second():
    with pytest.raises(TrainingError, match="step 5: "):
        run(FakeRun(frozenset({1, 2, 3})), log_every=5)
    done = run(FakeRun(frozenset({1, 2, 4, 5})), log_every=2)  # two and two
    assert done.step == 7 and done.guard.skipped == 4
