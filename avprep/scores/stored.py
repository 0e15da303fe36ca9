"""What the clip's stored header says of its timing and its source: nothing is decoded."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from avprep.scores.base import Column, Score, ScoreError, Value, without_weights
from avprep.scores.clip import ScoredClip


def number_of(header: dict[str, Any], name: str) -> float | None:
    """A number of a clip's header; None where it is not stored. Raises ScoreError for anything else."""
    value = header.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise ScoreError(f"the clip's header has {name} {value!r}, which is no number")
    return None if value is None else float(value)


def timing(clip: ScoredClip) -> dict[str, Value]:
    """How exactly the frames are placed, and how many different pictures of the source they show.

    `residual_ms`: the longest that a frame had been shown at its instant; negative: it came early.
    `pictures`: different pictures among the frames, by their PTS. Fewer than the clip's frames: the source
    has a lower frame rate than the clip, there.
    """
    times = clip.header.get("frame_times_s")
    if times is not None and not (isinstance(times, list) and all(isinstance(t, int | float) for t in times)):
        raise ScoreError(f"the clip's header has frame_times_s {times!r}, which are no times")
    return {
        "residual_ms": number_of(clip.header, "residual_ms"),
        "pictures": None if not times else 1 + sum(a != b for a, b in pairwise(times)),
    }


TIMING = Score(
    name="timing",
    columns=(
        Column(name="residual_ms", kind="float", unit="ms", meaning="of the frames, the largest by size"),
        Column(
            name="pictures", kind="int", unit="pictures", low=1, meaning="different pictures of the source"
        ),
    ),
    needs=("json",),
    cost="array",
    open=without_weights(timing),
    source="avprep",
)
