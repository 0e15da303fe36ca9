from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
from av.filter import Graph

from avprep.media.frames import FrameFitter


def picture(width: int, height: int) -> av.VideoFrame:
    """Left half red, right half green; the bottom quarter blue."""
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[:, : width // 2, 0] = 255
    rgb[:, width // 2 :, 1] = 255
    rgb[height * 3 // 4 :] = (0, 0, 255)
    return av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv444p")


def fit(frame: av.VideoFrame, crop: str, sar: Fraction | None = None) -> np.ndarray:
    return FrameFitter(size=64, crop=crop, sample_aspect_ratio=sar).fit(frame)


def colour(pixel: np.ndarray) -> str:
    return "rgb"[int(pixel.argmax())] if pixel.max() > 60 else "-"


@pytest.mark.parametrize(("width", "height"), [(128, 64), (64, 128), (171, 97), (64, 64)])
def test_center_keeps_the_middle_square(width, height):
    out = fit(picture(width, height), "center")
    assert colour(out[10, 10]) == "r" and colour(out[10, 53]) == "g"
    assert colour(out[62, 30]) == ("b" if width >= height else "r")  # a tall picture loses its bottom


def test_pad_keeps_all_between_black_bars():
    out = fit(picture(128, 64), "pad")
    assert [colour(out[y, 10]) for y in (5, 20, 45, 60)] == ["-", "r", "b", "-"]


def test_stretch_fills_the_square():
    out = fit(picture(128, 64), "stretch")
    assert [colour(out[y, 10]) for y in (2, 30, 60)] == ["r", "r", "b"]


def test_a_sample_aspect_ratio_counts_as_pixels_do():
    """A 64 x 128 picture with pixels twice as wide as high is square on the screen."""
    square = fit(picture(128, 128), "center")
    narrow = fit(picture(64, 128), "center", Fraction(2))
    assert np.abs(square.astype(int) - narrow).mean() < 6


def interlaced(frame: av.VideoFrame, order: str) -> av.VideoFrame:
    """The frame, said to hold two fields: 'tff' shows the top one (rows 0, 2, ...) first, 'bff' the other."""
    graph = Graph()
    buffer = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000)
    )
    setfield, sink = graph.add("setfield", order), graph.add("buffersink")
    buffer.link_to(setfield)
    setfield.link_to(sink)
    graph.configure()
    frame.pts = 0
    graph.vpush(frame)
    return graph.vpull()


@pytest.mark.parametrize("height", [64, 65])
@pytest.mark.parametrize(("order", "first"), [("tff", "r"), ("bff", "g")])
def test_of_an_interlaced_frame_the_field_shown_first_is_kept(order, first, height):
    rgb = np.zeros((height, 64, 3), np.uint8)
    rgb[0::2, :, 0] = rgb[1::2, :, 1] = 255
    fitter = FrameFitter(size=64, crop="center", sample_aspect_ratio=None)
    plain = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv444p")
    for _ in range(3):  # the second field of one frame is not taken for the first of the next
        out = fitter.fit(interlaced(plain, order))
        assert out.shape == (64, 64, 3)
        assert {colour(pixel) for pixel in out.reshape(-1, 3)} == {first}


def test_an_absurd_aspect_ratio_is_ignored():
    assert np.array_equal(fit(picture(64, 64), "center", Fraction(1, 60000)), fit(picture(64, 64), "center"))


def test_a_change_of_size_and_format_inside_a_source_is_followed():
    fitter = FrameFitter(size=64, crop="center", sample_aspect_ratio=None)
    for frame in (picture(64, 64), picture(200, 100), picture(64, 64).reformat(format="yuv420p10le")):
        out = fitter.fit(frame)
        assert colour(out[10, 10]) == "r" and colour(out[10, 53]) == "g"


@pytest.mark.parametrize("name", ["rgb565be", "rgb555be", "bgr565le", "gray16le", "yuv444p10le"])
def test_a_picture_that_has_its_size_already_keeps_its_values(name):
    """FFmpeg's own shortcut from 16-bit pixels to rgb24 takes the two bytes in the wrong order."""
    frame = picture(64, 64).reformat(format=name)
    exact = frame.reformat(width=64, height=128, format="gbrp").reformat(width=64, height=64, format="rgb24")
    assert np.abs(fit(frame, "center").astype(int) - exact.to_ndarray()).mean() < 6
