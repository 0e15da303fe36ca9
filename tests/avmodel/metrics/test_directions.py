"""Distances on real clips: near 0 between halves, and rising with damage, three levels of each kind."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from avmodel.metrics.features import Clips, Extractor, load_extractor
from avmodel.metrics.frechet import frechet_distance
from avmodel.metrics.mmd import kernel_audio_distance, kernel_video_distance
from avmodel.metrics.moments import Moments
from avprep import Clip, read_clips
from avprep.spec import ClipSpec
from tests.conftest import shared_file

SPEC = ClipSpec(size=64)
SOURCES = (
    "bbb_480p_30s.mp4",
    "butterfly.mp4",
    "chaplin.mp4",
    "crystal.mp4",
    "friday_speech.mp4",
    "googlework_35s.mp4",
    "man_60fps.mp4",
    "nasa_2v_audio.mp4",
)


@pytest.fixture(scope="module")
def clips() -> Clips:
    """Up to four clips of each source; two frames of each."""
    found = [clip for name in SOURCES for clip in read_clips(shared_file("media", name), spec=SPEC, clips=4)]
    return Clips(
        frames=np.stack([clip.frames[::8] for clip in found]),
        waveform=np.stack([clip.waveform for clip in found]),
        fps=10,
        sample_rate=SPEC.sample_rate,
    )


def with_frames(clips: Clips, frames: np.ndarray) -> Clips:
    return Clips(frames=frames, waveform=clips.waveform, fps=10, sample_rate=clips.sample_rate)


def with_sound(clips: Clips, waveform: np.ndarray) -> Clips:
    waveform = waveform.astype(np.float32)
    return Clips(frames=clips.frames, waveform=waveform, fps=10, sample_rate=clips.sample_rate)


def noise(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape)


def rises(values: list[float]) -> bool:
    return all(a < b for a, b in zip(values, values[1:], strict=False))


@pytest.mark.slow
def test_fad_and_kad_of_yamnet_rise_with_noise_and_dullness(clips: Clips):
    yamnet = load_extractor("yamnet", shared_file("weights", "yamnet_int8.npz"))
    real = yamnet(clips)[:, 0]
    sound = clips.waveform
    damaged = {
        "noise": [sound + amount * noise(sound.shape) for amount in (0.003, 0.02, 0.1)],
        "low-pass": [gaussian_filter(sound, (0, width)) for width in (1, 3, 9)],
    }
    for kind, levels in damaged.items():
        rows = [yamnet(with_sound(clips, level))[:, 0] for level in levels]
        fad = [frechet_distance(Moments.of(real), Moments.of(row)) for row in rows]
        kad = [kernel_audio_distance(row, real) for row in rows]
        print(kind, "FAD-yamnet", np.round(fad, 2), "KAD-yamnet", np.round(kad, 3))
        assert rises(fad) and rises(kad), (kind, fad, kad)


@pytest.mark.slow
def test_fd_of_squeezenet_rises_with_noise_and_blur(clips: Clips):
    squeezenet = load_extractor("squeezenet", shared_file("weights", "squeezenet1_1_torchvision_fp16src.npz"))
    frames = clips.frames.astype(float)
    damaged = {
        "noise": [frames + amount * noise(frames.shape) for amount in (5, 20, 60)],
        "blur": [gaussian_filter(frames, (0, 0, width, width, 0)) for width in (0.7, 1.5, 3)],
    }
    real = squeezenet(clips).reshape(-1, 512)
    for kind, levels in damaged.items():
        rows = [
            squeezenet(with_frames(clips, level.clip(0, 255).astype(np.uint8))).reshape(-1, 512)
            for level in levels
        ]
        fd = [frechet_distance(Moments.of(real), Moments.of(row)) for row in rows]
        kd = [kernel_video_distance(real, row) for row in rows]
        print(kind, "FD-squeezenet", np.round(fd, 2), "KD-squeezenet", np.round(kd, 3))
        assert rises(fd) and rises(kd), (kind, fd, kd)


@pytest.mark.slow
def test_random_halves_are_near_and_the_unbiased_distance_nearer(clips: Clips):
    """KAD of halves is 0 within its spread; the Fréchet distance is not: its bias at n is not small."""
    yamnet = load_extractor("yamnet", shared_file("weights", "yamnet_int8.npz"))
    rows = yamnet(clips)[:, 0]
    noisy = yamnet(with_sound(clips, clips.waveform + 0.1 * noise(clips.waveform.shape)))[:, 0]
    halves = [np.random.default_rng(seed).permutation(len(rows)) for seed in range(20)]
    middle = len(rows) // 2
    kad = [kernel_audio_distance(rows[order[:middle]], rows[order[middle:]]) for order in halves]
    fad = [
        frechet_distance(Moments.of(rows[order[:middle]]), Moments.of(rows[order[middle:]]))
        for order in halves
    ]
    print(f"n = {middle}: KAD-yamnet {np.mean(kad):.3f} +- {np.std(kad):.3f}, FAD-yamnet {np.mean(fad):.2f}")
    assert abs(np.mean(kad)) < np.std(kad)
    assert max(kad) < kernel_audio_distance(noisy, rows)
    assert 0 < np.mean(fad) < frechet_distance(Moments.of(noisy), Moments.of(rows))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_distances_rise_with_the_share_of_clips_of_other_kinds():
    """Animation and nature, in which a quarter, half and all of the clips give way to films and speech."""
    kinds = [
        [
            clip
            for name in names
            for clip in read_clips(shared_file("media", f"{name}.mp4"), spec=SPEC, clips=8)
        ]
        for names in (
            ("bbb_480p_30s", "butterfly", "crystal", "frog"),
            ("friday_speech", "googlework_35s", "nasa_2v_audio", "chaplin"),
        )
    ]
    files = {"yamnet": "yamnet_int8.npz", "squeezenet": "squeezenet1_1_torchvision_fp16src.npz"}
    for name, kernel_distance in (("yamnet", kernel_audio_distance), ("squeezenet", kernel_video_distance)):
        extractor = load_extractor(name, shared_file("weights", files[name]))
        rows, others = (np.stack([mean_row(extractor, clip) for clip in clips]) for clips in kinds)
        reference, own = rows[::2], rows[1::2]
        rng = np.random.default_rng(0)
        order, drawn = rng.permutation(len(own)), rng.permutation(len(others))
        mixed = [
            np.concatenate([own[order[count:]], others[drawn[:count]]])
            for count in (0, len(own) // 4, len(own) // 2, len(own))
        ]
        frechet = [frechet_distance(Moments.of(reference), Moments.of(side)) for side in mixed]
        kernel = [kernel_distance(side, reference) for side in mixed]
        print(name, "mix", np.round(frechet, 2), np.round(kernel, 2))
        assert rises(frechet) and rises(kernel), (name, frechet, kernel)


def mean_row(extractor: Extractor, clip: Clip) -> np.ndarray:
    """As `avmodel evaluate` takes it; of every fourth frame, as this is slow."""
    one = Clips(
        frames=clip.frames[None, ::4],
        waveform=clip.waveform[None],
        fps=SPEC.fps,
        sample_rate=SPEC.sample_rate,
    )
    return extractor(one)[0].mean(axis=0)
