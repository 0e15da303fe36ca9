from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avprep.media.bars import bars_of, bars_of_source
from avprep.media.crop import Bars
from avprep.media.mux import write_mp4
from tests.avprep.scores.made import colour, texture

HEIGHT, WIDTH = 120, 160


def scene(seed: int = 0, count: int = 4) -> np.ndarray:
    """uint8 (count, HEIGHT, WIDTH): a lit picture that moves."""
    wide = texture(HEIGHT, WIDTH + 8 * count, seed) // 2 + 90
    return np.stack([wide[:, 8 * i : 8 * i + WIDTH] for i in range(count)])


def boxed(pictures: np.ndarray, bars: Bars, level: int = 0) -> np.ndarray:
    pictures = pictures.copy()
    inside = np.zeros(pictures.shape[1:], bool)
    inside[bars.top : HEIGHT - bars.bottom, bars.left : WIDTH - bars.right] = True
    pictures[:, ~inside] = level
    return pictures


@given(y=st.integers(0, 24), x=st.integers(0, 50), level=st.integers(0, 20), seed=st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_bars_of_known_height_and_width(y: int, x: int, level: int, seed: int):
    bars = Bars(y, y, x, x)
    assert bars_of(boxed(scene(seed), bars, level)) == bars


@pytest.mark.parametrize("bars", [Bars(20, 0, 0, 0), Bars(30, 12, 0, 0), Bars(0, 0, 0, 25)])
def test_one_dark_side_is_no_bar(bars: Bars):
    assert bars_of(boxed(scene(), bars)) == Bars(0, 0, 0, 0)


def test_black_pictures_have_no_bars():
    assert bars_of(np.zeros((4, HEIGHT, WIDTH), np.uint8)) == Bars(0, 0, 0, 0)


def test_a_dark_scene_with_a_lit_window_has_no_bars():
    night = np.full((4, HEIGHT, WIDTH), 8, np.uint8)
    night[:, 40:80, 60:100] = 200
    assert bars_of(night) == Bars(0, 0, 0, 0)


def test_a_spotlight_on_a_stage_has_no_bars():
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    spot = [220 * np.exp(-((y - 60) ** 2 + (x - 60 - 10 * i) ** 2) / 600) for i in range(4)]
    assert bars_of(np.stack(spot).astype(np.uint8)) == Bars(0, 0, 0, 0)


def test_a_horizon_in_the_dusk_has_no_bars():
    """The sky fades to black upwards, the ground downwards: dark rows that end along no sharp line."""
    rows = 200 * np.exp(-(((np.arange(HEIGHT) - 60) / 15) ** 2))
    dusk = np.repeat(rows[:, None], WIDTH, axis=1).astype(np.uint8)[None]
    assert bars_of(np.repeat(dusk, 4, axis=0)) == Bars(0, 0, 0, 0)


def test_bars_that_a_caption_is_shown_in_are_none():
    pictures = boxed(scene(), Bars(20, 20, 0, 0))
    pictures[2, 105:112, 40:120] = 235
    assert bars_of(pictures) == Bars(0, 0, 0, 0)


def test_the_picture_may_be_dark_in_most_samples():
    pictures = boxed(scene(), Bars(20, 20, 0, 0))
    pictures[1:] //= 12
    assert bars_of(pictures) == Bars(20, 20, 0, 0)


def test_a_wider_format_for_a_while_gives_the_bars_of_all():
    pictures = boxed(scene(), Bars(30, 30, 0, 0))
    pictures[3] = boxed(scene(), Bars(10, 10, 0, 0))[3]
    assert bars_of(pictures) == Bars(10, 10, 0, 0)


def test_the_share_of_the_area():
    assert Bars(30, 30, 40, 40).share(HEIGHT, WIDTH) == pytest.approx(1 - 0.5 * 0.5)
    assert Bars(0, 0, 0, 0).share(HEIGHT, WIDTH) == 0


@pytest.mark.parametrize("bars", [Bars(15, 15, 0, 0), Bars(0, 0, 20, 20), Bars(0, 0, 0, 0)])
def test_the_bars_of_a_file(tmp_path: Path, bars: Bars):
    pictures = boxed(scene(count=30), bars, level=16)
    write_mp4(tmp_path / "a.mp4", colour(pictures), None, fps=Fraction(10), sample_rate=16000)
    found = bars_of_source(tmp_path / "a.mp4")
    expected = (bars.top / HEIGHT, bars.bottom / HEIGHT, bars.left / WIDTH, bars.right / WIDTH)
    assert np.array(found) / 256 == pytest.approx(expected, abs=3 / 256)
