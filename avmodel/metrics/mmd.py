"""Unbiased MMD^2 of two sets of features, by a kernel: KVD (cubic) and KAD (Gaussian).

    MMD^2 = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)

Its mean is 0 for equal distributions at any n, so single values can be below 0; lower is nearer. Kernels are
summed block by block: memory does not grow with n beyond the features themselves.

Sources: Gretton et al., JMLR 2012, lemma 6; Bińkowski et al., 2018 (KID's cubic kernel); Chung et al., "KAD:
No More FAD!", 2025 (Gaussian kernel, bandwidth from the reference).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from avmodel.metrics import MetricError
from avmodel.metrics.moments import checked_features

Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]
_BLOCK = 512  # rows of one kernel matrix in memory: 512 x 512 float64 = 2 MiB


def kernel_video_distance(x: np.ndarray, y: np.ndarray) -> float:
    """KVD: MMD^2 under the cubic kernel, of features (n, d) and (m, d)."""
    return mmd2(x, y, cubic_kernel)


def kernel_audio_distance(features: np.ndarray, reference: np.ndarray) -> float:
    """KAD: MMD^2 under a Gaussian kernel as wide as the reference's median pairwise distance, times 100.

    Not symmetric: the reference (m, d) alone sets the bandwidth, so that models compare under one kernel.

    Raises:
        MetricError: also where all reference features are equal.
    """
    bandwidth = median_distance(reference)
    if not bandwidth:
        raise MetricError("the reference's features are all equal: no bandwidth for KAD")
    return 100 * mmd2(features, reference, gaussian_kernel(bandwidth))


def mmd2(x: np.ndarray, y: np.ndarray, kernel: Kernel) -> float:
    """Unbiased MMD^2 of features (n, d) and (m, d), n and m at least 2.

    Raises:
        MetricError: features of another form or width, not finite, or fewer than two clips on a side.
    """
    x, y = checked_features(x), checked_features(y)
    if x.shape[1] != y.shape[1]:
        raise MetricError(f"features of {x.shape[1]} and of {y.shape[1]} values cannot be compared")
    if min(len(x), len(y)) < 2:
        raise MetricError(f"MMD needs at least 2 clips on each side, not {len(x)} and {len(y)}")
    within = sum(
        (_sum(side, side, kernel) - _diagonal(side, kernel)) / (len(side) * (len(side) - 1))
        for side in (x, y)
    )
    return float(within - 2 * _sum(x, y, kernel) / (len(x) * len(y)))


def cubic_kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(x . y / d + 1)^3, which is scikit-learn's `polynomial_kernel` as it comes: (n, m)."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def gaussian_kernel(bandwidth: float) -> Kernel:
    """exp(-|x - y|^2 / (2 bandwidth^2)): (n, m)."""
    return lambda x, y: np.exp(-_squared_distances(x, y) / (2 * bandwidth**2))


def median_distance(features: np.ndarray, *, most: int = 4096) -> float:
    """The median of the distances of all pairs i < j; of more than `most` clips, evenly spread ones count."""
    features = checked_features(features)
    if len(features) > most:
        features = features[np.linspace(0, len(features) - 1, most).astype(int)]
    if len(features) < 2:
        raise MetricError("a median distance needs at least 2 clips")
    above = [
        np.sqrt(_squared_distances(features[i : i + 1], features[i + 1 :]))[0].astype(np.float32)
        for i in range(len(features) - 1)
    ]
    return float(np.median(np.concatenate(above)))


def _squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    squares = np.square(x).sum(1)[:, None] + np.square(y).sum(1) - 2 * x @ y.T
    return squares.clip(min=0)


def _sum(x: np.ndarray, y: np.ndarray, kernel: Kernel) -> float:
    return sum(
        float(kernel(x[i : i + _BLOCK], y[j : j + _BLOCK]).sum())
        for i in range(0, len(x), _BLOCK)
        for j in range(0, len(y), _BLOCK)
    )


def _diagonal(x: np.ndarray, kernel: Kernel) -> float:
    return sum(float(kernel(row[None], row[None])[0, 0]) for row in x)
