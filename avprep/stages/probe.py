"""A batch of sources in, what the plan must know of each out: its header; if wanted, its cuts and bars."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property

from avprep.media.bars import bars_of_source
from avprep.media.crop import Bars
from avprep.media.limits import Deadline, bounded
from avprep.media.probe import MediaInfo, probe
from avprep.media.shots import CutDetector, find_cuts, open_detector
from avprep.media.source import file_version, require_media
from avprep.media.timeline import Cut
from avprep.reasons import MediaError, Reason
from avprep.stages.tasks import Probed, ProbeTask

# Entered for work that may take the given number of times the time limit of a source.
Guard = Callable[[float], AbstractContextManager]

_LIMIT_PER_S = 300.0  # seconds of video in which cuts are looked for within the limit: a network is slow


def probe_batch(task: ProbeTask, *, guard: Guard = nullcontext) -> list[Probed]:
    """For each path its version and its header, or why it has none. `guard` is entered for each path, and
    again for its cuts and its bars.

    Raises:
        MediaGone: a source is missing, and so is the folder of all of them.
        DetectorUnavailable: on this machine the detector is not installed.
    """
    batch = _Batch(task, guard)
    return [batch.probed(path) for path in task.paths]


class _Batch:
    def __init__(self, task: ProbeTask, guard: Guard) -> None:
        self._task, self._guard = task, guard
        self._verdicts = dict(task.verdicts)

    @cached_property
    def _detector(self) -> CutDetector:
        assert self._task.detector is not None
        return open_detector(self._task.detector)

    def probed(self, path: str) -> Probed:
        """What the plan must know of one file, cuts (in seconds) and bars included where they are asked for.

        Args:
            path: relative to the task's root.

        Returns:
            With a MediaError in the place of the header for a file that cannot be used.

        Raises:
            MediaGone: the file cannot be read, and neither can the whole root.
        """
        place = os.path.join(self._task.root, path)
        version = file_version(place)  # before it is read: a file that is overwritten is seen
        if path in self._verdicts:
            return Probed(version, self._verdicts[path])
        try:
            header = self._header(place)
            is_known = self._task.detector is None or (version and self._task.known.get(path) == version)
            cuts = None if is_known else self._cuts(place, header)
            return Probed(version, header, cuts, self._bars(place, header) if self._task.with_bars else None)
        except MediaError as error:
            if error.reason in (Reason.MISSING, Reason.UNREADABLE):
                require_media(self._task.root)
            return Probed(version, error)

    def _header(self, place: str) -> MediaInfo:
        with self._guard(1.0):
            deadline = Deadline(self._task.source_timeout_s)
            return next(bounded(probe(p, deadline) for p in (place,)))

    def _cuts(self, place: str, header: MediaInfo) -> tuple[Cut, ...]:
        detector = self._detector  # loaded before the source's time begins
        video_s = float(sum(part.stop_s - part.start_s for part in header.parts))
        with self._looking_for("cuts", max(1.0, video_s / _LIMIT_PER_S)) as deadline:
            return tuple(find_cuts(place, detector, parts=header.parts, deadline=deadline))

    def _bars(self, place: str, header: MediaInfo) -> Bars:
        with self._looking_for("bars", 1.0) as deadline:
            return bars_of_source(place, parts=header.parts, deadline=deadline)

    @contextmanager
    def _looking_for(self, what: str, times: float) -> Iterator[Deadline]:
        """Within so many times the limit of a source; a MediaError says what was looked for."""
        try:
            with self._guard(times):
                yield Deadline(self._task.source_timeout_s * times)
        except MediaError as error:
            raise MediaError(error.reason, f"looking for {what}: {error.detail}") from error
