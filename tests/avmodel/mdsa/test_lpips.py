"""LPIPS against the real heads and a real SqueezeNet, upstream's own value, and a plain float64 version."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from avmodel.mdsa.lpips import (
    LPIPS,
    TRUNKS,
    LPIPSConfig,
    WeightsError,
    fetch_weights,
    load_lpips,
    read_weights,
)
from avmodel.mdsa.options import BACKBONES
from tests.conftest import shared_file

SQUEEZENET = "squeezenet1_1_torchvision_fp16src.npz"
HEADS = "lpips_v0.1_lin_squeeze.npz"


@pytest.fixture(scope="module")
def real() -> LPIPS:
    return load_lpips(
        LPIPSConfig(
            backbone="squeezenet1_1",
            backbone_weights=shared_file("weights", SQUEEZENET),
            heads=shared_file("weights", HEADS),
        )
    )


def _picture(size: int = 64) -> Tensor:
    """(1,3,size,size) in [-1,1], by formula."""
    r = torch.arange(float(size)) / size
    red = torch.sin(6.28 * r)[:, None].expand(size, size)
    green = torch.cos(9 * r)[None].expand(size, size)
    return torch.stack([red, green, r[:, None] - r[None]])[None]


def _noisy(x: Tensor, amount: float) -> Tensor:
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    return (x + amount * noise).clamp(-1, 1)


def _blurred(x: Tensor, width: int) -> Tensor:
    return F.avg_pool2d(F.pad(x, [width // 2] * 4, mode="reflect"), width, stride=1)


def _plain_squeeze_lpips(x: Tensor, y: Tensor, trunk: dict[str, Tensor], heads: dict[str, Tensor]) -> Tensor:
    """The definition, step by step, in float64."""

    def conv(h: Tensor, name: str, **options: int) -> Tensor:
        weight, bias = (trunk[f"features.{name}.{part}"].double() for part in ("weight", "bias"))
        return F.conv2d(h, weight, bias, **options).clamp(min=0)

    def fire(h: Tensor, name: str) -> Tensor:
        h = conv(h, f"{name}.squeeze")
        return torch.cat([conv(h, f"{name}.expand1x1"), conv(h, f"{name}.expand3x3", padding=1)], 1)

    def features(h: Tensor) -> list[Tensor]:
        mean = torch.tensor([-0.030, -0.088, -0.188], dtype=torch.float64)[:, None, None]
        deviation = torch.tensor([0.458, 0.448, 0.450], dtype=torch.float64)[:, None, None]
        h = conv((h.double() - mean) / deviation, "0", stride=2)
        found = [h]
        for block in ([3, 4], [6, 7], [9], [10], [11], [12]):
            if block[0] in (3, 6, 9):
                h = F.max_pool2d(h, 3, 2, ceil_mode=True)
            for i in block:
                h = fire(h, str(i))
            found.append(h)
        return found

    total = torch.zeros(len(x), dtype=torch.float64)
    for i, (fx, fy) in enumerate(zip(features(x), features(y), strict=True)):
        fx = fx / (fx.pow(2).sum(1, keepdim=True).sqrt() + 1e-10)
        fy = fy / (fy.pow(2).sum(1, keepdim=True).sqrt() + 1e-10)
        head = heads[f"lin{i}.model.1.weight"].double()
        total += F.conv2d((fx - fy) ** 2, head).mean([1, 2, 3])
    return total


def test_every_backbone_that_may_be_chosen_has_a_trunk():
    assert tuple(TRUNKS) == BACKBONES


def test_a_picture_has_no_distance_to_itself(real: LPIPS):
    assert real(_picture(), _picture()).tolist() == [0.0]


def test_it_is_symmetric(real: LPIPS):
    x, y = _picture(), _noisy(_picture(), 0.3)
    torch.testing.assert_close(real(x, y), real(y, x))


def test_it_is_upstream_s_value(real: LPIPS):
    """0.3684081 is what lpips 0.1.4 gives for this pair with the same heads and SqueezeNet."""
    x = _picture()
    assert real(x, 0.8 * x.flip(-1)).item() == pytest.approx(0.3684081, abs=2e-6)


def test_it_is_the_plain_definition(real: LPIPS):
    trunk = read_weights(shared_file("weights", SQUEEZENET))
    heads = read_weights(shared_file("weights", HEADS))
    x = torch.cat([_picture(50), _picture(50).flip(1), _picture(50).roll(7, -1)])
    y = torch.cat([_noisy(x[:1], 0.2), _blurred(x[1:2], 5), -x[2:]])
    expected = _plain_squeeze_lpips(x, y, trunk, heads)
    torch.testing.assert_close(real(x, y).double(), expected, rtol=1e-4, atol=1e-7)


def test_it_grows_with_noise_and_with_blur(real: LPIPS):
    x = _noisy(_picture(), 0.1)  # some texture for the blur to take away
    by_noise = [real(x, _noisy(x, amount)).item() for amount in (0.0, 0.05, 0.2, 0.8)]
    by_blur = [real(x, _blurred(x, width)).item() for width in (1, 3, 7, 15)]
    assert by_noise == sorted(by_noise) and by_noise[-1] > 0.1
    assert by_blur == sorted(by_blur) and by_blur[-1] > 0.1


def test_gradients_reach_the_picture_and_no_weight(real: LPIPS):
    y = _noisy(_picture(), 0.2).requires_grad_()
    real(_picture(), y).sum().backward()
    assert y.grad.abs().sum() > 0
    assert y.grad.isfinite().all()
    assert not any(p.requires_grad for p in real.parameters())
    assert all(p.grad is None for p in real.parameters())


@pytest.mark.parametrize("backbone", list(TRUNKS))
def test_a_step_along_the_gradient_brings_pictures_closer(backbone: str):
    torch.manual_seed(0)
    net = LPIPS(backbone)
    x, y = _picture(32), _noisy(_picture(32), 0.3).requires_grad_()
    before = net(x, y).sum()
    (gradient,) = torch.autograd.grad(before, y)
    assert net(x, y - 0.05 * gradient / gradient.norm()).sum() < before


def test_features_of_nothing_but_zeros_have_a_finite_gradient():
    net = LPIPS("squeezenet1_1")
    torch.nn.init.constant_(net.features[0].bias, -1e3)
    y = _picture(32).requires_grad_()
    net(_picture(32) * 0.5, y).sum().backward()
    assert y.grad.isfinite().all()


@pytest.mark.parametrize(
    ("backbone", "smallest", "parameters"),
    [("vgg16", 16, 14_714_688), ("squeezenet1_1", 17, 722_496), ("alexnet", 31, 2_469_696)],
)
def test_trunks_have_torchvision_s_size_and_smallest_picture(backbone: str, smallest: int, parameters: int):
    net = LPIPS(backbone)
    assert sum(p.numel() for p in net.features.parameters()) == parameters
    x = torch.rand(2, 3, smallest, smallest + 1) * 2 - 1
    assert net(x, -x).shape == (2,)
    with pytest.raises(RuntimeError):
        net.features(x[..., : smallest - 1])  # one pixel less is more than the layers can take
    with pytest.raises(ValueError, match=f"takes {smallest} x {smallest} px at the least"):
        net(x[..., : smallest - 1], x[..., : smallest - 1])


@pytest.mark.parametrize(
    ("backbone", "names"),
    [
        ("vgg16", [f"features.{i}" for i in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)]),
        ("alexnet", [f"features.{i}" for i in (0, 3, 6, 8, 10)]),
    ],
)
def test_trunks_have_torchvision_s_names(backbone: str, names: list[str]):
    state = LPIPS(backbone).state_dict()
    expected = {f"{name}.{part}" for name in names for part in ("weight", "bias")}
    assert {name for name in state if name.startswith("features.")} == expected


@pytest.mark.parametrize(
    "shapes", [((1, 1, 32, 32),) * 2, ((3, 32, 32),) * 2, ((1, 3, 32, 32), (2, 3, 32, 32))]
)
def test_other_shapes_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]):
    with pytest.raises(ValueError, match="of one shape"):
        LPIPS("squeezenet1_1")(torch.zeros(shapes[0]), torch.zeros(shapes[1]))


def _files_as_published(folder: Path, net: LPIPS, *, legacy: bool) -> LPIPSConfig:
    """Both files as they are published: a classifier beside the trunk, heads under lin{i}."""
    trunk = {k: v for k, v in net.state_dict().items() if k.startswith("features.")}
    trunk |= {"classifier.1.weight": torch.zeros(2, 2)}
    heads = {f"lin{i}.model.1.weight": head.detach() for i, head in enumerate(net.heads)}
    torch.save(trunk, folder / "trunk.pth", _use_new_zipfile_serialization=not legacy)
    torch.save(heads, folder / "heads.pth", _use_new_zipfile_serialization=not legacy)
    return LPIPSConfig(backbone="alexnet", backbone_weights=folder / "trunk.pth", heads=folder / "heads.pth")


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_published_files_load(tmp_path: Path, legacy: bool):
    net = LPIPS("alexnet")
    loaded = load_lpips(_files_as_published(tmp_path, net, legacy=legacy))
    x = _picture(40)
    torch.testing.assert_close(loaded(x, -x), net(x, -x))


def test_weights_of_another_network_are_refused(tmp_path: Path):
    config = _files_as_published(tmp_path, LPIPS("alexnet"), legacy=False)
    with pytest.raises(WeightsError, match=r"heads\.pth holds no heads for squeezenet1_1"):
        load_lpips(
            LPIPSConfig(
                backbone="squeezenet1_1", backbone_weights=config.backbone_weights, heads=config.heads
            )
        )
    with pytest.raises(WeightsError, match=r"(heads|trunk)\.pth holds other weights"):
        load_lpips(
            LPIPSConfig(backbone="vgg16", backbone_weights=config.backbone_weights, heads=config.heads)
        )


def test_every_format_gives_the_same_float32_tensors(tmp_path: Path):
    tensors = {"a": torch.randn(2, 3), "b": torch.randn(4)}
    torch.save(tensors, tmp_path / "w.pth")
    safetensors.torch.save_file(tensors, tmp_path / "w.safetensors")
    np.savez(tmp_path / "w.npz", **{name: tensor.numpy() for name, tensor in tensors.items()})
    for path in tmp_path.iterdir():
        found = read_weights(path)
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    np.savez(tmp_path / "half.npz", a=np.float16([1.5]))
    assert read_weights(tmp_path / "half.npz")["a"].dtype == torch.float32


def test_what_cannot_be_read_is_one_sentence_with_the_file(tmp_path: Path):
    with pytest.raises(WeightsError, match=r"no weights at .*gone\.pth"):
        read_weights(tmp_path / "gone.pth")
    for name in ("broken.pth", "broken.npz", "broken.safetensors"):
        (tmp_path / name).write_bytes(b"no weights")
        with pytest.raises(WeightsError, match=f"{name} cannot be read as weights"):
            read_weights(tmp_path / name)
    (tmp_path / "weights.onnx").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"\.pth, \.pt, \.safetensors or \.npz"):
        read_weights(tmp_path / "weights.onnx")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="no table of tensors"):
        read_weights(tmp_path / "list.pth")


def test_a_file_that_would_run_code_is_refused(tmp_path: Path):
    torch.save({"a": Path("x")}, tmp_path / "code.pth")
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        read_weights(tmp_path / "code.pth")


def test_an_unknown_backbone_is_refused():
    with pytest.raises(ValueError, match="backbone must be one of vgg16, squeezenet1_1, alexnet, not 'vgg'"):
        LPIPSConfig(backbone="vgg")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


def test_downloads_are_checked_and_kept(tmp_path: Path, hub: Path):
    source = tmp_path / "source.bin"
    source.write_bytes(b"weights")
    checksum = hashlib.sha256(b"weights").hexdigest()
    with pytest.raises(WeightsError, match="cannot download .*source.bin"):
        fetch_weights(source.as_uri(), name="w.bin", sha256="0" * 8)
    assert not list(hub.iterdir())
    assert fetch_weights(source.as_uri(), name="w.bin", sha256=checksum[:8]) == hub / "w.bin"
    source.unlink()
    assert fetch_weights(source.as_uri(), name="w.bin", sha256=checksum).read_bytes() == b"weights"
    (hub / "w.bin").write_bytes(b"weigh")
    with pytest.raises(WeightsError, match="w.bin has SHA-256"):
        fetch_weights(source.as_uri(), name="w.bin", sha256=checksum)


def test_without_weights_and_without_network_it_says_where_to_put_them(
    hub: Path, monkeypatch: pytest.MonkeyPatch
):
    def unreachable(url: str, path: str, hash_prefix: str) -> None:
        raise OSError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(
        WeightsError, match=r"cannot download .*vgg16-397923af\.pth \(no route\); put the file at"
    ):
        load_lpips(LPIPSConfig())
