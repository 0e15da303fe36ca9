"""Mutual information between the planes of latents (the paper's Table 7)."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from avmodel.evaluate.report import Measurement, not_computed
from avmodel.latents import PLANES, LatentLayout
from avmodel.metrics import MetricError
from avmodel.metrics.mutual_information import mutual_information, paired_planes

MOST_PAIRS = 20_000  # per pair of planes: beyond that the neighbour search takes minutes


def plane_information(latents: np.ndarray, layout: LatentLayout, *, seed: int) -> list[Measurement]:
    """KSG-1 of each pair of planes of a stream, and of the planes of one name of both streams.

    Args:
        latents: float32 (n, C, P, rows, columns).
        seed: which pairs count, where there are more than `MOST_PAIRS`.
    """
    planes = {name: latents[:, :, p, : layout.valid_rows[p]] for p, name in enumerate(layout.planes)}
    within = [
        (f"{stream}_{a}", f"{stream}_{b}") for stream in layout.streams for a, b in combinations(PLANES, 2)
    ]
    across = [(f"v_{name}", f"a_{name}") for name in PLANES if len(layout.streams) == 2]
    return [_measured(planes, pair, seed) for pair in within + across]


def _measured(planes: dict[str, np.ndarray], pair: tuple[str, str], seed: int) -> Measurement:
    metric = f"MI {pair[0]}, {pair[1]}"
    first, second = paired_planes(planes[pair[0]], planes[pair[1]], (pair[0][2:], pair[1][2:]))
    chosen = np.random.default_rng(seed).permutation(len(first))[:MOST_PAIRS]
    try:
        found = mutual_information(first[chosen], second[chosen])
    except MetricError as error:
        return not_computed(metric, str(error))
    return Measurement(
        metric=metric,
        side="reference",
        value=found.nats,
        low=found.nats - 1.96 * found.spread,
        high=found.nats + 1.96 * found.spread,
        clips=str(len(planes[pair[0]])),
        note=f"nats, KSG-1, k = 3, {found.pairs:,} pairs; the interval is a lower bound",
    )
