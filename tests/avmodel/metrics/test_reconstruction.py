"""PSNR, SSIM and LPIPS of reconstructions; similarities of embeddings."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from avmodel.mdsa.lpips import load_lpips
from avmodel.mdsa.options import LPIPSConfig
from avmodel.metrics import MetricError
from avmodel.metrics import similarity as similarities
from avmodel.metrics.lpips import lpips
from avmodel.metrics.psnr import reconstruction_psnr
from avmodel.metrics.similarity import (
    frame_similarity,
    javis_score,
    shuffled_frame_similarity,
    shuffled_javis_score,
    shuffled_similarity,
    similarity,
)
from avmodel.metrics.ssim import ssim
from avprep.dsp.mel import mel_stack, pad_with_silence
from avprep.spec import ClipSpec
from tests.conftest import shared_file

SPEC = ClipSpec()


def pictures(n: int = 2, size: int = 40) -> Tensor:
    """Smooth uint8 frames (n, 3, size, size, 3)."""
    noise = np.random.default_rng(0).standard_normal((n, 3, size, size, 3))
    smooth = gaussian_filter(noise, (0, 0, 2, 2, 0))
    return torch.from_numpy((127 + 60 * smooth / smooth.std()).clip(0, 255).astype(np.uint8))


def noisy(frames: Tensor, amount: float) -> Tensor:
    noise = torch.randn(frames.shape, generator=torch.Generator().manual_seed(0))
    return (frames + amount * noise).clamp(0, 255).to(torch.uint8)


def plain_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al., eq 13, of one channel (H, W), float64; frames are reflected at borders."""

    def blur(x: np.ndarray) -> np.ndarray:
        return gaussian_filter(x, 1.5, radius=5, mode="mirror")

    a, b = a.astype(float), b.astype(float)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b, cov = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2, blur(a * b) - mean_a * mean_b
    return (
        ((2 * mean_a * mean_b + c1) * (2 * cov + c2)) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    ).mean()


def test_ssim_is_the_plain_definition():
    a, b = pictures(), noisy(pictures(), 25)
    expected = [
        np.mean([plain_ssim(x[..., c], y[..., c]) for x, y in zip(fa, fb, strict=True) for c in range(3)])
        for fa, fb in zip(a.numpy(), b.numpy(), strict=True)
    ]
    np.testing.assert_allclose(ssim(a, b), expected, atol=1e-6)


def test_ssim_is_one_of_equal_frames_and_falls_with_noise():
    frames = pictures()
    np.testing.assert_allclose(ssim(frames, frames), 1)
    falling = [ssim(frames, noisy(frames, amount)).mean().item() for amount in (5, 15, 45)]
    assert falling == sorted(falling, reverse=True)


