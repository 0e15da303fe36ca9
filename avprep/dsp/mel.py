"""Waveform -> mel stack: the 'video-like' audio, one (n_mels, W) spectrogram for each frame.

Magnitude STFT (periodic Hann), Slaney mel bands, decibels mapped to [-1, 1] (docs/model.md 1). The STFT
runs over the whole clip with its true neighbouring samples and is then sliced: no seams between frames.

    context   |-- samples_before --|---------- samples ----------|-- samples_after --|
    column k                       ^ centred on clip sample k * hop
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torchaudio
from torch import Tensor
from torch.nn import functional as F

from avprep.spec import AMPLITUDE_FLOOR, MIN_DB, RANGE_DB, ClipSpec


def context_samples(spec: ClipSpec) -> int:
    """Samples of a clip with the neighbours that its first and last columns' windows reach."""
    return spec.samples_before + spec.samples + spec.samples_after


def pad_with_silence(waveform: Tensor, spec: ClipSpec) -> Tensor:
    """(..., samples) -> (..., context_samples): for a clip whose neighbours are not known."""
    return F.pad(waveform, (spec.samples_before, spec.samples_after))


def mel_stack(waveform: Tensor, spec: ClipSpec) -> Tensor:
    """The mel stack of a clip.

    Args:
        waveform: float (..., context_samples), the clip between its true neighbours.

    Returns:
        float32 (..., frames, n_mels, W) in [-1, 1].
    """
    if waveform.shape[-1] != context_samples(spec):
        found = waveform.shape[-1]
        raise ValueError(f"a clip with its context is {context_samples(spec)} samples, not {found}")
    return columns_to_stack(amplitude_to_unit(mel_amplitude(magnitude_of(stft(waveform, spec)), spec)), spec)


def stft(waveform: Tensor, spec: ClipSpec) -> Tensor:
    """complex (..., n_fft/2+1, frames*W): column k is centred on clip sample k*hop; nothing is padded."""
    flat = waveform.reshape(-1, waveform.shape[-1])
    spectrum = torch.stft(
        flat,
        spec.n_fft,
        hop_length=spec.hop,
        window=hann(spec.n_fft, flat.device),
        center=False,
        return_complex=True,
    )
    return spectrum[..., : spec.frames * spec.columns].reshape(*waveform.shape[:-1], *spectrum.shape[-2:])


def magnitude_of(spectrum: Tensor) -> Tensor:
    """complex -> its absolute values, float32, in a third of `abs`'s time: what it guards against (squares
    beyond float32) no sound comes near."""
    squares = torch.view_as_real(spectrum).square()
    return (squares[..., 0] + squares[..., 1]).sqrt_()


def mel_amplitude(magnitude: Tensor, spec: ClipSpec) -> Tensor:
    """(..., n_fft/2+1, columns) -> (..., n_mels, columns)."""
    return mel_filters(spec.sample_rate, spec.n_fft, spec.n_mels, magnitude.device) @ magnitude


@lru_cache(maxsize=8)
def mel_filters(sample_rate: int, n_fft: int, n_mels: int, device: torch.device) -> Tensor:
    """Slaney scale and norm, 0 Hz to Nyquist: float32 (n_mels, n_fft/2+1)."""
    filters = torchaudio.functional.melscale_fbanks(
        n_fft // 2 + 1, 0.0, sample_rate / 2, n_mels, sample_rate, norm="slaney", mel_scale="slaney"
    )
    return filters.T.contiguous().to(device)


@lru_cache(maxsize=8)
def hann(n_fft: int, device: torch.device) -> Tensor:
    return torch.hann_window(n_fft, device=device)


def amplitude_to_unit(amplitude: Tensor) -> Tensor:
    """`2*clip((20*log10(max(m, 1e-5)) + 80)/100, 0, 1) - 1`"""
    decibels = 20 * torch.log10(amplitude.clamp_min(AMPLITUDE_FLOOR))
    return 2 * ((decibels - MIN_DB) / RANGE_DB).clamp(0, 1) - 1


def unit_to_amplitude(unit: Tensor) -> Tensor:
    """The inverse of `amplitude_to_unit` inside its range; -1 gives the -80 dB it stands at the most for."""
    return 10 ** (((unit + 1) / 2 * RANGE_DB + MIN_DB) / 20)


def columns_to_stack(columns: Tensor, spec: ClipSpec) -> Tensor:
    """(..., n_mels, frames*W) -> (..., frames, n_mels, W)"""
    return columns.unflatten(-1, (spec.frames, spec.columns)).movedim(-2, -3)


def stack_to_columns(stack: Tensor) -> Tensor:
    """(..., frames, n_mels, W) -> (..., n_mels, frames*W)"""
    return stack.movedim(-3, -2).flatten(-2)


def stack_to_frames(stack: Tensor, size: int) -> Tensor:
    """(..., frames, n_mels, W) -> (..., frames, size, size), by exact replication: the model's view."""
    down, across = _replication(stack.shape[-2], stack.shape[-1], size)
    return stack.repeat_interleave(down, -2).repeat_interleave(across, -1)


def frames_to_stack(frames: Tensor, spec: ClipSpec) -> Tensor:
    """(..., frames, size, size) -> (..., frames, n_mels, W), by block mean: undoes `stack_to_frames`,
    to the bit for the float16 values that are stored."""
    down, across = _replication(spec.n_mels, spec.columns, frames.shape[-1])
    return frames.unflatten(-1, (spec.columns, across)).unflatten(-3, (spec.n_mels, down)).mean((-1, -3))


def _replication(n_mels: int, columns: int, size: int) -> tuple[int, int]:
    if size % n_mels or size % columns:
        raise ValueError(f"size {size} is no multiple of the stack's {n_mels} bands and {columns} columns")
    return size // n_mels, size // columns
