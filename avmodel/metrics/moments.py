"""Mean and covariance of features that arrive in batches: float64, flat memory, mergeable over workers.

    worker 0   Moments.of(batch).merge(Moments.of(batch)) ...  \\
    worker 1   ...                                              merge -> mean (d,), covariance (d, d)

Source: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances",
1979. Sums of squares about the running mean do not cancel as raw second moments do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from avmodel.metrics import MetricError


@dataclass(frozen=True)
class Moments:
    """What a Fréchet distance needs of one side."""

    count: int
    mean: np.ndarray  # float64 (d,)
    scatter: np.ndarray  # float64 (d, d): sum of (x - mean)(x - mean)^T

    @classmethod
    def of(cls, features: np.ndarray) -> Moments:
        """The moments of features (n, d), n > 0.

        Raises:
            MetricError: another form, or a value that is not finite.
        """
        features = checked_features(features)
        mean = features.mean(axis=0)
        centred = features - mean
        return cls(len(features), mean, centred.T @ centred)

    def merge(self, other: Moments) -> Moments:
        """The moments of both sides' features together; the order matters to rounding alone.

        Raises:
            MetricError: features of another width.
        """
        if self.mean.shape != other.mean.shape:
            raise MetricError(
                f"features of {len(self.mean)} and of {len(other.mean)} values cannot be merged"
            )
        count = self.count + other.count
        step = other.mean - self.mean
        mean = self.mean + step * (other.count / count)
        between = np.outer(step, step) * (self.count * other.count / count)
        return Moments(count, mean, self.scatter + other.scatter + between)

    @property
    def covariance(self) -> np.ndarray:
        """float64 (d, d), divided by n - 1. Raises MetricError for fewer than two features."""
        if self.count < 2:
            raise MetricError(f"a covariance needs at least 2 clips, not {self.count}")
        return self.scatter / (self.count - 1)


def checked_features(features: np.ndarray) -> np.ndarray:
    """The features (n, d) in float64. Raises MetricError for another form or a value that is not finite."""
    features = np.asarray(features)
    if features.ndim != 2 or not features.size or features.dtype.kind != "f":
        raise MetricError(
            f"features must be floating point (clips, values), not {features.shape} {features.dtype}"
        )
    if not np.isfinite(features).all():
        bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
        raise MetricError(f"features of {len(bad)} of {len(features)} clips are not finite, first: {bad[0]}")
    return features.astype(np.float64)
