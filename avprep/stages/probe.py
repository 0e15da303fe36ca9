"""A batch of sources in, their headers out: what the plan must know of a file before it can cut it."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from avprep.media.limits import Deadline, bounded
from avprep.media.probe import MediaInfo, probe
from avprep.media.source import file_version, require_media
from avprep.reasons import MediaError, Reason
from avprep.stages.tasks import Probed, ProbeTask


def probe_batch(
    task: ProbeTask, *, guard: Callable[[], AbstractContextManager] = nullcontext
) -> list[Probed]:
    """For each path its version and its header, or why it has none. `guard` is entered for each path.

    Raises:
        MediaGone: a source is missing, and so is the folder of all of them.
    """
    known = dict(task.verdicts)
    probed = []
    for path in task.paths:
        version = file_version(os.path.join(task.root, path))  # before: a file that is overwritten is seen
        header = known[path] if path in known else _probe(task, path, guard)
        probed.append(Probed(version, header))
    return probed


def _probe(task: ProbeTask, path: str, guard: Callable[[], AbstractContextManager]) -> MediaInfo | MediaError:
    try:
        with guard():
            deadline = Deadline(task.source_timeout_s)
            return next(bounded(probe(p, deadline) for p in (os.path.join(task.root, path),)))
    except MediaError as error:
        if error.reason in (Reason.MISSING, Reason.UNREADABLE):
            require_media(task.root)
        return error
