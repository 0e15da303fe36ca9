"""PatchGAN against the counts and shapes of PVDM's discriminators."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from avmodel.mdsa.discriminators import Discriminators, PatchGAN


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("dims", "channels", "parameters"),
    [(2, 3, 2_766_529), (3, 3, 11_057_857), (2, 1, 2_764_481), (3, 1, 11_049_665)],
)
def test_the_parameters_are_those_of_pvdm(dims: int, channels: int, parameters: int):
    assert _parameters(PatchGAN(dims=dims, channels=channels)) == parameters


def test_one_modality_has_both():
    assert _parameters(Discriminators()) == 2_766_529 + 11_057_857


def test_the_layers_in_order():
    """Stride 2 but for the last two, BatchNorm but in the first and the last, width capped."""
    net = PatchGAN(dims=3, ndf=128, n_layers=4)
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv3d)]
    assert [c.stride[0] for c in convolutions] == [2, 2, 2, 2, 1, 1]
    assert [c.out_channels for c in convolutions] == [128, 256, 512, 512, 512, 1]
    assert all(c.kernel_size == (4, 4, 4) and c.padding == (2, 2, 2) for c in convolutions)
    assert all(c.bias is not None for c in convolutions)
    assert [any(isinstance(m, nn.BatchNorm3d) for m in layer) for layer in net.layers] == [False] + [True] * 4
    assert all(layer[-1].negative_slope == 0.2 for layer in net.layers)


def test_the_weights_start_as_in_pix2pix():
    torch.manual_seed(0)
    net = PatchGAN(dims=2)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.05)
            assert abs(module.weight.mean().item()) < 0.002
        elif isinstance(module, nn.BatchNorm2d):
            assert module.weight.mean().item() == pytest.approx(1, abs=0.01)
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.3)
            assert not module.bias.any()


@pytest.mark.parametrize("n_layers", [1, 2, 3])
@pytest.mark.parametrize("frames", [2, 3, 4, 8, 16])
def test_shapes_follow_the_strides(frames: int, n_layers: int):
    """An axis goes n -> n // 2 + 1 at stride 2, n -> n + 1 at stride 1; all but the logits are features."""
    logits, features = PatchGAN(dims=3, channels=1, ndf=2, n_layers=n_layers)(
        torch.randn(1, 1, frames, 16, 9)
    )
    sizes = [(frames, 16, 9)]
    for _ in range(n_layers):
        sizes.append(tuple(n // 2 + 1 for n in sizes[-1]))
    sizes.append(tuple(n + 1 for n in sizes[-1]))
    assert [tuple(f.shape[2:]) for f in features] == sizes[1:]
    assert [f.shape[1] for f in features] == [2 * 2**i for i in range(n_layers + 1)]
    assert logits.shape == (1, 1, *(n + 1 for n in sizes[-1]))


def test_the_paper_preset_gives_35_logits_along_a_frame():
    logits, features = PatchGAN(dims=2, ndf=2)(torch.randn(1, 3, 256, 256))
    assert logits.shape == (1, 1, 35, 35)
    assert len(features) == 4


def test_features_are_activations():
    """They are compared after the LeakyReLU, which leaves a fifth of what is negative."""
    net = PatchGAN(dims=2, ndf=4)
    x = torch.randn(2, 3, 8, 8)
    _, features = net(x)
    before = net.layers[0][0](x)
    torch.testing.assert_close(features[0], torch.where(before < 0, 0.2 * before, before))


def test_each_looks_at_its_own_input():
    nets = Discriminators(channels=1, ndf=2, n_layers=1).eval()
    frame, clip = torch.randn(2, 1, 8, 8), torch.randn(2, 1, 4, 8, 8)
    (d2, _), (d3, _) = nets(frame, clip)
    torch.testing.assert_close(d2, nets.d2(frame)[0])
    torch.testing.assert_close(d3, nets.d3(clip)[0])


@pytest.mark.parametrize("shape", [(1, 3, 1, 8, 8), (1, 3, 4, 8, 1)])
def test_an_axis_of_one_value_is_refused(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match="takes 2 values along every axis"):
        PatchGAN(dims=3, ndf=2)(torch.randn(shape))


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (1, 3, 4, 8, 8), (3, 8, 8)])
def test_another_shape_is_refused(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"takes \(B,C,H,W\) with C = 3"):
        PatchGAN(dims=2, ndf=2)(torch.randn(shape))


@pytest.mark.parametrize("options", [{"dims": 1}, {"dims": 2, "n_layers": 0}])
def test_impossible_networks_are_refused(options: dict[str, int]):
    with pytest.raises(ValueError, match="dims must|n_layers must"):
        PatchGAN(**options)
