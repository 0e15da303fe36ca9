"""The pictures of hand-made streams: packets of encoders, with stamps and flags that the test chooses.

Each picture shows its own number, and `fit` reads it, so that what is shown at an instant is a number. One
tick lasts 0.2 s, so that a gap of 10 s is 50 pictures:

    packets     I0 P3 B1 B2 P6 ...    of an encoder, in decoding order
    stamps       0  3  1  2  6 ...    the number of the picture, unless the test says otherwise
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import av
import pytest
from av.packet import Packet
from av.video.frame import VideoFrame

from avprep.media.limits import Deadline
from avprep.media.packets import Demuxer
from avprep.media.pictures import LOOK, Doubt, Pictures
from avprep.media.timeline import Clock
from avprep.reasons import MediaError, Reason
from tests.avprep.media.matrix import code_picture, number_of

TICK_S = Fraction(1, 5)
ENCODERS = {
    "h264": ("libx264", {"preset": "ultrafast", "crf": "10", "b_strategy": "0", "sc_threshold": "0"}),
    "hevc": ("libx265", {"preset": "ultrafast", "crf": "10"}),
    "mpeg2video": ("mpeg2video", {"q": "2", "sc_threshold": "1000000000"}),
    "mpeg4": ("mpeg4", {"q": "2", "sc_threshold": "1000000000"}),
    "vp8": ("libvpx", {"deadline": "realtime", "cpu-used": "8", "b": "400k"}),
}


@lru_cache
def encoded(
    codec: str, count: int, reorder: int, gop: int, first: int, **options: str
) -> tuple[tuple[bytes, int, bool], ...]:
    """(data, place of the picture, is it a keyframe) of each packet. They are numbered from `first` on."""
    name, own = ENCODERS[codec]
    encoder = av.CodecContext.create(name, "w")
    encoder.width, encoder.height, encoder.pix_fmt = 64, 64, "yuv420p"
    encoder.time_base, encoder.framerate, encoder.gop_size = Fraction(1, 25), Fraction(25), gop
    encoder.thread_count = 1
    own = own | {"bf": str(reorder)} if codec in ("h264", "mpeg2video", "mpeg4") else own
    if codec == "hevc":
        settings = "b-adapt=0:scenecut=0:log-level=none:pools=1:frame-threads=1"
        own = own | {"x265-params": f"bframes={reorder}:{settings}"}
    encoder.options = own | options
    packets: list[Packet] = []
    for number in range(count):
        frame = VideoFrame.from_ndarray(code_picture(first + number, 64, 64), format="gray")
        frame = frame.reformat(format="yuv420p")
        frame.pts, frame.time_base = number, encoder.time_base
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    return tuple((bytes(packet), packet.pts, packet.is_keyframe) for packet in packets)


def stream(
    codec: str = "h264", count: int = 100, *, reorder: int = 2, gop: int = 12, first: int = 0, **options: str
) -> list[Packet]:
    """Packets whose stamps are the numbers of their pictures. Whoever changes them changes only these."""
    packets = []
    for place, (data, number, is_key) in enumerate(encoded(codec, count, reorder, gop, first, **options)):
        packet = packet_of(data)
        packet.pts, packet.dts, packet.duration, packet.is_keyframe = number, place - reorder, 1, is_key
        packets.append(packet)
    return packets


def packet_of(data: bytes) -> Packet:
    """A packet with zeros behind its data, which decoders count on; `Packet(data)` has none."""
    packet = Packet(len(data))
    packet.update(data)
    return packet


class Decoder:
    """A codec context that knows its reordering, as an opened file's does, and counts what it decodes."""

    def __init__(self, codec: str, reorder: int) -> None:
        self.name, self.reorder_depth, self.extradata = codec, reorder, None
        self.pictures = 0
        self._context = av.CodecContext.create(codec, "r")
        self._context.thread_count = 1

    def decode(self, packet: Packet | None) -> list[VideoFrame]:
        frames = self._context.decode(packet)
        self.pictures += len(frames)
        return frames

    def flush_buffers(self) -> None:
        self._context.flush_buffers()

    @property
    def skip_frame(self) -> str:
        return self._context.skip_frame

    @skip_frame.setter
    def skip_frame(self, value: str) -> None:
        self._context.skip_frame = value


