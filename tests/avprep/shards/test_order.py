"""The order of clips: shares hold over many batches, and the clip of any place is found alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avprep.errors import ArgumentError
from avprep.shards.layout import ShardError
from avprep.shards.order import BLOCK, ClipOrder, checked_shares, quotas, shuffled

CLIPS = (7, 40)  # of two outputs
positive = st.floats(0.1, 100)


def row(shares: tuple[float, ...] | None, places: int, *, clips=CLIPS, seed: int = 0) -> np.ndarray:
    order = ClipOrder(clips, seed=seed, shares=shares)
    return np.array([order.at(place) for place in range(places)])


def test_without_shares_the_row_is_the_shuffled_epochs_that_it_was_before_there_were_shares():
    expected = [np.random.default_rng([5, epoch]).permutation(47) for epoch in range(3)]
    assert row(None, 3 * 47, seed=5).tolist() == np.concatenate(expected).tolist()


def test_shares_hold_over_a_thousand_batches():
    """64,000 independent draws of share 0.3 have a standard error of 0.0018."""
    of_first = row((0.3, 0.7), 64_000) < CLIPS[0]
    assert abs(of_first.mean() - 0.3) < 3 * np.sqrt(0.3 * 0.7 / 64_000)
    assert of_first[:BLOCK].sum() == 0.3 * BLOCK
    batches = of_first.reshape(1000, 64).sum(1)
    assert batches.std() > 3  # binomial: 3.67. A fixed pattern would have each batch alike.


def test_each_output_has_its_clips_equally_often():
    drawn = row((0.3, 0.7), 2 * BLOCK)
    for first, count in ((0, 7), (7, 40)):
        times = np.bincount(drawn[(drawn >= first) & (drawn < first + count)] - first, minlength=count)
        assert times.max() - times.min() <= 1


@settings(max_examples=25, deadline=None)
@given(
    clips=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    place=st.integers(0, 3 * BLOCK),
    seed=st.integers(0, 2**31),
    data=st.data(),
)
def test_a_place_is_the_same_alone_as_in_the_row(clips, place, seed, data):
    shares = data.draw(st.lists(positive, min_size=len(clips), max_size=len(clips)))
    checked = checked_shares(shares, len(clips))
    row = ClipOrder(clips, seed=seed, shares=checked)
    before = [row.at(at) for at in range(max(0, place - 20), place + 20)]
    for at in (place, place + 3, place - 5):
        if at >= 0:
            alone = ClipOrder(clips, seed=seed, shares=checked).at(at)
            assert alone == before[at - max(0, place - 20)]
            assert 0 <= alone < sum(clips)


def test_seeds_give_different_rows():
    assert row((0.3, 0.7), 100, seed=1).tolist() != row((0.3, 0.7), 100, seed=2).tolist()


def test_outputs_of_equal_size_do_not_go_in_step():
    drawn = row((0.5, 0.5), 400, clips=(100, 100))
    first, second = drawn[drawn < 100], drawn[drawn >= 100] - 100
    assert first[:50].tolist() != second[:50].tolist()


@given(st.lists(positive, min_size=1, max_size=8))
def test_quotas_are_within_one_of_the_shares_and_fill_a_block(shares):
    of_all = checked_shares(shares, len(shares))
    found = quotas(of_all)
    assert sum(found) == BLOCK
    assert all(abs(quota - share * BLOCK) < 1 + 1e-6 for quota, share in zip(found, of_all, strict=True))


def test_shares_may_be_given_in_any_unit():
    assert checked_shares([3, 7], 2) == pytest.approx((0.3, 0.7))
    assert row(checked_shares([3, 7], 2), 500).tolist() == row(checked_shares([0.3, 0.7], 2), 500).tolist()


@pytest.mark.parametrize(
    ("shares", "why"),
    [
        ([1.0], "one per output: 1 for 2 outputs"),
        ([0.0, 1.0], "finite numbers above 0, not 0.0, 1.0"),
        ([-1, 2], "finite numbers above 0"),
        ([float("nan"), 1], "finite numbers above 0"),
        ([float("inf"), 1], "finite numbers above 0"),
        ([1e308, 1e308], "finite numbers above 0"),
        (["1", 2], "finite numbers above 0"),
        ([1e-9, 1], "at least 1/10,000 of their sum"),
    ],
)
def test_shares_that_cannot_be_are_named(shares, why):
    with pytest.raises(ArgumentError, match=f"^shares must be {why}"):
        checked_shares(shares, 2)


def test_no_clip_is_a_sentence():
    with pytest.raises(ShardError, match="no clip to train on"):
        ClipOrder([0], seed=0)


def test_an_epoch_is_a_permutation():
    assert sorted(shuffled(9, 1, 2).tolist()) == list(range(9))
