from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from avmodel.config import MDSA_PRESETS, STDIT_PRESETS
from avmodel.dit.model import Captions, STDiT
from avmodel.info import (
    PeakMemory,
    count_flops,
    count_parameters,
    mdsa_activation_bytes,
    mdsa_flops,
    mdsa_parameters,
    mdsa_report,
    mdsa_training_flops,
    stdit_flops,
    stdit_parameters,
    stdit_report,
    stdit_tokens,
    stdit_training_flops,
)
from avmodel.mdsa.layers import SelfAttention
from avmodel.mdsa.model import MDSA

PAPER = MDSA_PRESETS["paper"]
TINY = dataclasses.replace(MDSA_PRESETS["tiny"], streams="a", scales=(1,))  # the fewest operations


@pytest.mark.parametrize("streams", ["av", "v", "a"])
def test_the_parts_sum_to_the_whole(streams: str):
    config = dataclasses.replace(PAPER, streams=streams)
    with torch.device("meta"):
        whole = count_parameters(MDSA(config))
    assert sum(mdsa_parameters(config).values()) == whole


def test_attention_costs_its_products():
    length, dim, heads, head_dim = 10, 12, 3, 8
    inner = heads * head_dim
    layer, x = SelfAttention(dim, heads, head_dim), torch.randn(2, length, dim)
    products = 2 * length * dim * 4 * inner + 2 * 2 * length * length * inner
    assert count_flops(lambda: layer(x)) == 2 * products


def test_backward_costs_twice_the_forward_but_for_the_inputs_gradient():
    layer, x = nn.Linear(8, 6), torch.randn(5, 8)
    forward = 2 * 5 * 8 * 6
    assert count_flops(lambda: layer(x).sum().backward()) == 2 * forward
    x.requires_grad_()
    assert count_flops(lambda: layer(x).sum().backward()) == 3 * forward


def test_peak_memory_counts_what_lives_and_forgets_what_died():
    x = torch.zeros(256)
    with PeakMemory() as memory:
        y = x + 1  # 1 KiB
        z = (y * 2).view(2, 128) + 1  # 3 KiB while the product lives, then 2
        assert memory.peak == 3 * 1024
        assert memory.live == 2 * 1024
        x.add_(1)  # in place: nothing new
        del y, z
    assert (memory.live, memory.peak) == (0, 3 * 1024)


@pytest.mark.slow
def test_the_papers_flops():
    with FakeTensorMode():
        model = MDSA(PAPER)
        clips = {stream: torch.empty(1, n, 16, 256, 256) for stream, n in PAPER.channels.items()}
        latent = torch.empty(1, *PAPER.layout.shape)
        encode, decode = count_flops(lambda: model.encode(clips)), count_flops(lambda: model.decode(latent))
    assert encode / 1e12 == pytest.approx(2.80, abs=0.005)  # 2.91 with what no projector reads
    assert decode / 1e12 == pytest.approx(2.37, abs=0.005)


def test_the_flops_of_a_training_step_are_those_of_a_real_one():
    """Of real tensors, and of the attention that a model chooses for them."""
    model, clips = MDSA(TINY), {"a": torch.randn(1, 1, 4, 16, 16)}
    run = count_flops(lambda: _loss_of(model(clips, sample=True)).backward())
    assert mdsa_training_flops(TINY) == run

    config, layout = STDIT_PRESETS["tiny"], TINY.layout
    stdit, places = STDiT(config, layout), 11
    captions = Captions(torch.randn(1, places, config.caption_dim), torch.ones(1, places, dtype=torch.bool))
    z = torch.randn(1, *layout.shape)
    run = count_flops(lambda: stdit(z, torch.zeros(1), captions).sum().backward())
    assert stdit_training_flops(config, layout, places) == run


def _loss_of(outputs) -> torch.Tensor:
    x_hat, posterior = outputs
    return x_hat["a"].sum() + posterior.logvar.sum()


def test_counting_leaves_the_random_numbers_alone():
    before = torch.get_rng_state()
    mdsa_training_flops.__wrapped__(TINY)
    assert torch.equal(torch.get_rng_state(), before)


def test_labels_cost_what_embeddings_do():
    config = STDIT_PRESETS["tiny"]
    labels = dataclasses.replace(config, classes=5)
    both = (stdit_training_flops(one, TINY.layout, 8) for one in (config, labels))
    assert len(set(both)) == 1


@pytest.mark.slow
def test_checkpointing_trades_flops_for_memory():
    config = dataclasses.replace(TINY, depth=4)
    flops = mdsa_flops(config)
    assert (
        flops["forward and backward"]
        < flops["the same, checkpointed"]
        <= 4 / 3 * flops["forward and backward"]
    )
    forward = flops["encode"] + flops["decode"]
    assert flops["forward and backward"] == pytest.approx(3 * forward, rel=0.03)
    kept, recomputed = (
        mdsa_activation_bytes(config, dtype=torch.float32, checkpoint_activations=recompute)
        for recompute in (False, True)
    )
    assert recomputed < kept / 3


def test_activations_grow_with_the_batch_alone():
    one, two, three = (
        mdsa_activation_bytes(TINY, dtype=torch.float32, checkpoint_activations=False, batch=batch)
        for batch in (1, 2, 3)
    )
    assert three - two == pytest.approx(two - one, rel=0.05)


def test_the_report_has_its_figures():
    report = mdsa_report(TINY)
    total = sum(mdsa_parameters(TINY).values())
    assert f"{total:,}" in report
    assert f"{mdsa_flops(TINY)['encode'] / 1e9:,.3f} G" in report
    assert report.count("MiB") == 4


@pytest.mark.slow
def test_the_papers_transformer_has_its_figures():
    config, layout = STDIT_PRESETS["paper"], PAPER.layout
    assert sum(stdit_parameters(config, layout).values()) == 437_056_192
    assert stdit_flops(config, layout) / 1e12 == pytest.approx(0.305, abs=0.001)
    packed = dataclasses.replace(config, packed=True)
    assert (stdit_tokens(config, layout), stdit_tokens(packed, layout)) == (384, 256)
    assert stdit_flops(packed, layout) < 0.68 * stdit_flops(config, layout)
    report = stdit_report(config, layout)
    assert "437,056,192" in report and "384 tokens" in report and "256 tokens" in report
