from __future__ import annotations

import copy
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from avmodel.training.errors import CheckpointError
from avmodel.training.muon import Muon
from avmodel.training.optim import Ema, ModelOptimizer, apply_step, clip_gradients, cool_down, warm_up


def model_with_gradients(scale: float = 1.0) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    (scale * model(torch.ones(2, 3)).square().sum()).backward()
    return model


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_gradients_are_clipped_as_torch_clips_them(scale):
    ours, theirs = model_with_gradients(scale), model_with_gradients(scale)
    norms = clip_gradients(ours, 1.0, lambda name: name.split(".")[0])
    expected = nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
    assert torch.allclose(norms.total, expected)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad)


def test_the_parts_of_the_norm_are_those_of_the_named_parts():
    model = model_with_gradients()
    expected = {
        name: torch.cat([p.grad.flatten() for p in part.parameters()]).norm()
        for name, part in model.named_children()
    }
    norms = clip_gradients(model, 1e9, lambda name: name.split(".")[0])
    assert norms.parts.keys() == {"0", "1"}
    assert all(torch.allclose(norms.parts[name], expected[name]) for name in expected)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_a_bad_step_changes_neither_weights_nor_averages(kind):
    model = model_with_gradients()
    optimizer = kind(model.parameters(), lr=1.0, fused=True)
    apply_step(optimizer, 0.1, torch.tensor(0.0))
    weights, averages = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict()["state"])
    model(torch.full((1, 3), torch.nan)).sum().backward()
    apply_step(optimizer, 0.1, torch.tensor(1.0))
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    for number, before in averages.items():
        after = optimizer.state_dict()["state"][number]
        assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None for p in model.parameters())


def wide_model() -> nn.Sequential:
    """Muon trains the weight of its second layer."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 16), nn.Linear(16, 16), nn.Linear(16, 2))


def optimizer_of(model: nn.Module, kind: str = "muon") -> ModelOptimizer:
    adam = partial(torch.optim.Adam, betas=(0.5, 0.9), fused=True)
    return ModelOptimizer(model, kind, adam, lr=1e-2, muon_lr=0.1)


def train(model: nn.Module, optimizer: ModelOptimizer, steps: range) -> dict[str, torch.Tensor]:
    for step in steps:
        model(torch.full((2, 3), float(step + 1))).square().sum().backward()
        optimizer.step(1 / (step + 1), torch.tensor(0.0))
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("kind", ["adam", "muon"])
def test_a_model_is_trained_by_the_optimizers_that_its_parts_have_alone(kind):
    model, apart = wide_model(), wide_model()
    found = train(model, optimizer_of(model, kind), range(3))
    matrices = [apart[1].weight] if kind == "muon" else []
    others = [p for p in apart.parameters() if not any(p is m for m in matrices)]
    adam, muon = torch.optim.Adam(others, betas=(0.5, 0.9), fused=True), Muon(matrices, 0.1)
    for step in range(3):
        apart(torch.full((2, 3), float(step + 1))).square().sum().backward()
        apply_step(adam, 1e-2 / (step + 1), torch.tensor(0.0))
        apply_step(muon, 0.1 / (step + 1), torch.tensor(0.0))
    assert all(torch.equal(found[name], value) for name, value in apart.state_dict().items())
    assert not torch.equal(found["1.weight"], wide_model()[1].weight)


@pytest.mark.parametrize("kind", ["adam", "muon"])
def test_a_resumed_optimizer_goes_on_as_if_it_had_not_stopped(kind):
    whole = wide_model()
    expected = train(whole, optimizer_of(whole, kind), range(4))
    first = wide_model()
    stopped = optimizer_of(first, kind)
    train(first, stopped, range(2))
    again = wide_model()
    again.load_state_dict(first.state_dict())
    resumed = optimizer_of(again, kind)
    resumed.load(copy.deepcopy(stopped.state()), Path("state.pt"))
    found = train(again, resumed, range(2, 4))
    assert all(torch.equal(expected[name], value) for name, value in found.items())


def test_the_state_of_another_model_s_optimizer_is_refused():
    model, other = wide_model(), nn.Sequential(nn.Linear(3, 17), nn.Linear(17, 17), nn.Linear(17, 2))
    optimizer = optimizer_of(other)
    train(other, optimizer, range(1))
    with pytest.raises(CheckpointError, match="state.pt"):
        optimizer_of(model).load(optimizer.state(), Path("state.pt"))
    with pytest.raises(CheckpointError, match="optimizer"):
        optimizer_of(model).load({}, Path("state.pt"))


def test_a_step_has_the_rate_that_it_is_given():
    model = model_with_gradients()
    before = model[0].bias.clone()
    apply_step(torch.optim.Adam(model.parameters(), lr=1.0, fused=True), 0.25, torch.tensor(0.0))
    assert torch.allclose((model[0].bias - before).abs(), torch.full((4,), 0.25), atol=1e-4)  # Adam's first


def test_the_rate_rises_and_falls_linearly():
    assert [warm_up(step, 4) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert [cool_down(step, 4, 10) for step in range(5, 10)] == [1.0, 1.0, 0.75, 0.5, 0.25]
    assert warm_up(0, 0) == cool_down(9, 0, 10) == 1.0


@given(decay=st.floats(0, 0.999), steps=st.integers(1, 12))
@settings(deadline=None, max_examples=20)
def test_the_average_is_the_recurrence_written_out(decay, steps):
    model = torch.nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        model.weight.fill_(1.0)
    ema, expected = Ema(model, decay), 1.0
    for i in range(steps):
        with torch.no_grad():
            model.weight.fill_(float(i))
        ema.update(model)
        d = min(decay, (1 + i) / (10 + i))
        expected = d * expected + (1 - d) * i
    assert ema.weights["weight"][0, 0].item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    with ema.swapped_into(model):
        assert model.weight[0, 0].item() == pytest.approx(expected)
    assert model.weight[0, 0].item() == steps - 1
