"""What pairs connect, directly or through others."""

from __future__ import annotations

import numpy as np


def components(one: np.ndarray, other: np.ndarray, nodes: int) -> np.ndarray:
    """int64 (nodes,): for each node the smallest node of its component.

    Args:
        one, other: int64 (pairs,): nodes that a pair connects, in [0, nodes).
    """
    # Here: to import them takes as long as a selection of a hundred thousand clips.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(one), bool), (one, other)), shape=(nodes, nodes))
    _, numbers = connected_components(graph, directed=False)
    _, firsts, places = np.unique(numbers, return_index=True, return_inverse=True)
    return firsts[places]
