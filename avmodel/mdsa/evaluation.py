"""How well an MDSA reconstructs clips, during training: PSNR, saturation and a picture."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from avmodel.data import ClipBatch, ClipData, collate, to_model, to_pixels
from avmodel.mdsa.model import MDSA, Clips, Posterior
from avmodel.pictures import comparison
from avmodel.training.machine import DistributedContext
from avprep.dsp.mel import frames_to_stack
from avprep.dsp.psnr import psnr_a, psnr_v


@dataclass(frozen=True)
class Evaluation:
    """Means over clips."""

    psnr: dict[str, float]  # dB, by stream: 'v' of the frames, 'a' of the mel stack
    saturated: dict[str, float]  # by plane: the share of a latent's values that tanh has at the edge
    picture: Tensor  # uint8 (H, W, RGB): the first clips over their reconstructions


@torch.no_grad()
def evaluate(
    model: MDSA, data: ClipData, context: DistributedContext, *, clips: int, batch_size: int
) -> Evaluation:
    """Reconstructs up to `clips` clips, spread over `data`. The model is left in training mode."""
    count = min(clips, len(data))
    chosen = [int(i * len(data) / count) for i in range(count)]
    batches = [chosen[first : first + batch_size] for first in range(0, count, batch_size)]
    psnr: dict[str, list[Tensor]] = {stream: [] for stream in model.config.channels}
    saturated: list[Tensor] = []
    picture: Tensor | None = None
    model.eval()
    for positions in batches:
        batch = collate([data[i] for i in positions])
        originals, x_hat, posterior = _reconstruct(model, batch, context)
        saturated.append(posterior.saturated().cpu())
        if "v" in psnr:
            psnr["v"].append(psnr_v(batch.frames, to_pixels(x_hat["v"])))
        if "a" in psnr:
            psnr["a"].append(psnr_a(batch.mel, frames_to_stack(x_hat["a"][:, 0], data.spec)))
        picture = comparison(originals, x_hat) if picture is None else picture
    model.train()
    assert picture is not None  # there is at least one batch
    shares = torch.cat(saturated).mean(0).tolist()
    return Evaluation(
        psnr={stream: float(torch.cat(values).mean()) for stream, values in psnr.items()},
        saturated=dict(zip(model.layout.planes, shares, strict=True)),
        picture=picture,
    )


def _reconstruct(
    model: MDSA, batch: ClipBatch, context: DistributedContext
) -> tuple[Clips, Clips, Posterior]:
    """The clips and their reconstructions, float32 on the CPU, and the posterior on the device."""
    clips = {s: x for s, x in to_model(batch, model.config.size).items() if s in model.config.streams}
    # Eager: compiled layers would be compiled again, without gradients and for the last batch's size.
    with context.autocast(), torch.compiler.set_stance("force_eager"):
        x_hat, posterior = model({s: x.to(context.device) for s, x in clips.items()}, sample=False)
    return clips, {stream: value.float().cpu() for stream, value in x_hat.items()}, posterior
