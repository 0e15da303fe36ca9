from __future__ import annotations

import pytest

from avprep.scores.base import ScoreError
from avprep.scores.stored import TIMING, first_shown
from tests.avprep.scores.made import SPEC, clip_of, values_of

TIMES = [0.0, 0.0, 0.2, 0.2, 0.2, *(0.1 * i for i in range(5, SPEC.frames))]


def test_timing_comes_from_the_header():
    found = values_of(TIMING, clip_of(header={"residual_ms": -3.5, "frame_times_s": TIMES}))
    assert found == {"residual_ms": -3.5, "pictures": 13}


def test_what_is_not_stored_is_null():
    assert values_of(TIMING, clip_of()) == {"residual_ms": None, "pictures": None}
    assert first_shown(clip_of()) == list(range(SPEC.frames))


def test_the_frames_that_show_another_picture():
    assert first_shown(clip_of(header={"frame_times_s": TIMES})) == [0, 2, *range(5, SPEC.frames)]


@pytest.mark.parametrize("times", [TIMES[1:], "0.0", 3, [None] * SPEC.frames, {"0": 1}])
def test_times_that_do_not_fit_are_an_error(times: object):
    with pytest.raises(ScoreError, match="frame_times_s"):
        values_of(TIMING, clip_of(header={"frame_times_s": times}))


@pytest.mark.parametrize("residual", ["0", True, [0], {}])
def test_a_residual_that_is_no_number_is_an_error(residual: object):
    with pytest.raises(ScoreError, match="residual_ms"):
        values_of(TIMING, clip_of(header={"residual_ms": residual}))
