from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from avmodel.config import STDIT_PRESETS
from avmodel.dit.flow import (
    SOLVERS,
    draw_source,
    draw_stream_times,
    draw_times,
    flow_loss,
    path,
    reflect,
    reflection_sign,
    solve,
    solve_given,
    truncated_normal_quantile,
)
from avmodel.dit.guidance import guided
from avmodel.dit.model import Captions, STDiT
from avmodel.latents import LatentLayout

WIDE = LatentLayout(channels=4, frames=4, grid=8, streams=("v", "a"))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# The source


def test_logit_normal_times_are_the_sigmoid_of_a_normal():
    t = draw_times(200_000, generator(), "logit-normal")
    assert 0 < t.min() and t.max() < 1
    assert stats.kstest(torch.logit(t.double()).numpy(), "norm").statistic < 5e-3
    assert stats.kstest(draw_times(200_000, generator(), "uniform").numpy(), "uniform").statistic < 5e-3


def test_the_source_is_the_truncated_normal():
    u = torch.linspace(0, 1, 1001, dtype=torch.float64)
    expected = stats.truncnorm(-1, 1).ppf(u.numpy())
    torch.testing.assert_close(truncated_normal_quantile(u), torch.from_numpy(expected), rtol=0, atol=1e-12)
    eps = draw_source((200_000,), generator())
    assert eps.dtype == torch.float32
    assert eps.abs().max() <= 1
    assert eps.std() == pytest.approx(0.5396, abs=2e-3)
    assert eps.mean() == pytest.approx(0, abs=4e-3)
    assert torch.equal(eps, draw_source((200_000,), generator()))


def test_every_float32_uniform_gives_a_value_in_the_cube():
    ends = torch.tensor([0, 2**-24, 1 - 2**-24, 1], dtype=torch.float32)
    assert truncated_normal_quantile(ends).abs().max() <= 1


def test_times_are_uniform():
    t = draw_times(100_000, generator())
    assert stats.kstest(t.numpy(), "uniform").statistic < 0.006


def test_times_per_stream_are_shared_independent_or_of_a_given_stream():
    t = draw_stream_times(100_000, 2, generator(), "logit-normal", shared=0.6)
    given, equal = t == 1, t[:, 0] == t[:, 1]
    assert equal.double().mean() == pytest.approx(0.6, abs=5e-3)
    assert given.double().mean(0).tolist() == pytest.approx([0.1, 0.1], abs=3e-3)
    assert not given.all(dim=1).any()
    independent = t[~equal & ~given.any(dim=1)]
    assert len(independent) == pytest.approx(20_000, abs=500)
    for drawn in (t[equal, 0], t[~given], *independent.T):
        assert stats.kstest(torch.logit(drawn.double()).numpy(), "norm").statistic < 0.02
    assert abs(stats.spearmanr(*independent.T.numpy()).statistic) < 0.02


@pytest.mark.parametrize(("shared", "equal"), [(0.0, 0), (1.0, 1000)])
def test_all_samples_or_none_may_share_their_time(shared: float, equal: int):
    t = draw_stream_times(1000, 2, generator(), shared=shared)
    assert (t[:, 0] == t[:, 1]).sum() == equal


# Reflection


def fold(y: float) -> tuple[float, int]:
    """The reference: bounce off one wall after another, counting."""
    bounces = 0
    while not -1 <= y <= 1:
        y = 2 - y if y > 1 else -2 - y
        bounces += 1
    return y, bounces


@given(st.floats(-50, 50))
def test_reflection_in_closed_form_is_the_fold(y: float):
    expected, bounces = fold(y)
    tensor = torch.tensor(y, dtype=torch.float64)
    assert reflect(tensor).item() == pytest.approx(expected, abs=1e-12)
    if abs(abs(expected) - 1) > 1e-9:  # at a wall itself either sign will do
        assert reflection_sign(tensor).item() == (-1) ** bounces


