"""YAMNet, a classifier of sounds trained on AudioSet: MobileNetV1 over log-mel patches of 0.96 s.

    waveform (..., samples), 16 kHz mono
      -> magnitude STFT, 25 ms windows every 10 ms -> 64 mel bands -> log(mel + offset)
      -> patches (..., n, 96, 64), one every 0.48 s; silence is added to complete the last one
      -> 14 convolution layers (13 of them depthwise and pointwise), mean over time and frequency
      -> embeddings (..., n, 1024) -> linear, sigmoid -> scores (..., n, 521)

The weights are those of the published int8 TFLite file, as a .npz of named arrays. They are used as floats:
activations are not rounded to int8, so scores differ from the TFLite file's by its rounding error.

Sources: Plakal and Ellis, YAMNet (tensorflow/models, research/audioset/yamnet: features.py for the patches,
yamnet.py for the layers); Howard et al., "MobileNets", 2017.
"""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avprep.errors import ArgumentError

SAMPLE_RATE = 16000
CLASSES = 521
EMBEDDING = 1024

_WINDOW, _HOP, _N_FFT = 400, 160, 512  # samples: 25 ms, 10 ms
_BANDS = 64
_PATCH, _PATCH_HOP = 96, 48  # columns: 0.96 s, 0.48 s
_PATCH_SAMPLES = (_PATCH - 1) * _HOP + _WINDOW
# Output channels and stride of each pair of a depthwise and a pointwise convolution.
_PAIRS = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
    (512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1),
)  # fmt: skip
_MAX_BYTES = 16 << 20  # of the unpacked arrays; the real file's are 3.2 MB


