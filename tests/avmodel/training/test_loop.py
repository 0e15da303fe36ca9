from __future__ import annotations

import pytest
import torch

from avmodel.training import rates
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
        self.flops, self.peak_tflops = 0, None
        self.is_best = False
        self.saved: list[int] = []
        self.finished = -1
        self.evaluated: list[int] = []
        self.logged: list[tuple[int, float]] = []
        self.rows: dict[int, dict[str, float]] = {}
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
        self.flops += 6 * 10**12
        loss = torch.tensor(float("nan") if self.step in self.bad else self.step + 1.0)
        return {"loss": loss}, self.guard.check(loss)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self.logged.append((step, values["loss"]))
        self.rows[step] = values

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
    """An entry ends every `log_every` steps, and where a checkpoint may be written: evaluations are at 2, 4
    and 6, checkpoints at 3 and 6."""
    assert run(FakeRun(), log_every=5).logged == [(2, 1.5), (3, 3), (4, 4), (5, 5), (6, 6), (7, 7)]
    assert [row["steps"] for row in run(FakeRun(), log_every=5).rows.values()] == [2, 1, 1, 1, 1, 1]
    left_out = run(FakeRun(frozenset({1, 6})), log_every=5)
    assert left_out.logged == [(2, 1.0), (3, 3), (4, 4), (5, 5), (6, 6)]


def test_a_run_that_is_stopped_and_resumed_loses_no_step_from_the_log():
    stop = StopSignal()
    done = run(FakeRun(stop=stop), stop, log_every=5)
    assert {step: row["steps"] for step, row in done.rows.items()} == {2: 2, 3: 1}
    done = FakeRun()
    done.step = 4
    assert {step: row["steps"] for step, row in run(done, log_every=7).rows.items()} == {6: 2, 7: 1}


def test_rates_count_reading_and_steps_but_neither_evaluations_nor_checkpoints(monkeypatch):
    """By a clock that goes on by 1 s per batch and 3 s per step, and by 100 s per evaluation and checkpoint.
    The first batch and step take 50 s more each, as loaders that start and models that are compiled do."""
    now = [0.0]

    def taking(seconds: float, method):
        def slow(self, *arguments):
            now[0] += seconds + (50.0 if self.step == 0 and seconds < 100 else 0)
            return method(self, *arguments)

        return slow

    slow = {"next_batches": 1.0, "train_step": 3.0, "evaluate": 100.0, "save": 100.0, "check_saved": 100.0}
    for name, seconds in slow.items():
        monkeypatch.setattr(FakeRun, name, taking(seconds, getattr(FakeRun, name)))
    monkeypatch.setattr(rates.time, "perf_counter", lambda: now[0])
    fake = FakeRun()
    fake.peak_tflops = 6.0
    found = run(fake).rows
    assert "clips_per_s" not in found.pop(1) and len(found) == 6
    names = ("clips_per_s", "data_wait", "tflops", "mfu")
    assert {tuple(row[name] for name in names) for row in found.values()} == {(0.25, 0.25, 1.5, 0.25)}


def test_mfu_is_logged_only_where_the_peak_is_known():
    row = run(FakeRun()).rows[7]
    assert row["tflops"] > 0 and "mfu" not in row


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
    with pytest.raises(TrainingError, match="step 6: "):
        run(FakeRun(frozenset({3, 4, 5})), log_every=5)
    done = run(FakeRun(frozenset({1, 2, 4, 5})), log_every=2)  # two and two
    assert done.step == 7 and done.guard.skipped == 4
