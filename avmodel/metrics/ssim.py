"""SSIM of reconstructed frames (Wang et al., 2004), as torchmetrics computes it; 1 for equal frames.

The window is a Gaussian of 11 x 11 pixels and sigma 1.5; frames are reflected at their borders.
"""

from __future__ import annotations

import torch
from torch import Tensor

from avmodel.metrics import MetricError

_WINDOW = 11  # pixels


def ssim(frames: Tensor, decoded: Tensor) -> Tensor:
    """The mean over frames and RGB channels: float64 (B,), of uint8 frames (B, T, H, W, RGB).

    Raises:
        MetricError: shapes that differ, frames below 11 x 11 pixels, or torchmetrics is not installed.
    """
    try:
        from torchmetrics.functional.image import structural_similarity_index_measure
    except ImportError as error:
        raise MetricError(
            "SSIM needs torchmetrics, which is not installed: pip install 'avprep[metrics]'"
        ) from error
    if frames.shape != decoded.shape or frames.ndim != 5 or min(frames.shape[2:4]) < _WINDOW:
        found = f"{tuple(frames.shape)} and {tuple(decoded.shape)}"
        raise MetricError(f"SSIM takes two (B, T, H, W, 3) of one shape, {_WINDOW} px or more, not {found}")
    means = []
    for pair in zip(frames, decoded, strict=True):
        # float32: in float64 torch's convolution takes 50 times as long on a CPU, for 1e-6 of the value.
        a, b = (side.permute(0, 3, 1, 2).float() for side in pair)
        per_frame = structural_similarity_index_measure(a, b, data_range=255.0, reduction="none")
        means.append(torch.as_tensor(per_frame).double().mean())
    return torch.stack(means)
