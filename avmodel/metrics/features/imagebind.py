"""ImageBind's embeddings of pictures and sound in one space: `IB-AV`, `AVHScore`, `JavisScore`.

Pictures and sound are prepared as the published code does it:

    frame   short side to 224 px, bicubic, antialiased; centre crop; repeated to the two that a patch spans
    video   first and last frame of each window of 2 s; short side to 224 px, bilinear, not antialiased; of
            pictures that are not square, three crops; the mean of all embeddings
    sound   16 kHz; each window of 2 s as a mel spectrogram of 128 bins and 204 frames of 10 ms, where a
            shorter one is completed by 0; the mean of all embeddings

A video has five windows and a sound three, which start evenly spaced; the last ends with the clip. A clip of
2 s or less is one window. The mean of a window of sound is taken from a copy: the published code subtracts it
in place, which leaves a step in windows that overlap.

The weights' licence is CC BY-NC 4.0: they are not for commercial use.

Source: Girdhar et al., "ImageBind: One Embedding Space To Bind Them All", 2023.
"""

from __future__ import annotations

from math import ceil
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from avmodel.metrics import MetricError
from avmodel.metrics.features.base import Clips, Published, sha256_of, waveforms_at
from avmodel.metrics.features.imagebind_network import (
    HUGE,
    MEL_BINS,
    MEL_FRAMES,
    PICTURES,
    PIXELS,
    ImageBindNetwork,
    ImageBindSizes,
    load_network,
)

PUBLISHED = Published(
    "imagebind_huge.pth (4.5 GB, licence CC BY-NC 4.0)",
    "https://dl.fbaipublicfiles.com/imagebind/imagebind_huge.pth",
)
_SAMPLE_RATE = 16000
_WINDOW_S = 2
_VIDEO_WINDOWS, _SOUND_WINDOWS = 5, 3
_CROPS = 3
_MEL_MS, _HOP_MS = 25, 10  # of one column
_MEL_MEAN, _MEL_STD = -4.268, 9.138
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's
_AT_ONCE = 4  # inputs: what the blocks hold of more would not fit the caches


class ImageBindFeatures:
    """One row per clip: the embedding of its video."""

    name = "imagebind"
    side: Literal["video"] = "video"

    def __init__(self, network: ImageBindNetwork, sha256: str) -> None:
        self._network, self.sha256, self.width = network, sha256, network.sizes.embedding

    # Clip by clip: the size of a batch does not change a bit.

    @torch.no_grad()
    def __call__(self, clips: Clips) -> np.ndarray:
        """float32 (n, 1, width): means of embeddings of length 1."""
        rows = [self._pictures(_video(frames, clips.fps)).mean(dim=0) for frames in clips.frames]
        return torch.stack(rows)[:, None].numpy()

    @torch.no_grad()
    def frames(self, clips: Clips) -> np.ndarray:
        """float32 (n, T, width), each of length 1."""
        return torch.stack([self._pictures(_frames(frames)) for frames in clips.frames]).numpy()

    @torch.no_grad()
    def sounds(self, clips: Clips) -> np.ndarray:
        """float32 (n, width): means of embeddings of the network's scale.

        Raises:
            MetricError: clips shorter than one column of a spectrogram.
        """
        rows = waveforms_at(_SAMPLE_RATE, clips)
        if rows.shape[1] < _SAMPLE_RATE * _MEL_MS // 1000:
            raise MetricError(f"ImageBind hears sounds of {_MEL_MS} ms and more; the clips are shorter")
        mels = [mel_windows(torch.from_numpy(np.array(row, np.float32))) for row in rows]
        return torch.stack([self._network.sound(mel).mean(dim=0) for mel in mels]).numpy()

    def _pictures(self, pictures: Tensor) -> Tensor:
        """RGB in [0,1], (B,3,2,224,224) -> (B,width)"""
        mean, std = (torch.tensor(row).view(3, 1, 1, 1) for row in (_MEAN, _STD))
        return torch.cat([self._network.pictures((part - mean) / std) for part in pictures.split(_AT_ONCE)])


