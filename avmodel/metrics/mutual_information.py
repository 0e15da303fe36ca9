"""Mutual information of two planes of a latent (the paper's Table 7), by nearest neighbours (KSG-1).

    I = psi(k) + psi(n) - mean_i [psi(n_x(i) + 1) + psi(n_y(i) + 1)]      nats

eps(i) is the distance of point i to its k-th neighbour in the joint space, under the maximum norm; n_x(i) the
number of points whose x is strictly nearer than eps(i).

Source: Kraskov, Stögbauer and Grassberger, "Estimating mutual information", PRE 69, 066138 (2004), eq 8.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree
from scipy.special import digamma

from avmodel.metrics import MetricError

# The axes of a plane, in the order in which it is stored: hw is (C, H, W), tw (C, T, W), th (C, T, H).
_AXES = {"hw": "hw", "tw": "tw", "th": "th"}


@dataclass(frozen=True, kw_only=True)
class MutualInformation:
    """An estimate and its spread."""

    nats: float  # of all pairs; the estimator can come out slightly below 0 for independent planes
    spread: float  # standard error from `parts` disjoint parts: their standard deviation / sqrt(parts)
    pairs: int
    parts: int


def ksg(x: np.ndarray, y: np.ndarray, *, k: int = 3) -> float:
    """The KSG-1 estimate in nats of I(X; Y).

    Args:
        x: float (n, d_x), a row per pair.
        y: float (n, d_y).
        k: neighbours; more lowers the variance and raises the bias.

    Raises:
        MetricError: rows that differ in number, k not in 1 .. n - 1, values that are not finite.
    """
    x, y = (np.asarray(side, np.float64).reshape(len(side), -1) for side in (x, y))
    n = len(x)
    if len(y) != n or not 1 <= k < n:
        raise MetricError(f"KSG takes as many x as y and k below that, not {n}, {len(y)} and k = {k}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise MetricError("KSG takes finite values")
    joint = np.concatenate([x, y], axis=1)
    radius = cKDTree(joint).query(joint, k=k + 1, p=np.inf)[0][:, -1]
    # Strictly nearer: the ball is closed, so its radius is the next float below.
    inside = np.nextafter(radius, 0)
    near_x, near_y = (_neighbours(side, inside, radius) for side in (x, y))
    return float(digamma(k) + digamma(n) - np.mean(digamma(near_x + 1) + digamma(near_y + 1)))


def _neighbours(points: np.ndarray, inside: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """How many other points are strictly nearer than `radius`; none where it is 0 (equal points)."""
    counts = cKDTree(points).query_ball_point(points, inside, p=np.inf, return_length=True)
    return np.where(radius > 0, counts - 1, 0)


def mutual_information(x: np.ndarray, y: np.ndarray, *, k: int = 3, parts: int = 5) -> MutualInformation:
    """KSG-1 over all pairs, with its spread over `parts` disjoint parts (pair i is in part i mod parts).

    Raises:
        MetricError: as `ksg`, and for parts too small for k.
    """
    if parts < 2 or len(x) // parts <= k:
        raise MetricError(f"{len(x)} pairs do not make {parts} parts of more than {k}")
    estimates = [ksg(x[i::parts], y[i::parts], k=k) for i in range(parts)]
    spread = float(np.std(estimates, ddof=1) / np.sqrt(parts))
    return MutualInformation(nats=ksg(x, y, k=k), spread=spread, pairs=len(x), parts=parts)


def paired_planes(
    first: np.ndarray, second: np.ndarray, names: tuple[str, str]
) -> tuple[np.ndarray, np.ndarray]:
    """Two planes as pairs: each averaged over the axis that the other lacks, paired along the shared one.

    Args:
        first: (B, C, rows, columns), without padding rows.
        second: likewise, of the same clips.
        names: of the planes, 'hw', 'tw' or 'th'; two equal names (a video's and a sound's) share both axes,
            and are paired position by position.

    Returns:
        float64 (pairs, C) each; pairs = B x length of the shared axis (axes).

    Raises:
        MetricError: an unknown plane, or shapes that do not agree.
    """
    if any(name not in _AXES for name in names):
        raise MetricError(f"planes are {', '.join(_AXES)}, not {' and '.join(names)}")
    shared = [axis for axis in _AXES[names[0]] if axis in _AXES[names[1]]]
    pair = _along(first, names[0], shared), _along(second, names[1], shared)
    if pair[0].shape != pair[1].shape:
        raise MetricError(
            f"planes of {first.shape} and {second.shape} do not share the axis {''.join(shared)}"
        )
    return pair


def _along(plane: np.ndarray, name: str, shared: list[str]) -> np.ndarray:
    plane = np.asarray(plane, np.float64)
    if plane.ndim != 4:
        raise MetricError(f"planes are (clips, channels, rows, columns), not {plane.shape}")
    unshared = tuple(2 + i for i, axis in enumerate(_AXES[name]) if axis not in shared)
    return np.moveaxis(plane.mean(axis=unshared), 1, -1).reshape(-1, plane.shape[1])
