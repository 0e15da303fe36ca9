from __future__ import annotations

import pytest

from avprep.jobs.faults import FIRST, FaultWatch
from avprep.jobs.output import JobError


def test_a_run_in_which_all_fails_by_faults_ends():
    watch = FaultWatch("clips")
    watch.count(FIRST - 1, FIRST - 1, "TypeError in avprep.spec")
    with pytest.raises(JobError, match=r"first 200 clips all .*TypeError in avprep.spec.*only_failed=True"):
        watch.count(1, 1, "TypeError in avprep.spec")


@pytest.mark.parametrize("other", [0, 1])
def test_one_other_outcome_lets_it_go_on(other):
    watch = FaultWatch("files")
    watch.count(10, 10 * other, "")
    watch.count(5, 4, "")
    watch.count(10 * FIRST, 10 * FIRST, "")
