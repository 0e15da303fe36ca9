from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from avmodel.metrics.av_align import av_align
from avprep import read_clips
from avprep.dsp.av_align import motion_peaks
from avprep.scores.motion import AV_ALIGN, MOTION, ONSETS
from avprep.scores.tags import TAGS
from tests.avprep.scores.made import SPEC, clip_of, colour, noise, texture, values_of
from tests.conftest import shared_file

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


NOISY_STILLS = [("flat", 0), ("flat", 20), ("texture", 2), ("texture", 20), ("dark", 12), ("gradient", 20)]


@pytest.mark.parametrize(("name", "level"), NOISY_STILLS)
def test_noise_on_a_still_picture_has_no_peak_and_coincides_with_nothing(name: str, level: float):
    picture = {
        "flat": np.full((SIZE, SIZE), 128, np.uint8),
        "texture": texture(SIZE, SIZE),
        "dark": np.full((SIZE, SIZE), 30, np.uint8),
        "gradient": np.tile(np.linspace(0, 255, SIZE).astype(np.uint8), (SIZE, 1)),
    }[name]
    still = np.repeat(colour(picture)[None], SPEC.frames, axis=0)
    for seed in range(4):
        noise = np.random.default_rng(seed).normal(0, level, still.shape)
        clip = clip_of(frames=(still + noise).clip(0, 255).astype(np.uint8), waveform=bursts((3, 8, 12)))
        assert values_of(MOTION, clip)["motion_peaks"] == 0
        assert values_of(AV_ALIGN, clip) == {"av_align": None}


def test_a_steady_pan_has_no_peak_and_small_steps_of_the_camera_have():
    assert values_of(MOTION, clip_of(frames=pan(4)))["motion_peaks"] == 0
    places = np.cumsum([k in (4, 9) for k in range(SPEC.frames)])
    wide = texture(SIZE, SIZE + 2)
    steps = np.stack([colour(wide[:, x : x + SIZE]) for x in places])  # of one pixel in 256
    assert values_of(MOTION, clip_of(frames=steps))["motion_peaks"] == 2


# Films that stand still but for their grain; the last has one movement.
@pytest.mark.parametrize(
    ("name", "expected"), [("attached_pic.mp4", 0), ("nasa_2v_audio.mp4", 0), ("meta_nonutf8.mp4", 1)]
)
def test_peaks_of_real_films_that_stand_still(name: str, expected: int):
    path = shared_file("media", name)
    frames = next(read_clips(path)).frames
    assert values_of(MOTION, clip_of(frames=frames))["motion_peaks"] == expected


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


def test_a_peak_is_measured_from_the_flow_around_it():
    """Its height above the higher of the two valleys beside it, as scipy's prominence."""
    lengths = np.array([1.0, 1.5, 2.0, 1.9, 1.95, 0.5, 0.6, 0.5])  # into frames 1 to 8
    assert list(motion_peaks(lengths)) == [3, 5, 7]
    assert list(motion_peaks(lengths, least=0.07)) == [3, 7]
    assert list(motion_peaks(lengths, least=0.2)) == [3]
    assert not len(motion_peaks(lengths, least=1.1))


def test_values_of_another_edition_are_known_by_what_is_stored_with_them():
    assert (AV_ALIGN.identity("abc"), ONSETS.identity("abc"), TAGS.identity("abc")) == (
        " edition 2",
        "",
        "abc",
    )
    new_tags = replace(TAGS, edition=3)
    assert new_tags.identity("abc") == "abc edition 3"
    assert new_tags.is_of_edition("def edition 3") and not new_tags.is_of_edition("abc")
    assert not TAGS.is_of_edition("abc edition 3") and not AV_ALIGN.is_of_edition("")
