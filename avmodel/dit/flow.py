"""Reflected flow matching on [-1, 1] (paper section 3.3; docs/model.md 5).

    eps (t = 0) ----- z_t = (1-t) eps + t z1 ----- z1 (t = 1)        v*(z, t) = E[z1 - eps | z_t = z]

The cube is convex, so the path never leaves it and training needs no reflection; a solver's steps may, and
are folded back. A velocity is any function v(z, t) of z (B, ...) and t (B,) in [0, 1] that returns z's
shape. A `mask`, where given, broadcasts against z: False is padding, held at zero and outside the loss.

Each of S streams may have a time of its own, t (B, S). Then z is (B, C, P, ...), and its P planes are those
of the streams one after the other, equally many of each. A stream at t = 1 is given: it has no noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from avmodel.dit.options import SOLVERS, Solver, Times

SOURCE_STD = 0.5396
Velocity = Callable[[Tensor, Tensor], Tensor]


def truncated_normal_quantile(u: Tensor) -> Tensor:
    """u in [0, 1] -> N(0, 1) truncated to [-1, 1]: sqrt2 erfinv((2u - 1) erf(1/sqrt2)); std 0.5396."""
    inside = math.erf(math.sqrt(0.5))
    return (math.sqrt(2) * torch.erfinv((2 * u - 1) * inside)).clamp(-1, 1)  # clamp: float32 rounds over


def draw_source(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """The source eps, float32, std SOURCE_STD, on the generator's device."""
    return truncated_normal_quantile(torch.rand(shape, generator=generator, device=generator.device))


def draw_times(batch: int, generator: torch.Generator, times: Times = "uniform") -> Tensor:
    """t (B,) in (0, 1), float32, on the generator's device.

    Args:
        times: 'uniform' or 'logit-normal': sigmoid of N(0, 1), which draws the middle of the path more often
            than its ends (Esser et al. 2024).
    """
    if times == "logit-normal":
        return torch.randn(batch, generator=generator, device=generator.device).sigmoid()
    return torch.rand(batch, generator=generator, device=generator.device)


def draw_stream_times(
    batch: int, streams: int, generator: torch.Generator, times: Times = "uniform", *, shared: float
) -> Tensor:
    """t (B, S) in (0, 1], float32, on the generator's device: of the training with a time per stream.

    Args:
        times: as for `draw_times`.
        shared: share of samples whose streams have one time, as when all are generated. Half of the others
            have independent times (UniDiffuser, Bao et al. 2023). In the other half one stream, drawn, is
            given: its time is 1, which independent times come near to and never reach.
    """
    t = draw_times(batch * streams, generator, times).reshape(batch, streams)
    kind, given = torch.rand(2, batch, 1, generator=generator, device=generator.device)
    t = torch.where(kind < shared, t[:, :1], t)
    is_stream = torch.arange(streams, device=t.device) == (given * streams).long()
    return t.masked_fill((kind >= (1 + shared) / 2) & is_stream, 1)


