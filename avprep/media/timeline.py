"""Span -> clips -> the picture shown at each instant. All arithmetic is on integers and Fractions.

A source's time 0 is its container's start. A clip starts at a whole sample of the spec's rate; its i-th
frame is the one shown at `start + i / fps`: the last whose PTS is not after that instant.

    pts       |0      |1  |2        |3      |4 ...      in the stream's own ticks (VFR drawn)
    targets   ^     ^     ^     ^     ^                 one every 1/fps
    chosen    0     0     1     2     3
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import TypeVar

from avprep.spec import ClipSpec

Start = TypeVar("Start")  # samples, or those with what belongs to them

# Of the times of cuts, which are floats: 1.6 is later than 8/5. Pictures and samples whose times differ are
# further apart.
_ROUNDING_S = 1e-9


@dataclass(frozen=True)
class Clock:
    """A stream's clock: `time_base` seconds per tick; `origin` is the container's start in seconds."""

    time_base: Fraction
    origin: Fraction

    def seconds(self, tick: int) -> Fraction:
        """Seconds of the source's time at a tick (a PTS)."""
        return tick * self.time_base - self.origin

    def last_tick(self, seconds: Fraction) -> int:
        """The last tick that is not after an instant of the source's time."""
        return (seconds + self.origin) // self.time_base


@dataclass(frozen=True)
class Part:
    """A stretch of the source's time within which its clock runs on; `[start_s, stop_s)` has pictures.

    A file has one, unless its clock restarts (recordings joined byte by byte). Each part then follows
    the last picture of the part before it, as players do.
    """

    start_s: Fraction
    stop_s: Fraction


@dataclass(frozen=True, slots=True)
class Cut:
    """Where one shot ends and the next begins, in seconds of the source's time."""

    before_s: float  # when the last picture of the shot before begins to be shown
    after_s: float  # when the first picture of the shot after does

    def is_inside(self, first_s: Fraction | float, last_s: Fraction | float) -> bool:
        """Whether a clip whose frames are shown from `first_s` to `last_s` contains any of the transition."""
        return first_s < self.next_shot_s and last_s > self.before_s + _ROUNDING_S

    @property
    def next_shot_s(self) -> float:
        """From when on a clip may begin."""
        return self.after_s - _ROUNDING_S


def clip_starts(*, start_s: Fraction, stop_s: Fraction, spec: ClipSpec, stride_samples: int) -> list[int]:
    """Starts, in samples, of the clips that lie wholly in `[start_s, stop_s)`."""
    first, last = _first_and_last_start(start_s, stop_s, spec)
    return list(range(first, last + 1, stride_samples))


