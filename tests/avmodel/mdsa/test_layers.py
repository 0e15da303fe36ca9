from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avmodel.info import count_parameters
from avmodel.mdsa import layers
from avmodel.mdsa.layers import (
    GEGLU,
    CrossAttention,
    Rotary,
    SelfAttention,
    TransformerLayer,
    attend,
    rotate,
    run_layer,
    space_rotary,
    time_rotary,
)
from tests.avmodel import reference
from tests.avmodel.reference import randomise


def angles_of(rotary: Rotary) -> torch.Tensor:
    return torch.atan2(rotary.sin, rotary.cos)


@given(frames=st.integers(1, 20), quarter=st.integers(1, 8), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_rotary_keeps_norms(frames: int, quarter: int, seed: int):
    x = torch.randn(2, frames, 3, 4 * quarter, generator=torch.Generator().manual_seed(seed))
    turned = rotate(x, time_rotary(frames, 4 * quarter))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))


def test_rotary_is_the_product_with_a_complex_number_of_modulus_one():
    x = torch.randn(2, 9, 3, 16)
    rotary = space_rotary(3, 16)
    expected = torch.stack(
        [reference.turn(s.double().flatten(1), angles_of(rotary).double(), 3).view(9, 3, 16) for s in x]
    )
    torch.testing.assert_close(rotate(x, rotary).double(), expected, atol=1e-6, rtol=1e-6)


def test_time_rotary_sees_only_the_distance():
    q, k = torch.randn(16), torch.randn(16)
    rotary = time_rotary(12, 16)

    def score(i: int, j: int) -> torch.Tensor:
        turned = rotate(torch.stack([q, k])[:, None].expand(2, 12, 16), rotary)
        return turned[0, i] @ turned[1, j]

    for shift in range(1, 6):
        torch.testing.assert_close(score(2 + shift, 5 + shift), score(2, 5), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(score(2, 6), score(2, 5), atol=1e-3)


def test_space_rotary_sees_only_the_distance_along_each_axis():
    grid, q, k = 6, torch.randn(16), torch.randn(16)
    turned = rotate(torch.stack([q, k])[:, None].expand(2, grid**2, 16), space_rotary(grid, 16))
    turned = turned.view(2, grid, grid, 16)

    def score(a: tuple[int, int], b: tuple[int, int]) -> torch.Tensor:
        return turned[0, *a] @ turned[1, *b]

    torch.testing.assert_close(score((1, 2), (3, 1)), score((2, 4), (4, 3)), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(score((1, 2), (3, 1)), score((1, 2), (1, 3)), atol=1e-3)


def test_the_fastest_frequency_turns_five_times_across_a_frame():
    angles = torch.outer(torch.linspace(-1, 1, 33) * math.pi, torch.tensor([1.0, 5.0]))
    rotary = space_rotary(33, 8)
    rows = angles[:, None].expand(33, 33, 2).flatten(0, 1)
    torch.testing.assert_close(rotary.sin[:, :2], rows.sin())


def test_rotary_stays_float32_under_autocast_and_gives_back_its_inputs_dtype():
    x = torch.randn(1, 4, 2, 8).to(torch.bfloat16)
    rotary = time_rotary(4, 8)
    assert rotate(x, rotary).dtype == torch.bfloat16
    expected = rotate(x.float(), rotary).to(torch.bfloat16)
    assert torch.equal(rotate(x, rotary), expected)


@pytest.mark.parametrize("with_rotary", [False, True])
def test_self_attention_against_the_reference(with_rotary: bool):
    layer = randomise(SelfAttention(dim=12, heads=3, head_dim=8))
    rotary = time_rotary(5, 8) if with_rotary else None
    x = torch.randn(4, 5, 12)
    expected = reference.self_attention(x, layer, angles_of(rotary) if rotary else None)
    torch.testing.assert_close(layer(x, rotary).double(), expected, atol=1e-5, rtol=1e-5)
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
