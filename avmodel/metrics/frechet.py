"""Fréchet distance of two sets of features, each taken as a Gaussian: FVD, FAD, FD, by the features' name.

    d^2 = |mean_a - mean_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))

0 for equal Gaussians; lower is nearer. It is biased upwards: two sides of n clips from one distribution of d
independent values of variance s come to about s d (d + 5) / (2 n) for n well above d, and to more below. Two
numbers therefore compare at equal n alone.

Sources: Dowson and Landau, 1982; Heusel et al., 2017 (FID); Unterthiner et al., 2018 (FVD); Kilgour et al.,
2019 (FAD).
"""

from __future__ import annotations

import numpy as np

from avmodel.metrics import MetricError
from avmodel.metrics.moments import Moments, checked_features


def frechet_distance(a: Moments, b: Moments) -> float:
    """The squared distance of two sides, 0 or above, in the features' squared unit; symmetric.

    The trace of (C_a C_b)^(1/2) is the sum of the singular values of C_a^(1/2) C_b^(1/2), which keeps its
    accuracy where the covariances are singular (fewer clips than values); `scipy.linalg.sqrtm` does not.

    Raises:
        MetricError: features of different widths, or a side of fewer than two clips.
    """
    if a.mean.shape != b.mean.shape:
        raise MetricError(f"features of {len(a.mean)} and of {len(b.mean)} values cannot be compared")
    roots = _root(a.covariance) @ _root(b.covariance)
    overlap = np.linalg.svd(roots, compute_uv=False).sum()
    distance = (
        np.square(a.mean - b.mean).sum() + np.trace(a.covariance) + np.trace(b.covariance) - 2 * overlap
    )
    return float(max(distance, 0.0))


def resampled_frechet(x: np.ndarray, y: np.ndarray, times_x: np.ndarray, times_y: np.ndarray) -> np.ndarray:
    """The squared distance of many resamples: float64 (B,).

    With C = A^T A, the singular values of C_a^(1/2) C_b^(1/2) are those of A_a A_b^T: for n clips that is an
    (n, m) matrix, and no covariance of d x d values is taken apart.

    Args:
        x: features (n, d).
        y: features (m, d).
        times_x: (B, n), how often each resample takes each clip.
        times_y: (B, m), likewise.

    Raises:
        MetricError: features of another form or of different widths, or fewer than two clips on a side.
    """
    x, y = checked_features(x), checked_features(y)
    if x.shape[1] != y.shape[1]:
        raise MetricError(f"features of {x.shape[1]} and of {y.shape[1]} values cannot be compared")
    if min(len(x), len(y)) < 2:
        raise MetricError(f"a covariance needs at least 2 clips, not {min(len(x), len(y))}")
    return np.array([_between(x, y, *times) for times in zip(times_x, times_y, strict=True)])


def _between(x: np.ndarray, y: np.ndarray, times_x: np.ndarray, times_y: np.ndarray) -> float:
    (mean_x, a), (mean_y, b) = _factored(x, times_x), _factored(y, times_y)
    overlap = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    distance = np.square(mean_x - mean_y).sum() + np.square(a).sum() + np.square(b).sum() - 2 * overlap
    return float(max(distance, 0.0))


def _factored(features: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean (d,) and a factor A (at most d rows, d) of the covariance A^T A."""
    mean = times @ features / times.sum()
    rows = (features - mean) * np.sqrt(times / (times.sum() - 1))[:, None]
    return mean, np.asarray(np.linalg.qr(rows, mode="r")) if len(rows) > rows.shape[1] else rows


def _root(covariance: np.ndarray) -> np.ndarray:
    """The symmetric square root of a positive semi-definite matrix."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
