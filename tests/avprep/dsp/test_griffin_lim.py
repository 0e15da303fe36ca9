from __future__ import annotations

import numpy as np
import pytest
import torch

from avprep.dsp.griffin_lim import _solver, invert
from avprep.dsp.mel import (
    context_samples,
    magnitude_of,
    mel_stack,
    pad_with_silence,
    stack_to_columns,
    stft,
    unit_to_amplitude,
)
from avprep.dsp.psnr import psnr_a
from avprep.media.decode import RawClip, read_clips
from avprep.media.limits import Deadline
from avprep.media.source import open_source
from avprep.spec import ClipSpec
from tests.conftest import shared_file

SPEC = ClipSpec(frames=8)


def chirps(count: int, spec: ClipSpec = SPEC) -> torch.Tensor:
    """(count, context_samples): sweeps over noise."""
    rng = np.random.default_rng(0)
    t = np.arange(context_samples(spec)) / spec.sample_rate
    sweeps = [np.sin(2 * np.pi * (200 * (i + 1) + 900 * t) * t) for i in range(count)]
    noise = rng.normal(0, 0.05, (count, len(t)))
    return torch.from_numpy(0.3 * np.stack(sweeps) + noise).float()


def test_the_round_trip_comes_near_and_more_iterations_nearer():
    stack = mel_stack(chirps(3), SPEC)
    none, few, many = (invert(stack, SPEC, iterations=n) for n in (0, 8, 64))
    assert many.waveform.shape == (3, SPEC.samples)
    assert none.psnr_a.min() > 29  # from random phases 20
    assert few.psnr_a.min() > 42
    assert (many.psnr_a > few.psnr_a + 2).all()


def test_real_sound_comes_as_near_as_the_readme_says():
    files = ("friday_speech.mp4", "man_60fps.mp4", "chaplin.mp4", "crystal.mp4", "dog_bed.mp4", "frog.mp4")
    stacks = []
    for name in files:
        with open_source(shared_file("media", name)) as source:
            (clip,) = read_clips(source, [25600], spec=ClipSpec(), crop="center", deadline=Deadline(None))
            assert isinstance(clip, RawClip)
            stacks.append(mel_stack(torch.from_numpy(clip.sound.waveform), ClipSpec()))
    stack = torch.stack(stacks)
    assert invert(stack, ClipSpec(), iterations=16).psnr_a.mean() > 43.5
    assert invert(stack, ClipSpec()).psnr_a.mean() > 45


@pytest.mark.parametrize(
    "spec",
    [
        ClipSpec(frames=3, hop=320, n_fft=4096),  # an odd number of columns per frame
        ClipSpec(frames=2, hop=1600, n_fft=2048),  # one
        ClipSpec(frames=1, hop=1600, n_fft=2048),  # one in all
        ClipSpec(frames=4, n_fft=801, n_mels=64),  # no middle sample
        ClipSpec(frames=4, hop=50, n_fft=400, n_mels=64),
    ],
    ids=str,
)
def test_other_specs(spec):
    inverted = invert(mel_stack(chirps(2, spec), spec), spec, iterations=32)
    assert inverted.waveform.shape == (2, spec.samples)
    assert inverted.psnr_a.min() > 38


def test_the_reported_psnr_is_that_of_the_sound_itself():
    """Away from the clip's edges, where its neighbours are unknown to a listener, the wav has that mel."""
    stack = mel_stack(chirps(1), SPEC)
    inverted = invert(stack, SPEC, iterations=32)
    again = mel_stack(pad_with_silence(inverted.waveform, SPEC), SPEC)
    inner = slice(1, SPEC.frames - 1)
    assert psnr_a(stack[:, inner], again[:, inner]).item() == pytest.approx(inverted.psnr_a.item(), abs=1.5)


@pytest.mark.parametrize("spec", [SPEC, ClipSpec(frames=7, n_mels=63, hop=160)], ids=str)
def test_a_clip_alone_gives_the_bytes_that_it_gives_in_a_batch(spec):
    stack = mel_stack(chirps(5, spec), spec).half()
    stack[1] = -1  # silence beside it
    together = invert(stack, spec, iterations=16)
    for i in range(len(stack)):
        alone = invert(stack[i : i + 1].clone(), spec, iterations=16)
        assert torch.equal(together.waveform[i : i + 1], alone.waveform)
        assert torch.equal(together.psnr_a[i : i + 1], alone.psnr_a)


def test_the_first_phases_of_a_gpus_batch_are_those_of_its_clips():
    """Several threads integrate a batch's."""
    solver = _solver(SPEC, torch.device("cpu"))
    magnitude = magnitude_of(stft(chirps(5), SPEC)).mT.contiguous()
    together = solver.first_phases(magnitude, seed=3)
    assert together.shape == magnitude.shape and together.dtype == torch.float32
    for i in range(len(magnitude)):
        assert torch.equal(together[i : i + 1], solver.first_phases(magnitude[i : i + 1], seed=3))


def test_clips_solved_together_come_as_near_as_alone():
    """As a GPU does it: one batch through all iterations."""
    stack = mel_stack(chirps(3), SPEC)
    target = stack_to_columns(unit_to_amplitude(stack)).mT.contiguous()
    together = _solver(SPEC, torch.device("cpu")).run(target, iterations=16, momentum=0.99, seed=0)
    alone = invert(stack, SPEC, iterations=16).psnr_a
    assert torch.allclose(psnr_a(stack, mel_stack(together, SPEC)), alone, atol=0.3)


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
