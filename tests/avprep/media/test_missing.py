"""Missing pictures, held against a plain decode.

Where the pictures of a stream without some packets differ from those of the whole stream, the gap is found.
In a whole stream, from whichever packet on, none is.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

import av
import numpy as np
import pytest
from av.packet import Packet
from av.video.frame import VideoFrame
from hypothesis import given, settings
from hypothesis import strategies as st

from avprep.media.missing import missing_pictures
from avprep.reasons import Reason
from tests.avprep.media.test_pictures import shown, stream

PICTURES = 40
X264 = {"preset": "ultrafast", "crf": "20"}
X264_KINDS = {
    "h264 P": {"bf": "0", "g": "15"},
    "h264 no keyframe, 16 references": {"bf": "0", "g": "500", "refs": "16"},
    "h264 pyramid": {"bf": "3", "x264-params": "b-pyramid=normal:b-adapt=0"},
    "h264 strict pyramid": {"bf": "3", "x264-params": "b-pyramid=strict:b-adapt=0"},
    "h264 open GOP": {"bf": "2", "g": "10", "x264-params": "open-gop=1:b-adapt=0"},
    "h264 intra refresh": {"bf": "0", "g": "20", "x264-params": "intra-refresh=1"},
    "h264 slices": {"x264-params": "slices=3:aud=1:nal-hrd=vbr:vbv-maxrate=500:vbv-bufsize=500"},
    "h264 interlaced": {"bf": "2", "x264-params": "tff=1"},
    "h264 matrices": {"preset": "medium", "x264-params": "cqm=jvt:weightp=2"},
    "h264 10 bit": {"bf": "2"},
    "h264 4:4:4": {"preset": "medium", "x264-params": "cqm=jvt:bframes=2"},
    "h264 all intra": {"g": "1"},
}
NO_CUTS = {"q": "3", "sc_threshold": "1000000000"}
MPEG_KINDS = {
    "mpeg2video P": {"bf": "0", "g": "15"},
    "mpeg2video B": {"bf": "2", "g": "15"},
    "mpeg2video closed GOP": {"bf": "2", "g": "9", "flags": "+cgop"},
    "mpeg2video interlaced": {"bf": "2", "g": "15", "flags": "+ildct+ilme"},
    "mpeg1video B": {"bf": "2", "g": "12"},
}
KINDS = {name: X264 | own for name, own in X264_KINDS.items()} | {
    name: NO_CUTS | own for name, own in MPEG_KINDS.items()
}
PIXELS = {"h264 10 bit": "yuv420p10le", "h264 4:4:4": "yuv444p"}


@lru_cache
def encoded(kind: str, *, has_header: bool) -> tuple[tuple[bytes, ...], bytes]:
    """The packets in decoding order, and the extradata."""
    pixels = PIXELS.get(kind, "yuv420p")
    encoder = av.CodecContext.create(kind.split()[0].replace("h264", "libx264"), "w")
    encoder.width, encoder.height, encoder.pix_fmt = 64, 64, pixels
    encoder.time_base, encoder.framerate, encoder.thread_count = Fraction(1, 25), Fraction(25), 1
    if has_header:
        encoder.flags |= av.codec.context.Flags.global_header
    encoder.options = KINDS[kind]
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 255, (64 + PICTURES, 64, 3), np.uint8)
    packets: list[Packet] = []
    for number in range(PICTURES):
        frame = VideoFrame.from_ndarray(texture[number : number + 64], format="rgb24").reformat(format=pixels)
        frame.pts, frame.time_base = number, encoder.time_base
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    return tuple(bytes(packet) for packet in packets), encoder.extradata or b""


def decoded(codec: str, packets: dict[int, bytes], extradata: bytes) -> dict[int, bytes]:
    """The pictures by the number of their packet."""
    decoder = av.CodecContext.create(codec, "r")
    decoder.thread_count = 1
    if extradata:
        decoder.extradata = extradata
    found: dict[int, bytes] = {}
    for number, data in [*packets.items(), (None, None)]:
        packet = None
        if data is not None:
            packet = packet_of(data)
            packet.pts = packet.dts = number
        for frame in decoder.decode(packet):
            found[frame.pts] = frame.to_ndarray().tobytes()
    return found


def packet_of(data: bytes) -> Packet:
    packet = Packet(len(data))
    packet.update(data)
    return packet


def gaps(codec: str, packets: dict[int, bytes], extradata: bytes) -> list[int]:
    """The numbers of the packets right behind a gap."""
    finder = missing_pictures(codec, extradata)
    numbers = list(packets)
    places = [(i, finder.gap(packet_of(data))) for i, data in enumerate(packets.values())]
    places.append((len(numbers), finder.end()))
    return [numbers[i - since] for i, since in places if since is not None]


def codec_of(kind: str) -> str:
    return kind.split()[0]


@pytest.mark.parametrize("has_header", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_stream_has_no_gap_wherever_it_begins(kind, has_header):
    packets, extradata = encoded(kind, has_header=has_header)
    for first in (0, 1, 7, 20):
        whole = dict(list(enumerate(packets))[first:])
        assert gaps(codec_of(kind), whole, extradata) == []


@pytest.mark.parametrize("lost", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_out_otherwise_lies_behind_a_gap_that_is_found(kind, lost):
    packets, extradata = encoded(kind, has_header=False)
    whole = dict(enumerate(packets))
    expected = decoded(codec_of(kind), whole, extradata)
    harmed = 0
    for first in range(2, len(packets) - lost - 2):
        left = {number: data for number, data in whole.items() if not first <= number < first + lost}
        found = decoded(codec_of(kind), left, extradata)
        wrong = sorted(number for number, picture in found.items() if picture != expected[number])
        wrong = [number for number in wrong if number not in leading_after(kind, packets, first + lost)]
        if wrong:
            harmed += 1
            after = gaps(codec_of(kind), left, extradata)
            assert after and min(after) <= wrong[0], (first, wrong)
            assert min(after) >= first - 1  # nothing before it is called damaged
    assert harmed or "intra" in kind


def leading_after(kind: str, packets: tuple[bytes, ...], first: int) -> list[int]:
    """The B pictures right behind MPEG's I picture `first`: what they depend on may be missing unfound."""
    if kind.startswith("h264") or picture_type(packets[first]) != "I":
        return []
    stop = next((i for i in range(first + 1, len(packets)) if picture_type(packets[i]) != "B"), len(packets))
    return list(range(first + 1, stop))


