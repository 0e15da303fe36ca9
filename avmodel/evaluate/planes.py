"""Mutual information between the planes of latents (the paper's Table 7).

Of each latent a few random pairs of values are kept for each pair of planes, so that memory does not grow
with the number of clips.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from avmodel.evaluate.report import Measurement, not_computed
from avmodel.latents import PLANES, LatentLayout
from avmodel.metrics import MetricError
from avmodel.metrics.mutual_information import mutual_information, paired_planes

MOST_PAIRS = 20_000  # of values per pair of planes: beyond that the neighbour search takes minutes
PAIRS_OF_PLANES = "planes/"


def pairs_per_clip(clips: int) -> int:
    """How many pairs of values of each clip make about `MOST_PAIRS` of all."""
    return -(-MOST_PAIRS // clips)


def plane_pairs(
    latent: np.ndarray, layout: LatentLayout, most: int, seed: int | list[int]
) -> dict[str, np.ndarray]:
    """Pairs of values of each pair of planes of a stream, and of the planes of one name of both streams.

    Args:
        latent: (C, P, rows, columns).
        most: pairs of values that are drawn, without repetition, where there are more.

    Returns:
        float32 (pairs, 2, C) each, by names that begin with `PAIRS_OF_PLANES`.
    """
    rng = np.random.default_rng(seed)
    planes = {name: latent[None, :, p, : layout.valid_rows[p]] for p, name in enumerate(layout.planes)}
    found = {}
    for a, b in _pairs_of(layout):
        first, second = paired_planes(planes[a], planes[b], (a[2:], b[2:]))
        chosen = rng.permutation(len(first))[:most]
        found[f"{PAIRS_OF_PLANES}{a}, {b}"] = np.stack([first[chosen], second[chosen]], axis=1).astype(
            np.float32
        )
    return found


def _pairs_of(layout: LatentLayout) -> list[tuple[str, str]]:
    within = [
        (f"{stream}_{a}", f"{stream}_{b}") for stream in layout.streams for a, b in combinations(PLANES, 2)
    ]
    return within + [(f"v_{name}", f"a_{name}") for name in PLANES if len(layout.streams) == 2]


def plane_information(rows: dict[str, np.ndarray], *, seed: int) -> list[Measurement]:
    """KSG-1 of each pair of planes.

    Args:
        rows: what `plane_pairs` gives of each clip: (n, pairs, 2, C).
        seed: which pairs are together in the parts that the spread is of.
    """
    return [
        _measured(name.removeprefix(PAIRS_OF_PLANES), pairs, seed)
        for name, pairs in rows.items()
        if name.startswith(PAIRS_OF_PLANES)
    ]


def _measured(name: str, pairs: np.ndarray, seed: int) -> Measurement:
    metric, clips = f"MI {name}", str(len(pairs))
    pairs = np.random.default_rng(seed).permutation(pairs.reshape(-1, *pairs.shape[2:]))
    try:
        found = mutual_information(pairs[:, 0], pairs[:, 1])
    except MetricError as error:
        return not_computed(metric, str(error))
    return Measurement(
        metric=metric,
        side="reference",
        value=found.nats,
        low=found.nats - 1.96 * found.spread,
        high=found.nats + 1.96 * found.spread,
        clips=clips,
        note=f"nats, KSG-1, k = 3, {found.pairs:,} pairs; the interval is a lower bound",
    )