@given(st.floats(-(2**100), 2**100, width=32))
def test_what_is_reflected_lies_in_the_cube(y: float):
    tensor = torch.tensor(y, dtype=torch.float32)
    assert -1 <= reflect(tensor).item() <= 1
    assert reflection_sign(tensor).item() in (-1, 1)


def test_the_sign_flips_at_each_edge_that_is_crossed():
    """One edge's length as modulus, as upstream has it, would never flip."""
    y = torch.tensor([0.5, 1.5, 2.5, 3.5, 4.5, -1.5, -2.5, -3.5])
    assert reflection_sign(y).tolist() == [1, -1, -1, 1, 1, -1, -1, 1]
    assert reflect(y).tolist() == [0.5, 0.5, -0.5, -0.5, 0.5, -0.5, 0.5, 0.5]


@pytest.mark.parametrize(("speed", "edges"), [(1.0, 0), (3.0, 1), (7.0, 2), (11.0, 3)])
def test_a_midpoint_beyond_an_edge_is_evaluated_where_it_lies_and_turned(speed: float, edges: int):
    """From 0 the inner point is speed / 2; the field doubles there, so that it shows which side was asked."""
    seen = []

    def v(z: Tensor, t: Tensor) -> Tensor:
        seen.append(z.item())
        return torch.full_like(z, speed if t.item() == 0 else 2.25)

    z1 = solve(v, torch.zeros(1, 1), steps=1, solver="midpoint")
    folded, bounces = fold(speed / 2)
    assert bounces == edges
    assert seen == [0, pytest.approx(folded)]
    assert z1.item() == pytest.approx(fold(2.25 * (-1) ** edges)[0])


# The solver


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("midpoint", 2)])
def test_the_order_of_convergence_on_a_known_solution(solver, order):
    """dz/dt = -2 t z from z(0) has z(1) = z(0) / e: twice the steps, a 2**order-th of the error."""
    start = torch.tensor([[0.9], [-0.4]], dtype=torch.float64)

    def error(steps: int) -> float:
        z = solve(lambda z, t: -2 * t[:, None] * z, start, steps=steps, solver=solver)
        return (z - start / math.e).abs().max().item()

    assert math.log2(error(64) / error(128)) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_samples_stay_in_the_cube_however_wild_the_velocity(solver, dtype):
    noise = generator(1)

    def wild(z: Tensor, t: Tensor) -> Tensor:
        return torch.randn(z.shape, generator=noise) * 10.0 ** torch.randint(-2, 9, z.shape, generator=noise)

    z = solve(wild, draw_source((8, 3, 5), generator()).to(dtype), steps=7, solver=solver)
    assert z.dtype == dtype
    assert z.abs().max() <= 1


def test_n_steps_are_n_evaluations_at_even_times_and_none_at_1():
    seen = []

    def v(z: Tensor, t: Tensor) -> Tensor:
        assert t.shape == (2,)
        seen.append(t[0].item())
        return torch.full_like(z, 0.5)

    z = solve(v, torch.zeros(2, 3), steps=5)
    assert seen == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    torch.testing.assert_close(z, torch.full((2, 3), 0.5))  # N - 1 steps would come to 0.4
    seen.clear()
    torch.testing.assert_close(solve(v, torch.zeros(2, 3), steps=2, solver="midpoint"), z)
    assert seen == pytest.approx([0, 0.25, 0.5, 0.75])


def test_half_precision_of_the_model_stays_out_of_the_state():
    z = solve(lambda z, t: torch.full_like(z, 2.0**-9).bfloat16(), torch.full((1, 1), 0.5), steps=8)
    assert z.item() == 0.5 + 2.0**-9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"solver": "none"}, f"solver must be one of {', '.join(SOLVERS)}, not 'none'"),
        ({"eps": torch.zeros(1, 2, dtype=torch.bfloat16)}, "float32 or float64, not torch.bfloat16"),
        ({"known": torch.zeros(1, 2)}, "come together"),
    ],
)
def test_bad_options_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        solve(**{"v": lambda z, t: z, "eps": torch.zeros(1, 2), "steps": 2} | changes)


