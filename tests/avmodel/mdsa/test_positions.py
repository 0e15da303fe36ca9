from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from avmodel.config import MDSA_PRESETS, PLANE_POSITIONS, ConfigError, MDSAConfig
from avmodel.info import count_parameters
from avmodel.latents import PLANES
from avmodel.mdsa.model import MDSA, init_weights
from avmodel.mdsa.planes import BiBlockAttention, GCMAttention, MultiScaleTimeAttention, PlaneAttention
from avmodel.mdsa.positions import (
    Rotary,
    axial,
    block_positions,
    frame_positions,
    plane_positions,
    rotate,
    space_angles,
    space_rotary,
    time_angles,
    time_rotary,
)
from tests.avmodel import reference
from tests.avmodel.reference import randomise

SMALL = dataclasses.replace(MDSA_PRESETS["tiny"], dim=32, frames=8)  # 4 pairs in each of 4 heads
ROTARY, LEARNED, NONE = (dataclasses.replace(SMALL, plane_positions=p) for p in PLANE_POSITIONS)


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


@pytest.mark.parametrize("shape", [(2, 6, 2, 3, 8), (2, 6, 3, 8)], ids=["of q and k", "of q"])
def test_rotary_compiled_and_eager_are_one_function(shape: tuple[int, ...]):
    """Two formulas: complex products where no compiler fuses, real ones where it does."""
    x = torch.randn(shape, requires_grad=True)
    compiled = torch.compile(rotate, backend="eager", fullgraph=True)
    found = []
    for function in (rotate, compiled):
        turned = function(x, time_rotary(6, 8))
        found.append((turned, *torch.autograd.grad(turned.square().sum() + turned[..., 3].sum(), x)))
    for eager, other in zip(*found, strict=True):
        torch.testing.assert_close(eager, other)


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


def test_each_axis_of_a_grid_turns_pairs_of_its_own():
    axes = [torch.randn(n, pairs) for n, pairs in ((2, 1), (3, 2), (4, 1))]
    angles = axial(*axes)
    assert angles.shape == (24, 4)
    for t, h, w in ((0, 0, 0), (1, 2, 3), (1, 0, 2)):
        expected = torch.cat([axes[0][t], axes[1][h], axes[2][w]])
        assert torch.equal(angles[(t * 3 + h) * 4 + w], expected)


# On the planes and in the blocks


def features_of(config: MDSAConfig, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows = {"hw": config.grid, "tw": config.frames, "th": config.frames}
    shapes = {plane: (2, rows[plane], config.grid, config.dim) for plane in PLANES}
    return {plane: torch.randn(shape, generator=generator) for plane, shape in shapes.items()}


def gcm_of(config: MDSAConfig) -> GCMAttention:
    return randomise(GCMAttention(config, recompute=False)).double()


def change_of_the_sound(config: MDSAConfig, plane: str, order: Tensor) -> float:
    """The largest change of the sound's features through GCM-Attn where the rows of the video's plane are
    put in another order."""
    gcm = gcm_of(config)
    v, a = ({p: f.double() for p, f in features_of(config, seed).items()} for seed in (0, 1))
    _, before = gcm(v, a)
    _, after = gcm({**v, plane: v[plane][:, order]}, a)
    return (after[plane] - before[plane]).abs().max().item()


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("config", [ROTARY, LEARNED, NONE], ids=lambda c: c.plane_positions)
def test_shuffled_frames_of_the_video_change_the_sound_only_with_positions(config: MDSAConfig, plane: str):
    rows = config.grid if plane == "hw" else config.frames
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(0))
    change = change_of_the_sound(config, plane, order)
    assert change < 1e-12 if config.plane_positions == "none" else change > 1e-2


def scores(positions: nn.Module, length: int, width: int) -> Tensor:
    """q k^T (L,L) of one q and one k that stand in every place of a sequence."""
    q, k = (
        torch.randn(width, dtype=torch.float64, generator=torch.Generator().manual_seed(s)) for s in (0, 1)
    )
    q, k = (positions(x.expand(1, length, 1, width)).double()[0, :, 0] for x in (q, k))
    return q @ k.T


@pytest.mark.parametrize("plane", ["tw", "th"])
def test_planes_of_time_see_only_the_distance_in_time(plane: str):
    frames, grid = ROTARY.frames, ROTARY.grid
    found = scores(plane_positions(ROTARY, plane), frames * grid, ROTARY.plane_head_dim)
    found = found.view(frames, grid, frames, grid)
    assert_equal_distances(found[:, 0, :, 0])
    torch.testing.assert_close(found, found[:, :1, :, :1].expand_as(found))  # whatever the column


def test_hw_sees_only_the_distance_along_rows_and_columns():
    grid = ROTARY.grid
    found = scores(plane_positions(ROTARY, "hw"), grid * grid, ROTARY.plane_head_dim).view(
        grid, grid, grid, grid
    )
    for i, j in ((0, 2), (3, 1)):
        assert_equal_distances(found[:, i, :, j])
        assert_equal_distances(found[i, :, j, :])


def test_a_block_sees_only_the_distance_along_its_three_axes():
    config = dataclasses.replace(ROTARY, block=(4, 4, 2))
    found = scores(block_positions(config), 32, config.plane_head_dim).view(config.block * 2)
    for i, j in ((0, 1), (1, 0)):
        assert_equal_distances(found[:, i, i, :, j, j])
        assert_equal_distances(found[i, :, i, j, :, j])
    torch.testing.assert_close(found[0, 0, 0, 0, 0, 0], found[1, 1, 1, 1, 1, 1])
    assert not torch.allclose(found[0, 0, 0, 0, 0, 0], found[0, 0, 0, 0, 0, 1], atol=1e-3)


