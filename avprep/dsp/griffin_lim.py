"""Mel stack -> waveform: inverse mel, phases from its gradient, fast Griffin-Lim; on the CPU or a GPU.

Works on the clip with its context, as the stack was made, so that the columns at a clip's edges are as
consistent as those inside it; the clip's own samples are then cut out.

Spectra are (B, columns, bins) here: the bins lie together, as the FFT and the banded products want them.
"""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from avprep.dsp.defaults import ITERATIONS, MOMENTUM
from avprep.dsp.mel import (
    context_samples,
    hann,
    magnitude_of,
    mel_filters,
    mel_stack,
    stack_to_columns,
    stft,
    unit_to_amplitude,
)
from avprep.dsp.phase_gradient import compiled_spread, integrate_phase
from avprep.dsp.psnr import psnr_a
from avprep.spec import ClipSpec

_SETTLING = 2  # last iterations, without momentum
_COARSE = 2 / 3  # of the iterations, the first ones, see every second column: as good, twice as fast
_LEAST_OVERLAP = 5  # of the columns that are left: with 4 as much is lost as is saved
_MAX_SCALE = 1e4
_TINY = 1e-10
_BLOCKS = 8  # of a banded matrix: more do less arithmetic in more calls


@dataclass(frozen=True)
class Inverted:
    """Waveforms and how well their mel stacks match the given ones.

    `psnr_a` is of the solution with its context, which the clip's own samples are cut out of: the columns
    at the clip's edges see samples there that `waveform` does not have.
    """

    waveform: Tensor  # float32 (B, samples)
    psnr_a: Tensor  # dB (B,), of the [-1, 1] stack, peak 2


@torch.no_grad()
def invert(
    stack: Tensor, spec: ClipSpec, *, iterations: int = ITERATIONS, momentum: float = MOMENTUM, seed: int = 0
) -> Inverted:
    """Waveforms whose mel stacks are near the given ones.

    Every iteration scales the magnitudes towards the given mel (one multiplicative update of the mel
    equation, Lee and Seung 2001) and keeps the phase of the consistent spectrogram.

    Args:
        stack: (B, frames, n_mels, W) in [-1, 1]. -1 stands for 'at most -80 dB' and is taken as silence.
        seed: of the phases that the magnitudes say nothing about: each connected region's first one, and
            those of bins too quiet to be integrated.

    Returns, on a CPU, the same samples for a clip alone or in a batch.
    """
    solver = _solver(spec, stack.device)
    # A CPU works clip by clip: one clip's spectra fit its cache, a batch's do not.
    parts = stack.split(1 if stack.device.type == "cpu" else len(stack))
    inverted = [_invert_part(part.float(), solver, iterations, momentum, seed) for part in parts]
    return Inverted(torch.cat([i.waveform for i in inverted]), torch.cat([i.psnr_a for i in inverted]))


def _invert_part(stack: Tensor, solver: _Solver, iterations: int, momentum: float, seed: int) -> Inverted:
    spec = solver.spec
    target = torch.where(stack > -1, unit_to_amplitude(stack), torch.zeros((), device=stack.device))
    waveform = solver.run(stack_to_columns(target).mT.contiguous(), iterations, momentum, seed)
    clip = waveform[:, spec.samples_before : spec.samples_before + spec.samples]
    return Inverted(clip.clamp(-1, 1), psnr_a(stack, mel_stack(waveform, spec)))


class _Solver:
    """All of the inversion for one spec on one device: first magnitudes, first phases, then iterations."""

    def __init__(self, spec: ClipSpec, device: torch.device) -> None:
        self.spec = spec
        filters = mel_filters(spec.sample_rate, spec.n_fft, spec.n_mels, device)  # (n_mels, bins)
        self.least_squares = torch.linalg.pinv(filters).T.contiguous()
        self.fine = _GriffinLim(spec, device)
        self.coarse: _GriffinLim | None = None
        if spec.columns % 2 == 0 and _LEAST_OVERLAP * 2 * spec.hop <= spec.n_fft:
            self.coarse = _GriffinLim(dataclasses.replace(spec, hop=2 * spec.hop), device)

    def run(self, target: Tensor, iterations: int, momentum: float, seed: int) -> Tensor:
        """Mel amplitudes (B, columns, n_mels) -> (B, context_samples)"""
        floor = 1e-6 * target.amax((-1, -2), keepdim=True)  # an update cannot move a magnitude of 0
        magnitude = (target @ self.least_squares).clamp_min(floor)
        spectrum = torch.polar(magnitude, self.first_phases(magnitude, seed))
        coarse = 0 if self.coarse is None else int(iterations * _COARSE)
        if self.coarse is not None and coarse:
            every_second = spectrum[:, ::2].contiguous(), target[:, ::2].contiguous()
            waveform = self.coarse.iterate(*every_second, coarse, momentum, settling=0)
            spectrum = self.fine.spectrum_of(waveform, target)
        return self.fine.iterate(spectrum, target, iterations - coarse, momentum, settling=_SETTLING)

    def first_phases(self, magnitude: Tensor, seed: int) -> Tensor:
        """Radians, float32 as magnitude: by the CPU, several clips of a GPU's batch at once."""
        start = _random_angles(magnitude.shape[1:], seed)
        compiled_spread()  # by one thread, before several ask for it

        def one(clip: np.ndarray) -> np.ndarray:
            return integrate_phase(clip, n_fft=self.spec.n_fft, hop=self.spec.hop, start=start)

        clips = magnitude.cpu().numpy()
        if len(clips) == 1:
            phases = [one(clips[0])]
        else:
            with ThreadPoolExecutor() as pool:
                phases = list(pool.map(one, clips))
        return torch.from_numpy(np.stack(phases)).to(magnitude.device)


