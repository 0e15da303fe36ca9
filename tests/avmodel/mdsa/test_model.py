from __future__ import annotations

import dataclasses
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from avmodel.config import CHANNELS, MDSA_PRESETS, MDSAConfig
from avmodel.info import count_parameters
from avmodel.mdsa.losses import kl_divergence as kl_loss
from avmodel.mdsa.model import FIRST_LOGVAR, LOGVAR_RANGE, MDSA, GaussianHead, Posterior
from tests.avmodel.reference import randomise

TINY, PAPER = MDSA_PRESETS["tiny"], MDSA_PRESETS["paper"]
ABLATIONS = {
    "mt_self_attn": {"mt_self_attn": False},
    "gcm_attn": {"gcm_attn": False},
    "bi_block": {"bi_block": False},
    "kl": {"kl": "none"},
    "adversarial": {"adversarial": False},
    "v": {"streams": "v"},
    "a": {"streams": "a"},
}
# What each takes away, as a pattern of the parameters' names; kl and adversarial are the trainer's.
LOST = {
    "mt_self_attn": r"encoders\..\.attention\.time\.",
    "gcm_attn": r"gcm\.",
    "bi_block": r"bi_block\.",
    "kl": r"$nothing",
    "adversarial": r"$nothing",
    "v": r"gcm\.|bi_block\.|heads\.a_|(encoders|embeddings|decoders)\.a\.",
    "a": r"gcm\.|bi_block\.|heads\.v_|(encoders|embeddings|decoders)\.v\.",
}