def picture_type(data: bytes) -> str:
    return "?IPB"[data[data.index(b"\0\0\1\0") + 5] >> 3 & 3]


@pytest.mark.parametrize(
    ("codec", "reorder"), [("h264", 0), ("h264", 2), ("mpeg2video", 2), ("mpeg2video", 0)]
)
def test_pictures_that_lean_on_a_missing_one_are_refused_and_the_others_shown(codec, reorder):
    packets = stream(codec, reorder=reorder, gop=12)
    place = next(i for i, packet in enumerate(packets) if packet.pts == 27)  # a P picture in both orders
    left = packets[:place] + packets[place + 1 :]
    found = shown(left, [[tick] for tick in range(99)], codec=codec, reorder=reorder)
    bad = [tick for tick, numbers in enumerate(found) if numbers != [tick]]
    assert {found[tick] for tick in bad} == {Reason.CORRUPT}
    assert set(range(26, 36)) <= set(bad) <= set(range(23, 36))  # some that are shown around the gap, too


def test_what_leans_on_a_missing_picture_at_the_end_is_refused():
    packets = stream("mpeg2video", reorder=0, gop=12)
    found = shown(packets[:98] + packets[99:], [[tick] for tick in range(100)], codec="mpeg2video", reorder=0)
    assert [tick for tick, numbers in enumerate(found) if numbers != [tick]] == [97, 98, 99]


def test_a_keyframe_behind_a_gap_is_whole_and_what_is_shown_before_it_is_not():
    """Open groups: the keyframe is no IDR picture, and B pictures lean on the group before."""
    packets = stream(reorder=2, gop=12, **{"x264-params": "open-gop=1:b-pyramid=none"})
    keys = [packet.pts for packet in packets if packet.is_keyframe]
    place = next(i for i, packet in enumerate(packets) if packet.pts == keys[2]) - 3  # the P picture before
    lost = packets[place].pts
    assert keys[1] < lost < keys[2] - 2
    found = shown(packets[:place] + packets[place + 1 :], [[tick] for tick in range(99)])
    bad = [tick for tick, numbers in enumerate(found) if numbers != [tick]]
    assert set(range(lost, keys[2])) <= set(bad) and max(bad) == keys[2] - 1


def test_a_count_that_begins_anew_at_a_keyframe_harms_no_picture_before_it():
    """Segments of open groups, joined: the second begins with a keyframe that is no IDR picture."""
    options = {"x264-params": "open-gop=1:b-pyramid=none"}
    packets, second = (stream(reorder=2, gop=12, **options) for _ in range(2))
    keys = [i for i, packet in enumerate(packets) if packet.is_keyframe]
    seam, cut = packets[keys[4]].pts, packets[keys[1]].pts
    del packets[keys[4] :]
    for packet in second[keys[1] :]:
        packet.pts, packet.dts = packet.pts + seam - cut, packet.dts + seam - cut
        packets.append(packet)
    found = shown(packets, [[tick] for tick in range(80)], is_plain=True)
    assert found[: seam - 2] == [[tick] for tick in range(seam - 2)]
    assert found[seam - 2 : seam] == [Reason.CORRUPT] * 2  # they lean on the group that was cut away
    assert found[seam:] == [[tick - seam + cut] for tick in range(seam, 80)]


@pytest.mark.parametrize("codec", ["h264", "mpeg1video", "mpeg2video", "hevc"])
@given(data=st.lists(st.binary(max_size=60), max_size=6), extradata=st.binary(max_size=40))
@settings(max_examples=60)
def test_hostile_bytes_are_read_without_an_error(codec, data, extradata):
    finder = missing_pictures(codec, extradata)
    for one in data:
        for prefix in (b"", b"\0\0\1\x67", b"\0\0\1\x41", b"\0\0\1\0"):
            finder.gap(packet_of(prefix + one + b"\0"))
