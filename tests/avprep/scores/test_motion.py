from __future__ import annotations

import numpy as np
import pytest

from avmodel.metrics.av_align import av_align
from avprep.scores.motion import AV_ALIGN, MOTION, ONSETS
from tests.avprep.scores.made import SPEC, clip_of, colour, noise, texture, values_of

SIZE, FPS, RATE = SPEC.size, SPEC.fps, SPEC.sample_rate


def pan(pixels: int) -> np.ndarray:
    """All of the picture moves so many pixels per frame."""
    wide = texture(SIZE, SIZE + pixels * SPEC.frames)
    return np.stack([colour(wide[:, pixels * i : pixels * i + SIZE]) for i in range(SPEC.frames)])


def jumps(times: tuple[int, ...], by: int = 12, background: np.ndarray | None = None) -> np.ndarray:
    """A textured square that jumps into each of the frames `times`, and is still between."""
    frames = np.full(SPEC.frames_shape, 60, np.uint8)
    if background is not None:
        frames[:] = colour(background)
    square = colour(texture(96, 96))
    for k, frame in enumerate(frames):
        x = 20 + by * sum(k >= t for t in times)
        frame[80:176, x : x + 96] = square
    return frames


def bursts(frames: tuple[int, ...]) -> np.ndarray:
    """Noise of 30 ms that begins in the middle of each of the frames."""
    waveform = np.zeros(SPEC.samples)
    for frame in frames:
        start = round((frame + 0.5) / FPS * RATE)
        waveform[start : start + 480] = noise(0.5)[:480]
    return waveform


@pytest.mark.parametrize("pixels", [1, 2, 4, 8, 16])
def test_motion_of_a_pan_of_known_speed(pixels: int):
    found = values_of(MOTION, clip_of(frames=pan(pixels)))
    assert found["motion"] == pytest.approx(pixels / SIZE * FPS, rel=0.1)


def test_motion_of_a_moving_square_is_its_share_of_the_picture():
    """96 x 96 of 256 x 256 pixels move 4 pixels per frame; the flow reaches around the square."""
    times = tuple(range(1, SPEC.frames))
    expected = 96**2 / SIZE**2 * 4 / SIZE * FPS
    textured = jumps(times, by=4, background=texture(SIZE, SIZE, seed=1))
    assert values_of(MOTION, clip_of(frames=textured))["motion"] == pytest.approx(expected, rel=0.4)
    flat = values_of(MOTION, clip_of(frames=jumps(times, by=4)))["motion"]
    assert expected < flat < 3.5 * expected


@pytest.mark.parametrize("picture", [np.full((SIZE, SIZE), 128, np.uint8), texture(SIZE, SIZE)])
def test_noise_is_no_motion(picture: np.ndarray):
    still = np.repeat(colour(picture)[None], SPEC.frames, axis=0)
    noisy = (still + np.random.default_rng(0).normal(0, 12, still.shape)).clip(0, 255).astype(np.uint8)
    assert values_of(MOTION, clip_of(frames=still))["motion"] < 1e-3
    assert values_of(MOTION, clip_of(frames=noisy))["motion"] < 0.01


def test_events_are_counted():
    clip = clip_of(frames=jumps((4, 9, 13)), waveform=bursts((3, 8, 12)))
    assert values_of(MOTION, clip)["motion_peaks"] == 3
    assert values_of(ONSETS, clip)["onsets"] == 3


def test_sound_with_the_movement_and_sound_elsewhere():
    frames = jumps((4, 10))
    together = clip_of(frames=frames, waveform=bursts((4, 10)))
    apart = clip_of(frames=frames, waveform=bursts((7, 13)))
    assert values_of(AV_ALIGN, together) == {"av_align": 1.0}
    assert values_of(AV_ALIGN, apart) == {"av_align": 0.0}
    assert values_of(AV_ALIGN, clip_of()) == {"av_align": None}


@pytest.mark.parametrize("sounding", [(4, 10), (5, 13), (1, 7)])
def test_av_align_is_that_of_the_metric(sounding: tuple[int, ...]):
    """The metric takes frames at full size, the score small ones: on clear movements they agree."""
    frames, waveform = jumps((4, 10)), bursts(sounding)
    metric = av_align(frames, waveform.astype(np.float32), FPS, RATE)
    assert values_of(AV_ALIGN, clip_of(frames=frames, waveform=waveform))["av_align"] == metric.align
