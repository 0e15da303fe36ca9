from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics.pairwise import euclidean_distances, polynomial_kernel, rbf_kernel

from avmodel.metrics import MetricError
from avmodel.metrics.mmd import (
    cubic_kernel,
    gaussian_kernel,
    kernel_audio_distance,
    kernel_video_distance,
    median_distance,
    mmd2,
)


def features(n: int, *, d: int = 24, seed: int = 0, mean: float = 0.0) -> np.ndarray:
    return mean + np.random.default_rng(seed).standard_normal((n, d))


def plain(xx: np.ndarray, yy: np.ndarray, xy: np.ndarray) -> float:
    within = (k[~np.eye(len(k), dtype=bool)].mean() for k in (xx, yy))
    return sum(within) - 2 * xy.mean()


@pytest.mark.parametrize("n, m", [(2, 3), (40, 25), (600, 513)])
def test_kvd_is_that_of_scikit_learn_s_kernel(n: int, m: int):
    x, y = features(n), features(m, seed=1, mean=0.4)
    expected = plain(*(polynomial_kernel(a, b) for a, b in ((x, x), (y, y), (x, y))))
    assert kernel_video_distance(x, y) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("n, m", [(40, 25), (600, 513)])
def test_kad_is_that_of_scikit_learn_s_kernel_as_wide_as_the_reference(n: int, m: int):
    x, y = features(n, mean=0.4), features(m, seed=1)
    distances = euclidean_distances(y)[np.triu_indices(m, 1)]
    gamma = 1 / (2 * np.median(distances) ** 2)
    expected = 100 * plain(*(rbf_kernel(a, b, gamma) for a, b in ((x, x), (y, y), (x, y))))
    assert kernel_audio_distance(x, y) == pytest.approx(expected, rel=1e-5)
    assert kernel_audio_distance(y, x) != pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("kernel", [cubic_kernel, gaussian_kernel(5.0)])
def test_it_has_no_bias(kernel):
    """Over many draws from one distribution the mean is 0 within four standard errors, at n = 8."""
    rng = np.random.default_rng(0)
    found = [mmd2(rng.standard_normal((8, 4)), rng.standard_normal((8, 4)), kernel) for _ in range(400)]
    assert abs(np.mean(found)) < 4 * np.std(found) / 20
    assert min(found) < 0


def test_it_rises_with_the_distance_of_the_means():
    found = [kernel_video_distance(features(200), features(200, seed=1, mean=m)) for m in (0, 0.2, 0.4, 0.8)]
    assert found == sorted(found) and found[0] == pytest.approx(0, abs=0.05)


def test_the_order_of_the_clips_does_not_matter():
    x, y = features(700), features(300, seed=1, mean=0.1)
    assert kernel_audio_distance(x[::-1], y[::-1]) == pytest.approx(kernel_audio_distance(x, y), rel=1e-9)


def test_the_median_of_many_is_near_that_of_all():
    x = features(900)
    assert median_distance(x, most=300) == pytest.approx(median_distance(x), rel=0.02)


def test_what_cannot_be_computed_is_refused():
    with pytest.raises(MetricError, match="at least 2 clips"):
        kernel_video_distance(features(1), features(5))
    with pytest.raises(MetricError, match="24 and of 3"):
        kernel_video_distance(features(5), features(5, d=3))
    with pytest.raises(MetricError, match="all equal"):
        kernel_audio_distance(features(5), np.ones((5, 24)))
    with pytest.raises(MetricError, match="not finite"):
        kernel_video_distance(features(5), np.full((5, 24), np.inf))
