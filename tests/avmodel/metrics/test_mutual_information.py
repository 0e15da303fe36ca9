from __future__ import annotations

import numpy as np
import pytest

from avmodel.metrics import MetricError
from avmodel.metrics.mutual_information import ksg, mutual_information, paired_planes


def gaussian_pairs(rho: float, n: int, *, d: int = 1, seed: int = 0) -> tuple[np.ndarray, np.ndarray, float]:
    """x and y (n, d), component by component correlated by rho, and their mutual information in nats."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d))
    y = rho * x + np.sqrt(1 - rho**2) * rng.standard_normal((n, d))
    return x, y, -d / 2 * np.log(1 - rho**2)


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.6, 0.9, -0.9])
@pytest.mark.parametrize("d", [1, 2])
def test_correlated_gaussians_have_their_analytic_information(rho: float, d: int):
    x, y, expected = gaussian_pairs(rho, 4000, d=d)
    found = mutual_information(x, y)
    assert found.nats == pytest.approx(expected, abs=max(4 * found.spread, 0.06))
    assert found.spread < 0.04


def test_it_is_the_definition():
    """Against the sum over all pairs, written out; the neighbours are strictly nearer."""
    x, y, _ = gaussian_pairs(0.7, 60, d=2)
    from scipy.special import digamma

    dx, dy = (np.abs(s[:, None] - s).max(-1) for s in (x, y))
    terms = []
    for i in range(60):
        radius = np.sort(np.maximum(dx, dy)[i])[3]  # itself is the 0th
        near = [(d[i] < radius).sum() - 1 for d in (dx, dy)]
        terms.append(digamma(near[0] + 1) + digamma(near[1] + 1))
    assert ksg(x, y) == pytest.approx(digamma(3) + digamma(60) - np.mean(terms), rel=1e-12)


def test_it_does_not_change_under_scale_and_is_symmetric():
    x, y, _ = gaussian_pairs(0.8, 1000)
    assert ksg(y, x) == pytest.approx(ksg(x, y))
    assert ksg(5 * x, 5 * y + 3) == pytest.approx(ksg(x, y), abs=1e-9)


def test_the_spread_falls_with_the_number_of_pairs():
    small, large = (mutual_information(*gaussian_pairs(0.6, n)[:2]).spread for n in (300, 9600))
    assert large < small


def test_planes_are_paired_along_the_axis_that_they_share():
    """tw and hw share w: pair (clip, w) is the mean over t of the one and over h of the other."""
    rng = np.random.default_rng(0)
    tw, hw = rng.standard_normal((3, 4, 16, 32)), rng.standard_normal((3, 4, 32, 32))
    x, y = paired_planes(tw, hw, ("tw", "hw"))
    assert x.shape == y.shape == (96, 4)
    np.testing.assert_allclose(x[1 * 32 + 7], tw[1, :, :, 7].mean(axis=1))
    np.testing.assert_allclose(y[1 * 32 + 7], hw[1, :, :, 7].mean(axis=1))


def test_th_and_hw_share_the_rows_of_hw():
    rng = np.random.default_rng(0)
    th, hw = rng.standard_normal((2, 4, 16, 32)), rng.standard_normal((2, 4, 32, 32))
    x, y = paired_planes(th, hw, ("th", "hw"))
    np.testing.assert_allclose(x[32 + 5], th[1, :, :, 5].mean(axis=1))
    np.testing.assert_allclose(y[32 + 5], hw[1, :, 5, :].mean(axis=1))


def test_the_same_plane_of_video_and_sound_is_paired_position_by_position():
    rng = np.random.default_rng(0)
    v, a = rng.standard_normal((2, 4, 16, 32)), rng.standard_normal((2, 4, 16, 32))
    x, y = paired_planes(v, a, ("tw", "tw"))
    assert x.shape == (2 * 16 * 32, 4)
    np.testing.assert_allclose(y[16 * 32 + 3 * 32 + 9], a[1, :, 3, 9])


def test_what_cannot_be_paired_is_refused():
    plane = np.zeros((2, 4, 16, 32))
    with pytest.raises(MetricError, match="hw, tw, th, not xy"):
        paired_planes(plane, plane, ("xy", "hw"))
    with pytest.raises(MetricError, match="share the axis"):
        paired_planes(plane, np.zeros((3, 4, 32, 32)), ("tw", "hw"))
    with pytest.raises(MetricError, match="rows, columns"):
        paired_planes(plane[0], plane[0], ("tw", "tw"))
    with pytest.raises(MetricError, match="k = 3"):
        ksg(np.zeros(3), np.zeros(3))
    with pytest.raises(MetricError, match="5 parts"):
        mutual_information(np.zeros(15), np.zeros(15))
    with pytest.raises(MetricError, match="finite"):
        ksg(np.full(9, np.nan), np.zeros(9))