class Stream:
    """What is shown at instants of a stream of packets."""

    def __init__(
        self,
        packets: Sequence[Packet],
        instants: Sequence[int],
        *,
        codec: str = "h264",
        reorder: int = 2,
        is_plain: bool = False,
        early: int = 0,
        fit: Callable[[VideoFrame], int] = number_of,
    ) -> None:
        self.decoder = Decoder(codec, reorder)
        video = SimpleNamespace(index=0, time_base=TICK_S, codec_context=self.decoder)
        container = SimpleNamespace(
            demux=lambda _: iter(packets),
            format=SimpleNamespace(flags=0, name="matroska"),
        )
        source = SimpleNamespace(
            container=container,
            video=video,
            audio=None,
            can_seek=False,
            video_clock=Clock(TICK_S, Fraction(0)),
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


def shown(
    packets: Sequence[Packet], clips: Sequence[Sequence[int]], **how: object
) -> list[list[int] | Reason | str]:
    """What `Stream.at` gives for each clip."""
    instants = sorted({tick for clip in clips for tick in clip})
    asked = Stream(packets, instants, **how)
    return [asked.at(*clip) for clip in clips]


def clips_of(stop: int, *, step: int = 1, length: int = 4) -> list[list[int]]:
    """Clips of `length` instants, one each `step` ticks, before `stop`."""
    instants = range(0, stop, step)
    return [list(instants[i : i + length]) for i in range(0, len(instants) - length + 1, length)]


REORDERING = [
    ("h264", 0),
    ("h264", 2),
    ("h264", 16),
    ("hevc", 4),
    ("mpeg2video", 2),
    ("mpeg4", 2),
    ("vp8", 0),
]


@pytest.mark.parametrize("is_plain", [False, True])
@pytest.mark.parametrize("step", [1, 2, 3, 5])
@pytest.mark.parametrize(("codec", "reorder"), REORDERING)
def test_the_picture_shown_at_an_instant_is_the_last_that_began(codec, reorder, step, is_plain):
    packets = stream(codec, reorder=reorder, gop=40)
    clips = clips_of(100, step=step)
    assert shown(packets, clips, codec=codec, reorder=reorder, is_plain=is_plain) == clips


def test_the_decoder_leaves_out_what_no_instant_wants_and_nothing_leans_on():
    packets = stream(reorder=2, gop=40, **{"b-pyramid": "none"})
    asked = Stream(packets, range(0, 100, 10))
    assert [asked.at(tick) for tick in range(0, 100, 10)] == [[tick] for tick in range(0, 100, 10)]
    assert asked.decoder.pictures < 50
    plain = Stream(packets, range(0, 100, 10), is_plain=True)
    assert plain.at(90) == [90]
    assert plain.decoder.pictures > 90


def test_of_interlaced_pictures_none_is_left_out():
    """A packet may hold one field of two, and the second field has no picture of its own."""
    asked = Stream(stream(reorder=2, gop=40, flags="+ildct+ilme"), range(0, 100, 10))
    assert [asked.at(tick) for tick in range(0, 100, 10)] == [[tick] for tick in range(0, 100, 10)]
    assert asked.decoder.pictures > 90


# --- stamps ----------------------------------------------------------------------------------------------


def with_stamps_of_decoding(packets: list[Packet]) -> list[Packet]:
    """As AVI and ASF store them: the n-th packet's stamp is n."""
    for place, packet in enumerate(packets):
        packet.pts = packet.dts = place
    return packets


RANKED = [("h264", 0), ("h264", 2), ("mpeg2video", 2), ("mpeg4", 2)]


@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize(("codec", "reorder"), RANKED)
def test_where_stamps_are_of_decoding_the_nth_picture_shown_takes_the_nth(codec, reorder, step):
    packets = with_stamps_of_decoding(stream(codec, reorder=reorder, gop=40))
    clips = clips_of(100, step=step)
    assert shown(packets, clips, codec=codec, reorder=reorder) == clips


@pytest.mark.parametrize("open_gop", [False, True])
def test_a_count_begins_anew_at_a_keyframe_where_pictures_were_lost(open_gop):
    flags = {} if open_gop else {"flags": "+cgop"}
    packets = with_stamps_of_decoding(stream("mpeg2video", reorder=2, gop=15, **flags))
    del_places = (4, 5)  # of the first GOP: both are not in the file, their stamps are
    asked = [packet for place, packet in enumerate(packets) if place not in del_places]
    late = [[tick] for tick in range(20, 90)]
    assert shown(asked, late, codec="mpeg2video") == late


def test_stamps_that_rise_only_at_first_are_not_of_decoding():
    """No picture is reordered within the packets that are looked at; some are behind them."""
    first, second = (stream("mpeg2video", count, reorder=r, gop=12) for count, r in ((36, 0), (64, 2)))
    for packet in second:
        packet.pts, packet.dts = packet.pts + 36, packet.dts + 36
    assert [p.pts for p in first] == list(range(36))
    numbers = [[tick if tick < 36 else tick - 36] for tick in range(95)]
    found = shown([*first, *second], [[tick] for tick in range(95)], codec="mpeg2video")
    assert found == numbers


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize(("reorder", "step"), [(0, 1), (2, 1), (2, 3)])
def test_pictures_without_stamps_follow_the_one_before(reorder, step, repeated):
    """As in an MPEG program stream, where a keyframe has a stamp and most other packets have none. A packet
    that begins in the same block as the one before may carry that one's stamp again."""
    packets = stream("mpeg2video", reorder=reorder, gop=12, flags="+cgop")
    for before, packet in pairwise(packets):
        if not packet.is_keyframe:
            repeats = repeated and before.is_keyframe and before.pts > 0
            packet.pts = packet.dts = before.pts if repeats else None
    clips = clips_of(96, step=step)
    assert shown(packets, clips, codec="mpeg2video", reorder=reorder) == clips


def test_a_gap_between_pictures_without_stamps_lies_where_the_next_stamp_says():
    packets = stream("mpeg2video", 48, reorder=2, gop=12, flags="+cgop")
    for packet in packets:
        late = 7 * (packet.pts >= 20)  # a keyframe's number
        packet.pts = packet.dts = packet.pts + late if packet.is_keyframe else None
    numbers = [[min(tick, 19) if tick < 27 else tick - 7] for tick in range(54)]
    assert shown(packets, [[tick] for tick in range(54)], codec="mpeg2video") == numbers


@pytest.mark.parametrize("ranked", [False, True])
@pytest.mark.parametrize("step", [1, 3])
def test_pictures_that_are_shown_before_time_0_are_hidden(tmp_path, step, ranked):
    """An edit list: five pictures are decoded for the sake of others."""
    packets = cut_packets(tmp_path / "cut.mp4")
    assert [packet.is_discard for packet in packets] == [True] * 5 + [False] * 55
    for number, packet in enumerate(packets):
        packet.pts = packet.dts = number - 5
    clips = clips_of(55, step=step)
    found = shown(packets, clips, codec="mpeg4", reorder=int(ranked))
    assert found == [[tick + 5 for tick in clip] for clip in clips]
    early = shown(cut_packets(tmp_path / "cut.mp4"), [[-512]], codec="mpeg4", is_plain=True)
    assert early == [Reason.NO_VIDEO]


def test_a_hidden_picture_takes_no_instant_from_those_that_are_shown(tmp_path):
    """Stamps of hidden pictures lie between those of shown ones: of an edit list that cuts in the middle."""
    packets = cut_packets(tmp_path / "cut.mp4", reorder=2)
    for packet in packets:
        number = packet.pts // 512 + 5
        packet.pts = 2 * (20 + number) + 1 if packet.is_discard else 2 * (number - 5)
    instants = range(1, 100, 2)
    found = shown(packets, [[tick] for tick in instants], codec="mpeg4")
    assert found == [[tick // 2 + 5] for tick in instants]


def test_a_picture_is_shown_at_its_own_stamp_though_it_comes_out_later():
    packets = stream("mpeg4", reorder=0)
    packets[20].pts, packets[21].pts = packets[21].pts, packets[20].pts
    (found,) = shown(packets, [range(99)], codec="mpeg4", reorder=0)
    assert found == [*range(20), 21, 20, *range(22, 99)]


def cut_packets(path: Path, *, reorder: int = 0) -> list[Packet]:
    """The packets of an MP4 whose edit list hides five pictures."""
    with av.open(str(path), "w") as container:
        out = container.add_stream("mpeg4", rate=25)
        out.width, out.height, out.pix_fmt = 64, 64, "yuv420p"
        for packet in stream("mpeg4", 60, reorder=reorder, gop=60):
            packet.stream, packet.time_base = out, Fraction(1, 25)
            packet.pts, packet.dts = packet.pts - 5, packet.dts - 5
            container.mux(packet)
    with av.open(str(path)) as container:
        return [packet for packet in container.demux(video=0) if packet.size]


# --- the end and the beginning ---------------------------------------------------------------------------


def test_a_first_picture_that_is_a_little_late_is_taken_and_a_later_one_is_not():
    for early, expected in ((3, [0, 0, 1]), (2, Reason.NO_VIDEO)):
        packets = stream()
        for packet in packets:
            packet.pts += 3
        assert shown(packets, [[0, 1, 4]], early=early) == [expected]


@pytest.mark.parametrize("last_s", [1, 40])
def test_the_last_picture_is_shown_as_long_as_it_says(last_s):
    packets = stream(reorder=2)
    next(packet for packet in packets if packet.pts == 99).duration = last_s
    clips = [[98, 99], [99, 98 + last_s], [99 + last_s]]
    assert shown(packets, clips, is_plain=True) == [[98, 99], [99, 99], Reason.TRUNCATED]


def test_a_last_packet_that_gives_no_picture_lengthens_none():
    packets = stream("mpeg4", reorder=0)
    junk = packet_of(b"\xff" * 30)
    junk.pts = junk.dts = 130
    found = shown([*packets, junk], [[98, 99], [99, 104]], codec="mpeg4", is_plain=True)
    assert found == [[98, 99], Reason.TRUNCATED]


def test_why_there_is_no_picture():
    assert shown([], [[0]]) == [Reason.TRUNCATED]
    assert shown(stream()[1:12], [[3]]) == [Reason.CORRUPT]


def test_a_picture_that_cannot_be_converted_fails_its_clips_alone():
    def fit(frame: VideoFrame) -> int:
        if number_of(frame) == 7:
            raise av.InvalidDataError(22, "by the test")
        return number_of(frame)

    clips = [[0, 1], [6, 7], [8, 9]]
    assert shown(stream(), clips, fit=fit, is_plain=True) == [[0, 1], Reason.CORRUPT, [8, 9]]


# --- damage ----------------------------------------------------------------------------------------------


def junk_for(packet: Packet) -> Packet:
    """The packet's stamps, and nothing that can be decoded."""
    junk = packet_of(b"\xff" * 30)
    junk.pts, junk.dts, junk.duration, junk.is_keyframe = packet.pts, packet.dts, packet.duration, False
    return junk


def test_a_refused_packet_fails_what_leans_on_it_and_nothing_else():
    packets = stream(reorder=2, gop=12)
    packets = [junk_for(packet) if packet.pts == 30 else packet for packet in packets]
    found = shown(packets, [[tick] for tick in range(0, 99)], is_plain=True)
    bad = [tick for tick, numbers in enumerate(found) if numbers != [tick]]
    assert {found[tick] for tick in bad} == {Reason.CORRUPT}
    assert bad == list(range(28, 36))


@pytest.mark.parametrize("flagged", [27, 28])
def test_a_picture_that_comes_out_flagged_after_those_that_lean_on_it_fails_them(flagged):
    """P27 is decoded before B25 and B26 and comes out behind them. Nothing leans on B28 and B29: the flag may
    be of the one that follows."""
    packets = stream(reorder=2, gop=12, **{"b-pyramid": "none"})
    next(packet for packet in packets if packet.pts == flagged).is_corrupt = True
    found = shown(packets, [[tick] for tick in range(0, 99)])
    bad = [tick for tick, numbers in enumerate(found) if numbers != [tick]]
    assert bad == (list(range(25, 36)) if flagged == 27 else [28, 29])


@pytest.mark.parametrize("codec", ["h264", "mpeg4"])
def test_a_picture_that_the_decoder_flags_fails_what_leans_on_it(codec):
    """A packet is cut: the decoder makes up the rest of the picture, and says so."""
    packets = stream(codec, reorder=0, gop=12)
    whole = packets[17]
    packets[17] = packet_of(bytes(whole)[: len(bytes(whole)) * 2 // 3])
    packets[17].pts = packets[17].dts = 17
    found = shown(packets, [[tick] for tick in range(0, 99)], codec=codec, reorder=0)
    assert [tick for tick, numbers in enumerate(found) if numbers != [tick]] == list(range(17, 24))


@pytest.mark.parametrize("keeps", ["damaged keyframe", "clean keyframe"])
def test_a_damaged_keyframe_heals_nothing(keeps):
    packets = stream(reorder=0, gop=12)
    packets = [junk_for(packet) if packet.pts == 5 else packet for packet in packets]
    packets[12].is_corrupt = keeps == "damaged keyframe"
    found = shown(packets, [[tick] for tick in range(0, 99)], is_plain=True)
    bad = [tick for tick, numbers in enumerate(found) if numbers != [tick]]
    assert bad == list(range(5, 24 if packets[12].is_corrupt else 12))


def test_damage_is_not_healed_by_a_point_of_recovery():
    """Intra refresh: packets flagged as keyframes hold predicted pictures."""
    packets = stream(reorder=0, gop=40, **{"intra-refresh": "1"})
    packets = [junk_for(packet) if packet.pts == 30 else packet for packet in packets]
    found = shown(packets, [[tick] for tick in range(0, 99)], is_plain=True, reorder=0)
    assert found == [*([tick] for tick in range(30)), *[Reason.CORRUPT] * 69]


def test_a_picture_that_is_left_out_and_would_be_shown_is_doubted():
    """A packet that gives no picture takes an instant from the B picture before it, which is left out. A
    plain decode tells that it is damaged."""
    packets = stream(reorder=2, gop=40)
    for packet in packets:
        packet.pts, packet.dts, packet.duration = 2 * packet.pts, 2 * packet.dts, 2
    place = next(i for i, packet in enumerate(packets) if packet.pts == 2 * 31)
    junk = packet_of(b"\0\0\0\1\x01\xff\xff")
    junk.pts, junk.dts = 2 * 31 + 1, packets[place].dts + 1
    packets.insert(place + 1, junk)
    assert shown(packets, [[2 * 31 + 1]], is_plain=True) == [Reason.CORRUPT]
    assert shown(packets, [[2 * 28, 2 * 31 + 1]]) == ["doubt"]


# --- skips over gaps -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("codec", "reorder"), REORDERING)
def test_a_gap_is_skipped_to_the_keyframe_before_the_instant(codec, reorder):
    packets = stream(codec, 300, reorder=reorder, gop=40)
    asked = Stream(packets, [0, 1, 250, 251], codec=codec, reorder=reorder)
    assert [asked.at(0, 1), asked.at(250, 251)] == [[0, 1], [250, 251]]
    assert asked.demuxer.was_skipped and asked.decoder.pictures < 120


def test_a_gap_is_not_skipped_by_a_plain_decode_nor_where_pictures_are_counted():
    asked = Stream(stream(count=300, gop=40), [0, 250], is_plain=True)
    assert [asked.at(0), asked.at(250)] == [[0], [250]]
    assert not asked.demuxer.was_skipped
    counted = Stream(with_stamps_of_decoding(stream(count=300, gop=40)), [0, 250])
    assert [counted.at(0), counted.at(250)] == [[0], [250]]
    assert not counted.demuxer.was_skipped


@pytest.mark.parametrize("options", [{}, {"flags": "+ildct+ilme"}])  # of interlaced ones all are decoded
@pytest.mark.parametrize("codec", ["h264", "mpeg4", "mpeg2video"])
def test_a_keyframe_that_is_none_is_told_when_it_is_decoded(codec, options):
    """All packets are flagged as keyframes; a skip lands at a predicted picture."""
    packets = stream(codec, 300, reorder=0, gop=200, **options)
    for packet in packets:
        packet.is_keyframe = True
    asked = Stream(packets, [0, 1, 150, 151], codec=codec, reorder=0)
    assert [asked.at(0, 1), asked.at(150, 151)] == [[0, 1], "doubt"]


@pytest.mark.parametrize("flagged", [{0}, {0, 12}])  # the second waits for its turn when the skip is tried
def test_a_gap_without_a_keyframe_is_decoded_through(flagged):
    packets = stream(count=300, reorder=0, gop=299)
    for packet in packets:
        packet.is_keyframe = packet.pts in flagged
    asked = Stream(packets, [0, 1, 250, 251], reorder=0)
    assert [asked.at(0, 1), asked.at(250, 251)] == [[0, 1], [250, 251]]
    assert not asked.demuxer.was_skipped and asked.decoder.pictures >= 252


def test_a_refresh_without_a_keyframe_is_not_taken_for_one():
    """Intra refresh: a packet is a point of recovery, but its picture is predicted."""
    packets = stream(count=300, reorder=0, gop=40, **{"intra-refresh": "1"})
    assert any(packet.is_keyframe for packet in packets[1:])
    asked = Stream(packets, [0, 1, 250, 251], reorder=0)
    assert [asked.at(0, 1), asked.at(250, 251)] == [[0, 1], "doubt"]


# --- memory ----------------------------------------------------------------------------------------------


def test_nothing_grows_with_the_length_of_a_source():
    """Pictures, packets and what is expected are dropped; stamps and keyframes are kept as numbers."""
    asked = Stream(stream(count=1500, gop=12), range(0, 1500, 5))
    for begin in range(0, 1450, 10):
        assert asked.at(begin, begin + 5) == [begin, begin + 5]
    held = {name: len(value) for name, value in vars(asked.pictures).items() if hasattr(value, "__len__")}
    most = {
        "_pictures": 4,
        "_expected": 2 + LOOK,
        "_entries": 257,
        "_upcoming": 512 + LOOK,
        "_window": LOOK,
        "_shown_numbers": LOOK,
    }
    assert {name for name in held if held[name] > most.get(name, 0)} == {"_instants"}