# Exact velocity of a two-mode target in 2-D: with probability WEIGHTS[k], uniform in the box around
# CENTRES[k]. Given the mode, the coordinates are independent, and z_t = z says that eps is the truncated
# normal confined to those values for which z1 = (z - (1-t) eps) / t lies in the box: all in closed form.

CENTRES = torch.tensor([[-0.6, -0.5], [0.8, 0.4]], dtype=torch.float64)  # the second box touches an edge
HALF = torch.tensor([[0.2, 0.3], [0.2, 0.2]], dtype=torch.float64)
WEIGHTS = torch.tensor([0.3, 0.7], dtype=torch.float64)


def phi(x: Tensor) -> Tensor:
    return torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)


def two_boxes(z: Tensor, t: Tensor) -> Tensor:
    """v*(z, t) = E[z1 - eps | z_t = z] = sum_k p(k | z) (z - E[eps | z, k]) / t, for z (B, 2) and t (B,), or
    t (B, 2): each coordinate is a stream."""
    t = t.reshape(len(t), 1, -1).clamp(1e-3, 1 - 1e-6)
    z = z[:, None]
    low = ((z - t * (CENTRES + HALF)) / (1 - t)).clamp(-1, 1)
    high = ((z - t * (CENTRES - HALF)) / (1 - t)).clamp(-1, 1)
    mass = torch.special.ndtr(high) - torch.special.ndtr(low)
    possible = mass > 1e-9
    mean = torch.where(possible, (phi(low) - phi(high)) / mass.clamp(1e-9), (low + high) / 2)
    # Off the support by a solver's error, the nearer box counts.
    outside = ((z - t * CENTRES).abs() - t * HALF - (1 - t)).clamp(0)
    log_mass = torch.where(possible, (mass / HALF).clamp(1e-12).log(), -30 - 1e3 * outside)
    share = torch.softmax(log_mass.sum(-1) + WEIGHTS.log(), dim=-1)
    return (share[..., None] * (z - mean) / t).sum(1)


def even_source(n: int) -> Tensor:
    """Sobol points in place of random ones: what is measured is the solver, not the draw."""
    return truncated_normal_quantile(torch.quasirandom.SobolEngine(2, scramble=True, seed=0).draw(n).double())


def even_target(n: int) -> Tensor:
    u = torch.quasirandom.SobolEngine(3, scramble=True, seed=1).draw(n).double()
    mode = (u[:, 0] > WEIGHTS[0]).long()
    return CENTRES[mode] + (2 * u[:, 1:] - 1) * HALF[mode]


def energy_distance(a: Tensor, b: Tensor) -> float:
    """Zero for equal distributions, else positive; in the units of the cube."""
    return (2 * torch.cdist(a, b).mean() - torch.cdist(a, a).mean() - torch.cdist(b, b).mean()).item()


def test_the_exact_velocity_is_that_of_the_path():
    """What defines E[z1 - eps | z_t]: its residual is uncorrelated with every function of z_t."""
    n = 100_000
    z1, eps = even_target(n), draw_source((n, 2), generator()).double()
    for t in (0.1, 0.5, 0.9):
        z_t = path(eps, z1, torch.full((n,), t))
        residual = two_boxes(z_t, torch.full((n,), t)) - (z1 - eps)
        x, y = z_t.T
        for f in (torch.ones(n), x, y, x * y, x.sign(), torch.cos(9 * x), torch.cos(9 * y)):
            products = residual * f[:, None]
            assert torch.all(products.mean(0).abs() < 4 * products.std(0) / math.sqrt(n))


