from __future__ import annotations

import dataclasses

import pytest
import torch

from avmodel.config import STDIT_PRESETS, ConfigError, STDiTConfig
from avmodel.dit.model import Attention, Captions, STDiT
from avmodel.latents import LatentLayout
from tests.avmodel.plain_stdit import PlainSTDiT

TINY = LatentLayout(channels=4, frames=4, grid=4, streams=("v", "a"))
SMALL = LatentLayout(channels=4, frames=16, grid=8, streams=("v", "a"))  # tw and th are the tall planes
WIDE = LatentLayout(channels=4, frames=4, grid=8, streams=("v", "a"))  # hw is the tall plane, as in the paper
VIDEO = LatentLayout(channels=4, frames=4, grid=8, streams=("v",))
PAPER = LatentLayout(channels=4, frames=16, grid=32, streams=("v", "a"))


def tiny(**changes) -> STDiTConfig:
    return dataclasses.replace(STDIT_PRESETS["tiny"], **changes)


def perturbed(config: STDiTConfig, layout: LatentLayout) -> STDiT:
    """In float64, with every weight random: what starts at zero no longer hides what it multiplies."""
    torch.manual_seed(0)
    model = STDiT(config, layout).double()
    for p in model.parameters():
        p.data.add_(torch.randn_like(p), alpha=0.1)
    return model


def batch(layout: LatentLayout, config: STDiTConfig, b: int = 3):
    torch.manual_seed(1)
    z = torch.rand(b, *layout.shape, dtype=torch.float64) * 2 - 1
    z = z.masked_fill(~layout.mask(), 0)
    length = config.caption_tokens
    mask = torch.arange(length) < torch.tensor([1, length, 2])[:b, None]
    tokens = torch.randn(b, length, config.caption_dim, dtype=torch.float64)
    if config.classes:
        tokens = torch.randint(config.classes, (b, length))
    return z, torch.rand(b, dtype=torch.float64), Captions(tokens, mask)


def test_the_papers_size():
    with torch.device("meta"):
        model = STDiT(STDIT_PRESETS["paper"], PAPER)
        labelled = STDiT(dataclasses.replace(STDIT_PRESETS["paper"], classes=309), PAPER)
    assert model.count() == (437_056_192, 437_056_192 + 768)
    assert labelled.count() == (437_056_192, 437_056_192 + 310 * 768)
    assert model.patch_in.in_features == 4 * 4 * 4
    assert len(model.positions) == 384


@pytest.mark.parametrize("layout", [PAPER, SMALL, TINY, WIDE, VIDEO], ids=str)
def test_packed_holds_the_real_tokens_alone(layout: LatentLayout):
    config = tiny(patch=(4, 4), packed=True)
    model = STDiT(config, layout)
    assert len(model.positions) * layout.channels * 16 == layout.values
    if layout == PAPER:
        assert len(model.positions) == 256


@pytest.mark.parametrize("classes", [0, 5])
@pytest.mark.parametrize("layout", [TINY, SMALL, WIDE, VIDEO], ids=str)
def test_dense_is_the_plain_model(layout: LatentLayout, classes: int):
    config = tiny(classes=classes)
    model = perturbed(config, layout)
    z, t, captions = batch(layout, config)
    plain = PlainSTDiT(config, layout).double().load(model)
    torch.testing.assert_close(model(z, t, captions), plain(z, t, captions), rtol=0, atol=1e-10)


@pytest.mark.parametrize("layout", [TINY, SMALL, WIDE, VIDEO], ids=str)
def test_packed_is_dense_with_its_keys_masked(layout: LatentLayout):
    model = perturbed(tiny(packed=True), layout)
    z, t, captions = batch(layout, model.config)
    masked = PlainSTDiT(model.config, layout, key_mask=True).double().load(model)
    got, expected = model(z, t, captions), masked(z, t, captions)
    real = layout.mask()
    assert (got - expected)[:, :, real].abs().max() < 1e-10
    assert torch.all(got[:, :, ~real] == 0)
    if not real.all():
        unmasked = PlainSTDiT(model.config, layout).double().load(model)(z, t, captions)
        assert (unmasked - expected)[:, :, real].abs().max() > 1e-3


def test_packed_looks_at_no_padding():
    model = perturbed(tiny(packed=True), WIDE)
    z, t, captions = batch(WIDE, model.config)
    z.requires_grad_(True)
    model(z, t, captions).square().sum().backward()
    assert torch.all(z.grad[:, :, ~WIDE.mask()] == 0)
    assert torch.all(z.grad[:, :, WIDE.mask()] != 0)


def test_dense_and_packed_share_their_weights():
    assert STDiT(tiny(), WIDE).state_dict().keys() == STDiT(tiny(packed=True), WIDE).state_dict().keys()


def test_at_the_start_the_velocity_is_zero_whatever_comes_in():
    model = STDiT(tiny(), WIDE)
    z, t, captions = batch(WIDE, model.config)
    v = model(z.float(), t.float(), captions._replace(tokens=captions.tokens.float()))
    assert v.shape == z.shape
    assert v.dtype == torch.float32
    assert torch.all(v == 0)
    for block in model.blocks:
        assert not block.temporal.proj.weight.any()
        assert not block.cross.proj.weight.any()
        assert block.spatial.proj.weight.any()


