from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avmodel.config import MDSA_PRESETS
from avmodel.latents import PLANES
from avmodel.mdsa.model import init_weights
from avmodel.mdsa.planes import (
    BiBlockAttention,
    GCMAttention,
    MultiScaleTimeAttention,
    PlaneAttention,
    Projector,
    Projectors,
    expand,
    from_blocks,
    to_blocks,
)
from tests.avmodel import reference
from tests.avmodel.reference import randomise

TINY = MDSA_PRESETS["tiny"]
SHAPES = {"hw": (TINY.grid, TINY.grid), "tw": (TINY.frames, TINY.grid), "th": (TINY.frames, TINY.grid)}


def random_features(batch: int = 2) -> dict[str, torch.Tensor]:
    return {plane: torch.randn(batch, *shape, TINY.dim) for plane, shape in SHAPES.items()}


def close(got: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(got.double(), expected, atol=1e-4, rtol=1e-4)


def test_a_projector_reads_its_token_which_stands_first():
    projector = randomise(Projector(TINY, 5, recompute=False))
    sequences = torch.randn(3, 5, TINY.dim)
    x = (
        torch.cat([projector.token.expand(3, 1, -1), sequences], dim=1).double()
        + projector.positions.double()
    )
    for layer in projector.layers:
        x = reference.transformer_layer(x, layer)
    close(projector(sequences), x[:, 0])


def test_a_plane_sees_exactly_the_tokens_along_its_lost_axis():
    projectors = randomise(Projectors(TINY, recompute=False))
    tokens = torch.randn(1, TINY.frames, TINY.grid, TINY.grid, TINY.dim)
    before = projectors(tokens)
    t, h, w = 3, 1, 2
    tokens[0, t, h, w] += torch.randn(TINY.dim)
    after = projectors(tokens)
    for plane, place in {"hw": (h, w), "tw": (t, w), "th": (t, h)}.items():
        assert before[plane].shape == (1, *SHAPES[plane], TINY.dim)
        changed = (before[plane] != after[plane]).any(-1)[0]
        assert changed.nonzero().tolist() == [list(place)]


def test_eq_5_is_the_identity_while_its_transposed_convolutions_are_zero():
    attention = randomise(MultiScaleTimeAttention(TINY))
    init_weights(attention)
    z = torch.randn(2, TINY.frames, TINY.grid, TINY.dim)
    assert torch.equal(attention(z), z)


def test_eq_5_against_the_reference():
    attention = randomise(MultiScaleTimeAttention(TINY))
    z = torch.randn(2, TINY.frames, TINY.grid, TINY.dim)
    expected = z.double()
    for scale in attention.scales:
        k = scale.scale
        for b in range(2):
            for column in range(TINY.grid):
                sequence = z[b, :, column].double()
                pooled = torch.stack([sequence[i : i + k].mean(0) for i in range(0, TINY.frames, k)])
                out = reference.self_attention(reference.norm(pooled, scale.norm)[None], scale.attention)[0]
                for t in range(TINY.frames):
                    weight = scale.up.weight[:, :, t % k].double()  # (in,out)
                    expected[b, t, column] += out[t // k] @ weight + scale.up.bias.double()
    assert [scale.scale for scale in attention.scales] == [1, 2, 4]
    close(attention(z), expected)


def test_plane_attention_spans_all_of_hw_and_only_columns_of_tw_and_th():
    attention = randomise(PlaneAttention(TINY, recompute=False))
    features = random_features(1)
    before = attention(features)
    close(before["hw"].flatten(1, 2), reference.transformer_layer(features["hw"].flatten(1, 2), attention.hw))
    for plane in PLANES:
        moved = {p: f.clone() for p, f in features.items()}
        moved[plane][:, :, 1] += torch.randn(TINY.dim)
        after = attention(moved)
        for other in PLANES:
            columns = (before[other] != after[other]).any(-1).any(1)[0].nonzero().flatten().tolist()
            expected = [] if other != plane else list(range(TINY.grid)) if plane == "hw" else [1]
            assert columns == expected


def test_without_mt_self_attn_only_hw_changes():
    config = dataclasses.replace(TINY, mt_self_attn=False)
    attention = randomise(PlaneAttention(config, recompute=False))
    features = random_features()
    out = attention(features)
    assert torch.equal(out["tw"], features["tw"]) and torch.equal(out["th"], features["th"])
    assert not torch.equal(out["hw"], features["hw"])


def test_gcm_both_ways_from_the_values_before_the_update():
    gcm = randomise(GCMAttention(TINY, recompute=False))
    v, a = random_features(), random_features()
    new_v, new_a = gcm(v, a)
    for plane in PLANES:
        tokens_v, tokens_a = v[plane].flatten(1, 2), a[plane].flatten(1, 2)
        module = gcm.planes[plane]
        close(
            new_v[plane].flatten(1, 2),
            tokens_v + reference.cross_attention(tokens_v, tokens_a, module.v_from_a),
        )
        close(
            new_a[plane].flatten(1, 2),
            tokens_a + reference.cross_attention(tokens_a, tokens_v, module.a_from_v),
        )
    assert len({id(m) for p in gcm.planes.values() for m in (p.v_from_a, p.a_from_v)}) == 6


def test_eq_7_repeats_each_plane_over_its_lost_axis_and_sums():
    features = random_features()
    tokens = expand(features)
    assert tokens.shape == (2, TINY.frames, TINY.grid, TINY.grid, TINY.dim)
    for t, h, w in ((0, 0, 0), (3, 1, 2), (2, 3, 1)):
        expected = features["hw"][:, h, w] + features["tw"][:, t, w] + features["th"][:, t, h]
        torch.testing.assert_close(tokens[:, t, h, w], expected)


@given(
    block=st.tuples(*(st.integers(1, 3) for _ in range(3))),
    blocks=st.tuples(st.integers(1, 3), st.integers(1, 2)),
    batch=st.integers(1, 2),
)
@settings(max_examples=30, deadline=None)
def test_from_blocks_undoes_to_blocks(block: tuple[int, int, int], blocks: tuple[int, int], batch: int):
    t, h, w = block
    grid = h * w * blocks[1]
    tokens = torch.arange(batch * t * blocks[0] * grid * grid * 2).view(batch, t * blocks[0], grid, grid, 2)
    cut = to_blocks(tokens, block)
    assert cut.shape[1:] == (t * h * w, 2)
    assert torch.equal(from_blocks(cut, block, tokens.shape), tokens)
    assert torch.equal(cut[0].view(t, h, w, 2), tokens[0, :t, :h, :w])
    assert torch.equal(cut[-1].view(t, h, w, 2), tokens[-1, -t:, -h:, -w:])


def test_bi_block_against_the_reference_in_every_block():
    attention = randomise(BiBlockAttention(TINY, recompute=False))
    shape = (2, TINY.frames, TINY.grid, TINY.grid, TINY.dim)
    v, a = torch.randn(shape), torch.randn(shape)
    new_v, new_a = attention(v, a)
    t, h, w = TINY.block
    for corner in ((0, 0, 0), (2, 0, 2), (2, 2, 2)):
        cut = tuple(slice(start, start + step) for start, step in zip(corner, (t, h, w), strict=True))
        block_v, block_a = v[:, *cut].flatten(1, 3), a[:, *cut].flatten(1, 3)
        modules = attention.attention
        update_v = reference.cross_attention(block_v, block_a, modules.v_from_a)
        update_a = reference.cross_attention(block_a, block_v, modules.a_from_v)
        close(new_v[:, *cut].flatten(1, 3), block_v + update_v)
        close(new_a[:, *cut].flatten(1, 3), block_a + update_a)


@pytest.mark.parametrize("scales", [(1,), (2,), (1, 4)])
def test_eq_5_takes_other_scales(scales: tuple[int, ...]):
    attention = randomise(MultiScaleTimeAttention(dataclasses.replace(TINY, scales=scales)))
    z = torch.randn(1, TINY.frames, TINY.grid, TINY.dim)
    assert attention(z).shape == z.shape
