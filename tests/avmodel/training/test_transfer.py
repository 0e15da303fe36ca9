from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from avmodel.training.errors import CheckpointError
from avmodel.training.transfer import only_equal_shapes, resample_positions, take_weights

CKPT = Path("mdsa.pt")


def test_equal_shapes_are_taken_as_they_are():
    model = nn.Linear(2, 3)
    weights = {"weight": torch.arange(6.0).view(3, 2), "bias": torch.ones(3)}
    assert take_weights(model, weights, CKPT, only_equal_shapes) == "2 tensors"
    assert torch.equal(model.weight, weights["weight"])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"weight": torch.ones(3, 2)}, "bias is missing"),
        ({"weight": torch.ones(3, 2), "bias": torch.ones(3), "odd": torch.ones(1)}, "odd is unknown here"),
        ({"weight": torch.ones(2, 3), "bias": torch.ones(3)}, r"weight is \(2, 3\) there and \(3, 2\) here"),
        ({"weight": torch.full((3, 2), torch.inf), "bias": torch.ones(3)}, "weight holds NaN or Inf"),
        ({"weight": [1], "bias": torch.ones(3)}, "weight is missing"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_name_and_nothing_is_taken(weights, message):
    model = nn.Linear(2, 3)
    before = model.weight.clone()
    with pytest.raises(CheckpointError, match=message):
        take_weights(model, weights, CKPT, only_equal_shapes)
    assert torch.equal(model.weight, before)


def test_positions_are_interpolated_and_the_first_stays():
    table = torch.arange(5.0)[None, :, None].expand(1, 5, 2).contiguous()  # rows 0 | 1 2 3 4
    longer = resample_positions("planes.hw.positions", table, torch.empty(1, 9, 2))
    assert longer.shape == (1, 9, 2) and longer[0, 0, 0] == 0
    assert longer[0, 1:, 0].tolist() == pytest.approx([1, 1.25, 1.75, 2.25, 2.75, 3.25, 3.75, 4])
    back = resample_positions("planes.hw.positions", longer, table)
    assert torch.allclose(back[0, 2:4], table[0, 2:4])


@pytest.mark.parametrize(
    ("name", "found", "own"),
    [
        ("planes.hw.weight", (1, 5, 2), (1, 9, 2)),
        ("planes.hw.positions", (1, 5, 2), (1, 9, 3)),
        ("planes.hw.positions", (1, 1, 2), (1, 9, 2)),
        ("planes.hw.positions", (5, 2), (9, 2)),
    ],
)
def test_other_tensors_are_not_resized(name, found, own):
    assert resample_positions(name, torch.ones(found), torch.ones(own)) is None
