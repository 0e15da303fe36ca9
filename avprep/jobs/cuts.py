"""Where the cuts of a job's sources come from: a list that is given, or a detector that the workers run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

from avprep.datasets.cut_list import CutList, read_cut_list
from avprep.datasets.source import DatasetError, Source
from avprep.errors import ArgumentError
from avprep.media.detectors import DETECTORS, Detector, DetectorName, DetectorUnavailable, installed_detector
from avprep.media.timeline import Cut
from avprep.shards.cuts import CutFiles, SourceCuts
from avprep.shards.store import Store, is_remote
from avprep.stages.tasks import Probed

NO_CUTS = "none"


def chosen_cuts(value: str | os.PathLike[str] | None) -> Detector | CutList | None:
    """What the argument `cuts` names: a detector, a list, or nothing.

    Raises:
        ArgumentError: a detector that is not installed, or a list that cannot be read.
    """
    if value is None or value == NO_CUTS:
        return None
    try:
        for name in DETECTORS:
            if value == name:
                return installed_detector(name)
        return read_cut_list(Path(value))
    except (DetectorUnavailable, DatasetError) as error:
        names = ", ".join((NO_CUTS, *DETECTORS))
        known = f" (nor is it one of {names})" if not os.path.exists(value) and value not in DETECTORS else ""
        raise ArgumentError(f"cuts = {os.fspath(value)}: {error}{known}") from error


def require_named(cuts: CutList, sources: Sequence[Source]) -> int:
    """How many of the sources' files the list names.

    Raises:
        ArgumentError: none: its paths are others than those under the root.
    """
    named = cuts.names(sources)
    if not named and sources:
        raise ArgumentError(
            f"cuts = {cuts.path}: it names none of the sources; it must name them by their path under the "
            f"root, as {sources[0].path!r}"
        )
    return named


def require_elsewhere(cuts: CutList, out: str) -> None:
    """Before a rebuild removes the output: that the list does not go with it.

    Raises:
        ArgumentError: it lies in the output.
    """
    if not is_remote(out) and cuts.path.resolve().is_relative_to(Path(out).resolve()):
        raise ArgumentError(f"cuts = {cuts.path}: rebuild=True removes it with the output; copy it elsewhere")


class SourcesCuts(Protocol):
    """The cuts of the sources that are probed."""

    detector: DetectorName | None  # that the workers look for cuts with

    def known(self, paths: Iterable[str]) -> dict[str, str]:
        """Those of the files whose cuts were found before, each with its version then."""

    def completed(self, paths: Sequence[str], found: Sequence[Probed]) -> list[Probed]:
        """What was found of these files, with the cuts of each. Those found now are kept."""


def cuts_of_sources(cuts: Detector | CutList | None, store: Store | None) -> SourcesCuts:
    """`store`: an output, where what is found is kept; None: nothing is kept."""
    if isinstance(cuts, Detector):
        return _FoundCuts(cuts.name, None if store is None else CutFiles(store))
    return _GivenCuts(cuts)


class _GivenCuts:
    """Those of a list, or none."""

    def __init__(self, cuts: CutList | None) -> None:
        self.detector: DetectorName | None = None
        self._cuts = cuts

    def known(self, paths: Iterable[str]) -> dict[str, str]:
        return {}

    def completed(self, paths: Sequence[str], found: Sequence[Probed]) -> list[Probed]:
        if self._cuts is None:
            return list(found)
        times = map(self._cuts.of, paths)
        return [replace(one, cuts=_cuts(own)) for one, own in zip(found, times, strict=True)]


class _FoundCuts:
    """Those that a detector finds."""

    def __init__(self, detector: DetectorName, files: CutFiles | None) -> None:
        self.detector: DetectorName | None = detector
        self._files = files

    @cached_property
    def _before(self) -> dict[str, SourceCuts]:
        return {} if self._files is None else self._files.read()

    def known(self, paths: Iterable[str]) -> dict[str, str]:
        return {path: self._before[path].version for path in paths if path in self._before}

    def completed(self, paths: Sequence[str], found: Sequence[Probed]) -> list[Probed]:
        pairs = list(zip(paths, found, strict=True))
        new = [SourceCuts(path, one.version, _times(one.cuts)) for path, one in pairs if one.cuts is not None]
        if new and self._files is not None:
            self._files.write(new)
        return [self._with_cuts(path, one) for path, one in pairs]

    def _with_cuts(self, path: str, probed: Probed) -> Probed:
        before = self._before.get(path)
        if probed.cuts is not None or before is None:
            return probed
        return replace(probed, cuts=_cuts(before.cuts))


def _times(cuts: Iterable[Cut]) -> tuple[tuple[float, float], ...]:
    return tuple((cut.before_s, cut.after_s) for cut in cuts)


def _cuts(times: Iterable[tuple[float, float]]) -> tuple[Cut, ...]:
    return tuple(Cut(before_s, after_s) for before_s, after_s in times)
