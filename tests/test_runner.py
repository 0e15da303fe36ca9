"""Lost workers: found, isolated, and no reason to stop. A hang here would be the bug: time limits on all."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field, replace

import pytest

from avprep.runner import Quarantine, RunnerConfig, WorkerLost, open_runner, watchdog


@dataclass(frozen=True)
class Job:
    index: int
    parts: tuple[str, ...]
    quarantined: tuple[str, ...] = ()
    once: str = ""


@dataclass
class Told:
    lost: list[WorkerLost] = field(default_factory=list)

    def __call__(self, task: Job, lost: WorkerLost) -> None:
        self.lost.append(lost)


def stage(job: Job) -> list[str]:
    """Upper-cases its parts; some parts end the process, one of them only the first time."""
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


def quarantine() -> Quarantine:
    return Quarantine(
        parts=lambda job: job.parts,
        trial=lambda job, parts: replace(job, parts=parts),
        without=lambda job, lost: replace(job, quarantined=tuple(sorted(lost))),
    )


@pytest.mark.timeout(150)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_part_that_kills_its_process_is_found_and_the_rest_is_done(workers, tmp_path):
    jobs = [
        Job(0, ("a", "b")),
        Job(1, ("c", "crash1", "d", "e")),
        Job(2, ("f", "hang", "crash2", "g", "h")),
        Job(3, ("once", "i"), once=str(tmp_path / "once")),
    ]
    told = Told()
    with open_runner(RunnerConfig(workers=workers)) as runner:
        results = {
            job.index: (job.quarantined, done)
            for job, done in quarantine().map(runner, stage, iter(jobs), lambda: False, told)
        }
    assert results == {
        0: ((), ["A", "B"]),
        1: (("crash1",), ["C", "D", "E"]),
        2: (("crash2", "hang"), ["F", "G", "H"]),
        3: ((), ["ONCE", "I"]),
    }
    assert len(told.lost) == 2 + 2 + 1  # twice each, and the one that was only unlucky once


def refuse(job: Job) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.timeout(90)
def test_a_fault_of_the_machine_ends_the_run_as_itself():
    with open_runner(RunnerConfig(workers=1)) as runner, pytest.raises(OSError, match="No space left"):
        list(runner.map(refuse, iter([Job(0, ())]), lambda: False))


def test_in_this_process_nothing_is_begun_after_a_stop():
    asked = []

    def should_stop() -> bool:
        return len(asked) >= 2

    with open_runner(RunnerConfig(workers=0)) as runner:
        for job, _ in runner.map(stage, (Job(i, ("a",)) for i in range(10)), should_stop):
            asked.append(job.index)
    assert asked == [0, 1]


def test_a_watchdog_that_is_not_needed_does_nothing():
    with watchdog(None), watchdog(60):
        assert stage(Job(0, ("a",))) == ["A"]
