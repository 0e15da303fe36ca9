from __future__ import annotations

import numpy as np
import pytest
import torch

from avprep.media.griffin_lim import invert
from avprep.media.mel import context_samples, mel_psnr, mel_stack, pad_with_silence
from avprep.spec import ClipSpec

SPEC = ClipSpec(frames=8)


def chirps(count: int) -> torch.Tensor:
    """(count, context_samples): sweeps over noise."""
    rng = np.random.default_rng(0)
    t = np.arange(context_samples(SPEC)) / SPEC.sample_rate
    sweeps = [np.sin(2 * np.pi * (200 * (i + 1) + 900 * t) * t) for i in range(count)]
    noise = rng.normal(0, 0.05, (count, len(t)))
    return torch.from_numpy(0.3 * np.stack(sweeps) + noise).float()


def test_the_round_trip_comes_near_and_more_iterations_nearer():
    stack = mel_stack(chirps(3), SPEC)
    few, many = invert(stack, SPEC, iterations=8), invert(stack, SPEC, iterations=64)
    assert many.waveform.shape == (3, SPEC.samples)
    assert many.mel_psnr.min() > 38
    assert (many.mel_psnr > few.mel_psnr + 3).all()


def test_the_reported_psnr_is_that_of_the_sound_itself():
    """Away from the clip's edges, where its neighbours are unknown to a listener, the wav has that mel."""
    stack = mel_stack(chirps(1), SPEC)
    inverted = invert(stack, SPEC, iterations=32)
    again = mel_stack(pad_with_silence(inverted.waveform, SPEC), SPEC)
    inner = slice(1, SPEC.frames - 1)
    assert mel_psnr(stack[:, inner], again[:, inner]).item() == pytest.approx(
        inverted.mel_psnr.item(), abs=1.5
    )


def test_a_clip_alone_sounds_as_in_a_batch():
    stack = mel_stack(chirps(3), SPEC)
    together = invert(stack, SPEC, iterations=16).waveform
    alone = invert(stack[1:2], SPEC, iterations=16).waveform
    assert torch.allclose(together[1:2], alone, atol=1e-3)


def test_silence_stays_silent_and_full_scale_stays_finite():
    for level in (-1.0, 1.0):
        inverted = invert(torch.full((1, *SPEC.mel_shape), level), SPEC, iterations=8)
        assert torch.isfinite(inverted.waveform).all()
        if level == -1.0:
            assert not inverted.waveform.any()


def test_the_same_seed_gives_the_same_samples():
    stack = mel_stack(chirps(1), SPEC)
    a, b, c = (invert(stack, SPEC, iterations=4, seed=seed).waveform for seed in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)
