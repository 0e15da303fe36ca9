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
    return float(resampled_mmd2(x, y, kernel, np.ones((1, len(x))), np.ones((1, len(y))))[0])


def resampled_mmd2(
    x: np.ndarray, y: np.ndarray, kernel: Kernel, times_x: np.ndarray, times_y: np.ndarray
) -> np.ndarray:
    """MMD^2 of many resamples in one pass over the kernel: float64 (B,).

    Args:
        times_x: (B, n), how often each resample takes each clip.
        times_y: (B, m), likewise.

    A clip is never paired with a copy of itself: copies would add k(x, x) and raise every value.

    Raises:
        MetricError: as `mmd2`.
    """
    x, y = checked_features(x), checked_features(y)
    if x.shape[1] != y.shape[1]:
        raise MetricError(f"features of {x.shape[1]} and of {y.shape[1]} values cannot be compared")
    if min(len(x), len(y)) < 2:
        raise MetricError(f"MMD needs at least 2 clips on each side, not {len(x)} and {len(y)}")
    within = sum(
        (_sums(side, side, kernel, times, times) - np.square(times) @ _diagonal(side, kernel))
        / (np.square(times.sum(1)) - np.square(times).sum(1))
        for side, times in ((x, times_x), (y, times_y))
    )
    across = _sums(x, y, kernel, times_x, times_y) / (times_x.sum(1) * times_y.sum(1))
    return within - 2 * across


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
    distances = np.empty(len(features) * (len(features) - 1) // 2, np.float32)
    filled = 0
    for i in range(len(features) - 1):
        above = np.sqrt(_squared_distances(features[i : i + 1], features[i + 1 :]))[0]
        distances[filled : filled + len(above)] = above
        filled += len(above)
    return float(np.median(distances, overwrite_input=True))


def _squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    squares = np.square(x).sum(1)[:, None] + np.square(y).sum(1) - 2 * x @ y.T
    return squares.clip(min=0)


def _sums(
    x: np.ndarray, y: np.ndarray, kernel: Kernel, times_x: np.ndarray, times_y: np.ndarray
) -> np.ndarray:
    """sum_ij times_x[b, i] k(x_i, y_j) times_y[b, j], for each b: (B,), block by block."""
    total = np.zeros(len(times_x))
    for i in range(0, len(x), _BLOCK):
        rows = slice(i, i + _BLOCK)
        for j in range(0, len(y), _BLOCK):
            columns = slice(j, j + _BLOCK)
            total += ((times_x[:, rows] @ kernel(x[rows], y[columns])) * times_y[:, columns]).sum(1)
    return total


def _diagonal(x: np.ndarray, kernel: Kernel) -> np.ndarray:
    """k(x_i, x_i): (n,)"""
    return np.array([kernel(row[None], row[None])[0, 0] for row in x])
