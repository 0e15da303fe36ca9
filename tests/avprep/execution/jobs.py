"""Tasks for the tests of runners: parts, some of which end their process."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace

from avprep.execution.quarantine import Quarantine, watchdog


@dataclass(frozen=True)
class Job:
    index: int
    parts: tuple[str, ...]
    quarantined: tuple[str, ...] = ()
    once: str = ""  # a file: where it does not exist, the part 'once' makes it and ends the process


def stage(job: Job) -> list[str]:
    """The parts in upper case. 'crash…' ends the process, 'hang…' never returns, 'once' ends it once."""
    done = []
    for part in job.parts:
        if part in job.quarantined:
            continue
        if part.startswith("crash"):
            os._exit(139)
        if part.startswith("hang"):
            with watchdog(1.0):
                time.sleep(60)
        if part == "once" and not os.path.exists(job.once):
            with open(job.once, "w"):
                pass
            os._exit(1)
        done.append(part.upper())
    return done


def process_id(_: object) -> tuple[int, int]:
    """(process, process group)."""
    return os.getpid(), os.getpgid(0)


def quarantine() -> Quarantine:
    return Quarantine(
        parts=lambda job: job.parts,
        trial=lambda job, parts: replace(job, parts=parts),
        without=lambda job, lost: replace(job, quarantined=tuple(sorted(lost))),
    )
