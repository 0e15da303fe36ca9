from __future__ import annotations

import pytest
import torch

from avmodel.training.errors import TrainingError
from avmodel.training.machine import DistributedContext
from avmodel.training.scalars import NonFiniteGuard, StepScalars

CPU = DistributedContext(torch.device("cpu"))
GOOD, BAD = torch.ones(2), torch.tensor(torch.nan)


def test_one_value_that_is_not_finite_marks_the_step():
    guard = NonFiniteGuard(CPU)
    assert guard.check(GOOD) == 0
    assert guard.check(GOOD, BAD) == 1
    assert guard.check(GOOD, torch.tensor(torch.inf)) == 1
    assert guard.read(3) == 2 and guard.skipped == 2


@pytest.mark.parametrize("read_every", [1, 2, 5])
def test_three_bad_steps_in_a_row_are_found_however_often_the_guard_is_read(read_every):
    guard = NonFiniteGuard(CPU)
    row = [BAD, BAD, GOOD, BAD, BAD, BAD]
    with pytest.raises(TrainingError, match="in 3 steps in a row"):
        for step, value in enumerate(row, 1):
            guard.check(value)
            if step % read_every == 0 or step == len(row):
                guard.read(step)
                assert step < 6
    assert guard.skipped == 5


def test_means_are_over_good_steps_and_over_the_steps_that_have_the_scalar():
    scalars = StepScalars()
    scalars.add({"loss": torch.tensor(1.0)}, torch.tensor(0.0))
    scalars.add({"loss": torch.tensor(torch.nan)}, torch.tensor(1.0))
    scalars.add({"loss": torch.tensor(4.0), "kl": torch.tensor(7.0)}, torch.tensor(0.0))
    assert scalars.read(CPU) == {"loss": 2.5, "kl": 7.0}
    assert scalars.read(CPU) == {}


def test_a_window_of_bad_steps_only_has_no_means():
    scalars = StepScalars()
    scalars.add({"loss": torch.tensor(torch.nan)}, torch.tensor(1.0))
    assert scalars.read(CPU) == {}
