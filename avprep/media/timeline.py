"""Span -> clips -> the picture shown at each instant. Integers and Fractions only.

A source's time 0 is its container's start. A clip starts at a whole sample of the spec's rate; its i-th
frame is the one shown at `start + i / fps`: the last whose PTS is not after that instant.

    pts       |0      |1  |2        |3      |4 ...      in the stream's own ticks (VFR drawn)
    targets   ^     ^     ^     ^     ^                 one every 1/fps
    chosen    0     0     1     2     3
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from avprep.spec import ClipSpec


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


def clip_starts(*, start_s: Fraction, stop_s: Fraction, spec: ClipSpec, stride_samples: int) -> list[int]:
    """Starts, in samples, of the clips that lie wholly in `[start_s, stop_s)`."""
    first = -((-start_s * spec.sample_rate) // 1)  # ceiling: not before the span
    last = stop_s * spec.sample_rate // 1 - spec.samples
    return list(range(first, last + 1, stride_samples))


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


def spread(starts: list[int], limit: int | None) -> list[int]:
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