class Yamnet(nn.Module):
    """YAMNet with random weights; `load_yamnet` returns it with the published ones. Frozen, for inference."""

    hann: Tensor
    mel: Tensor
    log_offset: Tensor

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [_SameConv(1, 32, 3, stride=2)]
        before = 32
        for width, stride in _PAIRS:
            layers.append(_SameConv(before, before, 3, stride=stride, groups=before))
            layers.append(_SameConv(before, width, 1))
            before = width
        self.layers = nn.ModuleList(layers)
        self.fc = nn.Linear(EMBEDDING, CLASSES)
        self.register_buffer("hann", torch.hann_window(_WINDOW))
        self.register_buffer("mel", torch.zeros(_BANDS, _N_FFT // 2 + 1))
        self.register_buffer("log_offset", torch.full((_BANDS,), 1e-3))
        self.requires_grad_(False).eval()

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and embeddings of every patch of a waveform.

        Args:
            waveform: float (..., samples) in [-1, 1], 16 kHz mono.

        Returns:
            Scores in [0, 1] (..., n, 521), one per AudioSet class, which do not sum to 1; embeddings, 0 or
            above (..., n, 1024). n = 1 + ceil((samples - 15600) / 7680), and 1 for shorter waveforms.

        Raises:
            ArgumentError: `waveform` is empty or not floating point.
        """
        embeddings = self.embed(self.patches(waveform))
        return self.fc(embeddings).sigmoid(), embeddings

    def patches(self, waveform: Tensor) -> Tensor:
        """Log-mel patches (..., n, 96, 64) of a waveform (..., samples)."""
        if waveform.ndim < 1 or not waveform.numel() or not waveform.is_floating_point():
            found = f"{tuple(waveform.shape)} {waveform.dtype}"
            raise ArgumentError(f"waveform: expected floating point (..., samples), not {found}")
        rest = max(0, waveform.shape[-1] - _PATCH_SAMPLES)
        n = 1 + -(-rest // (_PATCH_HOP * _HOP))
        samples = _PATCH_SAMPLES + (n - 1) * _PATCH_HOP * _HOP
        waveform = F.pad(waveform.float(), (0, samples - waveform.shape[-1]))
        windows = waveform.unfold(-1, _WINDOW, _HOP) * self.hann
        magnitude = torch.fft.rfft(windows, _N_FFT).abs()
        columns = (magnitude @ self.mel.T + self.log_offset).log()
        return columns.unfold(-2, _PATCH, _PATCH_HOP).transpose(-1, -2)

    def embed(self, patches: Tensor) -> Tensor:
        """Embeddings (..., 1024) of log-mel patches (..., 96, 64)."""
        x = patches.reshape(-1, 1, _PATCH, _BANDS)
        for layer in self.layers:
            x = layer(x)
        return x.mean(dim=(2, 3)).reshape(*patches.shape[:-2], EMBEDDING)


class _SameConv(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding, then ReLU6. With stride 2 on an even size, TensorFlow pads
    only after the last row and column; PyTorch's symmetric padding would shift the grid by one pixel."""

    def forward(self, x: Tensor) -> Tensor:
        if self.kernel_size == (3, 3):
            x = F.pad(x, (0, 1, 0, 1) if self.stride == (2, 2) else (1, 1, 1, 1))
        return super().forward(x).clamp(0, 6)


def load_yamnet(weights: Path) -> Yamnet:
    """YAMNet with the weights of a .npz file, on the CPU.

    The file holds `frontend.{hann,mel,log_offset}`, `layerN.{conv,dw}.{q,scale,bias}` for N from 1 to 27 and
    `fc.{q,scale,bias}`; `q` is int8 in TFLite's order of axes, one scale per output channel.

    Raises:
        ArgumentError: there is no such file, it is no .npz of these arrays, or a shape differs.
    """
    arrays = _read_arrays(weights)
    net = Yamnet()
    try:
        net.load_state_dict(_state(arrays))
    except KeyError as error:
        raise ArgumentError(f"weights: {weights} has no array {error}") from error
    except (RuntimeError, ValueError) as error:
        found = " ".join(str(error).split())
        raise ArgumentError(f"weights: {weights} does not hold YAMNet's arrays: {found}") from error
    return net


def read_class_names(class_map: Path) -> list[str]:
    """The 521 display names, in the order of the scores, of YAMNet's yamnet_class_map.csv.

    Raises:
        ArgumentError: the file cannot be read, or does not list 521 classes in order.
    """
    try:
        with class_map.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        names = [row["display_name"] for row in rows]
        in_order = [row["index"] for row in rows] == [str(i) for i in range(CLASSES)]
    except (OSError, UnicodeDecodeError, KeyError, csv.Error) as error:
        raise ArgumentError(f"class_map: {class_map} is no class map of YAMNet: {error}") from error
    if not in_order:
        raise ArgumentError(f"class_map: {class_map} does not list {CLASSES} classes in order")
    return names


def _state(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """The file's arrays under the module's names, dequantised."""
    state = {name: _float(arrays[f"frontend.{name}"]) for name in ("hann", "mel", "log_offset")}
    for i in range(1 + 2 * len(_PAIRS)):
        name = f"layer{i + 1}." + ("dw" if i % 2 else "conv")
        # TFLite: (out, height, width, in), and (1, height, width, channels) for depthwise.
        q = _float(arrays[f"{name}.q"]).permute((3, 0, 1, 2) if i % 2 else (0, 3, 1, 2))
        state[f"layers.{i}.weight"] = q * _float(arrays[f"{name}.scale"]).reshape(-1, 1, 1, 1)
        state[f"layers.{i}.bias"] = _float(arrays[f"{name}.bias"])
    state["fc.weight"] = _float(arrays["fc.q"]) * _float(arrays["fc.scale"])
    state["fc.bias"] = _float(arrays["fc.bias"])
    return state


def _float(array: np.ndarray) -> Tensor:
    if array.dtype not in (np.int8, np.float32):
        raise ValueError(f"expected int8 or float32, not {array.dtype}")
    return torch.from_numpy(array.astype(np.float32))


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise ArgumentError(f"weights: there is no file {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > _MAX_BYTES:
            raise ValueError(f"its arrays take {size} bytes, more than {_MAX_BYTES}")
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
        raise ArgumentError(f"weights: {path} cannot be read as a .npz file: {error}") from error
