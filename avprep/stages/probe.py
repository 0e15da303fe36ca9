"""A batch of sources in, their headers out: what the plan must know of a file before it can cut it."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from avprep.media.limits import Deadline, bounded
from avprep.media.probe import MediaInfo, probe
from avprep.media.source import require_media
from avprep.reasons import MediaError, Reason
from avprep.stages.tasks import ProbeTask


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
