from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from avprep import read_clips
from avprep.media.cuts import adaptive_cuts, content_changes
from avprep.scores.clip import ScoredClip
from avprep.scores.picture import BARS, CUT, FROZEN, LUMA, SHARPNESS
from avprep.spec import ClipSpec
from tests.avprep.media.flash_click import write_flash_click
from tests.avprep.scores.made import SPEC, clip_of, colour, texture, values_of

SIZE = SPEC.size


def still(grey: np.ndarray) -> np.ndarray:
    return np.repeat(colour(grey)[None], SPEC.frames, axis=0)


def noisy(frames: np.ndarray, sigma: float) -> np.ndarray:
    return (frames + np.random.default_rng(0).normal(0, sigma, frames.shape)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("level", [0, 51, 255])
def test_luma(level: int):
    assert values_of(LUMA, clip_of(frames=np.full(SPEC.frames_shape, level, np.uint8)))["luma"] == level / 255


def test_luma_weighs_colours_as_bt_601():
    green = np.zeros(SPEC.frames_shape, np.uint8)
    green[..., 1] = 255
    assert values_of(LUMA, clip_of(frames=green))["luma"] == pytest.approx(0.587, abs=0.003)


def test_blur_lowers_sharpness():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (SIZE, SIZE), np.uint8))
    blurred = [np.asarray(picture.filter(ImageFilter.GaussianBlur(radius))) for radius in (0, 1, 2, 4)]
    found = [values_of(SHARPNESS, clip_of(frames=still(grey)))["sharpness"] for grey in blurred]
    assert found == sorted(found, reverse=True) and found[0] > 100 * found[-1]
    assert values_of(SHARPNESS, clip_of())["sharpness"] == 0


def test_sharpness_of_a_known_pattern():
    """Rows of 0 and 100 in turn have a Laplacian of +-200: a variance of 40000."""
    rows = np.zeros((SIZE, SIZE), np.uint8)
    rows[::2] = 100
    assert values_of(SHARPNESS, clip_of(frames=still(rows)))["sharpness"] == pytest.approx(40000)


