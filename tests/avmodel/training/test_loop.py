from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avmodel.training.errors import LoaderError, TrainingError
from avmodel.training.log import RunLog
from avmodel.training.loop import Ema, NonFiniteGuard, Schedule, cool_down, run_steps, warm_up
from avmodel.training.machine import DistributedContext, StopSignal

CPU = DistributedContext(torch.device("cpu"))


class FakeRun:
    """Counts what the loop asks for; `bad` steps are left out, the loader fails at step `failing`."""

    def __init__(
        self, bad: set[int] = frozenset(), failing: int = -1, stop: StopSignal | None = None
    ) -> None:
        self.step, self.bad, self.failing, self.stop = 0, bad, failing, stop
        self.saved: list[int] = []
        self.evaluated: list[int] = []
        self.log = RunLog.__new__(RunLog)
        self.log._file = None
        self.guard = NonFiniteGuard(CPU)

    def train_step(self) -> dict[str, torch.Tensor]:
        if self.step == self.failing:
            raise LoaderError("a process that reads has died")
        if self.stop is not None and self.step == 2:
            self.stop.number = 15
        return {} if self.step in self.bad else {"loss": torch.ones(())}

    def evaluate(self) -> None:
        self.evaluated.append(self.step)

    def save(self) -> None:
        self.saved.append(self.step)


def run(fake: FakeRun, stop: StopSignal | None = None) -> FakeRun:
    schedule = Schedule(steps=7, eval_every=2, checkpoint_every=3, samples_per_step=1, unit="clips")
    run_steps(fake, schedule, CPU, StopSignal() if stop is None else stop)
    return fake


def test_evaluations_and_checkpoints_come_in_their_steps_and_at_the_end():
    done = run(FakeRun())
    assert (done.step, done.evaluated, done.saved) == (7, [2, 4, 6, 7], [3, 6, 7])


def test_a_signal_ends_the_run_after_its_step_with_a_checkpoint():
    stop = StopSignal()
    done = run(FakeRun(stop=stop), stop)
    assert done.step == 3 and done.saved[-1] == 3


def test_a_failed_loader_ends_the_run_with_a_checkpoint_of_the_steps_done():
    failing = FakeRun(failing=5)
    with pytest.raises(LoaderError):
        run(failing)
    assert failing.step == 5 and failing.saved == [3, 5]


def test_steps_that_were_left_out_are_printed_by_the_first_rank_only(capsys, monkeypatch):
    run(FakeRun(bad=frozenset({1})))
    assert "step 2: left out, a value is NaN or Inf (1 so far)" in "".join(capsys.readouterr())
    monkeypatch.setattr(DistributedContext, "is_first", False)
    run(FakeRun(bad=frozenset({1})))
    assert "".join(capsys.readouterr()) == ""


def test_three_bad_steps_in_a_row_end_the_run_without_a_checkpoint():
    guard = NonFiniteGuard(CPU)
    assert guard.check(torch.ones(2)) and not guard.check(torch.ones(2), torch.tensor(torch.nan))
    for step, good in enumerate([False, False, True, False, False]):
        guard.count(step, good=good)
    assert guard.skipped == 4
    with pytest.raises(TrainingError, match="step 5: .* 3rd time in a row"):
        guard.count(5, good=False)
    bad = FakeRun(bad=frozenset({3, 4, 5}))
    with pytest.raises(TrainingError):
        run(bad)
    assert bad.saved == [3]


def test_the_rate_rises_and_falls_linearly():
    assert [warm_up(step, 4) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert [cool_down(step, 4, 10) for step in range(5, 10)] == [1.0, 1.0, 0.75, 0.5, 0.25]
    assert warm_up(0, 0) == cool_down(9, 0, 10) == 1.0


@given(decay=st.floats(0, 0.999), steps=st.integers(1, 12))
@settings(deadline=None, max_examples=20)
def test_the_average_is_the_recurrence_written_out(decay, steps):
    model = torch.nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        model.weight.fill_(1.0)
    ema, expected = Ema(model, decay), 1.0
    for i in range(steps):
        with torch.no_grad():
            model.weight.fill_(float(i))
        ema.update(model)
        d = min(decay, (1 + i) / (10 + i))
        expected = d * expected + (1 - d) * i
    assert ema.weights["weight"][0, 0].item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    with ema.swapped_into(model):
        assert model.weight[0, 0].item() == pytest.approx(expected)
    assert model.weight[0, 0].item() == steps - 1