def clips_of(config: MDSAConfig, batch: int = 2, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (config.frames, config.size, config.size)
    return {
        stream: torch.rand(batch, CHANNELS[stream], *shape, generator=generator) * 2 - 1
        for stream in config.streams
    }


def on_meta(config: MDSAConfig) -> MDSA:
    with torch.device("meta"):
        return MDSA(config)


def loss_of(model: MDSA, clips: dict[str, torch.Tensor], *, sample: bool) -> torch.Tensor:
    out, posterior = model(clips, sample=sample, generator=torch.Generator().manual_seed(1))
    loss = sum((out[stream] - clip).abs().mean() for stream, clip in clips.items())
    return loss + 1e-3 * kl_loss(posterior.mean, posterior.logvar) if sample else loss


# Counts


def test_the_papers_mdsa_has_exactly_this_many_parameters():
    assert count_parameters(on_meta(PAPER)) == 141_970_484


def test_a_stream_without_what_the_paper_adds_is_pvdm():
    model = on_meta(PAPER)
    encoder = model.encoders["v"]
    parts = [
        encoder.embedding,
        encoder.timesformer,
        encoder.projectors,
        model.embeddings["v"],
        model.decoders["v"],
    ]
    parts += [model.heads[f"v_{plane}"].mean for plane in ("hw", "tw", "th")]
    assert sum(count_parameters(part) for part in parts) == 62_064_399


@pytest.mark.parametrize("name", ABLATIONS)
def test_each_ablation_lacks_exactly_its_part(name: str):
    whole = set(on_meta(TINY).state_dict())
    left = set(on_meta(dataclasses.replace(TINY, **ABLATIONS[name])).state_dict())
    assert left == {parameter for parameter in whole if not re.match(LOST[name], parameter)}
    assert (left == whole) == (name in ("kl", "adversarial"))


def test_the_parts_that_ablations_take_away_have_their_counts():
    whole = count_parameters(on_meta(PAPER))

    def without(**changes: object) -> int:
        return whole - count_parameters(on_meta(dataclasses.replace(PAPER, **changes)))

    dim = 384
    attention = 4 * dim**2 + dim  # q, k, v, out; a bias on out
    scales = sum(2 * dim + attention + dim**2 * k + dim for k in (1, 2, 4))
    cross = 4 * dim + attention
    assert without(mt_self_attn=False) == 4 * scales
    assert without(gcm_attn=False) == 6 * cross
    assert without(bi_block=False) == 2 * cross


# Shapes and values


@pytest.mark.parametrize("name", [*ABLATIONS, "none"])
def test_every_variant_gives_back_what_went_in_and_trains(name: str):
    config = dataclasses.replace(TINY, **ABLATIONS.get(name, {}))
    torch.manual_seed(0)
    model, clips = MDSA(config), clips_of(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = loss_of(model, clips, sample=False)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    out, posterior = model(clips, sample=True)
    assert {s: x.shape for s, x in out.items()} == {s: x.shape for s, x in clips.items()}
    assert all(x.abs().max() <= 1 and x.dtype == torch.float32 for x in out.values())
    assert posterior.mean.shape == posterior.logvar.shape == (2, *config.layout.shape)


def test_the_latents_planes_are_the_video_before_the_audio():
    model, clips = randomise(MDSA(dataclasses.replace(TINY, gcm_attn=False))), clips_of(TINY)
    before = model.encode(clips).mean
    after = model.encode({"v": clips["v"], "a": -clips["a"]}).mean
    changed = (before != after).flatten(3).any(-1).any(0).any(0)
    assert model.layout.planes[:3] == ("v_hw", "v_tw", "v_th")
    assert changed.tolist() == [False] * 3 + [True] * 3


@pytest.mark.parametrize(("gcm_attn", "bi_block"), [(True, False), (False, True)])
def test_the_streams_hear_each_other_only_through_what_joins_them(gcm_attn: bool, bi_block: bool):
    model = randomise(MDSA(dataclasses.replace(TINY, gcm_attn=gcm_attn, bi_block=bi_block)))
    clips = clips_of(TINY)
    other = {"v": clips["v"], "a": -clips["a"]}
    mean, other_mean = (model.encode(x).of_stream(0)[0] for x in (clips, other))
    assert torch.equal(mean, other_mean) is not gcm_attn
    latent = torch.rand(2, *TINY.layout.shape) * 2 - 1
    moved = latent.clone()
    moved[:, :, 3:] *= -1
    assert torch.equal(model.decode(latent)["v"], model.decode(moved)["v"]) is not bi_block


def test_stage_1_decodes_tanh_of_the_mean_and_the_padding_is_not_looked_at():
    config = dataclasses.replace(
        TINY, frames=2, block=(2, 2, 2), scales=(1, 2)
    )  # T < G: tw and th are padded
    model, clips = randomise(MDSA(config)), clips_of(config)
    out, posterior = model(clips, sample=False)
    latent = posterior.mean.tanh()
    noisy = torch.where(config.layout.mask(), latent, torch.randn_like(latent))
    assert not torch.equal(noisy, latent)
    for stream, clip in model.decode(noisy).items():
        assert torch.equal(clip, out[stream])


def test_clips_of_a_batch_do_not_see_each_other():
    model, clips = randomise(MDSA(TINY)), clips_of(TINY, batch=3)
    out, posterior = model(clips, sample=False)
    alone, alone_posterior = model({s: x[1:2] for s, x in clips.items()}, sample=False)
    torch.testing.assert_close(posterior.mean[1:2], alone_posterior.mean, atol=1e-4, rtol=1e-4)
    for stream in clips:
        torch.testing.assert_close(out[stream][1:2], alone[stream], atol=1e-3, rtol=1e-3)


# Posterior


def posterior_of(frames: int, seed: int = 0) -> Posterior:
    config = dataclasses.replace(TINY, frames=frames, block=(1, 2, 2), scales=(1,))
    model = randomise(MDSA(config), seed)
    return model.encode(clips_of(config, seed=seed))


def test_the_kl_of_the_stack_is_that_of_its_real_values():
    posterior = posterior_of(frames=2)
    mask = posterior.mask
    mean, logvar = posterior.mean[:, :, mask].double(), posterior.logvar[:, :, mask].double()
    expected = kl_divergence(Normal(mean, (0.5 * logvar).exp()), Normal(0.0, 1.0)).sum() / len(mean)
    assert not mask.all()
    torch.testing.assert_close(
        kl_loss(posterior.mean, posterior.logvar).double(), expected, rtol=1e-5, atol=0
    )
    by_stream = sum(kl_loss(*posterior.of_stream(i)) for i in range(2))
    torch.testing.assert_close(by_stream.double(), expected, rtol=1e-5, atol=0)


@given(frames=st.integers(1, 6), seed=st.integers(0, 99))
@settings(max_examples=8, deadline=None)
def test_samples_lie_inside_the_cube_and_are_zero_in_the_padding(frames: int, seed: int):
    posterior = posterior_of(frames, seed)
    for latent in (posterior.sample(torch.Generator().manual_seed(seed)), posterior.latent()):
        assert latent.abs().max() <= 1
        assert torch.all(latent[:, :, ~posterior.mask] == 0)
        assert torch.all(latent[:, :, posterior.mask] != 0)
    low, high = LOGVAR_RANGE
    assert low <= posterior.logvar.min() and posterior.logvar.max() <= high


def test_sampling_repeats_with_its_generator_and_has_the_posteriors_moments():
    mean = torch.full((1, 1, 1, 200, 200), 0.3)
    posterior = Posterior(mean, torch.full_like(mean, -2.0), torch.ones(1, 200, 200, dtype=torch.bool))
    first, again, other = (posterior.sample(torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    raw = first.double().atanh()
    assert raw.mean().item() == pytest.approx(0.3, abs=0.01)
    assert raw.std().item() == pytest.approx(torch.tensor(-1.0).exp().item(), rel=0.02)
    assert torch.equal(posterior._replace(logvar=torch.full_like(mean, -1e4)).sample(), posterior.latent())


def test_a_head_clamps_its_log_variance():
    head = GaussianHead(TINY)
    torch.nn.init.ones_(head.logvar.weight)
    x = torch.zeros(1, 1, 2, TINY.dim)
    x[..., 0, :], x[..., 1, :] = 1e3, -1e3
    logvar = head(x)[1]
    assert sorted(logvar.unique().tolist()) == sorted(LOGVAR_RANGE)


def test_stage_2_starts_with_its_log_variance_and_trains_it():
    model, clips = randomise(MDSA(TINY)), clips_of(TINY)
    model.freeze_logvar()
    loss_of(model, clips, sample=False).backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    assert without == {name for name, p in model.named_parameters() if not p.requires_grad}
    assert without == {name for name, _ in model.named_parameters() if ".logvar." in name}
    model.start_logvar()
    logvar = model.encode(clips).logvar
    assert torch.all(logvar[:, :, model.mask] == FIRST_LOGVAR)
    assert all(p.requires_grad for p in model.parameters())


# Gradients


def gradients(model: MDSA, clips: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss_of(model, clips, sample=True).backward()
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("streams", ["av", "v", "a"])
def test_in_stage_2_a_gradient_reaches_every_parameter(streams: str):
    config = dataclasses.replace(TINY, streams=streams)
    model = MDSA(config)
    with torch.no_grad():  # past the ConvTransposes' start at zero
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    dead = {n for n, g in gradients(model, clips_of(config)).items() if g is None or not g.abs().max() > 0}
    assert dead == set()


def test_the_first_step_moves_the_zero_initialised_transposed_convolutions():
    grads = gradients(MDSA(TINY), clips_of(TINY))
    ups = [grad for name, grad in grads.items() if ".up." in name and ".time." in name]
    assert ups and all(grad.abs().max() > 0 for grad in ups)


def test_checkpointing_changes_no_gradient():
    torch.manual_seed(0)
    kept, recomputed = MDSA(TINY), MDSA(TINY, checkpoint_activations=True)
    recomputed.load_state_dict(kept.state_dict())
    expected = gradients(kept, clips_of(TINY))
    for name, grad in gradients(recomputed, clips_of(TINY)).items():
        torch.testing.assert_close(grad, expected[name], msg=name)


def test_a_float32_posterior_and_float32_pixels_under_autocast():
    model, clips = MDSA(TINY), clips_of(TINY, batch=1)
    with torch.autocast("cpu", torch.float16):
        out, posterior = model(clips, sample=True)
    assert posterior.mean.dtype == posterior.logvar.dtype == torch.float32
    assert all(clip.dtype == torch.float32 for clip in out.values())


@pytest.mark.slow
@pytest.mark.parametrize("recompute", [False, True])
def test_forward_is_one_graph_for_the_compiler(recompute: bool):
    model, clips = MDSA(TINY, checkpoint_activations=recompute), clips_of(TINY)
    expected, _ = model(clips, sample=False)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    got, posterior = compiled(clips, sample=False)
    for stream in clips:
        torch.testing.assert_close(got[stream], expected[stream])
    assert isinstance(posterior, Posterior)
    compiled(clips, sample=True)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_papers_preset_runs_forward_and_backward():
    model, clips = MDSA(PAPER, checkpoint_activations=True), clips_of(PAPER, batch=1)
    grads = gradients(model, clips)
    assert all(grad is not None and grad.isfinite().all() for grad in grads.values())
