"""Pairs of values of a latent's planes, kept clip by clip, and their mutual information."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from avmodel.evaluate.observe import Looks, SideObserverRequest, observe, stacked
from avmodel.evaluate.planes import MOST_PAIRS, pairs_per_clip, plane_information, plane_pairs
from avmodel.evaluate.sides import SideRequest
from avmodel.latents import LatentLayout
from avmodel.metrics.mutual_information import paired_planes
from tests.made_clips import TINY

LAYOUT = LatentLayout(channels=2, frames=4, grid=8, streams=("v", "a"))


def latent(seed: int, rho: float = 0.0) -> np.ndarray:
    """Normal values; those of the sound's tw plane are correlated with the pictures'."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(LAYOUT.shape)
    v, a = LAYOUT.planes.index("v_tw"), LAYOUT.planes.index("a_tw")
    values[:, a] = rho * values[:, v] + np.sqrt(1 - rho**2) * values[:, a]
    return values.astype(np.float32)


@pytest.mark.parametrize("most", [3, 1000])
def test_each_pair_is_one_of_the_planes_and_none_comes_twice(most: int):
    values = latent(0)
    found = plane_pairs(values, LAYOUT, most, seed=5)
    assert len(found) == 9
    for name, pairs in found.items():
        a, b = name.removeprefix("planes/").split(", ")
        rows = (
            values[None, :, LAYOUT.planes.index(p), : LAYOUT.valid_rows[LAYOUT.planes.index(p)]]
            for p in (a, b)
        )
        whole = np.stack(paired_planes(*rows, (a[2:], b[2:])), axis=1).astype(np.float32)
        assert len(pairs) == min(most, len(whole))
        known = {pair.tobytes() for pair in whole}
        chosen = {pair.tobytes() for pair in pairs}
        assert chosen <= known and len(chosen) == len(pairs)


@pytest.mark.parametrize("clips", [2, 24, 256, 2048, 100_000])
def test_the_pairs_of_all_clips_are_about_as_many_however_many_clips_there_are(clips: int):
    assert MOST_PAIRS <= clips * pairs_per_clip(clips) < MOST_PAIRS + clips


def test_the_information_is_that_of_the_planes_that_depend_on_each_other():
    """Two independent channels, correlated by 0.8: -ln(1 - 0.64) nats; nothing between other planes."""
    rows = stacked([plane_pairs(latent(i, rho=0.8), LAYOUT, 20, seed=i) for i in range(100)])
    found = {one.metric: one for one in plane_information(rows, seed=0)}
    assert found["MI v_tw, a_tw"].value == pytest.approx(-np.log(1 - 0.64), abs=0.1)
    assert found["MI v_hw, a_hw"].value == pytest.approx(0, abs=0.1)
    assert found["MI v_tw, a_tw"].clips == "100" and "2,000 pairs" in found["MI v_tw, a_tw"].note


def test_a_clip_has_the_same_pairs_beside_whatever_clips_it_is_looked_at(latents: Path, mdsa: Path):
    side = SideRequest(path=latents, mdsa=mdsa, spec=TINY, crop="pad", device="cpu")
    looks = Looks(features=(), size=None, has_av_align=False)
    request = SideObserverRequest(side=side, looks=looks, plane_pairs=3)
    many = observe(request, np.array([2, 3, 11]), workers=1, progress=lambda done: None)
    one = observe(request, np.array([11]), workers=1, progress=lambda done: None)
    assert len(many) == 9
    for name, pairs in many.items():
        assert pairs.shape[:3] == (3, 3, 2)
        np.testing.assert_array_equal(pairs[2], one[name][0])
        assert not np.array_equal(pairs[0], pairs[1])