@pytest.mark.parametrize("packed", [False, True])
def test_gradients_reach_every_parameter(packed: bool):
    model = perturbed(tiny(classes=5, packed=packed), WIDE)
    z, t, captions = batch(WIDE, model.config)
    model(z, t, captions, drop=torch.tensor([True, False, False])).square().sum().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.any(), name


def test_time_and_caption_matter_each_to_its_own_sample():
    model = perturbed(tiny(), WIDE)
    z, t, captions = batch(WIDE, model.config)
    v = model(z, t, captions)
    other = model(z, t + torch.tensor([0.0, 0.3, 0.0]), captions)
    assert torch.equal(other[0], v[0])
    assert not torch.allclose(other[1], v[1])
    tokens = captions.tokens.clone()
    tokens[2, 0] += 1
    other = model(z, t, captions._replace(tokens=tokens))
    assert torch.equal(other[1], v[1])
    assert not torch.allclose(other[2], v[2])


@pytest.mark.parametrize("classes", [0, 5])
def test_padded_tokens_are_not_looked_at(classes: int):
    model = perturbed(tiny(classes=classes), TINY)
    z, t, captions = batch(TINY, model.config)
    padded = ~captions.mask
    junk = captions.tokens.masked_fill(
        padded if classes else padded[..., None], -1 if classes else float("nan")
    )
    assert torch.equal(model(z, t, captions), model(z, t, Captions(junk, captions.mask)))
    shorter = Captions(captions.tokens[:1, :1], captions.mask[:1, :1])
    torch.testing.assert_close(model(z, t, captions)[:1], model(z[:1], t[:1], shorter))


def test_a_dropped_caption_and_none_at_all_are_the_learned_null():
    model = perturbed(tiny(classes=5), TINY)
    z, t, captions = batch(TINY, model.config)
    everywhere = Captions(captions.tokens, torch.ones_like(captions.mask))
    nowhere = Captions(captions.tokens, torch.zeros_like(captions.mask))
    null = model(z, t, nowhere)
    assert torch.equal(model(z, t, everywhere, drop=torch.ones(3, dtype=torch.bool)), null)
    one = model(z, t, captions, drop=torch.tensor([False, True, False]))
    with_captions = model(z, t, captions)
    assert torch.equal(one[1], null[1])
    assert torch.equal(one[[0, 2]], with_captions[[0, 2]])
    assert not torch.allclose(null[1], with_captions[1])
    model.null.data += 1
    assert not torch.allclose(model(z, t, nowhere), null)


def test_labels_are_a_set():
    model = perturbed(tiny(classes=5), TINY)
    z, t, _ = batch(TINY, model.config, b=1)
    mask = torch.tensor([[True, True, False, False]])
    ab, ba, ac = (
        Captions(torch.tensor([labels]), mask) for labels in ([1, 3, 0, 0], [3, 1, 0, 0], [1, 4, 0, 0])
    )
    torch.testing.assert_close(model(z, t, ab), model(z, t, ba))
    assert not torch.allclose(model(z, t, ab), model(z, t, ac))


@pytest.mark.parametrize(
    ("patch", "layout"),
    [((4, 2), LatentLayout(channels=4, frames=6, grid=8, streams=("v",))), ((2, 3), TINY), ((8, 2), TINY)],
)
def test_a_patch_that_does_not_divide_is_refused(patch, layout):
    with pytest.raises(ConfigError, match=f"patch {patch[0]}x{patch[1]} does not divide a plane of"):
        STDiT(tiny(patch=patch), layout)


def test_under_autocast_the_velocity_is_float32():
    model = perturbed(tiny(), WIDE).float()
    z, t, captions = batch(WIDE, model.config, b=1)
    inputs = z.float(), t.float(), captions._replace(tokens=captions.tokens.float())
    with torch.autocast("cpu", torch.bfloat16):
        v = model(*inputs)
    assert v.dtype == torch.float32
    assert (v - model(*inputs)).abs().mean() < 0.05 * v.abs().mean()


@pytest.mark.parametrize("packed", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_one_graph_for_torch_compile(packed: bool):
    torch.compiler.reset()
    model = perturbed(tiny(classes=5, packed=packed), WIDE)
    z, t, captions = batch(WIDE, model.config)
    drop = torch.tensor([True, False, False])
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(z, t, captions, drop), model(z, t, captions, drop))


@pytest.mark.slow
def test_one_graph_for_torch_compile_with_a_time_per_stream():
    torch.compiler.reset()
    model = perturbed(tiny(classes=5, packed=True, stream_times=True), WIDE)
    z, t, captions = batch(WIDE, model.config)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    times = torch.stack((t, t.flip(0)), dim=1)
    torch.testing.assert_close(compiled(z, times, captions), model(z, times, captions))


