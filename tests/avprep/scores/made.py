"""Clips with known scores, made from arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from avprep.dsp.mel import mel_stack, pad_with_silence
from avprep.scores.base import OpenScore, Score, Value, WeightPaths
from avprep.scores.clip import ScoredClip
from avprep.spec import ClipSpec

SPEC = ClipSpec()


def clip_of(
    *,
    frames: np.ndarray | None = None,
    waveform: np.ndarray | None = None,
    header: dict[str, Any] | None = None,
) -> ScoredClip:
    """A clip of the default spec; what is left out is grey, silent and says nothing."""
    if frames is None:
        frames = np.full(SPEC.frames_shape, 128, np.uint8)
    if waveform is None:
        waveform = np.zeros(SPEC.samples)
    sound = torch.from_numpy(waveform.astype(np.float32))
    mel = mel_stack(pad_with_silence(sound, SPEC), SPEC).numpy().astype(np.float16)
    return ScoredClip(SPEC, {"frames": frames, "waveform": sound.numpy(), "mel": mel, "json": header or {}})


def values_of(score: Score, clip: ScoredClip, yamnet: Path | None = None) -> dict[str, Value]:
    """What a score gives, checked against its columns."""
    return OpenScore(score=score, measure=score.open(WeightPaths(yamnet=yamnet)))(clip)


def tone(hertz: float, amplitude: float) -> np.ndarray:
    """float64 (samples,): a sine."""
    return amplitude * np.sin(2 * np.pi * hertz * np.arange(SPEC.samples) / SPEC.sample_rate)


def noise(amplitude: float, seed: int = 0) -> np.ndarray:
    """float64 (samples,): white, uniform in +-amplitude."""
    return np.random.default_rng(seed).uniform(-amplitude, amplitude, SPEC.samples)


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 (height, width): smooth random spots of about ten pixels, over the full range of luma."""
    rng = np.random.default_rng(seed)
    spectrum = np.fft.rfft2(rng.standard_normal((height, width)))
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    smooth = np.fft.irfft2(spectrum * np.exp(-(rows**2 + columns**2) * 200), (height, width))
    return (128 + 50 * smooth / smooth.std()).clip(0, 255).astype(np.uint8)


def colour(grey: np.ndarray) -> np.ndarray:
    """uint8 (..., RGB) of a grey picture or several."""
    return np.repeat(grey[..., None], 3, axis=-1)
