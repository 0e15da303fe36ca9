"""Span -> clips -> the frame shown at each instant -> the packets to decode. Integers and Fractions only.

A source's time 0 is its container's start. A clip starts at a whole sample of the spec's rate; its i-th
frame is the one shown at `start + i / fps`: the last whose PTS is not after that instant.

    pts       |0      |1  |2        |3      |4 ...      in the stream's own ticks (VFR drawn)
    targets   ^     ^     ^     ^     ^                 one every 1/fps
    chosen    0     0     1     2     3
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from avprep.spec import ClipSpec


@dataclass(frozen=True)
class Clock:
    """A stream's clock: `time_base` seconds a tick; `origin` is the container's start in seconds."""

    time_base: Fraction
    origin: Fraction

    def seconds(self, tick: int) -> Fraction:
        """Seconds of the source's time at a tick (a PTS)."""
        return tick * self.time_base - self.origin

    def last_tick(self, seconds: Fraction) -> int:
        """The last tick that is not after an instant of the source's time."""
        return (seconds + self.origin) // self.time_base


def clip_starts(
    *, start_s: Fraction, stop_s: Fraction, spec: ClipSpec, stride_samples: int, limit: int | None
) -> list[int]:
    """Starts, in samples, of the clips that lie wholly in `[start_s, stop_s)`, at most `limit`.

    With a limit the clips are spread evenly over the span, not taken from its beginning.
    """
    first = -((-start_s * spec.sample_rate) // 1)  # ceiling: not before the span
    last = stop_s * spec.sample_rate // 1 - spec.samples
    starts = range(first, last + 1, stride_samples)
    if limit is not None and len(starts) > limit:
        return [starts[i * len(starts) // limit] for i in range(limit)]
    return list(starts)


def target_ticks(start: int, spec: ClipSpec, clock: Clock) -> list[int]:
    """For each frame of a clip, the last tick of the video's clock that is not after its instant."""
    instants = range(start, start + spec.samples, spec.samples_per_frame)
    return [clock.last_tick(Fraction(n, spec.sample_rate)) for n in instants]


def group_starts(starts: Sequence[int], *, spec: ClipSpec, max_gap_s: float) -> list[list[int]]:
    """Ascending starts in groups that are read in one go: within a group no gap is over `max_gap_s`."""
    groups: list[list[int]] = []
    for start in starts:
        reach = groups[-1][-1] + spec.samples + max_gap_s * spec.sample_rate if groups else None
        if reach is not None and start <= reach:
            groups[-1].append(start)
        else:
            groups.append([start])
    return groups


@dataclass(frozen=True, slots=True)
class PacketEntry:
    """One video packet, as far as timing goes, in the order of the file."""

    pts: int
    is_key: bool
    is_shown: bool = True   # False: decoded for others' sake only (before an edit list's start)


@dataclass(frozen=True)
class Segment:
    """Packets `[first, stop)` of the index, decoded in one go from a keyframe, and the PTS wanted of them."""

    first: int
    stop: int
    wanted: frozenset[int]


def shown_at(shown_pts: Sequence[int], tick: int) -> int | None:
    """The last of the ascending `shown_pts` that is not after `tick`; None before the first."""
    place = bisect_right(shown_pts, tick)
    return shown_pts[place - 1] if place else None


def plan_segments(packets: Sequence[PacketEntry], wanted: Iterable[int]) -> list[Segment]:
    """The fewest packets that give the wanted frames, every GOP at most once.

    A frame needs its GOP from the keyframe to its own packet. A leading frame of an open GOP (stored
    after a keyframe, shown before it) also needs the GOP before.
    """
    place_of = {packet.pts: i for i, packet in enumerate(packets) if packet.is_shown}
    keys = [i for i, packet in enumerate(packets) if packet.is_key] or [0]
    spans = []
    for pts in set(wanted):
        place = place_of[pts]
        k = max(bisect_right(keys, place) - 1, 0)
        if pts < packets[keys[k]].pts and k > 0:
            k -= 1
        spans.append((min(keys[k], place), place + 1, pts))
    segments: list[tuple[int, int, set[int]]] = []
    for first, stop, pts in sorted(spans):
        if segments and first < segments[-1][1]:
            last_first, last_stop, last_wanted = segments[-1]
            segments[-1] = (last_first, max(last_stop, stop), last_wanted | {pts})
        else:
            segments.append((first, stop, {pts}))
    return [Segment(first, stop, frozenset(pts)) for first, stop, pts in segments]
