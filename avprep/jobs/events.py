"""Clips that start where events do: the labels of each, and what tells one list of events from another."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

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
        return [start_s for start_s, _, _ in self._in_file]

    def labels_of(self, start: int, spec: ClipSpec) -> tuple[str, ...]:
        """Of the events that sound during the clip at a start, in samples; in the order of the source's."""
        start_s, stop_s = (Fraction(n, spec.sample_rate) for n in (start, start + spec.samples))
        sounding = {
            label
            for event_start_s, event_stop_s, labels in self._in_file
            if event_start_s < stop_s and event_stop_s > start_s
            for label in labels
        }
        return tuple(label for label in self.source.labels if label in sounding)

    @cached_property
    def _in_file(self) -> list[tuple[Fraction, Fraction, tuple[str, ...]]]:
        """Start, stop and labels of each event."""
        return [
            (self.origin_s + in_microseconds(start_s), self.origin_s + in_microseconds(stop_s), labels)
            for start_s, stop_s, labels in self.source.events
        ]


def in_microseconds(seconds: float) -> Fraction:
    """The number that a list writes, not the float nearest to it."""
    return Fraction(seconds).limit_denominator(1_000_000)


def digest_of(source: Source) -> str:
    """What the plan keeps of the source's listing, which the labels of single clips do not tell."""
    listed = repr((source.labels, source.caption, [tuple(event) for event in source.events]))
    return hashlib.sha256(listed.encode()).hexdigest()[:16]