def test_samples_have_the_targets_distribution():
    n = 2048
    eps, target = even_source(n), even_target(n)
    assert energy_distance(eps, target) > 0.3
    samples = solve(two_boxes, eps, steps=64, solver="midpoint")
    assert energy_distance(samples, target) < 1e-4
    assert (samples[:, 0] < 0).double().mean() == pytest.approx(0.3, abs=5e-3)
    for axis in (0, 1):  # Wasserstein-1 along each axis
        assert (samples[:, axis].sort().values - target[:, axis].sort().values).abs().mean() < 0.005
    euler = solve(two_boxes, eps, steps=256)
    assert energy_distance(euler, target) < 1e-4


def test_midpoint_needs_fewer_evaluations_for_the_same_error():
    eps = even_source(512)
    truth = solve(two_boxes, eps, steps=2048, solver="midpoint")

    def evaluations(solver, per_step: int, error: float) -> int:
        for steps in (4, 8, 16, 32, 64, 128, 256, 512):
            if (solve(two_boxes, eps, steps=steps, solver=solver) - truth).abs().mean() < error:
                return steps * per_step
        raise AssertionError(f"{solver} never comes within {error}")

    for error in (0.01, 0.003):
        assert evaluations("midpoint", 2, error) <= evaluations("euler", 1, error) / 2


def test_the_known_come_out_as_given_and_the_rest_follows_them():
    """The modes' first coordinates tell them apart, so the second should be the given mode's: for nine in
    ten it is, where one in two would be by chance. The rest settled before the known could be made out."""
    eps = even_source(1024)
    known = torch.zeros_like(eps)
    known[:512, 0], known[512:, 0] = -0.65, 0.75
    for solver in SOLVERS:
        z = solve(
            two_boxes, eps, steps=64, solver=solver, known=known, known_mask=torch.tensor([True, False])
        )
        assert torch.equal(z[:, 0], known[:, 0])
        right = torch.cat((z[:512, 1] < 0, z[512:, 1] > 0)).double().mean()
        assert 0.85 < right < 0.99


def two_streams(z: Tensor, t: Tensor) -> Tensor:
    """`two_boxes` of z (B, 1, 2): one channel, and a plane per stream."""
    return two_boxes(z[:, 0], t)[:, None]


def test_the_exact_velocity_is_that_of_the_path_with_a_time_per_stream():
    n = 100_000
    z1, eps = even_target(n)[:, None], draw_source((n, 1, 2), generator()).double()
    for times in ((0.1, 0.9), (0.7, 0.4), (1.0, 0.2)):
        t = torch.tensor(times, dtype=torch.float64).expand(n, 2)
        z_t = path(eps, z1, t)
        residual = (two_streams(z_t, t) - (z1 - eps))[:, 0, 1]
        x, y = z_t[:, 0].T
        for f in (torch.ones(n), x, y, x * y, x.sign(), torch.cos(9 * x), torch.cos(9 * y)):
            products = residual * f
            assert products.mean().abs() < 4 * products.std() / math.sqrt(n)


@pytest.mark.parametrize("solver", SOLVERS)
def test_beside_a_stream_without_noise_the_other_is_that_of_its_mode(solver):
    """The same modes, noise and exact velocity as above: where nine in ten were right, now all are, but for
    one that starts at an edge (the velocity's t is clamped). They are distributed as in their mode."""
    eps = even_source(1024)[:, None]
    known = torch.full_like(eps, torch.nan)
    known[:512, :, 0], known[512:, :, 0] = -0.65, 0.75
    z = solve_given(two_streams, eps, known, torch.tensor([True, False]), steps=64, solver=solver)[:, 0]
    assert torch.equal(z[:, 0], known[:, 0, 0])
    assert torch.cat((z[:512, 1] < 0, z[512:, 1] > 0)).sum() >= 1023
    for own, centre, half in zip(z[:, 1].split(512), CENTRES[:, 1], HALF[:, 1], strict=True):
        uniform = centre + half * torch.linspace(-1, 1, 512)
        assert (own.sort().values - uniform).abs().mean() < 0.01


