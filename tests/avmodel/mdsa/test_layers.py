from __future__ import annotations

import pytest
import torch

from avmodel.info import count_parameters
from avmodel.mdsa import layers
from avmodel.mdsa.layers import (
    GEGLU,
    CrossAttention,
    SelfAttention,
    TransformerLayer,
    attend,
    run_layer,
)
from avmodel.mdsa.positions import RotaryPositions, time_rotary
from tests.avmodel import reference
from tests.avmodel.reference import randomise


@pytest.mark.parametrize("with_rotary", [False, True])
def test_self_attention_against_the_reference(with_rotary: bool):
    rotary = time_rotary(5, 8)
    positions = RotaryPositions(rotary) if with_rotary else None
    layer = randomise(SelfAttention(dim=12, heads=3, head_dim=8, positions=positions))
    x = torch.randn(4, 5, 12)
    angles = torch.atan2(rotary.sin, rotary.cos) if with_rotary else None
    expected = reference.self_attention(x, layer, angles)
    torch.testing.assert_close(layer(x).double(), expected, atol=1e-5, rtol=1e-5)
    assert layer.qkv.bias is None


def test_cross_attention_against_the_reference():
    layer = randomise(CrossAttention(dim=12, heads=3, head_dim=8))
    x, context = torch.randn(2, 5, 12), torch.randn(2, 7, 12)
    expected = reference.cross_attention(x, context, layer)
    torch.testing.assert_close(layer(x, context).double(), expected, atol=1e-5, rtol=1e-5)


def test_transformer_layer_against_the_reference():
    layer = randomise(TransformerLayer(dim=12, heads=2, head_dim=4, mlp=16))
    x = torch.randn(2, 5, 12)
    expected = reference.transformer_layer(x, layer)
    torch.testing.assert_close(layer(x).double(), expected, atol=1e-5, rtol=1e-5)


def test_geglu_against_the_reference():
    layer, x = randomise(GEGLU(6)), torch.randn(2, 3, 6)
    value, gate = reference.linear(x.double(), layer.up).chunk(2, dim=-1)
    expected = reference.linear(value * reference.gelu(gate), layer.down)
    torch.testing.assert_close(layer(x).double(), expected, atol=1e-5, rtol=1e-5)


def test_many_sequences_go_in_several_calls_and_come_out_the_same(monkeypatch: pytest.MonkeyPatch):
    q, k, v = torch.randn(3, 7, 5, 2, 8)
    whole = attend(q, k, v)
    monkeypatch.setattr(layers, "SEQUENCES_PER_CALL", 3)
    torch.testing.assert_close(attend(q, k, v), whole)


def test_the_papers_projector_layer_has_its_count():
    assert count_parameters(TransformerLayer(384, heads=4, head_dim=48, mlp=512)) == 690_944


def test_a_recomputed_layer_gives_the_same_gradients():
    layer = randomise(TransformerLayer(dim=12, heads=2, head_dim=4, mlp=16))
    x = torch.randn(2, 5, 12, requires_grad=True)
    gradients = []
    for recompute in (False, True):
        loss = run_layer(layer, x, recompute=recompute).square().sum()
        gradients.append(torch.autograd.grad(loss, [x, *layer.parameters()]))
    for kept, recomputed in zip(*gradients, strict=True):
        assert torch.equal(kept, recomputed)
