from __future__ import annotations

import librosa
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avprep.dsp.mel import (
    amplitude_to_unit,
    columns_to_stack,
    context_samples,
    frames_to_stack,
    mel_filters,
    mel_stack,
    pad_with_silence,
    stack_to_columns,
    stack_to_frames,
    unit_to_amplitude,
)
from avprep.dsp.psnr import psnr_a
from avprep.spec import ClipSpec

SPEC = ClipSpec()


def test_the_filter_bank_is_librosas():
    reference = librosa.filters.mel(sr=16000, n_fft=1024, n_mels=128, fmin=0, fmax=8000)
    ours = mel_filters(16000, 1024, 128, torch.device("cpu")).numpy()
    assert np.abs(ours - reference).max() < 1e-6


def test_the_stack_is_librosas_spectrogram_of_the_whole_sound_sliced():
    """With the true neighbours a clip's columns are those of the whole recording: no seam at its edges."""
    sound = np.random.default_rng(0).normal(0, 0.1, 80000).astype(np.float32)
    whole = librosa.feature.melspectrogram(
        y=sound, sr=16000, n_fft=1024, hop_length=100, n_mels=128, power=1, window="hann", center=True
    )
    start = 25600
    clip = torch.from_numpy(sound[start - SPEC.samples_before : start + SPEC.samples + SPEC.samples_after])
    columns = stack_to_columns(mel_stack(clip, SPEC))
    expected = amplitude_to_unit(torch.from_numpy(whole[:, 256:512]))
    assert (columns - expected).abs().max() < 1e-4


@pytest.mark.parametrize("sample", [0, 800, 1599, 1600, 12345, 25599])
def test_a_click_lights_the_columns_around_its_sample_and_no_others(sample):
    sound = torch.zeros(context_samples(SPEC))
    sound[SPEC.samples_before + sample] = 1.0
    stack = mel_stack(sound, SPEC)
    loudness = stack_to_columns(stack).mean(0)
    assert abs(int(loudness.argmax()) * SPEC.hop - sample) <= SPEC.hop // 2 or sample == 25599
    reached = torch.nonzero(loudness > -1).flatten() * SPEC.hop
    assert (reached - sample).abs().max() < SPEC.n_fft // 2


def test_a_sine_lies_in_its_band_at_its_level():
    n = torch.arange(context_samples(SPEC))
    sound = 0.5 * torch.sin(2 * torch.pi * 1000 * n / 16000)
    columns = stack_to_columns(mel_stack(sound, SPEC))
    centres = librosa.mel_frequencies(n_mels=130, fmin=0, fmax=8000)[1:-1]
    assert abs(centres[int(columns[:, 100].argmax())] - 1000) < 40
    louder = stack_to_columns(mel_stack(sound * 0.1, SPEC))
    assert torch.allclose((columns - louder).amax(0)[50], torch.tensor(0.4), atol=1e-3)  # 20 dB of 100, x 2


def test_the_scale_goes_back_inside_its_range():
    amplitude = torch.logspace(-4, 1, 50)
    assert torch.allclose(unit_to_amplitude(amplitude_to_unit(amplitude)), amplitude, rtol=1e-4)
    assert amplitude_to_unit(torch.tensor([0.0, 1e9])).tolist() == [-1, 1]


def test_the_models_view_is_bit_lossless():
    stack = (torch.rand(2, 16, 128, 16) * 2 - 1).half().float()  # as stored
    frames = stack_to_frames(stack, 256)
    assert frames.shape == (2, 16, 256, 256)
    assert torch.equal(frames_to_stack(frames, SPEC), stack)
    with pytest.raises(ValueError, match="200"):
        stack_to_frames(stack, 200)


def test_psnr_of_a_known_error():
    a = torch.zeros(1, 16, 128, 16)
    assert psnr_a(a, a + 0.02).item() == pytest.approx(40.0, abs=1e-4)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 30),
    st.integers(1, 8),
    st.sampled_from([40, 64, 100, 128]),
    st.sampled_from([256, 1000, 1024]),
)
def test_any_spec_gives_its_shape_and_silence_the_floor(fps, columns, hop, n_fft):
    rate = fps * columns * hop
    if not 4000 <= rate <= 192000:
        return
    spec = ClipSpec(fps=fps, frames=3, hop=hop, n_fft=n_fft, n_mels=32, sample_rate=rate)
    stack = mel_stack(pad_with_silence(torch.zeros(2, spec.samples), spec), spec)
    assert stack.shape == (2, *spec.mel_shape)
    assert (stack == -1).all()
    assert torch.equal(columns_to_stack(stack_to_columns(stack), spec), stack)