@pytest.mark.parametrize("repeats, share", [(16, 1.0), (4, 12 / 15), (1, 0.0)])
def test_frozen_share(repeats: int, share: float):
    frames = np.stack([colour(texture(SIZE, SIZE, seed=i // repeats)) for i in range(SPEC.frames)])
    assert values_of(FROZEN, clip_of(frames=frames))["frozen_share"] == pytest.approx(share)


def test_noise_and_a_small_movement_are_not_frozen():
    frames = still(texture(SIZE, SIZE))
    assert values_of(FROZEN, clip_of(frames=noisy(frames, 10)))["frozen_share"] == 0
    for i, frame in enumerate(frames):
        frame[100:108, 10 + 8 * i : 18 + 8 * i] = 255
    assert values_of(FROZEN, clip_of(frames=frames))["frozen_share"] == 0


@pytest.mark.parametrize("at", [1, 2, 8, 14, 15])
def test_a_hard_cut(at: int):
    frames = np.concatenate([still(texture(SIZE, SIZE, 1))[:at], still(texture(SIZE, SIZE, 2))[at:]])
    assert values_of(CUT, clip_of(frames=noisy(frames, 5)))["cut"] is True


def test_a_still_picture_a_pan_and_noise_have_no_cut():
    wide = texture(SIZE, 4 * SIZE)
    pan = np.stack([colour(wide[:, 40 * i : 40 * i + SIZE]) for i in range(SPEC.frames)])
    for frames in (still(texture(SIZE, SIZE)), pan, noisy(still(texture(SIZE, SIZE)), 40)):
        assert values_of(CUT, clip_of(frames=frames))["cut"] is False


@pytest.mark.parametrize("length", [1, 2, 4])
@pytest.mark.parametrize("level", [255, 0])
def test_a_flash_is_no_cut(length: int, level: int):
    frames = still(texture(SIZE, SIZE) // 2 + 64)
    frames[6 : 6 + length] = level
    assert values_of(CUT, clip_of(frames=frames))["cut"] is False


@pytest.mark.parametrize("length", [1, 3, 5])
@pytest.mark.parametrize("at_end", [False, True])
@pytest.mark.parametrize("is_white", [False, True])
def test_a_flash_that_the_clip_cuts_off_is_no_cut(length: int, at_end: bool, is_white: bool):
    """White, or the scene itself twice as bright."""
    frames = still(texture(SIZE, SIZE) // 3 + 20)
    place = slice(SPEC.frames - length, None) if at_end else slice(0, length)
    frames[place] = 255 if is_white else frames[place] * 2 + 40
    assert values_of(CUT, clip_of(frames=frames))["cut"] is False


@pytest.mark.parametrize("at", [1, 4, 12, 15])
def test_a_cut_to_a_brighter_shot_near_the_end_of_the_clip_is_a_cut(at: int):
    dark, bright = still(texture(SIZE, SIZE, 1) // 4), still(texture(SIZE, SIZE, 2) // 2 + 120)
    for one, other in ((dark, bright), (bright, dark)):
        frames = np.concatenate([one[:at], other[at:]])
        assert values_of(CUT, clip_of(frames=frames))["cut"] is True


def test_a_white_shot_longer_than_a_flash_is_a_shot():
    frames = still(texture(SIZE, SIZE) // 3)
    frames[9:] = 255
    assert values_of(CUT, clip_of(frames=frames))["cut"] is True


@pytest.mark.parametrize("size", [16, 64, 256])
@pytest.mark.parametrize("events_s", [(1.4, 2.2, 3.0), (0.1, 0.5, 0.9, 1.5)])
def test_the_flashes_of_a_file_are_no_cuts_wherever_its_clips_begin(tmp_path, size: int, events_s):
    path = tmp_path / "flashes.mp4"
    write_flash_click(path, events_s=events_s)
    spec = ClipSpec(size=size, n_mels=64)
    clips = list(read_clips(path, spec=spec, stride_s=0.3))
    assert len(clips) > 5
    for clip in clips:
        header = {"frame_times_s": clip.frame_times_s.tolist()}
        scored = ScoredClip(spec, {"frames": clip.frames, "json": header})
        assert values_of(CUT, scored)["cut"] is False, clip.start_s


def test_a_flash_beside_a_cut_leaves_the_cut():
    frames = np.concatenate([still(texture(SIZE, SIZE, 1))[:10], still(texture(SIZE, SIZE, 2))[10:]])
    frames[4:6] = 255
    assert values_of(CUT, clip_of(frames=frames))["cut"] is True


def test_a_low_frame_rate_s_repeated_pictures_are_no_cuts():
    wide = texture(SIZE, 4 * SIZE)
    frames = np.stack([colour(wide[:, 40 * i : 40 * i + SIZE]) for i in np.arange(SPEC.frames) // 2 * 2])
    times = [float(i // 2) for i in range(SPEC.frames)]
    assert values_of(CUT, clip_of(frames=frames, header={"frame_times_s": times}))["cut"] is False


def test_a_slide_show_has_cuts():
    frames = np.stack([colour(texture(SIZE, SIZE, seed=i // 5)) for i in range(SPEC.frames)])
    assert values_of(CUT, clip_of(frames=frames))["cut"] is True


@pytest.mark.parametrize("at", [1, 8, 14])
def test_a_shot_of_a_single_picture_does_not_hide_its_cuts(at: int):
    shots = [still(texture(SIZE, SIZE, seed)) for seed in (1, 2, 3)]
    frames = np.concatenate([shots[0][:at], shots[1][at : at + 1], shots[2][at + 1 :]])
    steps = adaptive_cuts(content_changes(clip_of(frames=frames).small_frames))
    assert steps == [at - 1, at]


def test_bars_are_a_share_of_the_area():
    frames = still(texture(SIZE, SIZE) // 2 + 100)
    frames[:, :32] = frames[:, -32:] = 16
    assert values_of(BARS, clip_of(frames=frames))["bars"] == pytest.approx(0.25, abs=0.02)
    assert values_of(BARS, clip_of(frames=still(texture(SIZE, SIZE))))["bars"] == 0
