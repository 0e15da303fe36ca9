"""Classifier-free guidance: the velocity of an STDiT that reads a caption more strongly."""

from __future__ import annotations

import torch
from torch import Tensor

from avmodel.dit.flow import Velocity
from avmodel.dit.model import Captions, STDiT


def guided(model: STDiT, captions: Captions, scale: float) -> Velocity:
    """Classifier-free guidance on all channels, one batch for both: v_null + scale (v_caption - v_null).

    Scale 1 is the caption's own velocity at half the price; 0 that of the null caption.
    """
    if scale == 1:
        return lambda z, t: model(z, t, captions)
    both = Captions(*(torch.cat((x, x)) for x in captions))
    batch = len(captions.mask)
    drop = torch.arange(2 * batch, device=captions.mask.device) >= batch

    def velocity(z: Tensor, t: Tensor) -> Tensor:
        caption, null = model(torch.cat((z, z)), torch.cat((t, t)), both, drop).chunk(2)
        return null + scale * (caption - null)

    return velocity
