"""LPIPS v0.1, the learned perceptual distance of two images (Zhang et al. 2018), frozen, for use as a loss.

    x, y (B,3,H,W) in [-1,1] -> scale -> trunk, tapped after L ReLUs -> unit vectors over channels
        -> head_l . (fx_l - fy_l)^2 -> mean over the picture -> sum over l -> (B,)

The trunks are torchvision's, up to the last tap and under torchvision's names, so that its .pth files load.

    backbone        smallest image   trunk weights (torchvision file)
    vgg16           16 x 16          vgg16-397923af.pth, 528 MB
    squeezenet1_1   17 x 17          squeezenet1_1-b8a52dc0.pth, 5 MB
    alexnet         31 x 31          alexnet-owt-7be5be79.pth, 233 MB
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from http.client import HTTPException
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from avmodel.mdsa.options import Backbone, LPIPSConfig
from avprep.errors import AvprepError

_TORCHVISION = "https://download.pytorch.org/models"
_HEADS = (
    "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/"
    "082bb24f84c091ea94de2867d34c4544f68e0963/lpips/weights/v0.1"
)


class WeightsError(AvprepError, RuntimeError):
    """Weights that are not there, or are not what they should be: the message names the file."""


class Fire(nn.Module):
    """SqueezeNet's block, under torchvision's names: 1x1 squeeze, then 1x1 and 3x3 side by side."""

    def __init__(self, before: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(before, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x).relu()
        return torch.cat([self.expand1x1(x), self.expand3x3(x)], dim=1).relu()


def _vgg16() -> nn.Sequential:
    layers: list[nn.Module] = []
    before = 3
    for stage, (width, depth) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))):
        if stage:
            layers.append(nn.MaxPool2d(2))
        for _ in range(depth):
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU(inplace=True)]
            before = width
    return nn.Sequential(*layers)


def _squeezenet1_1() -> nn.Sequential:
    def pool() -> nn.Module:
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    return nn.Sequential(
        nn.Conv2d(3, 64, 3, stride=2),
        nn.ReLU(inplace=True),
        pool(),
        Fire(64, 16, 64),
        Fire(128, 16, 64),
        pool(),
        Fire(128, 32, 128),
        Fire(256, 32, 128),
        pool(),
        Fire(256, 48, 192),
        Fire(384, 48, 192),
        Fire(384, 64, 256),
        Fire(512, 64, 256),
    )


def _alexnet() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(inplace=True),
    )


@dataclass(frozen=True, kw_only=True)
class _Trunk:
    features: Callable[[], nn.Sequential]
    taps: tuple[int, ...]  # layers whose outputs are compared
    channels: tuple[int, ...]  # of those outputs
    smallest: int  # pixels, height and width
    file: str  # torchvision's, with the first 8 digits of its SHA-256
    heads: str  # upstream's file of heads
    heads_sha256: str


TRUNKS: dict[Backbone, _Trunk] = {
    "vgg16": _Trunk(
        features=_vgg16,
        taps=(3, 8, 15, 22, 29),
        channels=(64, 128, 256, 512, 512),
        smallest=16,
        file="vgg16-397923af.pth",
        heads="vgg.pth",
        heads_sha256="a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
    ),
    "squeezenet1_1": _Trunk(
        features=_squeezenet1_1,
        taps=(1, 4, 7, 9, 10, 11, 12),
        channels=(64, 128, 256, 384, 384, 512, 512),
        smallest=17,
        file="squeezenet1_1-b8a52dc0.pth",
        heads="squeeze.pth",
        heads_sha256="4a5350f23600cb79923ce65bb07cbf57dca461329894153e05a1346bd531cf76",
    ),
    "alexnet": _Trunk(
        features=_alexnet,
        taps=(1, 4, 7, 9, 11),
        channels=(64, 192, 384, 256, 256),
        smallest=31,
        file="alexnet-owt-7be5be79.pth",
        heads="alex.pth",
        heads_sha256="df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
    ),
}


class LPIPS(nn.Module):
    """LPIPS v0.1 with random weights; `load_lpips` gives the one with the learned weights.

    The weights are frozen: gradients flow to the images alone.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        trunk = TRUNKS[backbone]
        self.taps = trunk.taps
        self.smallest = trunk.smallest
        self.features = trunk.features()
        self.heads = nn.ParameterList(torch.rand(1, width, 1, 1) for width in trunk.channels)
        # ImageNet's mean and deviation, for pictures in [-1,1].
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))
        self.requires_grad_(False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distances (B,), 0 or above, of pictures (B,3,H,W) in [-1,1].

        Raises:
            ValueError: shapes that differ, no three channels, or a picture below the smallest size.
        """
        shapes = f"{tuple(x.shape)} and {tuple(y.shape)}"
        if x.shape != y.shape or x.ndim != 4 or x.shape[1] != 3:
            raise ValueError(f"LPIPS takes two (B,3,H,W) of one shape, not {shapes}")
        if min(x.shape[2:]) < self.smallest:
            raise ValueError(f"LPIPS takes {self.smallest} x {self.smallest} px at the least, not {shapes}")
        pairs = zip(self._unit_features(x), self._unit_features(y), self.heads, strict=True)
        taps = [((fx - fy).square() * head).sum(dim=1).mean(dim=(1, 2)) for fx, fy, head in pairs]
        return reduce(torch.add, taps)

    def _unit_features(self, x: Tensor) -> list[Tensor]:
        x = (x - self.shift) / self.scale
        units = []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in self.taps:
                feature = x.float()
                norm = torch.linalg.vector_norm(feature, dim=1, keepdim=True)
                units.append(feature / (norm + 1e-10))
        return units


def load_lpips(config: LPIPSConfig) -> LPIPS:
    """LPIPS with the learned weights, on the CPU.

    Raises:
        WeightsError: a file that is not there and cannot be downloaded, or that holds other tensors.
    """
    trunk = TRUNKS[config.backbone]
    trunk_file = config.backbone_weights or fetch_weights(
        f"{_TORCHVISION}/{trunk.file}", name=trunk.file, sha256=trunk.file.removesuffix(".pth").split("-")[-1]
    )
    heads_file = config.heads or fetch_weights(
        f"{_HEADS}/{trunk.heads}", name=f"lpips_v0.1_{trunk.heads}", sha256=trunk.heads_sha256
    )
    features = {k: v for k, v in read_weights(trunk_file).items() if k.startswith("features.")}
    heads = read_weights(heads_file)
    names = [f"lin{i}.model.1.weight" for i in range(len(trunk.taps))]
    if set(heads) != set(names):
        raise WeightsError(f"{heads_file} holds no heads for {config.backbone}: it has {', '.join(heads)}")
    net = LPIPS(config.backbone)
    _load(net.heads, {str(i): heads[name] for i, name in enumerate(names)}, heads_file)
    _load(net.features, {k.removeprefix("features."): v for k, v in features.items()}, trunk_file)
    return net


def _load(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(f"{path} holds other weights than these: {error}") from error


def read_weights(path: Path, *, mmap: bool = False) -> dict[str, Tensor]:
    """Named tensors, in float32, of a .pth or .pt (no code is run), .safetensors or .npz file.

    Args:
        mmap: tensors of a .pth or .pt file are mapped: what is not used is not read.

    Raises:
        WeightsError: no file, an unknown ending, or a file that cannot be read.
    """
    if not path.is_file():
        raise WeightsError(f"no weights at {path}")
    try:
        if path.suffix in (".pth", ".pt"):
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        elif path.suffix == ".safetensors":
            state = safetensors.torch.load_file(path)
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                state = {name: torch.from_numpy(arrays[name]) for name in arrays}
        else:
            raise WeightsError(f"{path}: weights are .pth, .pt, .safetensors or .npz")
    except WeightsError:
        raise
    except Exception as error:  # each format has its own errors
        raise WeightsError(f"{path} cannot be read as weights: {error}") from error
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(f"{path} holds no table of tensors")
    return {name: tensor.float() for name, tensor in state.items()}


def fetch_weights(url: str, *, name: str, sha256: str) -> Path:
    """The file of this name in torch.hub's folder, downloaded where it is not there yet.

    Args:
        url: where it is downloaded from.
        name: the file's name in `torch.hub.get_dir()/checkpoints`.
        sha256: the file's checksum in hex, or its first digits.

    Raises:
        WeightsError: the download fails, or the file has another checksum.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if path.is_file():
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if not found.startswith(sha256):
            raise WeightsError(f"{path} has SHA-256 {found}, not {sha256}: remove it to download it again")
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Raises RuntimeError on another checksum, before the file gets its name.
        torch.hub.download_url_to_file(url, str(path), hash_prefix=sha256)
    except (OSError, HTTPException, RuntimeError) as error:
        raise WeightsError(
            f"cannot download {url} ({error}); put the file at {path}, give its path as `backbone_weights` "
            f"or `heads`, or train without `lpips`"
        ) from error
    return path
