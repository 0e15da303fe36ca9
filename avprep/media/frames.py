"""Decoded pictures to the spec's square RGB: cropped and scaled, with colours and orientation as shown."""

from __future__ import annotations

import errno
import math
import struct
from fractions import Fraction
from typing import Any, NamedTuple, cast

import av
import numpy as np
from av.filter import Graph
from av.sidedata.sidedata import Type
from av.video.format import VideoFormat
from av.video.frame import VideoFrame

from avprep.media.aperture import Aperture
from avprep.media.crop import GRID, NO_BARS, Bars, Crop

_SCALER = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
_MAX_ASPECT = 16  # a sample aspect ratio outside 1/16..16 means a broken header, and is ignored

# Values of H.273: a stream's colour tags.
_UNSPECIFIED = 2
_BT709, _FCC, _BT470BG, _SMPTE170M, _SMPTE240M, _BT2020_NCL, _BT2020_CL = 1, 4, 5, 6, 7, 9, 10
_MATRICES = frozenset({_BT709, _FCC, _BT470BG, _SMPTE170M, _SMPTE240M, _BT2020_NCL})  # the scaler's
_LIMITED, _FULL = 1, 2  # AVColorRange

_MAX_SIDE = 1 << 20  # more pixels than any picture is wide or high


class FrameFitter:
    """Fits frames of one source to `size` x `size` RGB.

    crop: 'center' keeps the largest centred square, 'pad' keeps the whole picture between black bars,
    'stretch' fills the square. All count in display pixels: the sample aspect ratio is applied. 'auto' is
    'center'.
    bars: of the source (`Bars`); whatever the crop, they are cut away before it.
    aperture: the pixels of the stored picture that its container says are not shown. One that leaves
    nothing of a frame is ignored.
    An interlaced frame is two pictures half a frame apart; the one shown first, to which its PTS belongs, is
    kept, be it the top or the bottom field.
    A frame's display matrix turns and mirrors it in one of eight ways, each frame by its own.
    """

    def __init__(
        self,
        *,
        size: int,
        crop: Crop,
        sample_aspect_ratio: Fraction | None,
        aperture: Aperture | None = None,
        bars: Bars = NO_BARS,
    ) -> None:
        self.size = size
        self.crop = crop
        self.bars = bars
        sar = Fraction(sample_aspect_ratio or 1)
        self.sar = sar if Fraction(1, _MAX_ASPECT) <= sar <= _MAX_ASPECT else Fraction(1)
        self.aperture = aperture or Aperture(0, 0, 0, 0)
        self._graph: tuple[tuple, Graph] | None = None  # for frames of a kind, and that kind

    def fit(self, frame: VideoFrame) -> np.ndarray:
        """The picture, uint8 (size, size, 3): mostly a view of the scaler's own output, not a copy.

        The frame's colour tags and PTS are overwritten.

        Raises:
            av.FFmpegError: a picture of a kind that FFmpeg cannot scale.
        """
        _settle_colours(frame)
        frame.pts = None  # timing is settled already; the graph must not reorder or drop by it
        orientation = _orientation(_display_matrix(frame))
        picture = _oriented(self._scale(frame, _as_stored(self.bars, orientation)), orientation)
        if self.crop != "pad":
            return picture
        padded = np.zeros((self.size, self.size, 3), np.uint8)
        top, left = ((self.size - n) // 2 for n in picture.shape[:2])
        padded[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
        return padded

    def _scale(self, frame: VideoFrame, bars: Bars) -> np.ndarray:
        """The picture as stored, uint8 (height, width, 3); its size is `_scaled`'s. `bars`: as stored."""
        key = (
            frame.width,
            frame.height,
            frame.format.name,
            frame.interlaced_frame,
            frame.colorspace,
            frame.color_range,
            bars,
        )
        key_before, graph = self._graph or (None, None)
        if graph is None or key != key_before:
            graph = self._build(frame, bars)
        self._graph = None  # a graph that fails may hold frames back; it is not used again
        graph.vpush(frame)
        scaled = graph.vpull()
        self._graph = key, graph
        plane = scaled.planes[0]
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
        return rows[:, : scaled.width * 3].reshape(scaled.height, scaled.width, 3)

    def _build(self, frame: VideoFrame, bars: Bars) -> Graph:
        """buffer -> [one field] -> [crop] -> scale to planar RGB -> rgb24, for such frames.

        With full chroma the scaler's vector code writes planar RGB only; straight to rgb24 it takes three
        times as long for the same bytes.
        """
        if frame.format.is_bayer and frame.height < 2:  # FFmpeg's scaler would end the process
            raise av.InvalidDataError(errno.EINVAL, "a Bayer picture of one row cannot be scaled")
        steps: list[tuple[str, str]] = []
        align = _chroma_grid(frame.format)
        fields, sar = 1, self.sar
        whole = _Box(0, 0, frame.width, frame.height)
        if frame.interlaced_frame and frame.height >= 2 * align[1]:
            fields, sar = 2, sar / 2
            whole = whole._replace(height=frame.height // (2 * align[1]) * align[1])
            # Fields of whole chroma rows: rows left over belong to one field only, or to none.
            steps.append(("crop", f"{frame.width}:{2 * whole.height}:0:0:exact=1"))
            steps += [("separatefields", ""), ("select", "not(mod(n,2))")]  # the second comes with the next
        shown = _between(bars, self._shown(frame, whole, fields))
        steps += _crop_and_scale(
            whole, self._kept(shown, sar), align, self._scaled(shown.width * sar, Fraction(shown.height))
        )
        steps += _limited_gray(frame) + [("scale", "iw:ih"), ("format", "rgb24")]
        return _linked(frame, steps)

    def _shown(self, frame: VideoFrame, whole: _Box, fields: int) -> _Box:
        """What the aperture leaves of `whole`, which is every `fields`-th row of the frame."""
        cut = self.aperture
        top = -(-cut.top // fields)
        bottom = min((frame.height - cut.bottom) // fields, whole.height)
        width = frame.width - cut.left - cut.right
        return _Box(cut.left, top, width, bottom - top) if width > 0 and bottom > top else whole

    def _kept(self, shown: _Box, sar: Fraction) -> _Box:
        """The part of the shown picture that the crop keeps."""
        if self.crop in ("pad", "stretch"):
            return shown
        side = min(shown.width * sar, Fraction(shown.height))
        width = max(1, min(shown.width, round(side / sar)))
        height = max(1, min(shown.height, round(side)))
        left, top = (shown.width - width) // 2, (shown.height - height) // 2
        return _Box(shown.x + left, shown.y + top, width, height)

    def _scaled(self, display_width: Fraction, display_height: Fraction) -> tuple[int, int]:
        if self.crop != "pad":
            return self.size, self.size
        longest = max(display_width, display_height)
        width, height = (
            max(1, round(self.size * side / longest)) for side in (display_width, display_height)
        )
        return width, height


class _Box(NamedTuple):
    """A rectangle of a picture, in pixels."""

    x: int
    y: int
    width: int
    height: int


def _between(bars: Bars, shown: _Box) -> _Box:
    """The picture between its bars, without pixels that are partly bar; bars that leave none are ignored."""
    top, bottom = (-(-shown.height * bar // GRID) for bar in (bars.top, bars.bottom))
    left, right = (-(-shown.width * bar // GRID) for bar in (bars.left, bars.right))
    width, height = shown.width - left - right, shown.height - top - bottom
    return _Box(shown.x + left, shown.y + top, width, height) if min(width, height) > 0 else shown


def _chroma_grid(pixels: VideoFormat) -> tuple[int, int]:
    """Luma columns and rows per chroma sample (2, 2 in 4:2:0). A Bayer mosaic is one cell: never cut raw."""
    if pixels.is_bayer:
        return _MAX_SIDE, _MAX_SIDE
    return 16 // pixels.chroma_width(16), 16 // pixels.chroma_height(16)


def _crop_and_scale(
    whole: _Box, kept: _Box, align: tuple[int, int], size: tuple[int, int]
) -> list[tuple[str, str]]:
    """Filters from `whole` to the `kept` part of it as planar RGB of `size` (width, height).

    FFmpeg's crop filter cannot cut through a chroma sample: chroma is shifted, and where samples have two
    bytes the cut may go through a byte pair. A crop off the chroma grid is made in two parts: around it on
    the grid, the rest once the picture is RGB. It costs a conversion at full size, so only such crops do it.
    """
    steps = []
    around = _on_grid(kept, whole, align)
    if around != whole:
        steps.append(_crop(around))
    if around != kept:
        steps += [("scale", f"iw:ih:flags={_SCALER}"), ("format", "gbrp")]
        steps.append(_crop(kept._replace(x=kept.x - around.x, y=kept.y - around.y)))
    width, height = size
    return [*steps, ("scale", f"{width}:{height}:flags={_SCALER}"), ("format", "gbrp")]


def _crop(box: _Box) -> tuple[str, str]:
    return "crop", f"{box.width}:{box.height}:{box.x}:{box.y}:exact=1"


def _on_grid(box: _Box, whole: _Box, align: tuple[int, int]) -> _Box:
    """The smallest box around `box` whose chroma is placed as it is in the `whole` picture."""
    x, right = _span_on_grid(box.x, box.x + box.width, whole.width, align[0])
    y, bottom = _span_on_grid(box.y, box.y + box.height, whole.height, align[1])
    return _Box(x, y, right - x, bottom - y)


def _span_on_grid(start: int, stop: int, length: int, cell: int) -> tuple[int, int]:
    """Start and stop of whole cells. If the last cell of `length` is cut off, the scaler has stretched all of
    them, and no part can be taken alone."""
    if length % cell:
        return 0, length
    return start // cell * cell, -(-stop // cell) * cell


def _linked(frame: VideoFrame, steps: list[tuple[str, str]]) -> Graph:
    """A configured graph on one thread that takes such frames through `steps`."""
    graph = Graph()
    graph.threads = 1
    node = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000)
    )
    for name, args in [*steps, ("buffersink", "")]:
        following = graph.add(name, args)
        node.link_to(following)
        node = following
    graph.configure()
    return graph


def _settle_colours(frame: VideoFrame) -> None:
    """Replaces colour tags that are missing, or that the scaler refuses, by what players assume.

    A YUV picture without a matrix is BT.709 if it is wider than 1279 or higher than 576 pixels, else BT.601:
    mpv's guess; the scaler alone takes BT.601. Matrices that the scaler does not know (RGB in a YUV file,
    YCgCo, ICtCp, reserved numbers) are guessed likewise. Primaries and transfer are not converted, and
    reserved values of them would make the scaler fail.
    """
    frame.color_primaries = frame.color_trc = _UNSPECIFIED
    if frame.color_range not in (_LIMITED, _FULL):
        frame.color_range = 0
    if frame.format.is_rgb or frame.colorspace in _MATRICES:
        return
    if frame.colorspace == _BT2020_CL:
        frame.colorspace = _BT2020_NCL  # the same coefficients; the scaler knows no constant luminance
    else:
        frame.colorspace = _BT709 if frame.width >= 1280 or frame.height > 576 else _SMPTE170M


def _limited_gray(frame: VideoFrame) -> list[tuple[str, str]]:
    """Stretches a gray picture of limited range, once it is 8-bit RGB: the scaler takes all gray for full."""
    is_gray = frame.format.name.startswith(("gray", "ya8", "ya16"))
    if frame.color_range != _LIMITED or not is_gray:
        return []
    bits = frame.format.components[0].bits
    unit = 255 / ((1 << bits) - 1) * (1 << bits - 8)  # one step of 8-bit video, as scaled
    stretched = f"(val-{16 * unit})*255/{219 * unit}+0.5"
    return [("lutrgb", f"r={stretched}:g={stretched}:b={stretched}")]


def _display_matrix(frame: VideoFrame) -> tuple[float, float, float, float]:
    """a, b, c, d of the frame's display matrix: a pixel at (x, y) is shown at (a x + c y, b x + d y)."""
    try:
        # PyAV 18 iterates over the side data themselves, other than its type stub says.
        held = next((d for d in cast(Any, frame.side_data) if d.type is Type.DISPLAYMATRIX), None)
    except ValueError:  # PyAV refuses all of a frame's side data if it does not know one; the angle is left
        angle = math.radians(frame.rotation)
        return math.cos(angle), -math.sin(angle), math.sin(angle), math.cos(angle)
    if held is None:
        return 1, 0, 0, 1
    a, b, _, c, d = struct.unpack_from("=5i", held)
    return a, b, c, d


class _Orientation(NamedTuple):
    """How a stored picture is shown: its axes are swapped, then it is mirrored."""

    is_swapped: bool
    down: int  # the step between rows: -1 = from the bottom up
    across: int  # likewise between columns


def _orientation(matrix: tuple[float, float, float, float]) -> _Orientation:
    """Of the eight ways that keep pixels on their grid, the nearest to `_display_matrix`; a matrix that
    flattens the picture is ignored."""
    a, b, c, d = matrix
    if a * d == b * c:
        return _Orientation(False, 1, 1)
    across, down = math.hypot(a, b), math.hypot(c, d)
    is_swapped = abs(a) / across + abs(d) / down < abs(b) / across + abs(c) / down
    to_right, to_bottom = (c, b) if is_swapped else (a, d)
    return _Orientation(is_swapped, 1 if to_bottom > 0 else -1, 1 if to_right > 0 else -1)


def _oriented(picture: np.ndarray, orientation: _Orientation) -> np.ndarray:
    """The picture (height, width, 3) turned and mirrored: a view."""
    turned = picture.swapaxes(0, 1) if orientation.is_swapped else picture
    return turned[:: orientation.down, :: orientation.across]


def _as_stored(bars: Bars, orientation: _Orientation) -> Bars:
    """Bars of a picture as it is shown, at the edges where they are stored."""
    top, bottom = (bars.top, bars.bottom)[:: orientation.down]
    left, right = (bars.left, bars.right)[:: orientation.across]
    return Bars(left, right, top, bottom) if orientation.is_swapped else Bars(top, bottom, left, right)