def starts_in_shots(
    *, start_s: Fraction, stop_s: Fraction, cuts: Sequence[Cut], spec: ClipSpec, stride_samples: int
) -> tuple[list[int], list[tuple[int, Cut]]]:
    """Starts, in samples, of clips in `[start_s, stop_s)` that contain no cut, and those left out for one.

        shots     AAAAAAAAAAAAAABBBBBBBCCCCCCCCCCCC
        clips     |--1-||--2-|        |--3-||--4-|
        left out              |   |                 they begin here, and contain the cut that follows

    A clip contains a cut by the instants of its first and last frame (`Cut.is_inside`). After a cut the next
    clip begins with the first sample of the new shot.

    Args:
        cuts: ascending by `before_s`; they may overlap.

    Returns:
        The starts, ascending; and for each start that was left out, ascending, the cut that a clip there
        would contain. Where there are no cuts, the starts are those of `clip_starts`.
    """
    if not cuts:
        starts = clip_starts(start_s=start_s, stop_s=stop_s, spec=spec, stride_samples=stride_samples)
        return starts, []
    start, last = _first_and_last_start(start_s, stop_s, spec)
    starts = []
    left_out: list[tuple[int, Cut]] = []
    to_last_frame = Fraction(spec.samples - spec.samples_per_frame, spec.sample_rate)
    following = iter(cuts)
    cut = next(following, None)
    while start <= last:
        at_s = Fraction(start, spec.sample_rate)
        while cut is not None and cut.next_shot_s <= at_s:
            cut = next(following, None)
        if cut is not None and cut.is_inside(at_s, at_s + to_last_frame):
            left_out.append((start, cut))
            start = -((-Fraction(cut.next_shot_s) * spec.sample_rate) // 1)
        else:
            starts.append(start)
            start += stride_samples
    return starts, left_out


def starts_at(
    instants_s: Iterable[Fraction],
    *,
    start_s: Fraction,
    stop_s: Fraction,
    cuts: Sequence[Cut],
    spec: ClipSpec,
) -> tuple[list[int], list[tuple[int, Cut]]]:
    """Starts, in samples, of clips in `[start_s, stop_s)` that begin at instants and do not overlap.

    A clip begins at the last sample that is not after its instant. Where the span or the shot ends before
    such a clip does, it begins as much earlier as it must. Instants are taken in the order of time. One that
    lies in the clip before it, or whose clip would overlap that, has none of its own.

    Args:
        cuts: ascending by `before_s`; they may overlap.

    Returns:
        The starts, ascending; and for each start that was left out because its shot is too short, ascending,
        the cut that a clip there would contain.
    """
    first, last = _first_and_last_start(start_s, stop_s, spec)
    starts: list[int] = []
    left_out: dict[int, Cut] = {}
    free = first  # the first sample that is in no clip
    for instant_s in sorted(instant_s for instant_s in instants_s if start_s <= instant_s < stop_s):
        start = min(max(instant_s * spec.sample_rate // 1, first), last)
        if start < free:
            continue
        cut = _cut_inside(start, cuts, spec)
        if cut is not None:
            wanted, start = start, _last_start_before(cut, spec)
            if instant_s > cut.before_s or start < free or _cut_inside(start, cuts, spec) is not None:
                left_out.setdefault(wanted, cut)
                continue
        starts.append(start)
        free = start + spec.samples
    return starts, list(left_out.items())


def _cut_inside(start: int, cuts: Sequence[Cut], spec: ClipSpec) -> Cut | None:
    """The first cut that a clip contains."""
    first_s = Fraction(start, spec.sample_rate)
    last_s = first_s + Fraction(spec.samples - spec.samples_per_frame, spec.sample_rate)
    return next((cut for cut in cuts if cut.is_inside(first_s, last_s)), None)


def _last_start_before(cut: Cut, spec: ClipSpec) -> int:
    """The last start of a clip that is over when the cut begins."""
    return Fraction(cut.before_s) * spec.sample_rate // 1 - (spec.samples - spec.samples_per_frame)


def _first_and_last_start(start_s: Fraction, stop_s: Fraction, spec: ClipSpec) -> tuple[int, int]:
    first = -((-start_s * spec.sample_rate) // 1)  # ceiling: not before the span
    return first, stop_s * spec.sample_rate // 1 - spec.samples


def starts_of_parts(parts: Iterable[Part], *, spec: ClipSpec, stride_samples: int) -> list[int]:
    """Starts of all clips of a source. What is shown before time 0 belongs to no clip."""
    return [
        start
        for part in parts
        for start in clip_starts(
            start_s=max(Fraction(0), part.start_s),
            stop_s=part.stop_s,
            spec=spec,
            stride_samples=stride_samples,
        )
    ]


def spread(starts: list[Start], limit: int | None) -> list[Start]:
    """At most `limit` of the starts, evenly spread."""
    if limit is None or len(starts) <= limit:
        return starts
    return [starts[i * len(starts) // limit] for i in range(limit)]


def target_ticks(start: int, spec: ClipSpec, clock: Clock) -> list[int]:
    """For each frame of a clip, the last tick of the video's clock that is not after its instant."""
    instants = range(start, start + spec.samples, spec.samples_per_frame)
    return [clock.last_tick(Fraction(n, spec.sample_rate)) for n in instants]


class Extent:
    """The ticks that pictures cover, from the PTS and durations of their packets, in any order."""

    _RECENT = 32  # stamps that are remembered: more than any codec reorders

    def __init__(self) -> None:
        self.first: int | None = None
        self._stamps: list[int] = []  # the latest ones, ascending
        self._duration_of_last = 0

    def add(self, pts: int, duration: int | None) -> None:
        """Counts a picture that is shown at `pts` for `duration` ticks (None or 0: not known)."""
        if self.first is None or pts < self.first:
            self.first = pts
        if not self._stamps or pts >= self._stamps[-1]:
            self._duration_of_last = duration or 0
        insort(self._stamps, pts)
        del self._stamps[: -self._RECENT]

    @property
    def last(self) -> int | None:
        return self._stamps[-1] if self._stamps else None

    @property
    def stop(self) -> int | None:
        """The tick until which the last picture is shown; where it has no duration of its own, as long as
        the longest of the few before it is."""
        if not self._stamps:
            return None
        if self._duration_of_last > 0:
            return self._stamps[-1] + self._duration_of_last
        recent = self._stamps[-9:]
        return self._stamps[-1] + max((b - a for a, b in pairwise(recent)), default=1)