def test_a_given_stream_is_seen_as_it_is_at_time_1_and_the_others_at_theirs():
    eps, known = draw_source((2, 3, 4, 5), generator(0)), draw_source((2, 3, 4, 5), generator(1))
    seen = []

    def v(z: Tensor, t: Tensor) -> Tensor:
        torch.testing.assert_close(z[:, :, 2:], known[:, :, 2:])
        assert torch.equal(t[0], t[1])
        seen.append(t[0].tolist())
        return torch.randn_like(z)

    z = solve_given(v, eps, known, torch.tensor([False, True]), steps=2, solver="midpoint")
    assert seen == [[0, 1], [0.25, 1], [0.5, 1], [0.75, 1]]
    assert torch.equal(z[:, :, 2:], known[:, :, 2:])


def test_the_known_are_on_the_path_whenever_the_velocity_is_asked():
    eps, known = draw_source((2, 3), generator(0)), draw_source((2, 3), generator(1))
    known_mask = torch.tensor([True, False, True])

    def v(z: Tensor, t: Tensor) -> Tensor:
        torch.testing.assert_close(z[:, known_mask], path(eps, known, t)[:, known_mask])
        return torch.randn_like(z)

    for solver in SOLVERS:
        assert torch.equal(
            solve(v, eps, steps=3, solver=solver, known=known, known_mask=known_mask)[:, known_mask],
            known[:, known_mask],
        )


# Loss and padding


def test_the_loss_is_the_mean_over_real_values():
    z1, eps = draw_source((3, 2, 4), generator(0)), draw_source((3, 2, 4), generator(1))
    mask = torch.tensor([True, True, False, True])
    t = torch.tensor([0.0, 0.5, 1.0])

    def v(z: Tensor, t: Tensor) -> Tensor:
        return z * t[:, None, None] + 1

    z_t = torch.stack([(1 - s) * e + s * z for s, e, z in zip(t, eps, z1, strict=True)])
    error = (z_t * t[:, None, None] + 1 - (z1 - eps)) ** 2 * mask
    got = flow_loss(v, z1, eps, t, mask)
    torch.testing.assert_close(got.per_sample, error.sum((1, 2)) / 6)
    torch.testing.assert_close(got.loss, error.sum() / 18)
    assert flow_loss(lambda z, t: z1 - eps, z1, eps, t, mask).loss == 0


def test_the_loss_with_a_time_per_stream_is_the_mean_over_the_streams_that_are_not_given():
    z1, eps = draw_source((3, 2, 4, 2), generator(0)), draw_source((3, 2, 4, 2), generator(1))
    mask = torch.tensor([True, True, True, False])[:, None].expand(4, 2)  # of four planes; two are a stream's
    t = torch.tensor([[0.3, 0.3], [1.0, 0.5], [0.2, 1.0]])
    t_of_plane = torch.stack((t[:, 0], t[:, 0], t[:, 1], t[:, 1]), dim=1)[:, None, :, None]
    seen = []

    def v(z: Tensor, at: Tensor) -> Tensor:
        seen.append(z)
        assert at is t
        return 2 * z

    z_t = ((1 - t_of_plane) * eps + t_of_plane * z1) * mask
    error = (2 * z_t - (z1 - eps)) ** 2 * mask
    got = flow_loss(v, z1, eps, t, mask)
    torch.testing.assert_close(seen[0], z_t)
    expected = [error[0].sum() / 12, error[1, :, 2:].sum() / 4, error[2, :, :2].sum() / 8]
    torch.testing.assert_close(got.per_sample, torch.stack(expected))
    torch.testing.assert_close(got.loss, torch.stack(expected).mean())
    one = flow_loss(lambda z, t: 2 * z, z1, eps, torch.full((3,), 0.3), mask)
    torch.testing.assert_close(flow_loss(lambda z, t: 2 * z, z1, eps, torch.full((3, 2), 0.3), mask), one)


