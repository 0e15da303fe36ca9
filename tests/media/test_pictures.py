"""The pictures of hand-made streams: packets of encoders, with stamps and flags that the test chooses.

Each picture shows its own number, and `fit` reads it, so that what is shown at an instant is a number. One
tick lasts 0.2 s, so that a gap of 10 s is 50 pictures:

    packets     I0 P3 B1 B2 P6 ...    of an encoder, in decoding order
    stamps       0  3  1  2  6 ...    the number of the picture, unless the test says otherwise
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from types import SimpleNamespace

import av
import numpy as np
import pytest
from av.packet import Packet
from av.video.frame import PictureType, VideoFrame

from avprep.media.limits import Deadline
from avprep.media.packets import Demuxer
from avprep.media.pictures import LOOK, Doubt, Pictures
from avprep.media.timeline import Clock
from avprep.reasons import MediaError, Reason
from tests.media.matrix import code_picture, number_of

TICK_S = Fraction(1, 5)
GAP = 50                 # ticks: longer stretches may be skipped
ENCODERS = {
    "h264": ("libx264", {"preset": "ultrafast", "crf": "10", "b_strategy": "0", "sc_threshold": "0"}),
    "hevc": ("libx265", {"preset": "ultrafast", "crf": "10"}),
    "mpeg2video": ("mpeg2video", {"q": "2", "sc_threshold": "1000000000"}),
    "mpeg4": ("mpeg4", {"q": "2", "sc_threshold": "1000000000"}),
    "vp8": ("libvpx", {"deadline": "realtime", "cpu-used": "8", "b": "400k"}),
}


@lru_cache
def encoded(codec: str, count: int, reorder: int, gop: int, **options: str) -> tuple[tuple[bytes, int, bool], ...]:
    """(data, number of the picture, is it a keyframe) of each packet."""
    name, own = ENCODERS[codec]
    encoder = av.CodecContext.create(name, "w")
    encoder.width, encoder.height, encoder.pix_fmt = 64, 64, "yuv420p"
    encoder.time_base, encoder.framerate, encoder.gop_size = Fraction(1, 25), Fraction(25), gop
    encoder.thread_count = 1
    own = own | {"bf": str(reorder)} if codec in ("h264", "mpeg2video", "mpeg4") else own
    if codec == "hevc":
        own = own | {"x265-params": f"bframes={reorder}:b-adapt=0:scenecut=0:log-level=none:pools=1:frame-threads=1"}
    encoder.options = own | options
    packets: list[Packet] = []
    for number in range(count):
        frame = VideoFrame.from_ndarray(code_picture(number, 64, 64), format="gray").reformat(format="yuv420p")
        frame.pts, frame.time_base = number, encoder.time_base
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    return tuple((bytes(packet), packet.pts, packet.is_keyframe) for packet in packets)


def stream(codec: str = "h264", count: int = 100, *, reorder: int = 2, gop: int = 12, **options: str) -> list[Packet]:
    """Packets whose stamps are the numbers of their pictures. Whoever changes them changes only these."""
    packets = []
    for place, (data, number, is_key) in enumerate(encoded(codec, count, reorder, gop, **options)):
        packet = Packet(data)
        packet.pts, packet.dts, packet.duration, packet.is_keyframe = number, place - reorder, 1, is_key
        packets.append(packet)
    return packets


class Decoder:
    """A codec context that knows its reordering, as an opened file's does, and counts what it decodes."""

    def __init__(self, codec: str, packets: Sequence[Packet]) -> None:
        self.__dict__["context"] = av.CodecContext.create(codec, "r")
        self.__dict__["pictures"] = 0
        self.context.thread_count = 1
        for data in [bytes(packet) for packet in packets[:8]]:
            self.context.decode(Packet(data))

    def decode(self, packet: Packet | None) -> list[VideoFrame]:
        frames = self.context.decode(packet)
        self.__dict__["pictures"] += len(frames)
        return frames

    def __getattr__(self, name: str) -> object:
        return getattr(self.context, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self.context, name, value)


class Stream:
    """What is shown at instants of a stream of packets."""

    def __init__(
        self, packets: Sequence[Packet], instants: Sequence[int], *, codec: str = "h264", is_plain: bool = False,
        early: int = 0, fit: Callable[[VideoFrame], object] = number_of, probed: Sequence[Packet] | None = None,
    ) -> None:
        self.decoder = Decoder(codec, packets if probed is None else probed)
        video = SimpleNamespace(index=0, time_base=TICK_S, codec_context=self.decoder)
        container = SimpleNamespace(
            demux=lambda _: iter(packets), format=SimpleNamespace(flags=0, name="matroska"),
        )
        source = SimpleNamespace(
            container=container, video=video, audio=None, can_seek=False, video_clock=Clock(TICK_S, Fraction(0))
        )
        self.demuxer = Demuxer(source, Deadline(None))
        self.pictures = Pictures(source, self.demuxer, instants, early=early, fit=fit, is_plain=is_plain)

    def at(self, *instants: int) -> list[int] | Reason | str:
        """The numbers shown; the reason if there is none; 'doubt'."""
        try:
            return [picture.pixels for picture in self.pictures.at(instants)]
        except MediaError as error:
            return error.reason
        except Doubt:
            return "doubt"


def shown(packets: Sequence[Packet], clips: Sequence[Sequence[int]], **how: object) -> list[list[int] | Reason | str]:
    """What `Stream.at` gives for each clip."""
    instants = sorted({tick for clip in clips for tick in clip})
    asked = Stream(packets, instants, **how)
    return [asked.at(*clip) for clip in clips]


def clips_of(stop: int, *, step: int = 1, length: int = 4) -> list[list[int]]:
    """Clips of `length` instants, one each `step` ticks, before `stop`."""
    instants = range(0, stop, step)
    return [list(instants[i : i + length]) for i in range(0, len(instants) - length + 1, length)]


REORDERING = [("h264", 0), ("h264", 2), ("h264", 16), ("hevc", 4), ("mpeg2video", 2), ("mpeg4", 2), ("vp8", 0)]


@pytest.mark.parametrize("is_plain", [False, True])
@pytest.mark.parametrize("step", [1, 2, 3, 5])
@pytest.mark.parametrize(("codec", "reorder"), REORDERING)
def test_the_picture_shown_at_an_instant_is_the_last_that_began(codec, reorder, step, is_plain):
    packets = stream(codec, reorder=reorder, gop=40)
    clips = clips_of(100, step=step)
    assert shown(packets, clips, codec=codec, is_plain=is_plain) == clips