def _spread(t: Tensor, z: Tensor) -> Tensor:
    """t (B,) -> (B, 1, ...), or a value per stream (B, S) -> (B, 1, P, 1, ...): to broadcast against z."""
    if t.ndim == 1:
        return t.reshape(-1, *(1,) * (z.ndim - 1))
    by_plane = t.repeat_interleave(z.shape[2] // t.shape[1], dim=1)
    return by_plane.reshape(len(t), 1, -1, *(1,) * (z.ndim - 3))


def path(eps: Tensor, z1: Tensor, t: Tensor) -> Tensor:
    """z_t for t (B,) or (B, S)."""
    t = _spread(t, z1)
    return (1 - t) * eps + t * z1


class FlowLoss(NamedTuple):
    loss: Tensor  # ()
    per_sample: Tensor  # (B,) the same, of each sample, without gradient; `loss` is their mean


def flow_loss(v: Velocity, z1: Tensor, eps: Tensor, t: Tensor, mask: Tensor) -> FlowLoss:
    """sum(mask * (v(z_t, t) - (z1 - eps))^2) / sum(mask) of each sample; z1, eps (B, ...), t (B,) or (B, S).

    With t (B, S), the streams that are given (t = 1) are outside a sample's loss, as its padding is: no noise
    is left in them to tell the velocity from.
    """
    padding = ~mask.expand_as(z1)
    z_t = path(eps, z1, t).masked_fill(padding, 0)
    if t.ndim == 1:
        left_out, count = padding, (~padding[0]).sum()
    else:
        left_out = padding | (_spread(t, z1) == 1)
        count = (~left_out).flatten(1).sum(dim=1).clamp(min=1)
    error = (v(z_t, t).float() - (z1 - eps).float()).masked_fill(left_out, 0)
    per_sample = error.square().flatten(1).sum(dim=1) / count
    return FlowLoss(per_sample.mean(), per_sample.detach())


def reflect(y: Tensor) -> Tensor:
    """R(y) = 1 - |((y + 1) mod 4) - 2|: the line folded onto [-1, 1]. Its period is two edges' length, 4."""
    return 1 - (torch.remainder(y + 1, 4) - 2).abs()


def reflection_sign(y: Tensor) -> Tensor:
    """dR/dy: 1 where y is unfolded or folded an even number of times, -1 where an odd number."""
    return 1 - 2 * (torch.remainder(y + 1, 4) / 2).floor().clamp(max=1)


@torch.no_grad()
def solve(
    v: Velocity,
    eps: Tensor,
    *,
    steps: int,
    solver: Solver = "euler",
    mask: Tensor | None = None,
    known: Tensor | None = None,
    known_mask: Tensor | None = None,
) -> Tensor:
    """z1 from eps by `steps` equal steps over [0, 1]; in [-1, 1] whatever finite v returns.

    euler evaluates v once a step, midpoint (second order) twice. Midpoint's inner point y may lie outside:
    there the velocity is s(y) v(R(y), t), and the step is reflected once, at its end. Neither evaluates v
    at t = 1. The state has eps's dtype, float32 or float64.

    `known` (z's shape) is given where `known_mask` (broadcasts against z) is True: a video whose sound is
    to be made, say. Those values are put on the path (1-t) eps + t known, with this one eps, before every
    evaluation, and the others are solved. Guaranteed: the known come out as given, exactly, and v is asked
    for no known value off the training path. Not guaranteed: that the others are distributed as they are
    given the known. At time t the model sees the known through the noise (1-t) eps, so what it settles
    early it settles on a blurred view (of two modes with an exact v, nine in ten samples take the right one).
    `solve_given` has no such blur, for a v that was trained for it.

    Raises:
        ValueError: no steps, an unknown solver, a half-precision eps, or `known` without its mask.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    if solver not in SOLVERS:
        raise ValueError(f"solver must be one of {', '.join(SOLVERS)}, not {solver!r}")
    if eps.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"the state is kept in float32 or float64, not {eps.dtype}")
    if (known is None) != (known_mask is None):
        raise ValueError("known and known_mask come together")

    def hold(z: Tensor, t: float) -> Tensor:
        if known is not None and known_mask is not None:
            z = torch.where(known_mask, (1 - t) * eps + t * known, z)
        return z if mask is None else z.masked_fill(~mask, 0)

    def velocity(z: Tensor, t: float) -> Tensor:
        return v(z, z.new_full((len(z),), t)).to(z.dtype)

    z, h = hold(eps, 0.0), 1 / steps
    for i in range(steps):
        slope = velocity(z, i / steps)
        if solver == "midpoint":
            t, y = (i + 0.5) / steps, z + h / 2 * slope
            slope = reflection_sign(y) * velocity(hold(reflect(y), t), t)
        z = hold(reflect(z + h * slope), (i + 1) / steps)
    return z


def solve_given(
    v: Velocity,
    eps: Tensor,
    known: Tensor,
    streams: Tensor,
    *,
    steps: int,
    solver: Solver = "euler",
    mask: Tensor | None = None,
) -> Tensor:
    """z1 (B, C, P, ...) from eps, given some of its streams, for a v that takes t (B, S).

    v sees the given streams without noise, at t = 1, from the first step on; the others are solved. They are
    distributed as they are given the known, as far as v has learned samples with a stream at t = 1
    (`draw_stream_times`). The known come out as given, exactly.

    Args:
        known: z's shape; the values of streams that are not given are not looked at.
        streams: bool (S,): True for a given stream.
        steps, solver, mask: as for `solve`.
    """
    is_known = _spread(streams[None], eps)

    def beside_known(z: Tensor, t: Tensor) -> Tensor:
        return v(z, torch.where(streams, 1.0, t[:, None]))

    # From the known to the known: its path is one point, so that `solve` holds it there.
    start = torch.where(is_known, known, eps)
    return solve(beside_known, start, steps=steps, solver=solver, mask=mask, known=known, known_mask=is_known)