# A time per stream


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("layout", [TINY, SMALL, WIDE], ids=str)
def test_each_token_has_the_time_of_its_stream(layout: LatentLayout, packed: bool):
    model = perturbed(tiny(stream_times=True, packed=packed), layout)
    z, _, captions = batch(layout, model.config)
    t = torch.tensor([[0.2, 0.9], [1.0, 0.4], [0.7, 0.7]], dtype=torch.float64)
    plain = PlainSTDiT(model.config, layout, key_mask=packed).double().load(model)
    got, expected, real = model(z, t, captions), plain(z, t, captions), layout.mask()
    assert (got - expected)[:, :, real].abs().max() < 1e-10
    assert (got - model(z, t.flip(1), captions))[:2, :, :, real[0]].abs().max() > 1e-3


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("layout", [TINY, SMALL, WIDE], ids=str)
def test_equal_times_are_the_one_time_of_the_model_without_them(layout: LatentLayout, packed: bool):
    model = perturbed(tiny(packed=packed), layout)
    timed = STDiT(tiny(packed=packed, stream_times=True), layout).double()
    timed.load_state_dict(model.state_dict())
    z, t, captions = batch(layout, model.config)
    expected = model(z, t, captions)
    assert torch.equal(timed(z, t, captions), expected)
    torch.testing.assert_close(timed(z, t[:, None].expand(-1, 2), captions), expected, rtol=0, atol=1e-12)


def test_gradients_with_a_time_per_stream_are_those_of_one_time_where_they_are_equal():
    found = []
    for packed in (False, True):
        for per_stream in (False, True):
            model = perturbed(tiny(packed=packed, stream_times=True), TINY)
            z, t, captions = batch(TINY, model.config)
            model(z, t[:, None].expand(-1, 2) if per_stream else t, captions).square().sum().backward()
            found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-9, atol=1e-10)


def test_a_time_per_stream_adds_no_parameter():
    assert STDiT(tiny(stream_times=True), WIDE).count() == STDiT(tiny(), WIDE).count()


def test_a_time_per_stream_is_refused_where_the_model_or_its_latents_have_none():
    z, t, captions = batch(WIDE, tiny())
    with pytest.raises(ValueError, match=r"t \(3, 2\): a model without stream_times"):
        perturbed(tiny(), WIDE)(z, t[:, None].expand(-1, 2), captions)
    with pytest.raises(ConfigError, match="stream_times = True: these latents have the stream 'v' alone"):
        STDiT(tiny(stream_times=True), VIDEO)


# Norms that the paper does not have


def attention(**changes) -> Attention:
    torch.manual_seed(0)
    return Attention(tiny(**changes)).double()


def test_qk_norm_bounds_what_q_and_k_multiply_to():
    x = torch.randn(2, 5, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for normed in (False, True):
        module = attention(qk_norm=normed)
        before = module(x)
        for parameter in module.qkv.parameters():
            parameter.data[:64] *= 1000  # q and k; v stays
        assert torch.allclose(module(x), before, atol=1e-4) is normed


def test_qk_norm_against_the_formula():
    module = attention(qk_norm=True)
    for weight in (module.norm.q.weight, module.norm.k.weight):
        weight.data = torch.rand(16, dtype=torch.float64) + 0.5
    x = torch.randn(1, 5, 32, dtype=torch.float64)
    q, k, v = (x[0] @ module.qkv.weight.T + module.qkv.bias).chunk(3, dim=-1)
    heads = []
    for h in (slice(0, 16), slice(16, 32)):
        q_h, k_h = (
            part[:, h] / (part[:, h].square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight
            for part, norm in ((q, module.norm.q), (k, module.norm.k))
        )
        heads.append((q_h @ k_h.T / 4).softmax(-1) @ v[:, h])
    expected = torch.cat(heads, dim=-1) @ module.proj.weight.T + module.proj.bias
    torch.testing.assert_close(module(x)[0], expected)


def test_temporal_norm_makes_the_temporal_branch_blind_to_scale():
    for normed in (False, True):
        block = perturbed(tiny(temporal_norm=normed), TINY).blocks[0]
        x = torch.randn(4, 6, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        out, scaled = (block.temporal(block.temporal_norm(scale * x)) for scale in (1, 10))
        assert torch.allclose(scaled, out, atol=1e-4) is normed


@pytest.mark.parametrize("switch", ["qk_norm", "temporal_norm"])
def test_a_norm_adds_its_weights_alone(switch: str):
    plain, normed = (set(STDiT(tiny(**{switch: on}), WIDE).state_dict()) for on in (False, True))
    assert plain < normed
    assert all(".norm." in name or ".temporal_norm." in name for name in normed - plain)


def test_gradients_reach_every_norm_and_packed_is_still_dense_without_padding():
    model = perturbed(tiny(classes=5, qk_norm=True, temporal_norm=True), TINY)
    packed = perturbed(tiny(classes=5, qk_norm=True, temporal_norm=True, packed=True), TINY)
    z, t, captions = batch(TINY, model.config)
    v = model(z, t, captions, drop=torch.tensor([True, False, False]))
    v.square().sum().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.any(), name
    torch.testing.assert_close(packed(z, t, captions, drop=torch.tensor([True, False, False])), v)
