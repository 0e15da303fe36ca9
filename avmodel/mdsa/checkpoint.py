"""A trained MDSA as a codec between stored clips and latents, and its checkpoint `mdsa.pt`.

    frames uint8 (B,T,H,W,RGB)  |                          |  frames uint8
    mel float16 (B,T,n_mels,W)  |-- encode --> latent -- decode -->  mel float32
                                    (B,C,P,rows,columns)

`avprep encode` and `avprep decode` know only these two methods and its header.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from avmodel.config import ConfigError, MDSAConfig
from avmodel.data import ClipBatch, to_model, to_pixels
from avmodel.mdsa.model import MDSA
from avmodel.training.checkpoints import check_weights, entry, load_checkpoint
from avmodel.training.errors import CheckpointError
from avmodel.training.machine import DistributedContext
from avprep.dsp.device import choose_device
from avprep.dsp.mel import frames_to_stack
from avprep.shards.latents import EncoderHeader
from avprep.spec import ClipSpec, SpecError

KIND = "mdsa"


class Latents(NamedTuple):
    """What a batch of clips is encoded to, float32 on the CPU; zero in the padding."""

    mean: Tensor  # (B,C,P,rows,columns): tanh(mu), in (-1,1)
    logvar: Tensor  # (B,C,P,rows,columns): of the Gaussian before tanh


def mdsa_payload(
    model: MDSA, spec: ClipSpec, step: int, *, averaged: dict[str, Tensor] | None = None
) -> dict[str, Any]:
    """What `mdsa.pt` holds.

    Args:
        averaged: weights that were averaged over the steps, to be stored in place of the model's own.
    """
    weights = {name: tensor.detach() for name, tensor in (averaged or model.state_dict()).items()}
    return {
        "kind": KIND,
        "config": model.config.to_dict(),
        "spec": spec.to_dict(),
        "step": step,
        "weights": weights,
    }


def weights_hash(weights: dict[str, Tensor]) -> str:
    """SHA-256 of the weights: their names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_codec_header(path: str | Path) -> EncoderHeader:
    """What the checkpoint's encoder makes. Raises CheckpointError."""
    return _header(load_checkpoint(path, KIND), path)[1]


def load_mdsa(path: str | Path) -> tuple[MDSA, EncoderHeader]:
    """The model of a checkpoint, on the CPU, in eval mode. Raises CheckpointError."""
    payload = load_checkpoint(path, KIND)
    config, header = _header(payload, path)
    model = MDSA(config)
    model.load_state_dict(payload["weights"])
    return model.eval(), header


def open_codec(path: str | Path, *, device: str, batch_size: int, compile: bool) -> Codec:
    """A codec on 'auto', 'cpu' or 'cuda'. `compile` applies to a GPU only.

    Raises:
        CheckpointError: no such checkpoint. TrainingError: no such device.
    """
    model, header = load_mdsa(path)
    return Codec(model, header, device=choose_device(device), batch_size=batch_size, compile=compile)


class Codec:
    """Encodes and decodes batches of up to `batch_size` clips, in bf16 on a GPU and float32 on a CPU."""

    def __init__(
        self, model: MDSA, header: EncoderHeader, *, device: torch.device, batch_size: int, compile: bool
    ) -> None:
        self.header = header
        self.batch_size = batch_size
        self._context = DistributedContext(device)
        self._model = model.to(device).eval()
        self._static = compile and self._context.on_gpu  # one shape, compiled once: batches are filled up
        self._encode, self._decode = self._model.encode, self._model.decode
        if self._static:
            self._encode = torch.compile(self._encode, dynamic=False)
            self._decode = torch.compile(self._decode, dynamic=False)

    @torch.inference_mode()
    def encode(self, frames: Tensor, mel: Tensor) -> Latents:
        """frames uint8 (B,T,H,W,RGB) and mel float16 (B,T,n_mels,W), on the CPU.

        Raises:
            torch.cuda.OutOfMemoryError: the batch is too large for the GPU.
        """
        batch = ClipBatch(*(self._on_device(part) for part in (frames, mel)))
        clips = to_model(batch, self._model.config.size)
        with self._context.autocast():
            posterior = self._encode({stream: clips[stream] for stream in self._model.config.streams})
        count = len(frames)
        return Latents(posterior.latent()[:count].cpu(), posterior.logvar[:count].cpu())

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Latents (B,C,P,rows,columns) -> frames uint8 (B,T,H,W,RGB), mel float32 (B,T,n_mels,W) in [-1,1].

        What a single-stream model does not make is black or silent.
        """
        with self._context.autocast():
            clips = self._decode(self._on_device(latents.float()))
        count, spec = len(latents), self.header.spec
        frames = torch.zeros((count, *spec.frames_shape), dtype=torch.uint8)
        mel = -torch.ones((count, *spec.mel_shape))
        if "v" in clips:
            frames = to_pixels(clips["v"][:count]).cpu()
        if "a" in clips:
            mel = frames_to_stack(clips["a"][:count, 0].float(), spec).cpu()
        return frames, mel

    def _on_device(self, part: Tensor) -> Tensor:
        """On the device, filled up with zeros to the batch size where the shape must not change."""
        if self._static and len(part) < self.batch_size:
            part = F.pad(part, (*(0,) * (2 * part.ndim - 1), self.batch_size - len(part)))
        return part.to(self._context.device, non_blocking=True)


def _header(payload: dict[str, Any], path: str | Path) -> tuple[MDSAConfig, EncoderHeader]:
    """Raises CheckpointError if the config, the spec or the weights are not of this version."""
    try:
        config = MDSAConfig.from_dict(entry(payload, "config", dict, path))
        spec = ClipSpec.from_dict(entry(payload, "spec", dict, path))
        config.check_spec(spec)
    except (ConfigError, SpecError) as error:
        raise CheckpointError(f"{path} is not of this version: {error}") from error
    weights = entry(payload, "weights", dict, path)
    with torch.device("meta"):
        check_weights(MDSA(config).state_dict(), weights, path)
    layout = config.layout
    header = EncoderHeader(
        spec=spec,
        channels=layout.channels,
        planes=layout.planes,
        rows=layout.rows,
        columns=layout.columns,
        valid_rows=layout.valid_rows,
        weights=weights_hash(weights),
        config=payload["config"],
    )
    return config, header
