"""SqueezeNet 1.1's last features of the frames: `FD-squeezenet`.

Trained on ImageNet, frame by frame: blind to motion and to the order of frames.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avmodel.mdsa.lpips import TRUNKS, WeightsError, read_weights
from avmodel.metrics.features.base import Clips, Published, sha256_of

PUBLISHED = Published(
    "squeezenet1_1-b8a52dc0.pth",
    "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth",
    "b8a52dc0...",
)
_SIZE = 224  # pixels: every side is resized to it, so that sides of different sizes can be compared
_AT_ONCE = 4  # frames: on a CPU half the time of 16, whose activations leave the cache
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, of RGB in [0, 1]


class SqueezeNetFeatures:
    """One row per frame: the mean over the picture of the 512 channels after the last Fire module."""

    name = "squeezenet"
    side: Literal["video"] = "video"
    width = 512

    def __init__(self, features: nn.Sequential, sha256: str) -> None:
        self._features, self.sha256 = features.eval().requires_grad_(False), sha256
        self._mean, self._std = (torch.tensor(row).view(1, 3, 1, 1) for row in (_MEAN, _STD))

    @torch.no_grad()
    def __call__(self, clips: Clips) -> np.ndarray:
        return np.stack([self._of_clip(torch.from_numpy(frames)) for frames in clips.frames])

    def _of_clip(self, frames: Tensor) -> np.ndarray:
        """uint8 (T, H, W, RGB) -> (T, 512)"""
        return torch.cat([self._of_frames(part) for part in frames.split(_AT_ONCE)]).numpy()

    def _of_frames(self, frames: Tensor) -> Tensor:
        x = frames.permute(0, 3, 1, 2).float() / 255
        x = F.interpolate(x, (_SIZE, _SIZE), mode="bilinear", antialias=True, align_corners=False)
        return self._features((x - self._mean) / self._std).mean(dim=(2, 3))


def load_squeezenet(weights: Path) -> SqueezeNetFeatures:
    """Raises MetricError for a missing file, WeightsError for one of other tensors."""
    sha256 = sha256_of(weights, PUBLISHED)
    features = TRUNKS["squeezenet1_1"].features()
    prefix = "features."
    state = {k.removeprefix(prefix): v for k, v in read_weights(weights).items() if k.startswith(prefix)}
    try:
        features.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(f"{weights} does not hold SqueezeNet 1.1: {error}") from error
    return SqueezeNetFeatures(features, sha256)