@pytest.mark.parametrize("packed", [False, True])
def test_padding_leaks_nowhere(packed: bool):
    torch.manual_seed(0)
    model = STDiT(dataclasses.replace(STDIT_PRESETS["tiny"], packed=packed), WIDE)
    for p in model.parameters():
        p.data.add_(torch.randn_like(p), alpha=0.1)
    captions = Captions(torch.randn(2, 3, 16), torch.ones(2, 3, dtype=torch.bool))
    mask, seen = WIDE.mask(), []

    def v(z: Tensor, t: Tensor) -> Tensor:
        seen.append(z)
        return model(z, t, captions)

    z1, eps = draw_source((2, *WIDE.shape), generator(0)), draw_source((2, *WIDE.shape), generator(1))
    t = torch.tensor([0.3, 0.8])
    z1.requires_grad_(True)
    eps.requires_grad_(True)
    loss = flow_loss(v, z1, eps, t, mask).loss
    loss.backward()
    for x in (z1, eps):
        assert torch.all(x.grad[:, :, ~mask] == 0)
        assert torch.all(x.grad[:, :, mask] != 0)
    assert torch.all(seen[0][:, :, ~mask] == 0)
    junk = z1.detach().masked_fill(~mask, float("nan"))
    assert torch.equal(flow_loss(v, junk, eps.detach(), t, mask).loss, loss)
    seen.clear()
    z = solve(v, eps.detach(), steps=2, solver="midpoint", mask=mask, known=junk, known_mask=mask & mask[:1])
    for state in (*seen, z):
        assert torch.all(state[:, :, ~mask] == 0)
    seen.clear()
    z = solve_given(
        lambda z, t: v(z, t[:, 0]), eps.detach(), junk, torch.tensor([True, False]), steps=2, mask=mask
    )
    for state in (*seen, z):
        assert torch.all(state[:, :, ~mask] == 0)


# Guidance


def test_guidance_is_linear_in_both_velocities_on_all_channels():
    torch.manual_seed(0)
    model = STDiT(dataclasses.replace(STDIT_PRESETS["tiny"], classes=5), WIDE).double()
    for p in model.parameters():
        p.data.add_(torch.randn_like(p), alpha=0.1)
    captions = Captions(torch.tensor([[1, 2], [4, 0]]), torch.tensor([[True, True], [True, False]]))
    z, t = draw_source((2, *WIDE.shape), generator()).double(), torch.tensor([0.2, 0.7]).double()
    caption = model(z, t, captions)
    null = model(z, t, captions, drop=torch.ones(2, dtype=torch.bool))
    assert torch.all((caption - null).abs().amax((0, 2, 3, 4)) > 1e-3)
    torch.testing.assert_close(guided(model, captions, 1.0)(z, t), caption)
    torch.testing.assert_close(guided(model, captions, 1.0 + 1e-12)(z, t), caption)  # by the two-fold road
    torch.testing.assert_close(guided(model, captions, 0.0)(z, t), null)
    torch.testing.assert_close(guided(model, captions, 4.0)(z, t), null + 4 * (caption - null))


def test_guidance_takes_a_time_per_stream():
    torch.manual_seed(0)
    model = STDiT(dataclasses.replace(STDIT_PRESETS["tiny"], classes=5, stream_times=True), WIDE).double()
    for p in model.parameters():
        p.data.add_(torch.randn_like(p), alpha=0.1)
    captions = Captions(torch.tensor([[1, 2], [4, 0]]), torch.tensor([[True, True], [True, False]]))
    z, t = (
        draw_source((2, *WIDE.shape), generator()).double(),
        torch.tensor([[0.2, 1.0], [1.0, 0.7]]).double(),
    )
    caption, null = model(z, t, captions), model(z, t, captions, drop=torch.ones(2, dtype=torch.bool))
    torch.testing.assert_close(guided(model, captions, 4.0)(z, t), null + 4 * (caption - null))