def _frames(frames: np.ndarray) -> Tensor:
    """uint8 (T,H,W,RGB) -> each frame twice, in [0,1]: (T,3,2,224,224)"""
    x = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    height, width = _short_side_scaled(x.shape[2], x.shape[3])
    for size in ((x.shape[2], width), (height, width)):  # a side at a time, each rounded, as PIL does
        x = F.interpolate(x, size, mode="bicubic", antialias=True).add(0.5).floor().clamp(0, 255)
    top, left = round((height - PIXELS) / 2), round((width - PIXELS) / 2)
    x = x[:, :, top : top + PIXELS, left : left + PIXELS] / 255
    return x[:, :, None].expand(-1, -1, PICTURES, -1, -1)


def _video(frames: np.ndarray, fps: float) -> Tensor:
    """uint8 (T,H,W,RGB) -> the windows' crops in [0,1]: (B,3,2,224,224)"""
    window = _WINDOW_S * fps
    pairs = []
    for start in _starts(len(frames), window, _VIDEO_WINDOWS):
        first, stop = ceil(round(start, 6)), ceil(round(start + window, 6))
        pairs.append(frames[np.clip([first, stop - 1], 0, len(frames) - 1)])
    x = torch.from_numpy(np.concatenate(pairs)).permute(0, 3, 1, 2).float() / 255
    height, width = _short_side_scaled(x.shape[2], x.shape[3])
    x = F.interpolate(x, (height, width), mode="bilinear", align_corners=False)
    x = torch.cat([x[:, :, top : top + PIXELS, left : left + PIXELS] for top, left in _crops(height, width)])
    return x.unflatten(0, (-1, PICTURES)).transpose(1, 2)


def mel_windows(waveform: Tensor) -> Tensor:
    """float32 (samples,) at 16 kHz -> the windows' spectrograms, normalized: (B,1,128,204)"""
    from torchaudio.compliance.kaldi import fbank  # here: evaluations without this network need no torchaudio

    mels = []
    for start in _starts(len(waveform), _WINDOW_S * _SAMPLE_RATE, _SOUND_WINDOWS):
        window = waveform[int(start) : int(start) + _WINDOW_S * _SAMPLE_RATE]
        columns = fbank(
            (window - window.mean())[None],
            htk_compat=True,
            sample_frequency=_SAMPLE_RATE,
            window_type="hanning",
            num_mel_bins=MEL_BINS,
            dither=0.0,
            frame_length=_MEL_MS,
            frame_shift=_HOP_MS,
        )[:MEL_FRAMES]
        mels.append(F.pad(columns, (0, 0, 0, MEL_FRAMES - len(columns))).T)
    return (torch.stack(mels)[:, None] - _MEL_MEAN) / _MEL_STD


def _starts(length: int, window: float, count: int) -> list[float]:
    """Where windows start, evenly spaced, the last at the end; one where all are the same."""
    spare = max(length - window, 0)
    return [spare * i / (count - 1) for i in range(count)] if spare else [0.0]


def _short_side_scaled(height: int, width: int) -> tuple[int, int]:
    short = min(height, width)
    return PIXELS * height // short, PIXELS * width // short


def _crops(height: int, width: int) -> list[tuple[int, int]]:
    """Top and left of the crops, which lie along the longer side; one where all are the same."""
    spare = max(height, width) - PIXELS
    places = [0, ceil(spare / 2), spare] if spare else [0]
    return [(place, 0) if height > width else (0, place) for place in places]


def load_imagebind(weights: Path, sizes: ImageBindSizes = HUGE) -> ImageBindFeatures:
    """
    Args:
        weights: the published file.

    Raises:
        MetricError: there is no file.
        WeightsError: it cannot be read, or lacks a tensor of the two towers, or has one of another shape.
    """
    sha256 = sha256_of(weights, PUBLISHED)
    return ImageBindFeatures(load_network(weights, sizes), sha256)
