"""Clips and their reconstructions by an MDSA, clip by clip: the reference is the clip itself."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from avmodel.evaluate.observe import CHUNK, Look, Looks, Rows, stacked
from avmodel.evaluate.options import LpipsFiles
from avmodel.evaluate.sides import ClipSide, shown
from avmodel.mdsa.checkpoint import Codec, open_codec
from avmodel.mdsa.lpips import LPIPS, load_lpips
from avmodel.mdsa.options import LPIPSConfig
from avmodel.metrics.lpips import lpips
from avmodel.metrics.ssim import ssim
from avmodel.training.errors import CheckpointError
from avmodel.training.options import Device
from avprep.dsp.griffin_lim import invert
from avprep.dsp.mel import mel_stack, pad_with_silence
from avprep.dsp.psnr import psnr_a, psnr_v

PAIRS = "pairs/"
GENERATED, REFERENCE = "generated:", "reference:"  # before the names of the rows of each


class PairMetric(NamedTuple):
    name: str
    better: str
    note: str


# By the rows' names.
PAIR_METRICS = {
    "psnr_v": PairMetric("PSNR-V", "higher", "dB"),
    "ssim": PairMetric("SSIM", "higher", ""),
    "lpips": PairMetric("LPIPS-squeezenet", "lower", ""),
    "psnr_a": PairMetric("PSNR-A", "higher", "dB, of the mel stack"),
    "psnr_heard": PairMetric("mel PSNR, heard", "higher", "dB, of the mel stack after Griffin-Lim"),
}


@dataclass(frozen=True, kw_only=True)
class ReconstructionRequest:
    """Opens the clips and the MDSA."""

    clips: Path
    mdsa: Path
    looks: Looks
    lpips: LpipsFiles | None
    device: Device

    def open(self) -> ReconstructionObserver:
        """
        Raises:
            CheckpointError: no checkpoint, or one trained on clips of another spec.
            ShardError: no clips.
        """
        codec = open_codec(self.mdsa, device=self.device, batch_size=CHUNK, compile=False)
        side = ClipSide(self.clips)
        if side.spec != codec.header.spec:
            differences = side.spec.differences(codec.header.spec)
            raise CheckpointError(
                f"mdsa = {self.mdsa}: it was trained on other clips: those of {self.clips} have {differences}"
            )
        net = None
        if self.lpips is not None:
            config = LPIPSConfig(
                backbone="squeezenet1_1",
                backbone_weights=self.lpips.backbone,
                heads=self.lpips.heads,
            )
            net = load_lpips(config).eval()
        return ReconstructionObserver(side, codec, self.looks.open(), net)


class ReconstructionObserver:
    """Rows of the clips (`REFERENCE`), of their reconstructions (`GENERATED`), and of the pairs."""

    def __init__(self, side: ClipSide, codec: Codec, look: Look, net: LPIPS | None) -> None:
        self._side, self._codec, self._look, self._net = side, codec, look, net
        self._streams = {plane[0] for plane in codec.header.planes}

    def __call__(self, positions: np.ndarray) -> Rows:
        items = [self._side.data[int(position)] for position in positions]
        frames, mel = (
            torch.from_numpy(np.stack([item[name] for item in items])) for name in ("frames", "mel")
        )
        decoded, decoded_mel = self._codec.decode(self._codec.encode(frames, mel).mean)
        heard = invert(decoded_mel, self._side.spec).waveform
        rows = {f"{PAIRS}{name}": values for name, values in self._pairs(frames, decoded).items()}
        rows |= {
            f"{PAIRS}{name}": values for name, values in self._sound_pairs(mel, decoded_mel, heard).items()
        }
        originals = [shown(item, item["frames"], item["waveform"]) for item in items]
        made = [shown(*parts) for parts in zip(items, decoded.numpy(), heard.numpy(), strict=True)]
        for prefix, clips in ((REFERENCE, originals), (GENERATED, made)):
            looked = stacked([self._look(shown, self._side) for shown in clips])
            rows |= {f"{prefix}{name}": values for name, values in looked.items()}
        return rows

    def _pairs(self, frames: torch.Tensor, decoded: torch.Tensor) -> Rows:
        if "v" not in self._streams:
            return {}
        rows = {"psnr_v": psnr_v(frames, decoded).numpy()}
        if find_spec("torchmetrics") is not None:
            rows["ssim"] = ssim(frames, decoded).numpy()
        if self._net is not None:
            rows["lpips"] = lpips(self._net, frames, decoded).numpy()
        return rows

    def _sound_pairs(self, mel: torch.Tensor, decoded: torch.Tensor, heard: torch.Tensor) -> Rows:
        if "a" not in self._streams:
            return {}
        again = mel_stack(pad_with_silence(heard, self._side.spec), self._side.spec)
        return {"psnr_a": psnr_a(mel, decoded).numpy(), "psnr_heard": psnr_a(mel, again).numpy()}