def assert_equal_distances(found: Tensor) -> None:
    """found (L,L) depends on j - i, and on it indeed."""
    length = len(found)
    for distance in range(1 - length, length):
        diagonal = found.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-5, rtol=1e-5)
    assert (found[0] - found[0, 0]).abs().max() > 1e-2


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_the_means_of_frames_stand_at_their_middle(scale: int):
    positions = frame_positions(ROTARY, scale)
    middles = [sum(range(first, first + scale)) / scale for first in range(0, ROTARY.frames, scale)]
    expected = Rotary.of_angles(time_angles(torch.tensor(middles), ROTARY.plane_head_dim // 2))
    torch.testing.assert_close(Rotary(positions.cos, positions.sin), expected)


def test_equal_places_of_the_two_streams_meet():
    """A query and a key in one place are not turned against each other."""
    for name in PLANES:
        found = scores(plane_positions(ROTARY, name), ROTARY.frames * 4 if name != "hw" else 16, 8)
        unturned = scores(nn.Identity(), 1, 8)
        torch.testing.assert_close(found.diagonal(), unturned[0].expand(len(found)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("config", [ROTARY, LEARNED], ids=lambda c: c.plane_positions)
def test_mt_self_attn_is_no_longer_blind_to_the_order_of_frames(config: MDSAConfig):
    order = torch.randperm(config.frames, generator=torch.Generator().manual_seed(0))
    z = features_of(config, 0)["tw"]
    for chosen, blind in ((dataclasses.replace(config, plane_positions="none"), True), (config, False)):
        attention = randomise(MultiScaleTimeAttention(dataclasses.replace(chosen, scales=(1,))))
        change = (attention(z[:, order]) - attention(z)[:, order]).abs().max()
        assert bool(change < 1e-3) is blind


def test_hw_and_blocks_are_no_longer_blind_to_the_order_of_tokens():
    order = torch.tensor([1, 0, 3, 2])
    features = features_of(ROTARY, 0)
    v, a = (torch.randn(2, 8, 4, 4, 32, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    for config, blind in ((NONE, True), (ROTARY, False), (LEARNED, False)):
        planes = randomise(PlaneAttention(config, recompute=False))
        moved = planes(features | {"hw": features["hw"][:, order]})["hw"]
        change = (moved - planes(features)["hw"][:, order]).abs().max()
        assert bool(change < 1e-3) is blind
        blocks = randomise(BiBlockAttention(config, recompute=False))
        swapped = v.unflatten(1, (-1, 2)).flip(2).flatten(1, 2)  # the two frames of every block
        change = (blocks(swapped, a)[1] - blocks(v, a)[1]).abs().max()
        assert bool(change < 1e-3) is blind


# Counts, gradients, limits


def test_rotary_positions_have_no_parameters_and_none_is_the_model_without_them():
    paper = MDSA_PRESETS["paper"]
    counts, names = {}, {}
    for positions in PLANE_POSITIONS:
        with torch.device("meta"):
            model = MDSA(dataclasses.replace(paper, plane_positions=positions))
        counts[positions], names[positions] = count_parameters(model), set(model.state_dict())
    assert counts["rotary"] == counts["none"] == 141_970_484
    assert names["rotary"] == names["none"] < names["learned"]
    scales, tokens = 16 + 8 + 4, 16 * 32
    lengths = 2 * (1024 + 2 * scales) + 2 * (1024 + 2 * tokens) + 2 * 256  # streams' own, GCM-Attn, Bi-Block
    assert counts["learned"] == counts["none"] + lengths * 384


def test_learned_positions_are_trained():
    model = MDSA(LEARNED)
    with torch.no_grad():  # past the ConvTransposes' start at zero
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    shape = (2, 3, LEARNED.frames, LEARNED.size, LEARNED.size)
    clips = {"v": torch.rand(shape), "a": torch.rand(shape)[:, :1]}
    out, _ = model(clips, sample=False)
    sum(clip.square().sum() for clip in out.values()).backward()
    tables = {n: p.grad for n, p in model.named_parameters() if n.endswith("positions.table")}
    assert len(tables) == 2 * (1 + 2 * 3) + 2 * 3 + 2
    assert all(grad.abs().max() > 0 for grad in tables.values())


def test_learned_positions_start_small_and_not_at_zero():
    gcm = GCMAttention(LEARNED, recompute=False)
    init_weights(gcm)
    table = gcm.planes["tw"].v_from_a.positions.table
    assert 0.01 < table.std() < 0.03


def test_rotary_positions_of_a_block_need_three_pairs():
    with pytest.raises(ConfigError, match="needs dim of at least 24, not 16"):
        dataclasses.replace(MDSA_PRESETS["tiny"], plane_positions="rotary")
    dataclasses.replace(MDSA_PRESETS["tiny"], dim=24, plane_positions="rotary")


def test_tables_are_on_the_device_of_the_context_even_if_torch_does_not_know_linspace(monkeypatch):
    """As after transformers has loaded a model in this process."""
    constructors = torch.utils._device._device_constructors
    constructors.cache_clear()
    try:
        with monkeypatch.context() as patch, torch.device("meta"):
            patch.setattr(torch, "linspace", lambda *args, **options: None)
            torch.empty(0)
        with torch.device("meta"):
            assert torch.linspace(0, 1, 2).device.type == "cpu"  # the fault is there
            assert space_angles(4, 2).device.type == "meta"
    finally:
        constructors.cache_clear()
