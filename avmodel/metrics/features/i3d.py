"""I3D's 400 logits of a video, through StyleGAN-V's TorchScript file: FVD and KVD.

The file holds the network with its rescaling and resizing. A TorchScript file is code: only the published one
is run, known by its SHA-256.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch

from avmodel.metrics import MetricError
from avmodel.metrics.features.base import Clips, Published, sha256_of

PUBLISHED = Published(
    "i3d_torchscript.pt",
    "https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt (universome/stylegan-v, fvd2048_16f)",
    "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2",
)
_LEAST_FRAMES = 10  # fewer do not survive its temporal pooling


class I3DFeatures:
    """One row per clip."""

    name = "i3d"
    side: Literal["video"] = "video"
    width = 400

    def __init__(self, net: torch.jit.ScriptModule, sha256: str) -> None:
        self._net, self.sha256 = net.eval(), sha256

    @torch.no_grad()
    def __call__(self, clips: Clips) -> np.ndarray:
        if clips.frames.shape[1] < _LEAST_FRAMES:
            raise MetricError(
                f"I3D takes clips of {_LEAST_FRAMES} frames or more, not {clips.frames.shape[1]}"
            )
        video = torch.from_numpy(clips.frames).permute(0, 4, 1, 2, 3).float()  # (n, 3, T, H, W) in 0 .. 255
        rows = [self._net(clip[None], rescale=True, resize=True, return_features=True) for clip in video]
        return torch.stack(rows).numpy()


def load_i3d(weights: Path) -> I3DFeatures:
    """Raises MetricError for a missing file, or any but the published one."""
    sha256 = sha256_of(weights, PUBLISHED)
    if sha256 != PUBLISHED.sha256:
        raise MetricError(f"{weights} has SHA-256 {sha256}; only the published file is run: {PUBLISHED}")
    return I3DFeatures(torch.jit.load(weights, map_location="cpu"), sha256)
