from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

from avmodel.metrics import MetricError
from avmodel.metrics.frechet import frechet_distance, resampled_frechet
from avmodel.metrics.moments import Moments


def features(n: int, d: int, *, seed: int = 0, mean: float = 0.0, scale: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((d, d)) / np.sqrt(d)
    return mean + scale * rng.standard_normal((n, d)) @ mix


def gaussian(mean: np.ndarray, covariance: np.ndarray) -> Moments:
    """Moments whose covariance is exactly the one given."""
    return Moments(count=2, mean=np.asarray(mean, float), scatter=np.asarray(covariance, float))


def test_gaussians_of_diagonal_covariance_have_the_analytic_distance():
    a, b = np.array([1.0, 4.0, 9.0]), np.array([4.0, 0.0, 1.0])
    found = frechet_distance(gaussian([0, 0, 0], np.diag(a)), gaussian([1, 2, 2], np.diag(b)))
    assert found == pytest.approx(9 + np.square(np.sqrt(a) - np.sqrt(b)).sum(), rel=1e-12)


def test_covariances_that_do_not_commute_have_scipy_s_distance():
    a, b = features(200, 12), features(300, 12, seed=1, mean=0.3, scale=2.0)
    root = scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)
    assert frechet_distance(Moments.of(a), Moments.of(b)) == pytest.approx(expected, rel=1e-9)


def test_fewer_clips_than_values_keep_their_accuracy():
    """Two clips a side: each covariance has rank 1, so the trace is |u . w| in closed form."""
    u, w = features(1, 50)[0], features(1, 50, seed=1)[0]
    a, b = np.stack([u, -u]), np.stack([w, -w])
    expected = 2 * (u @ u + w @ w - 2 * abs(u @ w))
    assert frechet_distance(Moments.of(a), Moments.of(b)) == pytest.approx(expected, rel=1e-6)


def test_it_is_zero_of_a_side_with_itself_and_symmetric():
    a, b = Moments.of(features(40, 60)), Moments.of(features(40, 60, seed=3))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-5)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)
    assert frechet_distance(a, b) > 1


@pytest.mark.parametrize("n", [250, 1000, 4000])
def test_the_bias_at_n_is_the_stated_one(n: int):
    """Two sides from N(0, I)."""
    d = 40
    rng = np.random.default_rng(0)
    a, b = (Moments.of(rng.standard_normal((n, d))) for _ in range(2))
    assert frechet_distance(a, b) == pytest.approx(d * (d + 5) / (2 * n), rel=0.15)


@given(
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=6),
    offset=st.sampled_from([0.0, 1.0, 1e6]),
    seed=st.integers(0, 99),
)
def test_merged_parts_give_the_moments_of_the_whole(sizes: list[int], offset: float, seed: int):
    """However workers share the clips, also where the mean is a million times the deviation."""
    whole = features(sum(sizes), 5, seed=seed, mean=offset)
    parts = np.split(whole, np.cumsum(sizes)[:-1])
    merged = Moments.of(parts[0])
    for part in parts[1:]:
        merged = merged.merge(Moments.of(part))
    assert merged.count == len(whole)
    np.testing.assert_allclose(merged.mean, whole.mean(0), rtol=1e-12)
    np.testing.assert_allclose(merged.covariance, np.cov(whole.T), rtol=1e-6, atol=1e-8)


def test_features_that_cannot_be_used_are_refused_with_a_reason():
    good = Moments.of(features(4, 3))
    with pytest.raises(MetricError, match="2 clips"):
        frechet_distance(good, Moments.of(features(1, 3)))
    with pytest.raises(MetricError, match="3 and of 2"):
        frechet_distance(good, Moments.of(features(4, 2)))
    with pytest.raises(MetricError, match="3 and of 2"):
        good.merge(Moments.of(features(4, 2)))
    bad = features(4, 3)
    bad[2, 1] = np.nan
    with pytest.raises(MetricError, match="1 of 4 clips.*first: 2"):
        Moments.of(bad)
    for form in (np.zeros(3), np.zeros((0, 3)), np.zeros((2, 3), int)):
        with pytest.raises(MetricError, match="clips, values"):
            Moments.of(form)


@pytest.mark.parametrize("n, m, d", [(30, 25, 6), (8, 9, 40), (30, 9, 12)])
def test_resamples_have_the_distance_of_their_copied_clips(n: int, m: int, d: int):
    x, y = features(n, d, mean=0.5), features(m, d, seed=1, scale=2.0)
    rng = np.random.default_rng(0)
    times = [np.concatenate([np.ones((1, k)), rng.multinomial(k, np.full(k, 1 / k), 3)]) for k in (n, m)]
    found = resampled_frechet(x, y, *times)
    for value, of_x, of_y in zip(found, *times, strict=True):
        sides = (np.repeat(s, t.astype(int), axis=0) for s, t in ((x, of_x), (y, of_y)))
        assert value == pytest.approx(frechet_distance(*map(Moments.of, sides)), rel=1e-6)


def test_resamples_of_one_clip_or_of_other_widths_are_refused():
    with pytest.raises(MetricError, match="at least 2 clips"):
        resampled_frechet(features(1, 3), features(5, 3), np.ones((1, 1)), np.ones((1, 5)))
    with pytest.raises(MetricError, match="3 and of 4 values"):
        resampled_frechet(features(5, 3), features(5, 4), np.ones((1, 5)), np.ones((1, 5)))
