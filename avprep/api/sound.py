"""Waveform to mel stack and back, for NumPy arrays and torch tensors alike."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from avprep.checks import require_number, require_spec, require_whole
from avprep.dsp import mel as dsp
from avprep.dsp.griffin_lim import ITERATIONS, MOMENTUM, invert
from avprep.errors import ArgumentError
from avprep.spec import ClipSpec

Array = TypeVar("Array", np.ndarray, Tensor)

_LARGEST = 2.0  # a model's output may lie a little beyond [-1, 1]; decibels and NaN are a mistake


def mel_stack(waveform: Array, spec: ClipSpec = ClipSpec()) -> Array:
    """The mel stack of clips: one spectrogram per video frame.

    Args:
        waveform: floating-point samples at `spec.sample_rate`, full scale 1.0. The last axis is one clip,
            `(..., spec.samples)`, with silence assumed on both sides, or one clip between its true
            neighbours, `(..., spec.samples_before + spec.samples + spec.samples_after)`. `avprep clip` takes
            the neighbours from the source; the windows of the columns at a clip's edges reach into them.
        spec: what a clip is.

    Returns:
        float32 `(..., spec.frames, spec.n_mels, spec.columns)` in [-1, 1], where -1 is -80 dB or less and +1
        is +20 dB; an array for an array, and a tensor on the same device for a tensor.

    Raises:
        ArgumentError: another shape or type, NaN or infinity.
    """
    require_spec(spec)
    samples: Tensor = _real_tensor("waveform", waveform).float()
    found, whole = samples.shape[-1] if samples.ndim else 0, dsp.context_samples(spec)
    if found == spec.samples:
        samples = dsp.pad_with_silence(samples, spec)
    elif found != whole:
        raise ArgumentError(
            f"waveform must end in {spec.samples} samples, a clip of the spec, or {whole}, "
            f"one with its neighbours; its shape is {tuple(waveform.shape)}"
        )
    if not samples.numel():
        return _like(waveform, samples.new_zeros((*samples.shape[:-1], *spec.mel_shape)))
    return _like(waveform, dsp.mel_stack(samples, spec).contiguous())


def invert_mel(
    mel: Array,
    spec: ClipSpec = ClipSpec(),
    *,
    iterations: int = ITERATIONS,
    momentum: float = MOMENTUM,
    seed: int = 0,
) -> Array:
    """Waveforms whose mel stacks are near the given ones: fast Griffin-Lim from integrated phases.

    Args:
        mel: `(..., spec.frames, spec.n_mels, spec.columns)`, real floating-point values in [-1, 1] as
            `mel_stack` gives them. -1 is taken as silence.
        spec: what the stacks were made with.
        iterations: more are nearer and take longer; 0 stops at the first phases.
        momentum: of Griffin-Lim, at least 0.
        seed: of the phases that the magnitudes do not determine.

    Returns:
        float32 `(..., spec.samples)` in [-1, 1] at `spec.sample_rate`; an array for an array, a tensor on the
        same device for a tensor. On a CPU, equal arguments give equal samples.

    Raises:
        ArgumentError: another shape or type, NaN, or values beyond [-2, 2] (decibels?).
    """
    require_spec(spec)
    require_whole("iterations", iterations, least=0)
    require_whole("seed", seed, least=0)
    require_number("momentum", momentum, above=-1e-9)
    stack: Tensor = _real_tensor("mel", mel)
    if stack.shape[-3:] != spec.mel_shape:
        raise ArgumentError(
            f"mel must end in {spec.mel_shape}, the spec's (frames, n_mels, columns); its "
            f"shape is {tuple(mel.shape)}"
        )
    if stack.numel() and stack.abs().max() > _LARGEST:
        raise ArgumentError(f"mel must lie in [-1, 1]; it holds {_farthest(stack):g}")
    flat = stack.reshape(-1, *spec.mel_shape)
    if not len(flat):
        return _like(mel, stack.new_zeros((*stack.shape[:-3], spec.samples), dtype=torch.float32))
    waveform = invert(flat, spec, iterations=iterations, momentum=momentum, seed=seed).waveform
    return _like(mel, waveform.reshape(*stack.shape[:-3], spec.samples))


def _real_tensor(name: str, array: np.ndarray | Tensor) -> Tensor:
    """Finite and floating-point, on the device that it is on. Raises ArgumentError."""
    if isinstance(array, np.ndarray):
        if array.dtype.kind != "f":
            raise ArgumentError(f"{name} must be floating-point, full scale 1.0, not {array.dtype}")
        tensor = torch.from_numpy(array.astype(np.float32, order="C"))  # a copy: it may be read-only
    elif isinstance(array, Tensor):
        if not array.is_floating_point():
            raise ArgumentError(f"{name} must be floating-point, full scale 1.0, not {array.dtype}")
        tensor = array.detach().contiguous()  # strides decide which of two roundings torch's kernels take
    else:
        raise ArgumentError(f"{name} must be a NumPy array or a torch tensor, not {type(array).__name__}")
    if not torch.isfinite(tensor).all():
        raise ArgumentError(f"{name} holds NaN or infinity")
    return tensor


def _like(given: Array, result: Tensor) -> Array:
    return result.numpy() if isinstance(given, np.ndarray) else result


def _farthest(stack: Tensor) -> float:
    return float(stack.flatten()[stack.abs().argmax()])