def test_ssim_refuses_what_it_cannot_compare(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(MetricError, match="one shape"):
        ssim(pictures(1), pictures(2))
    with pytest.raises(MetricError, match="11 px"):
        ssim(pictures(size=10), pictures(size=10))
    monkeypatch.setitem(sys.modules, "torchmetrics.functional.image", None)
    with pytest.raises(MetricError, match=r"torchmetrics.*avprep\[metrics\]"):
        ssim(pictures(), pictures())


def test_lpips_of_a_clip_is_the_mean_of_its_frames():
    net = load_lpips(
        LPIPSConfig(
            backbone="squeezenet1_1",
            backbone_weights=shared_file("weights", "squeezenet1_1_torchvision_fp16src.npz"),
            heads=shared_file("weights", "lpips_v0.1_lin_squeeze.npz"),
        )
    )
    a, b = pictures(), noisy(pictures(), 20)
    b[0, 1] = a[0, 1]
    frame = [lpips(net, a[:1, t : t + 1], b[:1, t : t + 1]).item() for t in range(3)]
    assert frame[1] == 0 < frame[0]
    assert lpips(net, a, b)[0].item() == pytest.approx(np.mean(frame), rel=1e-5)
    assert lpips(net, a, a).tolist() == [0, 0]


def test_psnr_of_known_errors():
    frames = torch.full((2, 2, 8, 8, 3), 100, dtype=torch.uint8)
    seconds = torch.arange(SPEC.samples) / SPEC.sample_rate
    tones = torch.stack([0.3 * torch.sin(2 * torch.pi * f * seconds) for f in (440, 1000)])
    mel = mel_stack(pad_with_silence(tones, SPEC), SPEC)
    found = reconstruction_psnr(
        frames, frames + 10, mel, mel - torch.tensor([0.0, 0.02]).view(2, 1, 1, 1), SPEC
    )
    expected_db = 20 * np.log10(255 / 10)
    np.testing.assert_allclose(found.video, [expected_db] * 2)
    assert found.mel[0] > 100 and found.mel[1].item() == pytest.approx(40, abs=0.01)
    # Griffin-Lim loses phase alone: the tone's own stack is heard far above one that is unrelated.
    unrelated = reconstruction_psnr(frames, frames, mel, mel.flip(0), SPEC)
    assert (found.heard > unrelated.heard + 5).all()


def test_similarities_of_known_vectors():
    a = np.array([[1.0, 0.0], [2.0, 2.0], [0.0, -3.0]])
    b = np.array([[5.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    np.testing.assert_allclose(similarity(a, b), [1, np.sqrt(0.5), -1])


def test_frame_similarity_is_the_mean_and_javis_score_the_mean_of_the_lowest():
    angles = np.deg2rad([0, 60, 90, 180, 120])
    frames = np.stack([np.cos(angles), np.sin(angles)], axis=-1)[None]
    audio = np.array([[3.0, 0.0]])
    assert frame_similarity(frames, audio)[0] == pytest.approx((1 + 0.5 + 0 - 1 - 0.5) / 5)
    assert javis_score(frames, audio)[0] == pytest.approx((-1 - 0.5) / 2)
    assert javis_score(frames, audio, share=1)[0] == pytest.approx(frame_similarity(frames, audio)[0])


def test_the_shuffled_similarity_is_that_of_all_other_pairs():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(5, 3)), rng.normal(size=(5, 3))
    others = [similarity(a[i], b[j]) for i in range(5) for j in range(5) if i != j]
    assert shuffled_similarity(a, b) == pytest.approx(np.mean(others))
    with pytest.raises(MetricError, match="2 pairs"):
        shuffled_similarity(a[:1], b[:1])


def test_the_shuffled_frame_scores_are_those_of_all_other_pairs():
    rng = np.random.default_rng(0)
    frames, audio = rng.normal(size=(70, 5, 3)) + 0.3, rng.normal(size=(70, 3)) + 0.3
    for score, shuffled in (
        (frame_similarity, shuffled_frame_similarity),
        (javis_score, shuffled_javis_score),
    ):
        others = [score(frames[[i]], audio[[j]]) for i in range(70) for j in range(70) if i != j]
        assert shuffled(frames, audio) == pytest.approx(np.mean(others), abs=1e-6)
        with pytest.raises(MetricError, match="2 pairs"):
            shuffled(frames[:1], audio[:1])
        with pytest.raises(MetricError, match="2 pairs"):
            shuffled(frames, audio[:-1])


def test_of_many_clips_the_shuffled_javis_score_takes_some_others(monkeypatch: pytest.MonkeyPatch):
    """Each of the drawn distances once, none of them 0: no clip meets its own sound."""
    rng = np.random.default_rng(1)
    frames, audio = rng.normal(size=(30, 4, 3)), rng.normal(size=(30, 3))
    frames += 9 * audio[:, None]
    every = shuffled_javis_score(frames, audio)
    monkeypatch.setattr(similarities, "_MOST_SHIFTS", 12)
    some = shuffled_javis_score(frames, audio)
    by_shift = [javis_score(frames, np.roll(audio, shift, axis=0)).mean() for shift in range(1, 30)]
    drawn = np.random.default_rng(0).choice(np.arange(1, 30), 12, replace=False)
    assert some == pytest.approx(np.mean([by_shift[shift - 1] for shift in drawn]), abs=1e-6)
    assert some == shuffled_javis_score(frames, audio) != shuffled_javis_score(frames, audio, seed=1)
    assert every == pytest.approx(np.mean(by_shift), abs=1e-6) and abs(some - every) < 0.1
    assert javis_score(frames, audio).mean() > 0.9


def test_scores_of_many_clips_are_those_of_each_alone():
    rng = np.random.default_rng(2)
    frames, audio = rng.normal(size=(130, 3, 4)), rng.normal(size=(130, 4))
    for score in (frame_similarity, javis_score):
        alone = [score(frames[[i]], audio[[i]])[0] for i in range(130)]
        np.testing.assert_allclose(score(frames, audio), alone)
        with pytest.raises(MetricError, match="cannot be compared"):
            score(frames, audio[:2])


def test_embeddings_that_cannot_be_compared_are_refused():
    with pytest.raises(MetricError, match="0 in every value"):
        similarity(np.zeros((1, 2)), np.ones((1, 2)))
    with pytest.raises(MetricError, match="not finite"):
        similarity(np.full((1, 2), np.nan), np.ones((1, 2)))
    with pytest.raises(MetricError, match="cannot be compared"):
        similarity(np.ones((3, 2)), np.ones((3, 4)))
    with pytest.raises(MetricError, match="share"):
        javis_score(np.ones((1, 2, 2)), np.ones((1, 2)), share=0)
