"""A batch of sources in, their headers out: what the plan must know of a file before it can cut it."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from avprep.media.memory import bounded
from avprep.media.probe import Header, probe
from avprep.reasons import MediaError


@dataclass(frozen=True)
class ProbeTask:
    """`paths` lie under `root`; those with a verdict are not opened."""

    index: int
    root: str
    paths: tuple[str, ...]
    verdicts: tuple[tuple[str, MediaError], ...] = ()

    def trial(self, paths: tuple[str, ...]) -> ProbeTask:
        return replace(self, paths=paths)

    def without(self, verdicts: dict[str, MediaError]) -> ProbeTask:
        return replace(self, verdicts=self.verdicts + tuple(verdicts.items()))


def probe_batch(task: ProbeTask) -> list[Header | MediaError]:
    """For each path its header, or why it has none."""
    known = dict(task.verdicts)
    return [known[path] if path in known else _probe(os.path.join(task.root, path)) for path in task.paths]


def _probe(path: str) -> Header | MediaError:
    try:
        return next(bounded(probe(p) for p in (path,)))
    except MediaError as error:
        return error
