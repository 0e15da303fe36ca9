from __future__ import annotations

import io
import math
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext
from av.filter import Graph
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from avprep.media.aperture import Aperture
from avprep.media.crop import NO_BARS, Bars
from avprep.media.frames import FrameFitter, _orientation, _oriented
from tests.conftest import shared_file


def picture(width: int, height: int) -> av.VideoFrame:
    """Left half red, right half green; the bottom quarter blue."""
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[:, : width // 2, 0] = 255
    rgb[:, width // 2 :, 1] = 255
    rgb[height * 3 // 4 :] = (0, 0, 255)
    return av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv444p")


def fit(
    frame: av.VideoFrame,
    crop: str,
    sar: Fraction | None = None,
    aperture: Aperture | None = None,
    size: int = 64,
    bars: Bars = NO_BARS,
) -> np.ndarray:
    fitter = FrameFitter(size=size, crop=crop, sample_aspect_ratio=sar, aperture=aperture, bars=bars)
    return fitter.fit(frame)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """dB of two uint8 pictures."""
    return 10 * math.log10(255**2 / max(1e-9, np.square(a.astype(float) - b).mean()))


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


def test_a_change_between_whole_and_interlaced_frames_is_followed():
    rgb = np.zeros((64, 64, 3), np.uint8)
    rgb[0::2, :, 0] = rgb[1::2, :, 1] = 255
    fitter = FrameFitter(size=64, crop="center", sample_aspect_ratio=None)
    plain = av.VideoFrame.from_ndarray(rgb).reformat(format="yuv444p")
    for order, kept in ((None, rgb), ("tff", rgb[:1]), (None, rgb), ("bff", rgb[1:2])):
        out = fitter.fit(plain if order is None else interlaced(plain, order))
        assert np.abs(out.astype(int) - kept).max() < 8


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


# Orientation. A matrix (a, b, c, d) shows the pixel at (x, y) at (a x + c y, b x + d y), y downwards.

ORIENTATIONS = {
    (1, 0, 0, 1): lambda p: p,
    (-1, 0, 0, 1): lambda p: p[:, ::-1],  # hflip: a front camera
    (1, 0, 0, -1): lambda p: p[::-1],  # vflip
    (-1, 0, 0, -1): lambda p: p[::-1, ::-1],  # by 180 degrees
    (0, 1, -1, 0): lambda p: p.transpose(1, 0, 2)[:, ::-1],  # clockwise: a phone held upright
    (0, -1, 1, 0): lambda p: p.transpose(1, 0, 2)[::-1],  # counterclockwise
    (0, 1, 1, 0): lambda p: p.transpose(1, 0, 2),  # transpose
    (0, -1, -1, 0): lambda p: p.transpose(1, 0, 2)[::-1, ::-1],  # transverse
}


def write_oriented(path: Path, matrix: tuple[int, ...]) -> Path:
    """An MP4 of one 128 x 96 picture with this display matrix in its header."""
    a, b, c, d = (65536 * n for n in matrix)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv444p"
        stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
        out.mux(stream.encode(picture(128, 96)))
        out.mux(stream.encode(None))
    return path


def first_frame(path: Path) -> av.VideoFrame:
    with av.open(str(path)) as container:
        return next(container.decode(video=0))


@pytest.mark.parametrize("crop", ["center", "pad"])
@pytest.mark.parametrize("matrix", ORIENTATIONS)
def test_the_eight_orientations_are_those_of_numpy(tmp_path, matrix, crop):
    upright = fit(first_frame(write_oriented(tmp_path / "upright.mp4", (1, 0, 0, 1))), crop)
    shown = fit(first_frame(write_oriented(tmp_path / "turned.mp4", matrix)), crop)
    assert np.array_equal(shown, ORIENTATIONS[matrix](upright))
    assert {colour(pixel) for pixel in shown.reshape(-1, 3)} >= set("rgb")


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs the ffmpeg command")
@pytest.mark.parametrize("matrix", ORIENTATIONS)
def test_the_eight_orientations_are_those_of_ffmpeg(tmp_path, matrix):
    path, out = write_oriented(tmp_path / "turned.mp4", matrix), tmp_path / "out.png"
    subprocess.run(["ffmpeg", "-v", "error", "-i", str(path), "-frames:v", "1", str(out)], check=True)
    as_shown = fit(first_frame(out), "pad")
    assert np.abs(fit(first_frame(path), "pad").astype(int) - as_shown).mean() < 4


@pytest.mark.parametrize(("name", "flip"), [("hflip.mp4", np.fliplr), ("vflip.mp4", np.flipud)])
def test_a_recording_of_a_front_camera_is_mirrored(name, flip):
    frame = first_frame(shared_file("cases", "mirrored", "in", name))
    stored = av.VideoFrame.from_ndarray(frame.to_ndarray(format="rgb24")).reformat(format="gbrp")
    assert psnr(fit(frame, "center"), flip(fit(stored, "center"))) > 30


def test_each_frame_is_turned_by_its_own_matrix(tmp_path):
    fitter = FrameFitter(size=64, crop="center", sample_aspect_ratio=None)
    frames = [first_frame(write_oriented(tmp_path / f"{m}.mp4", m)) for m in ORIENTATIONS]
    upright, *turned = [fitter.fit(frame) for frame in frames]
    for shown, turn in zip(turned, list(ORIENTATIONS.values())[1:], strict=True):
        assert np.array_equal(shown, turn(upright))


def test_the_orientation_that_h264_itself_carries_is_applied():
    """In an SEI message, without a container; FFmpeg's filter writes it."""
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 128, 96, "yuv444p", Fraction(1, 25)
    packets = encoder.encode(picture(128, 96)) + encoder.encode(None)
    data = b"".join(bytes(packet) for packet in packets)

    def decoded(options: str) -> np.ndarray:
        with av.open(io.BytesIO(data), format="h264") as raw:
            bsf = BitStreamFilterContext(f"h264_metadata={options}", raw.streams.video[0])
            packets = [packet for packet in raw.demux() if packet.size]
            changed = b"".join(bytes(p) for packet in [*packets, None] for p in bsf.filter(packet))
        with av.open(io.BytesIO(changed), format="h264") as raw:
            return fit(next(raw.decode(video=0)), "center")

    upright = decoded("display_orientation=remove")
    assert np.array_equal(decoded("display_orientation=insert:flip=horizontal"), upright[:, ::-1])
    assert np.array_equal(decoded("display_orientation=insert:rotate=90"), np.rot90(upright))


def test_side_data_that_pyav_does_not_know_leaves_the_angle():
    """Motion JPEG with Exif: FFmpeg 8 attaches the matrix and the Exif block, which PyAV 18.1 refuses."""
    rgb = picture(128, 96).to_ndarray(format="rgb24")
    shown = []
    for orientation in (1, 6):  # 6: to be turned clockwise
        exif, file = Image.Exif(), io.BytesIO()
        exif[0x112] = orientation
        Image.fromarray(rgb).save(file, "jpeg", exif=exif, quality=95)
        with av.open(io.BytesIO(file.getvalue()), format="mjpeg") as container:
            shown.append(fit(next(container.decode(video=0)), "center"))
    assert np.array_equal(shown[1], np.rot90(shown[0], -1))


@given(st.tuples(*[st.integers(-100_000, 100_000)] * 4))
def test_a_matrix_between_the_eight_goes_to_the_nearest(matrix):
    a, b, c, d = matrix
    small = np.arange(18).reshape(2, 3, 3)
    shown = _oriented(small, _orientation(matrix))
    if a * d == b * c:
        assert np.array_equal(shown, small)
        return
    unit = [n / math.hypot(*matrix[i // 2 * 2 : i // 2 * 2 + 2]) for i, n in enumerate(matrix)]
    likeness = {o: sum(x * y for x, y in zip(o, unit, strict=True)) for o in ORIENTATIONS}
    best = max(likeness.values())
    nearest = [ORIENTATIONS[o](small) for o, value in likeness.items() if value > best - 1e-9]
    assert any(np.array_equal(shown, candidate) for candidate in nearest)


@pytest.mark.parametrize(("degrees", "turns"), [(-30, 0), (30, 0), (60, -1), (89.9, -1), (170, 2), (280, 1)])
def test_a_slanted_picture_is_turned_by_quarters(degrees, turns):
    small = np.arange(18).reshape(2, 3, 3)
    cos, sin = (round(65536 * f(math.radians(degrees))) for f in (math.cos, math.sin))
    shown = _oriented(small, _orientation((cos, sin, -sin, cos)))
    assert np.array_equal(shown, np.rot90(small, turns))


# Black bars of the source are counted in 256ths of the picture as it is shown.


@pytest.mark.parametrize("matrix", ORIENTATIONS)
def test_bars_are_cut_from_the_sides_at_which_they_are_shown(tmp_path, matrix):
    """The shown picture, 128 x 96 or 96 x 128, is cut by NumPy at whole pixels."""
    frame = first_frame(write_oriented(tmp_path / "turned.mp4", matrix))
    upright = first_frame(write_oriented(tmp_path / "upright.mp4", (1, 0, 0, 1))).to_ndarray(format="rgb24")
    shown = ORIENTATIONS[matrix](upright)
    height, width = shown.shape[:2]
    kept = shown[height // 8 : height - height // 4, width // 16 : width - width * 3 // 8]
    expected = fit(av.VideoFrame.from_ndarray(np.ascontiguousarray(kept), format="rgb24"), "stretch")
    assert psnr(fit(frame, "stretch", bars=Bars(32, 64, 16, 96)), expected) > 28


@pytest.mark.parametrize(("crop", "shape"), [("auto", (64, 64)), ("center", (64, 64)), ("pad", (32, 64))])
def test_the_crop_is_of_the_picture_between_the_bars(crop, shape):
    """256 x 256 with a picture of 256 x 128 between bars above and below."""
    whole = np.zeros((256, 256, 3), np.uint8)
    whole[64:192] = 255
    whole[64:192, 64:192] = (255, 0, 0)
    frame = av.VideoFrame.from_ndarray(whole, format="rgb24")
    out = fit(frame, crop, bars=Bars(64, 64, 0, 0))
    lit = out.max(axis=2) > 128
    assert (lit.any(axis=1).sum(), lit.any(axis=0).sum()) == shape
    if crop != "pad":
        assert (out == (255, 0, 0)).all(axis=2).mean() > 0.9


@pytest.mark.parametrize("bars", [Bars(127, 128, 0, 0), Bars(0, 0, 200, 55)])
def test_bars_that_leave_nothing_of_a_small_picture_are_ignored(bars):
    assert np.array_equal(fit(picture(2, 2), "stretch", bars=bars), fit(picture(2, 2), "stretch"))


def test_one_fitter_follows_frames_that_are_turned_otherwise(tmp_path):
    turned = [first_frame(write_oriented(tmp_path / f"{m}.mp4", m)) for m in ((1, 0, 0, 1), (-1, 0, 0, -1))]
    bars = Bars(96, 0, 0, 0)
    fitter = FrameFitter(size=64, crop="stretch", sample_aspect_ratio=None, bars=bars)
    together = [fitter.fit(frame).copy() for frame in turned]
    turned = [first_frame(tmp_path / f"{m}.mp4") for m in ((1, 0, 0, 1), (-1, 0, 0, -1))]
    assert all(np.array_equal(a, fit(b, "stretch", bars=bars)) for a, b in zip(together, turned, strict=True))


# Crops that cut through chroma samples.


def drawn(width: int, height: int, pixels: str) -> av.VideoFrame:
    """Waves of colour, each primary its own, in this pixel format."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin((across * x + down * y) / 4) for across, down in ((1, 0), (0.6, 0.8), (0, 1))]
    rgb = (127 + 100 * np.stack(waves, -1)).astype(np.uint8)
    return through(av.VideoFrame.from_ndarray(rgb), [("scale", FULL), ("format", pixels)])


FULL = "iw:ih:flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"


def through(frame: av.VideoFrame, steps: list[tuple[str, str]]) -> av.VideoFrame:
    graph = Graph()
    node = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000)
    )
    for name, args in [*steps, ("buffersink", "")]:
        following = graph.add(name, args)
        node.link_to(following)
        node = following
    graph.configure()
    frame.pts = 0
    graph.vpush(frame)
    out = graph.vpull()
    if not out.format.is_rgb:
        out.colorspace = 1
    return out


def cropped_after_conversion(frame: av.VideoFrame, cut: Aperture) -> np.ndarray:
    rgb = through(frame, [("scale", FULL), ("format", "gbrp"), ("format", "rgb24")]).to_ndarray()
    rgb = rgb[cut.top : len(rgb) - cut.bottom, cut.left : rgb.shape[1] - cut.right]
    side = min(rgb.shape[:2])
    top, left = ((n - side) // 2 for n in rgb.shape[:2])
    square = np.ascontiguousarray(rgb[top : top + side, left : left + side])
    return fit(av.VideoFrame.from_ndarray(square), "stretch")


NOTHING = Aperture(0, 0, 0, 0)
FORMATS = (
    "yuv420p",
    "yuvj420p",
    "yuv420p10le",
    "yuv420p12le",
    "nv12",
    "p010le",
    "yuva420p",
    "yuv422p",
    "yuv422p10le",
    "yuyv422",
    "yuv440p",
    "yuv411p",
    "yuv410p",
    "yuv444p",
    "yuv444p12le",
    "gray",
    "gray10le",
    "rgb24",
    "gbrp10le",
    "rgba",
    "ya8",
)


@pytest.mark.parametrize("pixels", FORMATS)
@pytest.mark.parametrize(
    ("width", "height", "cut"),
    [
        (214, 120, NOTHING),  # as 854 x 480: 47 columns are cut on the left
        (120, 214, NOTHING),
        (161, 91, NOTHING),  # odd, and off the grid
        (120, 120, Aperture(1, 3, 5, 2)),
    ],
)
def test_a_crop_off_the_chroma_grid_is_that_of_the_converted_picture(width, height, cut, pixels):
    wanted = cropped_after_conversion(drawn(width, height, pixels), cut)
    assert psnr(fit(drawn(width, height, pixels), "center", aperture=cut), wanted) > 40


def test_a_paletted_picture_is_cropped():
    indices = (np.arange(214) // 8 % 256).astype(np.uint8) + np.zeros((120, 1), np.uint8)
    grays = np.repeat(np.arange(0, 256, dtype=np.uint8)[:, None] * 7, 4, 1)
    grays[:, 0] = 255  # A, then R, G, B
    frame = av.VideoFrame.from_ndarray((indices, grays), format="pal8")
    rgb = np.ascontiguousarray(grays[indices][:, 47:167, 1:])
    assert psnr(fit(frame, "center"), fit(av.VideoFrame.from_ndarray(rgb), "stretch")) > 40


@pytest.mark.parametrize("pixels", ["yuv420p", "yuv420p10le", "yuv422p", "nv12"])
def test_a_crop_on_the_grid_is_scaled_once(pixels):
    """Straight from the stored picture, without the conversion at full size that other crops need."""
    once = [("crop", "120:120:48:0:exact=1"), ("scale", FULL.replace("iw:ih", "64:64")), ("format", "gbrp")]
    scaled = through(drawn(216, 120, pixels), once)
    assert np.array_equal(fit(drawn(216, 120, pixels), "center"), scaled.to_ndarray(format="rgb24"))


@pytest.mark.parametrize("order", ["tff", "bff"])
@pytest.mark.parametrize("cut", [NOTHING, Aperture(3, 2, 0, 8)])
def test_a_field_is_cropped_as_a_picture_of_half_the_height(order, cut):
    field, woven = drawn(214, 60, "yuv420p10le"), av.VideoFrame(214, 120, "yuv420p10le")
    for once, twice in zip(field.planes, woven.planes, strict=True):
        rows = np.frombuffer(once, np.uint8).reshape(once.height, -1)[:, : 2 * once.width]
        np.asarray(memoryview(twice)).reshape(twice.height, -1)[:, : 2 * twice.width] = rows.repeat(2, 0)
    woven.colorspace = field.colorspace
    half = Aperture(cut.left, cut.top // 2, cut.right, cut.bottom // 2)
    wanted = fit(field, "center", Fraction(1, 2), half)
    assert np.array_equal(fit(interlaced(woven, order), "center", None, cut), wanted)


@pytest.mark.parametrize("height", [2, 3, 62, 63])
def test_no_row_from_beyond_the_picture_comes_into_a_field(height):
    """Of 62 rows in 4:2:0 the lower field has 31, and its chroma 15 and a half."""
    rgb = np.full((height, 64, 3), (200, 0, 200), np.uint8)
    plain = through(av.VideoFrame.from_ndarray(rgb), [("scale", FULL), ("format", "yuv420p")])
    out = fit(interlaced(plain, "bff"), "stretch")
    assert (out == out[0, 0]).all()


@pytest.mark.parametrize("pixels", [*FORMATS, "uyyvyy411", "monow", "bayer_rggb8", "gray16be"])
def test_pictures_of_one_to_three_pixels_are_scaled(pixels):
    for width, height in ((1, 1), (2, 2), (3, 3), (1, 3), (3, 2), (2, 1)):
        frame = av.VideoFrame(width, height, pixels)
        for plane in frame.planes:
            plane.update(bytes([128]) * plane.buffer_size)
        if pixels.startswith("bayer") and height == 1:
            with pytest.raises(av.InvalidDataError, match="one row"):
                fit(frame, "center")
            continue
        for crop in ("center", "pad", "stretch"):
            assert fit(frame, crop, size=16).shape == (16, 16, 3)


# The aperture: what the container says is shown.


def test_what_the_aperture_cuts_off_is_not_shown():
    """A green picture in a red frame; the red is cut off before the aspect ratio and the square count."""
    rgb = np.zeros((60, 100, 3), np.uint8)
    rgb[..., 0] = 255
    rgb[5:55, 11:61] = (0, 255, 0)
    frame = av.VideoFrame.from_ndarray(rgb).reformat(format="yuv444p")
    cut = Aperture(left=11, top=5, right=39, bottom=5)
    for crop in ("center", "pad", "stretch"):
        assert {colour(pixel) for pixel in fit(frame, crop, aperture=cut).reshape(-1, 3)} == {"g"}
    wide = fit(frame, "pad", Fraction(2), cut)  # 100 x 50 on the screen
    assert [colour(wide[y, 32]) for y in (10, 20, 44, 54)] == ["-", "g", "g", "-"]


def test_the_aperture_cuts_the_stored_picture_which_is_turned_later(tmp_path):
    turned = first_frame(write_oriented(tmp_path / "turned.mp4", (0, 1, -1, 0)))
    out = fit(turned, "center", aperture=Aperture(left=64, top=0, right=0, bottom=32))  # the green half
    assert {colour(pixel) for pixel in out.reshape(-1, 3)} == {"g"}


@pytest.mark.parametrize("cut", [Aperture(64, 0, 64, 0), Aperture(0, 90, 0, 38), Aperture(2**60, 0, 0, 0)])
def test_an_aperture_that_leaves_nothing_is_ignored(cut):
    assert np.array_equal(fit(picture(128, 128), "center", aperture=cut), fit(picture(128, 128), "center"))


# Colour.

KR_KB = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}


def plain_colour(pixels: str, yuv: tuple[int, ...], width: int = 32, height: int = 32) -> av.VideoFrame:
    """A picture of one colour, given in 8-bit code values."""
    frame = av.VideoFrame(width, height, pixels)
    shift = frame.format.components[0].bits - 8
    for plane, value in zip(frame.planes, yuv, strict=False):
        item = np.array([value << shift], "<u2" if shift else "u1").tobytes()
        plane.update(item * (plane.buffer_size // len(item)))
    return frame


def rgb_of(yuv: tuple[int, int, int], matrix: int, *, full: bool) -> np.ndarray:
    """H.273's equations: what 8-bit code values mean."""
    kr, kb = KR_KB[matrix]
    luma = yuv[0] / 255 if full else (yuv[0] - 16) / 219
    blue, red = ((c - 128) / (255 if full else 224) for c in yuv[1:])
    r, b = luma + 2 * (1 - kr) * red, luma + 2 * (1 - kb) * blue
    return np.clip(np.array([r, (luma - kr * r - kb * b) / (1 - kr - kb), b]) * 255, 0, 255)


COLOURS = ((81, 90, 240), (145, 54, 34), (41, 240, 110), (180, 128, 128), (120, 100, 160))


def assert_shown_as(pixels: str, tag: int, colour_range: int, meant: int, *, full: bool, **size: int) -> None:
    for yuv in COLOURS:
        frame = plain_colour(pixels, yuv, **size)
        frame.colorspace, frame.color_range = tag, colour_range
        out = fit(frame, "center", size=8).reshape(-1, 3)
        assert np.abs(out - rgb_of(yuv, meant, full=full)).max() < 1.6, (yuv, out[0])


@pytest.mark.parametrize("pixels", ["yuv420p", "yuv444p", "yuv422p10le", "yuv420p12le"])
@pytest.mark.parametrize("matrix", KR_KB)
def test_a_tagged_picture_is_converted_by_its_matrix(pixels, matrix):
    assert_shown_as(pixels, matrix, 1, matrix, full=False)
    assert_shown_as(pixels, matrix, 0, matrix, full=False)
    if "p1" not in pixels:  # full range of more bits is no multiple of 8-bit code values
        assert_shown_as(pixels, matrix, 2, matrix, full=True)


def test_a_jpeg_picture_has_full_range_whatever_its_tag():
    for colour_range in (0, 1, 2):
        assert_shown_as("yuvj420p", 5, colour_range, 5, full=True)


@pytest.mark.parametrize(
    ("width", "height", "guess"), [(1279, 32, 6), (1280, 32, 1), (32, 576, 6), (32, 577, 1), (720, 1280, 1)]
)
def test_a_missing_matrix_is_guessed_by_size(width, height, guess):
    assert_shown_as("yuv420p", 2, 1, guess, full=False, width=width, height=height)


@pytest.mark.parametrize("tag", [0, 3, 8, 11, 12, 13, 14, 15, 16, 17, 99])
def test_a_matrix_that_cannot_be_is_guessed_too(tag):
    """RGB, reserved, YCgCo, chroma-derived, ICtCp, ...: the scaler refuses some of them."""
    assert_shown_as("yuv420p", tag, 1, 6, full=False)
    assert_shown_as("yuv420p", tag, 1, 1, full=False, width=1280)


def test_constant_luminance_is_taken_for_bt2020():
    assert_shown_as("yuv420p10le", 10, 1, 9, full=False)


@pytest.mark.parametrize("pixels", ["yuv420p", "gbrp", "gray"])
def test_other_tags_that_cannot_be_change_nothing(pixels):
    odd, plain = plain_colour(pixels, (100, 90, 200)), plain_colour(pixels, (100, 90, 200))
    odd.color_primaries, odd.color_trc, odd.color_range = 3, 0, 7
    assert np.array_equal(fit(odd, "center"), fit(plain, "center"))


@pytest.mark.parametrize("tag", [0, 1, 2, 8])
def test_rgb_keeps_its_values(tag):
    frame = plain_colour("gbrp", (30, 90, 200))
    frame.colorspace = tag
    assert (fit(frame, "center") == (200, 30, 90)).all()


@pytest.mark.parametrize("pixels", ["gray", "gray10le", "gray12le", "ya8"])
def test_gray_of_limited_range_is_stretched(pixels):
    for level, limited in ((0, 0), (16, 0), (100, 98), (180, 191), (235, 255), (255, 255)):
        for colour_range, shown in ((0, level), (1, limited), (2, level)):
            frame = plain_colour("gray" if pixels == "ya8" else pixels, (level,))
            if pixels == "ya8":
                frame = through(frame, [("format", "ya8")])
            frame.color_range = colour_range
            assert np.abs(fit(frame, "center").astype(int) - shown).max() <= 1


def test_a_change_of_range_inside_a_gray_source_is_followed():
    fitter = FrameFitter(size=8, crop="center", sample_aspect_ratio=None)
    for colour_range, shown in ((2, 235), (1, 255), (2, 235)):
        frame = plain_colour("gray", (235,))
        frame.color_range = colour_range
        assert (fitter.fit(frame) == shown).all()


def test_a_change_of_tags_inside_a_source_is_followed():
    fitter = FrameFitter(size=8, crop="center", sample_aspect_ratio=None)
    for matrix, colour_range in ((1, 1), (6, 1), (1, 2), (1, 1)):
        frame = plain_colour("yuv420p", COLOURS[0])
        frame.colorspace, frame.color_range = matrix, colour_range
        wanted = rgb_of(COLOURS[0], matrix, full=colour_range == 2)
        assert np.abs(fitter.fit(frame) - wanted).max() < 1.6
