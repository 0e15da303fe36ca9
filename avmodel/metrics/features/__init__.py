"""Networks whose features distances are computed on, by name and the path of their weights.

    name         side    rows per clip   width   weights, by path
    squeezenet   video   T frames          512   SqueezeNet 1.1, torchvision's names: .pth, .safetensors, .npz
    i3d          video   1                 400   StyleGAN-V's TorchScript file
    yamnet       audio   1                1024   YAMNet's int8 arrays, .npz
    clap         audio   1                 512   the folder of a CLAP, for transformers; takes texts too
    imagebind    video   1                1024   imagebind_huge.pth (CC BY-NC 4.0); takes frames and sound too

A distance carries the features' name: `FAD-yamnet` and `FD-squeezenet` are not the papers' FAD and FVD. Other
packages add an extractor by an entry point in the group `avmodel.features`: a callable from a path to an
`Extractor`. Those of `NOT_SERVED` are known but need such a package.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Literal

from avmodel.metrics import MetricError
from avmodel.metrics.features.base import Clips, Extractor, PairedExtractor, Published, TextExtractor
from avmodel.metrics.features.clap import PUBLISHED as CLAP
from avmodel.metrics.features.clap import load_clap
from avmodel.metrics.features.i3d import PUBLISHED as I3D
from avmodel.metrics.features.i3d import load_i3d
from avmodel.metrics.features.imagebind import PUBLISHED as IMAGEBIND
from avmodel.metrics.features.imagebind import load_imagebind
from avmodel.metrics.features.squeezenet import PUBLISHED as SQUEEZENET
from avmodel.metrics.features.squeezenet import load_squeezenet
from avmodel.metrics.features.yamnet import PUBLISHED as YAMNET
from avmodel.metrics.features.yamnet import load_yamnet

__all__ = [
    "NOT_SERVED",
    "PAIRED_NETWORKS",
    "TEXT_NETWORKS",
    "Clips",
    "Extractor",
    "NeededFile",
    "PairedExtractor",
    "TextExtractor",
    "extractor_names",
    "load_extractor",
    "needed_file",
]

GROUP = "avmodel.features"
_SERVED: dict[str, Callable[[Path], Extractor]] = {
    "clap": load_clap,
    "i3d": load_i3d,
    "imagebind": load_imagebind,
    "squeezenet": load_squeezenet,
    "yamnet": load_yamnet,
}
TEXT_NETWORKS = ("clap",)
PAIRED_NETWORKS = ("audioclip", "imagebind")
_VIDEO = ("i3d", "imagebind", "squeezenet")
# No maintained library runs these from a file. Their checksums are not published where they are released.
NOT_SERVED = {
    "audioclip": Published(
        "AudioCLIP-Full-Training.pt", "https://github.com/AndreyGuzhov/AudioCLIP/releases/tag/v0.1"
    ),
    "vggish": Published("vggish_model.ckpt", "https://storage.googleapis.com/audioset/vggish_model.ckpt"),
}


def extractor_names() -> list[str]:
    """All that can be loaded, those of other packages included."""
    return sorted({*_SERVED, *(point.name for point in entry_points(group=GROUP))})


def load_extractor(name: str, weights: Path) -> Extractor:
    """The extractor of this name with its weights, on the CPU.

    Raises:
        MetricError: an unknown name, or one that no installed package serves; the message says which file
            it needs and from where.
        AvprepError: the weights are missing or are not this network's.
    """
    if name in _SERVED:
        return _SERVED[name](weights)
    found = [point for point in entry_points(group=GROUP) if point.name == name]
    if len(found) > 1:
        raise MetricError(f"features {name!r} are given by {len(found)} packages: {found}")
    if found:
        load: Callable[[Path], Extractor] = found[0].load()
        return load(weights)
    if name in NOT_SERVED:
        raise MetricError(
            f"features {name!r} need {NOT_SERVED[name]} and a package that runs it, with an entry point "
            f"{name!r} in the group {GROUP}; none is installed"
        )
    raise MetricError(f"features are {', '.join(extractor_names())}, not {name!r}")


@dataclass(frozen=True)
class NeededFile:
    """What an extractor without its file needs."""

    side: Literal["video", "audio"]
    message: str


def needed_file(name: str) -> NeededFile:
    """Which file the extractor of this name needs, from where, with which checksum.

    Raises:
        MetricError: an unknown name.
    """
    served = {"clap": CLAP, "i3d": I3D, "imagebind": IMAGEBIND, "squeezenet": SQUEEZENET, "yamnet": YAMNET}
    side: Literal["video", "audio"] = "video" if name in _VIDEO else "audio"
    if name in served:
        return NeededFile(side, f"it needs {served[name]}")
    if name in NOT_SERVED:
        return NeededFile(side, f"it needs {NOT_SERVED[name]}, and a package with an entry point in {GROUP}")
    if name in extractor_names():
        raise MetricError(f"features {name!r} need a file: {name}=PATH")
    raise MetricError(f"features are {', '.join(extractor_names())}, not {name!r}")
