from __future__ import annotations

import torch

from avmodel.config import MDSA_PRESETS
from avmodel.info import count_parameters
from avmodel.mdsa.positions import Rotary, RotaryPositions, space_rotary, time_rotary
from avmodel.mdsa.timesformer import PatchEmbedding, PixelHead, TimeSformer, TimeSformerLayer
from tests.avmodel import reference
from tests.avmodel.reference import randomise

TINY = MDSA_PRESETS["tiny"]


def layer_of(dim: int, *, heads: int, head_dim: int, time: Rotary, space: Rotary) -> TimeSformerLayer:
    positions = {"time": RotaryPositions(time), "space": RotaryPositions(space)}
    return TimeSformerLayer(dim, heads, head_dim, **positions)


def test_the_papers_layer_has_its_count():
    layer = layer_of(384, heads=8, head_dim=64, time=time_rotary(16, 64), space=space_rotary(32, 64))
    assert count_parameters(layer) == 3_348_864


def test_a_token_is_the_linear_map_of_its_own_patch():
    embedding = randomise(PatchEmbedding(TINY, 3))
    clip = torch.randn(2, 3, TINY.frames, TINY.size, TINY.size)
    tokens = embedding(clip)
    p = TINY.patch
    patch = clip[1, :, 2, p : 2 * p, 3 * p : 4 * p]  # (C,p,p) of row 1, column 3
    expected = reference.linear(patch.permute(1, 2, 0).flatten().double(), embedding.linear)
    torch.testing.assert_close(tokens[1, 2, 1, 3].double(), expected, atol=1e-5, rtol=1e-5)


def test_a_tokens_pixels_stand_where_its_patch_was():
    head = PixelHead(TINY, 1)
    tokens = torch.zeros(2, TINY.frames, TINY.grid, TINY.grid, TINY.dim)
    nothing = head(tokens)
    tokens[1, 2, 1, 3] = 1
    changed = (head(tokens) != nothing)[:, 0].nonzero()
    p = TINY.patch
    assert nothing.shape == (2, 1, TINY.frames, TINY.size, TINY.size)
    assert changed.amin(0).tolist() == [1, 2, p, 3 * p]
    assert changed.amax(0).tolist() == [1, 2, 2 * p - 1, 4 * p - 1]


def test_pixels_are_twice_the_sigmoid_less_one():
    head, tokens = randomise(PixelHead(TINY, 2)), torch.randn(1, 4, 4, 4, TINY.dim)
    weight, bias = head.conv.weight.double(), head.conv.bias.double()
    raw = torch.einsum("d,dcij->cij", tokens[0, 3, 2, 1].double(), weight) + bias[:, None, None]
    got = head(tokens)[0, :, 3, 8:12, 4:8].double()
    torch.testing.assert_close(got, 2 / (1 + torch.exp(-raw)) - 1, atol=1e-5, rtol=1e-5)


def test_a_layer_against_the_reference():
    time, space = time_rotary(3, 8), space_rotary(2, 8)
    layer = randomise(layer_of(12, heads=2, head_dim=8, time=time, space=space))
    x = torch.randn(2, 3, 4, 12)
    y = x.double()
    for part, normed, rotary, axis in (
        (layer.time, layer.time_norm, time, 1),
        (layer.space, layer.space_norm, space, 2),
    ):
        rows = reference.norm(y, normed).movedim(axis, 2)  # (B,others,L,D)
        angles = torch.atan2(rotary.sin, rotary.cos)
        out = torch.stack([reference.self_attention(row, part, angles) for row in rows])
        y = y + out.movedim(2, axis)
    value, gate = reference.linear(reference.norm(y, layer.mlp_norm), layer.mlp.up).chunk(2, dim=-1)
    y = y + reference.linear(value * reference.gelu(gate), layer.mlp.down)
    torch.testing.assert_close(layer(x).double(), y, atol=1e-4, rtol=1e-4)


def test_rotary_tables_are_no_part_of_a_checkpoint():
    names = TimeSformer(TINY, recompute=False).state_dict()
    assert not [name for name in names if "cos" in name or "sin" in name]