class _GriffinLim:
    """The iterations for one spec on one device, with the tables that they need."""

    def __init__(self, spec: ClipSpec, device: torch.device) -> None:
        self.spec = spec
        filters = mel_filters(spec.sample_rate, spec.n_fft, spec.n_mels, device)
        covered = filters.sum(0)
        self.to_mel = _Banded(filters.T)
        self.to_bins = _Banded(filters / covered.clamp_min(_TINY))  # bins ask their bands for a scale
        self.uncovered = (covered == 0).nonzero()[:, 0]  # bins that no band asks about
        self.window = hann(spec.n_fft, device)
        self.columns = spec.frames * spec.columns
        windows = self.window.expand(1, self.columns, spec.n_fft)
        self.share = 1 / self._fold(windows).clamp_min(1e-3)

    def iterate(
        self, spectrum: Tensor, target: Tensor, iterations: int, momentum: float, *, settling: int
    ) -> Tensor:
        """The waveform (B, context_samples) after `iterations`, the last `settling` of them without momentum.

        Overwrites `spectrum`.
        """
        before = torch.zeros_like(spectrum)
        for iteration in range(iterations):
            rebuilt = stft(self.overlap_add(spectrum), self.spec).mT
            pushed = momentum if iteration < iterations - settling else 0.0
            # rebuilt + pushed * (rebuilt - before), as real numbers: ten times as fast as complex ones
            real, real_before = torch.view_as_real(rebuilt), torch.view_as_real(before)
            torch.lerp(real_before, real, 1 + pushed, out=torch.view_as_real(spectrum))
            before = rebuilt
            spectrum *= self._scale(spectrum, target)
        return self.overlap_add(spectrum)

    def spectrum_of(self, waveform: Tensor, target: Tensor) -> Tensor:
        """The spectrum of a waveform that may lack the last samples of its context, scaled to the target."""
        missing = context_samples(self.spec) - waveform.shape[1]
        spectrum = stft(functional.pad(waveform, (0, missing)), self.spec).mT
        return spectrum * self._scale(spectrum, target)

    def _scale(self, spectrum: Tensor, target: Tensor) -> Tensor:
        """What each bin is to be multiplied by: its bands' ratios of the target to what they hold."""
        ratio = (target / self.to_mel(magnitude_of(spectrum)).clamp_min_(_TINY)).clamp_max_(_MAX_SCALE)
        scale = self.to_bins(ratio)
        scale[..., self.uncovered] = 1
        return scale

    def overlap_add(self, spectrum: Tensor) -> Tensor:
        """(B, context_samples), whose spectrum is nearest: least squares (Griffin, Lim 1984)."""
        return self._fold(torch.fft.irfft(spectrum, n=self.spec.n_fft)) * self.share

    def _fold(self, pieces: Tensor) -> Tensor:
        """(B, columns, n_fft) -> (B, context_samples): the sum of windowed pieces, each a hop after the last.

        In hops: all columns' j-th hops are added at once, so the loop runs n_fft / hop times.
        """
        hop, total = self.spec.hop, context_samples(self.spec)
        folded = pieces.new_zeros(len(pieces), -(-total // hop), hop)
        for j, (part, window) in enumerate(zip(pieces.split(hop, -1), self.window.split(hop), strict=True)):
            folded[:, j : j + self.columns, : len(window)].addcmul_(part, window)
        return folded.flatten(1)[:, :total]


@lru_cache(maxsize=4)
def _solver(spec: ClipSpec, device: torch.device) -> _Solver:
    return _Solver(spec, device)


class _Banded:
    """x @ matrix for a matrix whose non-zeros lie along its diagonal: a few blocks of it, not the whole."""

    def __init__(self, matrix: Tensor) -> None:
        self._blocks: list[tuple[int, int, Tensor]] = []  # rows [first, stop) and the block, for each
        for columns in matrix.split(-(-matrix.shape[1] // _BLOCKS), dim=1):
            used = columns.any(1).nonzero()[:, 0].tolist() or [0]
            first, stop = used[0], used[-1] + 1
            self._blocks.append((first, stop, columns[first:stop].contiguous()))

    def __call__(self, x: Tensor) -> Tensor:
        return torch.cat([x[..., first:stop] @ block for first, stop, block in self._blocks], -1)


@lru_cache(maxsize=1)
def _random_angles(shape: torch.Size, seed: int) -> np.ndarray:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(shape, generator=generator) * (2 * torch.pi)).numpy()
