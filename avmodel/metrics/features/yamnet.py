"""YAMNet's embeddings of the sound: `FAD-yamnet`, `KAD-yamnet`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch

from avmodel.metrics.features.base import Clips, Published, sha256_of, waveforms_at
from avprep.dsp import yamnet

PUBLISHED = Published(
    "yamnet_int8.npz, made by avmodel.metrics.features.yamnet_file of the TFLite file",
    "https://github.com/GreenWaves-Technologies/yamnet",
)


class YamnetFeatures:
    """One row per clip: the mean of the embeddings of its patches. The last patch is completed by silence."""

    name = "yamnet"
    side: Literal["audio"] = "audio"
    width = yamnet.EMBEDDING

    def __init__(self, net: yamnet.Yamnet, sha256: str) -> None:
        self._net, self.sha256 = net, sha256

    @torch.no_grad()
    def __call__(self, clips: Clips) -> np.ndarray:
        waveform = waveforms_at(yamnet.SAMPLE_RATE, clips)
        # Clip by clip: the convolutions' rounding then does not depend on how clips are batched.
        rows = [self._net(torch.from_numpy(row))[1].mean(dim=0, keepdim=True) for row in waveform]
        return torch.stack(rows).numpy()


def load_yamnet(weights: Path) -> YamnetFeatures:
    """Raises MetricError for a missing file, ArgumentError for one of other arrays."""
    sha256 = sha256_of(weights, PUBLISHED)
    return YamnetFeatures(yamnet.load_yamnet(weights), sha256)
