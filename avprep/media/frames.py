"""Decoded pictures to the spec's square RGB: cropped, then scaled; aspect ratio and rotation applied."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

import numpy as np
from av.filter import Graph
from av.video.frame import VideoFrame

Crop = Literal["center", "pad", "stretch"]
CROPS: tuple[Crop, ...] = ("center", "pad", "stretch")

_SCALER = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
_MAX_ASPECT = 16  # a sample aspect ratio outside 1/16..16 is taken for a broken header and ignored


class FrameFitter:
    """Fits frames of one source to `size` x `size` RGB.

    crop: 'center' keeps the largest centred square, 'pad' keeps the whole picture between black bars,
    'stretch' fills the square. All three count in display pixels: the sample aspect ratio is applied.
    An interlaced frame is two pictures half a frame apart; the one shown first, to which its PTS belongs, is
    kept, be it the top or the bottom field.
    """

    def __init__(self, *, size: int, crop: Crop, sample_aspect_ratio: Fraction | None) -> None:
        self.size = size
        self.crop = crop
        sar = Fraction(sample_aspect_ratio or 1)
        self.sar = sar if Fraction(1, _MAX_ASPECT) <= sar <= _MAX_ASPECT else Fraction(1)
        self._graph: Graph | None = None
        self._graph_key: tuple | None = None

    def fit(self, frame: VideoFrame) -> np.ndarray:
        """The picture, uint8 (size, size, 3): mostly a view of the scaler's own output, not a copy."""
        key = (frame.width, frame.height, frame.format.name, frame.interlaced_frame,
               frame.colorspace, frame.color_range)
        if key != self._graph_key:
            self._graph, self._graph_key = self._build(frame), key
        frame.pts = None  # timing is settled already; the graph must not reorder or drop by it
        self._graph.vpush(frame)
        scaled = self._graph.vpull()
        plane = scaled.planes[0]
        rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
        picture = rows[:, : scaled.width * 3].reshape(scaled.height, scaled.width, 3)
        picture = np.rot90(picture, frame.rotation // 90 % 4)
        if self.crop != "pad":
            return picture
        padded = np.zeros((self.size, self.size, 3), np.uint8)
        top, left = ((self.size - n) // 2 for n in picture.shape[:2])
        padded[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
        return padded

    def _build(self, frame: VideoFrame) -> Graph:
        """buffer -> [one field] -> [crop] -> scale to planar RGB -> rgb24, for such frames.

        With full chroma the scaler's vector code writes planar RGB only; straight to rgb24 it takes three
        times as long for the same bytes.
        """
        steps: list[tuple[str, str]] = []
        height, sar = frame.height, self.sar
        if frame.interlaced_frame:
            height, sar = height // 2, sar / 2
            steps.append(("crop", f"{frame.width}:{2 * height}:0:0:exact=1"))  # of odd ones no field is split
            steps += [("separatefields", ""), ("select", "not(mod(n,2))")]  # the second comes with the next
        x, y, width, height_kept = self._kept(frame.width, height, sar)
        if (width, height_kept) != (frame.width, height):
            steps.append(("crop", f"{width}:{height_kept}:{x}:{y}:exact=1"))
        out_width, out_height = self._scaled(frame.width * sar, Fraction(height))
        steps.append(("scale", f"{out_width}:{out_height}:flags={_SCALER}"))
        steps += [("format", "gbrp"), ("scale", "iw:ih"), ("format", "rgb24")]

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

    def _kept(self, width: int, height: int, sar: Fraction) -> tuple[int, int, int, int]:
        """x, y, width, height of the part of the stored picture that is kept."""
        if self.crop != "center":
            return 0, 0, width, height
        side = min(width * sar, Fraction(height))
        kept_width = max(1, min(width, round(side / sar)))
        kept_height = max(1, min(height, round(side)))
        return (width - kept_width) // 2, (height - kept_height) // 2, kept_width, kept_height

    def _scaled(self, display_width: Fraction, display_height: Fraction) -> tuple[int, int]:
        if self.crop != "pad":
            return self.size, self.size
        longest = max(display_width, display_height)
        return tuple(max(1, round(self.size * side / longest)) for side in (display_width, display_height))
