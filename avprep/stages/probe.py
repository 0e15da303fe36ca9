"""A batch of sources in, their headers out: what the plan must know of a file before it can cut it."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

from avprep.media.limits import Deadline, bounded
from avprep.media.probe import MediaInfo, probe
from avprep.media.source import require_media
from avprep.reasons import MediaError, Reason


@dataclass(frozen=True)
class ProbeTask:
    """`paths` lie under `root`; those with a verdict are not opened."""

    index: int
    root: str
    paths: tuple[str, ...]
    source_timeout_s: float
    verdicts: tuple[tuple[str, MediaError], ...] = ()

    def trial(self, paths: tuple[str, ...]) -> ProbeTask:
        return replace(self, paths=paths)

    def without(self, verdicts: dict[str, MediaError]) -> ProbeTask:
        return replace(self, verdicts=self.verdicts + tuple(verdicts.items()))


def probe_batch(
    task: ProbeTask, *, guard: Callable[[], AbstractContextManager] = nullcontext
) -> list[MediaInfo | MediaError]:
    """For each path its header, or why it has none. `guard` is entered for each path.

    Raises:
        MediaGone: a source is missing, and so is the folder of all of them.
    """
    known = dict(task.verdicts)
    return [known[path] if path in known else _probe(task, path, guard) for path in task.paths]


def _probe(task: ProbeTask, path: str, guard: Callable[[], AbstractContextManager]) -> MediaInfo | MediaError:
    try:
        with guard():
            deadline = Deadline(task.source_timeout_s)
            return next(bounded(probe(p, deadline) for p in (os.path.join(task.root, path),)))
    except MediaError as error:
        if error.reason in (Reason.MISSING, Reason.UNREADABLE):
            require_media(task.root)
        return error
