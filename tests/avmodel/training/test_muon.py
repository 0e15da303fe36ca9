from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from avmodel.training.muon import Muon, muon_matrices, orthogonalized
from avmodel.training.optim import apply_step

GOOD, BAD = torch.tensor(0.0), torch.tensor(1.0)


def with_gradient(rows: int, columns: int, seed: int = 0) -> nn.Parameter:
    generator = torch.Generator().manual_seed(seed)
    weight = nn.Parameter(torch.randn(rows, columns, generator=generator))
    weight.grad = torch.randn(rows, columns, generator=generator)
    return weight


@pytest.mark.parametrize("shape", [(24, 24), (24, 60), (60, 24)])
def test_singular_values_become_about_one_and_vectors_stay(shape):
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    found = orthogonalized(matrix[None])[0]
    between = u.mT @ found @ v.mT  # diagonal where the vectors are kept
    values = between.diagonal()
    assert 0.6 < values.min() <= values.max() < 1.3
    assert (between - values.diag()).abs().max() < 1e-3


@pytest.mark.parametrize("shape", [(24, 24), (24, 60), (60, 24)])
def test_steps_are_those_of_torchs_muon(shape):
    """Which iterates in bfloat16: its updates agree to a few hundredths of their size."""
    ours, theirs = with_gradient(*shape), with_gradient(*shape)
    start = ours.detach().clone()
    reference = torch.optim.Muon([theirs], lr=0.1, momentum=0.95, nesterov=True, weight_decay=0.0)
    optimizer = Muon([ours], lr=0.1)
    for _ in range(3):
        ours.grad = theirs.grad = theirs.detach().sin()
        reference.step()
        optimizer.found_inf = GOOD
        optimizer.step()
    moved, expected = ours.detach() - start, theirs.detach() - start
    assert (moved - expected).norm() < 0.05 * expected.norm()


def test_equal_shapes_are_updated_each_by_its_own_gradient():
    together = [with_gradient(16, 32, seed) for seed in range(3)]
    alone = [with_gradient(16, 32, seed) for seed in range(3)]
    Muon(together, lr=0.1).step()
    for weight in alone:
        Muon([weight], lr=0.1).step()
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_a_bad_step_changes_neither_weights_nor_momenta():
    weight = with_gradient(16, 16)
    optimizer = Muon([weight], lr=0.1)
    gradient = weight.grad.clone()
    apply_step(optimizer, 0.1, GOOD)
    before, momentum = weight.detach().clone(), copy.deepcopy(optimizer.state_dict()["state"])
    weight.grad = torch.full_like(gradient, torch.nan)
    apply_step(optimizer, 0.1, BAD)
    assert torch.equal(weight, before)
    assert torch.equal(optimizer.state_dict()["state"][0]["momentum"], momentum[0]["momentum"])
    assert weight.grad is None


def test_a_weight_without_gradient_stays():
    weight = with_gradient(16, 16)
    weight.grad = None
    before = weight.detach().clone()
    Muon([weight], lr=0.1).step()
    assert torch.equal(weight, before)


def test_linear_maps_of_many_values_are_taken_and_tables_are_not():
    model = nn.ModuleDict(
        {
            "inside": nn.Linear(32, 64),
            "reads": nn.Linear(64, 4),
            "table": nn.Embedding(100, 32),
            "convolution": nn.Conv2d(32, 32, 3),
        }
    )
    assert [id(p) for p in muon_matrices(model)] == [id(model["inside"].weight)]
