"""Mel stack -> waveform: inverse mel and fast Griffin-Lim, batched, on the CPU or a GPU.

Works on the clip with its context, as the stack was made, so that the columns at a clip's edges are as
consistent as those inside it; the clip's own samples are then cut out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from avprep.media.mel import (
    context_samples,
    hann,
    mel_amplitude,
    mel_filters,
    mel_psnr,
    mel_stack,
    stack_to_columns,
    stft,
    unit_to_amplitude,
)
from avprep.spec import ClipSpec

ITERATIONS = 64       # the table in the README says what fewer cost and more gain
MOMENTUM = 0.99       # Perraudin, Balazs, Sondergaard 2013: 'fast' Griffin-Lim
_START_STEPS = 30     # multiplicative updates for the first magnitudes
_UPDATES = 3          # multiplicative updates an iteration: overlapping bands need more than one
_SETTLING = 8         # last iterations, without momentum
_MAX_SCALE = 1e4
_TINY = 1e-10


@dataclass(frozen=True)
class Inverted:
    """Waveforms and how well their mel stacks match the given ones."""

    waveform: Tensor   # float32 (B, samples)
    mel_psnr: Tensor   # dB (B,), of the [-1, 1] stack, peak 2


def invert(
    stack: Tensor, spec: ClipSpec, *, iterations: int = ITERATIONS, momentum: float = MOMENTUM, seed: int = 0
) -> Inverted:
    """Waveforms whose mel stacks are near the given ones.

    Every iteration scales the magnitudes so that their mel equals the given one (multiplicative updates of
    the mel equation, Lee and Seung 2001) and keeps the phase of the consistent spectrogram.

    Args:
        stack: (B, frames, n_mels, W) in [-1, 1]. -1 stands for 'at most -80 dB' and is taken as silence.

    Returns the same samples for a clip alone or in a batch: phases are drawn from `seed` for each clip.
    """
    stack = stack.float()
    target = torch.where(stack > -1, unit_to_amplitude(stack), torch.zeros((), device=stack.device))
    target = stack_to_columns(target)
    magnitude = _start_magnitude(target, spec)
    waveform = _griffin_lim(magnitude, target, spec, iterations=iterations, momentum=momentum, seed=seed)
    remade = mel_stack(waveform, spec)
    clip = waveform[:, spec.samples_before : spec.samples_before + spec.samples]
    return Inverted(clip.clamp(-1, 1), mel_psnr(stack, remade))


def _start_magnitude(target: Tensor, spec: ClipSpec) -> Tensor:
    """Non-negative magnitudes (B, bins, columns) whose mel is near the target: least squares, then kept
    positive by multiplicative updates."""
    filters = mel_filters(spec.sample_rate, spec.n_fft, spec.n_mels, target.device)
    magnitude = (torch.linalg.pinv(filters) @ target).clamp_min(1e-6 * target.amax((-1, -2), keepdim=True))
    for _ in range(_START_STEPS):
        magnitude = magnitude * (filters.T @ target) / (filters.T @ (filters @ magnitude) + _TINY)
    return magnitude


def _griffin_lim(
    magnitude: Tensor, target: Tensor, spec: ClipSpec, *, iterations: int, momentum: float, seed: int
) -> Tensor:
    """(B, context_samples)"""
    filters = mel_filters(spec.sample_rate, spec.n_fft, spec.n_mels, target.device)
    share = filters / filters.sum(0, keepdim=True).clamp_min(_TINY)  # how bins ask their bands for a scale
    covered = (filters.sum(0) > 0)[:, None]
    overlap = _Overlap(spec, target.device)
    spectrum = magnitude * _random_phase(magnitude, seed)
    before = torch.zeros_like(spectrum)
    for iteration in range(iterations):
        rebuilt = stft(overlap.add(spectrum), spec)
        pushed = momentum if iteration < iterations - _SETTLING else 0.0
        spectrum = rebuilt + pushed * (rebuilt - before)
        before = rebuilt
        size = spectrum.abs()
        wanted = size
        for _ in range(_UPDATES):
            scale = share.T @ (target / mel_amplitude(wanted, spec).clamp_min(_TINY)).clamp_max(_MAX_SCALE)
            wanted = torch.where(covered, wanted * scale, wanted)
        spectrum = spectrum * (wanted / size.clamp_min(_TINY))
    return overlap.add(spectrum)


def _random_phase(magnitude: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    angle = torch.rand(magnitude.shape[1:], generator=generator) * (2 * torch.pi)
    return torch.polar(torch.ones_like(angle), angle).to(magnitude.device)


class _Overlap:
    """Weighted overlap-add of columns into the clip with its context: least squares (Griffin, Lim 1984)."""

    def __init__(self, spec: ClipSpec, device: torch.device) -> None:
        self.spec = spec
        self.window = hann(spec.n_fft, device)
        columns = spec.frames * spec.columns
        squares = self.window.square()[None, :, None].expand(1, spec.n_fft, columns)
        self.norm = self._fold(squares).clamp_min(1e-3)

    def add(self, spectrum: Tensor) -> Tensor:
        """complex (B, bins, columns) -> (B, context_samples)"""
        pieces = torch.fft.irfft(spectrum, n=self.spec.n_fft, dim=1) * self.window[:, None]
        return self._fold(pieces) / self.norm

    def _fold(self, pieces: Tensor) -> Tensor:
        """(B, n_fft, columns) -> (B, context_samples)"""
        length = (pieces.shape[-1] - 1) * self.spec.hop + self.spec.n_fft
        folded = torch.nn.functional.fold(
            pieces, (1, length), kernel_size=(1, self.spec.n_fft), stride=(1, self.spec.hop)
        )[:, 0, 0]
        missing = context_samples(self.spec) - length
        return torch.nn.functional.pad(folded, (0, missing)) if missing > 0 else folded
