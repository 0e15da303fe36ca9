"""Clips that start where events do: the labels of each, and what tells one list of events from another."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from fractions import Fraction

from avprep.datasets.source import Source
from avprep.spec import ClipSpec


@dataclass(frozen=True)
class TimedEvents:
    """The events of a source in the time of its file.

    `origin_s`: where the source's span starts there, in seconds.
    """

    source: Source
    origin_s: Fraction

    @property
    def onsets_s(self) -> list[Fraction]:
        return [self._in_file(event.start_s) for event in self.source.events]

    def labels_of(self, start: int, spec: ClipSpec) -> tuple[str, ...]:
        """Of the events that sound during the clip at a start, in samples; in the order of the source's."""
        start_s, stop_s = (Fraction(n, spec.sample_rate) for n in (start, start + spec.samples))
        sounding = {
            label
            for event in self.source.events
            if self._in_file(event.start_s) < stop_s and self._in_file(event.stop_s) > start_s
            for label in event.labels
        }
        return tuple(label for label in self.source.labels if label in sounding)

    def _in_file(self, seconds: float) -> Fraction:
        return self.origin_s + in_microseconds(seconds)


def in_microseconds(seconds: float) -> Fraction:
    """The number that a list writes, not the float nearest to it."""
    return Fraction(seconds).limit_denominator(1_000_000)


def digest_of(source: Source) -> str:
    """What the plan keeps of the source's listing, which the labels of single clips do not tell."""
    listed = repr((source.labels, source.caption, [tuple(event) for event in source.events]))
    return hashlib.sha256(listed.encode()).hexdigest()[:16]
