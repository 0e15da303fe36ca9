"""Components against a plain search."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from avprep.jobs.components import components

NODES = 12
PAIRS = st.lists(st.tuples(st.integers(0, NODES - 1), st.integers(0, NODES - 1)), max_size=20)


@settings(deadline=None)
@given(pairs=PAIRS)
def test_each_node_has_the_smallest_node_that_it_is_connected_to(pairs):
    one, other = np.array(pairs, np.int64).reshape(-1, 2).T
    smallest = list(range(NODES))
    for _ in range(NODES):  # as many rounds as the longest path has nodes
        for a, b in pairs:
            smallest[a] = smallest[b] = min(smallest[a], smallest[b])
    assert components(one, other, NODES).tolist() == smallest
