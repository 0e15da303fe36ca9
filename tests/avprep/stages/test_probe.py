from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from avprep.media.crop import NO_BARS
from avprep.media.limits import Deadline
from avprep.media.source import file_version
from avprep.media.timeline import Cut
from avprep.reasons import MediaError, Reason
from avprep.stages.probe import probe_batch
from avprep.stages.tasks import ProbeTask
from tests.avprep.jobs.test_planning import info
from tests.avprep.media.flash_click import write_flash_click


class EveryTenth:
    """A detector that finds a dissolve over every tenth picture."""

    def find(self, pictures: Iterable[np.ndarray]) -> Iterator[tuple[int, int]]:
        count = sum(1 for _ in pictures)
        return ((i, i + 2) for i in range(9, count - 2, 10))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the detectors that were opened."""
    names: list[str] = []

    def open_detector(name: str) -> EveryTenth:
        names.append(name)
        return EveryTenth()

    monkeypatch.setattr("avprep.stages.probe.open_detector", open_detector)
    return names


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    for name in ("a.mp4", "b.mp4"):
        write_flash_click(folder / name, seconds=1.0, events_s=(0.5,))
    (folder / "broken.mp4").write_bytes(b"no media")
    return folder


def task(root: Path, **more) -> ProbeTask:
    return ProbeTask(0, str(root), ("a.mp4", "broken.mp4", "b.mp4"), 60.0, **more)


def test_without_a_detector_no_cuts_are_looked_for(root: Path, opened: list[str]):
    found = probe_batch(task(root))
    assert [one.cuts for one in found] == [None, None, None] and opened == []
    assert isinstance(found[1].header, MediaError)


def test_cuts_are_found_with_one_detector_for_the_batch(root: Path, opened: list[str]):
    a, broken, b = probe_batch(task(root, detector="scenedetect"))
    assert a.cuts and a.cuts == b.cuts and all(isinstance(cut, Cut) for cut in a.cuts)
    assert broken.cuts is None and opened == ["scenedetect"]


def test_known_cuts_are_not_looked_for_unless_the_file_is_another(root: Path, opened: list[str]):
    known = {"a.mp4": file_version(str(root / "a.mp4")), "b.mp4": "another"}
    a, _, b = probe_batch(task(root, detector="scenedetect", known=known))
    assert a.cuts is None and not isinstance(a.header, MediaError)
    assert b.cuts is not None


def test_a_source_whose_cuts_cannot_be_found_is_lost_for_that_reason(
    root: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
):
    def too_slow(place: str, *_args, deadline: Deadline, **_options):
        assert deadline.seconds == 60.0
        if place.endswith("a.mp4"):
            raise MediaError(Reason.TIMEOUT, "not done after the time limit of 60 s")
        return []

    monkeypatch.setattr("avprep.stages.probe.find_cuts", too_slow)
    a, _, b = probe_batch(task(root, detector="scenedetect"))
    assert isinstance(a.header, MediaError) and a.header.reason is Reason.TIMEOUT
    assert a.header.detail == "looking for cuts: not done after the time limit of 60 s"
    assert b.cuts == ()


def test_bars_are_looked_for_where_they_are_wanted(root: Path, monkeypatch: pytest.MonkeyPatch):
    assert [one.bars for one in probe_batch(task(root))] == [None, None, None]
    a, broken, _ = probe_batch(task(root, with_bars=True))
    assert (a.bars, broken.bars) == (NO_BARS, None)

    def too_slow(*_args, **_options):
        raise MediaError(Reason.TIMEOUT, "not done")

    monkeypatch.setattr("avprep.stages.probe.bars_of_source", too_slow)
    lost = probe_batch(task(root, with_bars=True))[0].header
    assert isinstance(lost, MediaError) and lost.detail == "looking for bars: not done"


@pytest.mark.parametrize("video_s, times", [(60.0, 1.0), (1200.0, 4.0)])
def test_the_cuts_of_a_long_source_may_take_longer(
    root: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch, video_s: float, times: float
):
    limits, guards = [], []

    def found(_place: str, *_args, deadline: Deadline, **_options):
        limits.append(deadline.seconds)
        return []

    def guard(times: float):
        guards.append(times)
        return nullcontext()

    monkeypatch.setattr("avprep.stages.probe.probe", lambda *_: info(video_s))
    monkeypatch.setattr("avprep.stages.probe.find_cuts", found)
    one = replace(task(root, detector="scenedetect"), paths=("a.mp4",))
    probe_batch(one, guard=guard)
    assert limits == [60.0 * times] and guards == [1.0, times]
