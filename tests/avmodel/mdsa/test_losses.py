"""The terms of eq 10-12 one by one, then their sum, the adversarial switch, the stop-gradients."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import Categorical, Normal
from torch.distributions import kl_divergence as torch_kl

from avmodel.mdsa.discriminators import Discriminators
from avmodel.mdsa.losses import (
    LossWeights,
    adaptive_factor,
    data_kl,
    discriminator_loss,
    feature_matching,
    gamma_at,
    generator_loss,
    hinge_d,
    hinge_g,
    kl_divergence,
    random_frames,
    take_frames,
)
from avmodel.mdsa.lpips import LPIPS

SHAPE = (2, 3, 4, 32, 32)


class Unreachable(nn.Module):
    """Stands where nothing may be called."""

    def forward(self, *inputs: Tensor) -> Tensor:
        raise AssertionError("called")


def _clips(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, x_hat = (torch.rand(shape, generator=generator) * 2 - 1 for _ in range(2))
    return x, x_hat.requires_grad_()


def _discriminators(channels: int = 3) -> Discriminators:
    torch.manual_seed(0)
    return Discriminators(channels=channels, ndf=4, n_layers=2)


def _loss(x: Tensor, x_hat: Tensor, **changed: Any) -> tuple[Tensor, dict[str, Tensor]]:
    options = dict(
        frames=torch.tensor([1, 3]),
        weights=LossWeights(),
        kl="none",
        posterior=None,
        lpips=None,
        discriminators=None,
        gamma=0.0,
    )
    return generator_loss(x, x_hat, **(options | changed))[:2]


# --- the terms


def test_kl_is_that_of_torch_distributions():
    torch.manual_seed(0)
    mu, logvar = torch.randn(3, 4, 8, 5), torch.randn(3, 4, 8, 5)
    expected = torch_kl(Normal(mu, (0.5 * logvar).exp()), Normal(0.0, 1.0)).sum() / 3
    torch.testing.assert_close(kl_divergence(mu, logvar), expected)


def test_kl_is_zero_at_the_prior_alone():
    zero = torch.zeros(2, 7)
    assert kl_divergence(zero, zero) == 0
    assert kl_divergence(zero + 0.1, zero) > 0
    assert kl_divergence(zero, zero - 0.1) > 0


def test_kl_sums_over_a_clip_and_averages_over_the_batch():
    mu, logvar = torch.ones(1, 10), torch.zeros(1, 10)
    assert kl_divergence(mu, logvar) == 5
    assert kl_divergence(mu.repeat(4, 1), logvar.repeat(4, 1)) == 5


def test_kl_is_float32_under_bfloat16():
    mu = torch.full((1, 16384), 0.1, dtype=torch.bfloat16)
    found = kl_divergence(mu, torch.zeros_like(mu))
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(16384 * 0.5 * mu[0, 0].item() ** 2, rel=1e-5)


def test_data_kl_is_that_of_the_clips_as_distributions_over_their_pixels():
    x, x_hat = _clips()
    p, q = (Categorical(probs=(clips.flatten(1) + 1) / 2 + 1 / 255) for clips in (x, x_hat))
    torch.testing.assert_close(data_kl(x, x_hat), torch_kl(p, q).mean(), rtol=1e-4, atol=0)
    assert data_kl(x, x) == 0
    assert torch.isfinite(data_kl(torch.full_like(x, -1), x_hat))  # a black clip


def test_data_kl_is_nothing_at_the_paper_s_weight():
    """Grey at a PSNR of 32.19 dB on [0,1], so twice the error on [-1,1], weighs 7e-9."""
    error = 2 * 10 ** (-32.19 / 20) * torch.tensor([1.0, -1.0]).repeat(192).view(1, 3, 2, 8, 8)
    x = torch.zeros(1, 3, 2, 8, 8)
    assert LossWeights().kl * data_kl(x, x + error).item() == pytest.approx(7.2e-9, rel=0.03)


def test_hinge_values():
    real, fake = torch.tensor([2.0, 1.0, 0.0, -1.0]), torch.tensor([-2.0, -1.0, 0.0, 1.0])
    assert hinge_d(real, fake) == 0.5 * (0 + 0 + 1 + 2) / 4 + 0.5 * (0 + 0 + 1 + 2) / 4
    assert hinge_d(torch.tensor([1.5]), torch.tensor([-1.5])) == 0
    assert hinge_d(torch.tensor([0.0]), torch.tensor([-1.5])) == 0.5
    assert hinge_g([torch.tensor([1.0, 3.0]), torch.tensor([-5.0])]) == -2 + 5


def test_feature_matching_sums_the_layers_means():
    fake = [torch.zeros(1, 2, 3), torch.ones(1, 4)]
    real = [torch.full((1, 2, 3), -2.0), torch.tensor([[1.0, 1.0, 1.0, 5.0]])]
    assert feature_matching(fake, real) == 2 + 1


def test_feature_matching_stops_the_gradient_at_the_real_features():
    fake = torch.zeros(4, requires_grad=True)
    real = torch.ones(4, requires_grad=True)
    feature_matching([fake], [real]).backward()
    assert real.grad is None
    assert fake.grad.tolist() == [-0.25] * 4


def test_feature_matching_needs_the_same_layers():
    with pytest.raises(ValueError):
        feature_matching([torch.zeros(1)], [torch.zeros(1)] * 2)


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_gamma_is_a_switch(step: int, disc_start: int):
    assert gamma_at(step, disc_start, 0) == float(step >= disc_start)


def test_gamma_rises_linearly_over_its_ramp():
    assert [gamma_at(step, 10, 4) for step in (9, 10, 11, 12, 13, 14)] == [0, 0.25, 0.5, 0.75, 1, 1]


def test_the_adaptive_factor_makes_both_gradients_of_the_last_layer_equal():
    layer = torch.tensor([3.0, 4.0], requires_grad=True)
    others, adversarial = (layer * torch.tensor([3.0, 4.0])).sum(), (layer * torch.tensor([0.0, 0.5])).sum()
    factor = adaptive_factor(others, adversarial, layer)
    assert factor.item() == pytest.approx(5 / 0.5, rel=1e-3) and not factor.requires_grad
    assert adaptive_factor(1e9 * others, adversarial, layer) == 1e4


def test_the_adaptive_factor_scales_the_adversarial_terms_alone():
    nets = _discriminators()

    def total(is_adaptive: bool) -> tuple[Tensor, dict[str, Tensor]]:
        torch.manual_seed(0)
        scale = torch.ones(1, requires_grad=True)
        x, x_hat = _clips()
        return _loss(
            x, x_hat * scale, discriminators=nets, gamma=1.0, last_layer=scale if is_adaptive else None
        )

    plain, terms = total(False)
    adapted, with_factor = total(True)
    weights = LossWeights()
    adversarial = weights.modality * (terms["gan"] + weights.fm * terms["fm"])
    expected = plain + (with_factor["adaptive"] - 1) * adversarial
    torch.testing.assert_close(adapted, expected)
    assert with_factor.keys() - terms.keys() == {"adaptive"}


# --- one random frame of each clip


def test_frames_are_those_of_the_index():
    clips = torch.arange(2 * 3 * 5).view(2, 3, 5, 1, 1).expand(2, 3, 5, 6, 7)
    frames = take_frames(clips, torch.tensor([4, 1]))
    assert frames.shape == (2, 3, 6, 7)
    assert torch.equal(frames[0], clips[0, :, 4])
    assert torch.equal(frames[1], clips[1, :, 1])


def test_frames_are_drawn_from_the_given_generator_alone():
    first = random_frames(64, 16, torch.Generator().manual_seed(1))
    torch.manual_seed(9)
    assert torch.equal(first, random_frames(64, 16, torch.Generator().manual_seed(1)))
    assert not torch.equal(first, random_frames(64, 16, torch.Generator().manual_seed(2)))
    assert set(random_frames(2000, 16, torch.Generator().manual_seed(1)).tolist()) == set(range(16))


# --- the generator's loss


def test_stage_one_is_l1_and_lpips():
    x, x_hat = _clips()
    lpips = LPIPS("squeezenet1_1")
    total, terms = _loss(x, x_hat, lpips=lpips)
    distances = [lpips(x[i : i + 1, :, t], x_hat[i : i + 1, :, t]).item() for i, t in ((0, 1), (1, 3))]
    assert terms.keys() == {"l1", "lpips"}
    assert terms["l1"].item() == pytest.approx((x - x_hat).abs().mean().item())
    assert terms["lpips"].item() == pytest.approx(sum(distances) / 2)
    assert total.item() == pytest.approx(0.5 * (4 * terms["l1"].item() + 4 * terms["lpips"].item()))


def test_every_weight_counts_its_own_term():
    """The total is linear in each weight, and its slope is the term that it weighs."""
    x, x_hat = _clips()
    posterior = (torch.randn(2, 4, 8), torch.randn(2, 4, 8))
    nets = _discriminators()
    options = dict(
        kl="latent", posterior=posterior, lpips=LPIPS("squeezenet1_1"), discriminators=nets, gamma=1.0
    )
    total, terms = _loss(x, x_hat, **options)
    assert terms.keys() == {"l1", "kl", "lpips", "gan", "fm"}
    slopes = {"pixel": "l1", "kl": "kl", "lpips": "lpips", "fm": "fm"}
    for weight, term in slopes.items():
        more = dataclasses.replace(LossWeights(), **{weight: getattr(LossWeights(), weight) + 1})
        slope = _loss(x, x_hat, **options, weights=more)[0] - total
        assert slope.item() == pytest.approx(0.5 * terms[term].item(), rel=1e-3, abs=1e-5), weight
    twice = _loss(x, x_hat, **options, weights=LossWeights(modality=1.0))[0]
    assert twice.item() == pytest.approx(2 * total.item(), rel=1e-5)
    nothing = LossWeights(pixel=0, kl=0, lpips=0, fm=0)
    assert _loss(x, x_hat, **options, weights=nothing)[0].item() == pytest.approx(0.5 * terms["gan"].item())


def test_the_squared_error_is_a_term_where_it_has_a_weight():
    x, x_hat = _clips()
    total, terms = _loss(x, x_hat, weights=LossWeights(pixel=2, mse=12))
    assert terms["mse"].item() == pytest.approx((x - x_hat).square().mean().item(), rel=1e-5)
    assert total.item() == pytest.approx(0.5 * (2 * terms["l1"].item() + 12 * terms["mse"].item()), rel=1e-5)


def test_the_adversarial_terms_are_the_formulas():
    x, x_hat = _clips()
    nets = _discriminators()
    _, terms = _loss(x, x_hat, discriminators=nets, gamma=1.0)
    g = fm = 0.0
    for net, real, fake in (
        (nets.d2, take_frames(x, torch.tensor([1, 3])), take_frames(x_hat, torch.tensor([1, 3]))),
        (nets.d3, x, x_hat),
    ):
        logits, fake_features = net(fake)
        _, real_features = net(real)
        g -= logits.mean().item()
        fm += sum((f - r).abs().mean().item() for f, r in zip(fake_features, real_features, strict=True))
    assert terms["gan"].item() == pytest.approx(g)
    assert terms["fm"].item() == pytest.approx(fm)


def test_at_gamma_zero_no_discriminator_is_called_and_no_gradient_comes():
    x, x_hat = _clips()
    total, terms = _loss(x, x_hat, discriminators=Unreachable(), gamma=gamma_at(9, 10, 0))
    assert terms.keys() == {"l1"}
    (gradient,) = torch.autograd.grad(total, x_hat)
    torch.testing.assert_close(gradient, 0.5 * 4 * (x_hat - x).sign() / x.numel())
    with pytest.raises(AssertionError, match="called"):
        _loss(x, x_hat, discriminators=Unreachable(), gamma=gamma_at(10, 10, 0))


def test_the_generator_s_step_leaves_the_discriminators_without_gradients():
    x, x_hat = _clips()
    nets = _discriminators()
    alone = torch.autograd.grad(_loss(x, x_hat)[0], x_hat)[0]
    total, terms = _loss(x.requires_grad_(), x_hat, discriminators=nets, gamma=1.0)
    total.backward()
    assert not torch.allclose(x_hat.grad, alone)
    # x feels the L1 alone: the features of the real clips are targets.
    torch.testing.assert_close(x.grad, -alone)
    assert all(p.grad is None and p.requires_grad for p in nets.parameters())
    assert not any(term.requires_grad for term in terms.values())


def test_spectrograms_are_grey_pictures_to_lpips():
    x, x_hat = _clips(shape=(2, 1, 4, 32, 32))
    lpips = LPIPS("squeezenet1_1")
    grey = _loss(x, x_hat, lpips=lpips)[1]["lpips"]
    rgb = _loss(x.repeat(1, 3, 1, 1, 1), x_hat.repeat(1, 3, 1, 1, 1), lpips=lpips)[1]["lpips"]
    torch.testing.assert_close(grey, rgb)


def test_the_kl_that_the_config_names_is_taken():
    x, x_hat = _clips()
    posterior = (torch.randn(2, 4, 8), torch.randn(2, 4, 8))
    assert torch.equal(_loss(x, x_hat, kl="latent", posterior=posterior)[1]["kl"], kl_divergence(*posterior))
    assert torch.equal(_loss(x, x_hat, kl="data")[1]["kl"], data_kl(x, x_hat))
    assert "kl" not in _loss(x, x_hat, kl="none", posterior=posterior)[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kl": "pixel"}, "kl must be one of latent, data, none, not 'pixel'"),
        ({"kl": "latent"}, "needs the posterior"),
        ({"gamma": 1.0}, "needs discriminators"),
    ],
)
def test_what_does_not_fit_together_is_refused(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        _loss(*_clips(), **options)


# --- the discriminators' loss


def test_the_discriminators_loss_trains_them_alone():
    x, x_hat = _clips(shape=(2, 1, 4, 32, 32))
    nets = _discriminators(channels=1)
    frames = torch.tensor([0, 2])
    total, terms = discriminator_loss(x.requires_grad_(), x_hat, frames=frames, discriminators=nets)
    total.backward()
    assert x.grad is None and x_hat.grad is None
    # Biases before BatchNorm change nothing, and the last one's gradients cancel inside the hinge's margin.
    assert all(p.grad.abs().sum() > 0 for name, p in nets.named_parameters() if name.endswith("weight"))
    expected = {
        "d2": hinge_d(nets.d2(take_frames(x, frames))[0], nets.d2(take_frames(x_hat, frames))[0]),
        "d3": hinge_d(nets.d3(x)[0], nets.d3(x_hat)[0]),
    }
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value.detach())
    torch.testing.assert_close(total.detach(), terms["d2"] + terms["d3"])


def test_both_steps_in_one_autocast_give_gradients():
    """Autocast caches the weights it casts; those cast for G, without a graph, must not serve D."""
    x, x_hat = _clips(shape=(2, 1, 4, 16, 16))
    nets = _discriminators(channels=1)
    frames = torch.tensor([0, 2])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        g_total, _ = _loss(x, x_hat, discriminators=nets, gamma=1.0)
        d_total, _ = discriminator_loss(x, x_hat, frames=frames, discriminators=nets)
    g_total.backward()
    d_total.backward()
    assert x_hat.grad is not None
    assert all(p.grad is not None for p in nets.parameters())


def test_both_steps_together_learn():
    """A few steps of D tell clips from noise; then G's steps on the noise raise its logits."""
    x, x_hat = _clips(shape=(2, 1, 4, 16, 16))
    x = torch.zeros_like(x) + 0.5
    nets = _discriminators(channels=1)
    frames = torch.tensor([0, 2])
    optimizer = torch.optim.Adam(nets.parameters(), lr=2e-3, betas=(0.5, 0.9))
    losses = []
    for _ in range(15):
        loss, _ = discriminator_loss(x, x_hat, frames=frames, discriminators=nets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    adversarial = dict(discriminators=nets, gamma=1.0, frames=frames)
    total, before = _loss(x, x_hat, **adversarial)
    total.backward()
    moved = (x_hat - 0.05 * x_hat.grad / x_hat.grad.norm()).detach()
    after_total, _ = _loss(x, moved, **adversarial)
    assert after_total < total
