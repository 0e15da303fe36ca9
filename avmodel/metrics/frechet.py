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
from avmodel.metrics.moments import Moments


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


def _root(covariance: np.ndarray) -> np.ndarray:
    """The symmetric square root of a positive semi-definite matrix."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
