"""Two streams, pulled apart and part by part, from files that are lists of stamps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from types import SimpleNamespace

import av
import pytest

from avprep.media.limits import Deadline
from avprep.media.packets import AVFMT_TS_DISCONT, Demuxer, stamp_of
from avprep.media.timeline import Clock
from avprep.reasons import MediaError, Reason

SECOND = 1000  # ticks of both streams


@dataclass
class Packet:
    stream_index: int
    pts: int | None
    dts: int | None
    duration: int = 40
    size: int = 100
    is_keyframe: bool = True
    is_discard: bool = False
    stream: object = field(default=None)
    pos: int | None = 0  # None: counted by libavformat


def file_of(text: str) -> list[Packet]:
    """'v0 a0 v40 ...': packets of the video and the audio with their stamps, in the order of the file."""
    return [Packet("va".index(word[0]), int(word[1:]), int(word[1:])) for word in text.split()]


def demuxer(packets: list[Packet], *, may_jump: bool = True, name: str = "mpegts") -> Demuxer:
    def demux(_: object) -> Iterator[Packet]:
        yield from packets

    streams = [SimpleNamespace(index=i, time_base=Fraction(1, SECOND)) for i in (0, 1)]
    flags = AVFMT_TS_DISCONT if may_jump else 0
    container = SimpleNamespace(demux=demux, format=SimpleNamespace(flags=flags, name=name))
    has_sound = any(packet.stream_index for packet in packets)
    source = SimpleNamespace(
        container=container,
        video=streams[0],
        audio=streams[1] if has_sound else None,
        can_seek=False,
        video_clock=Clock(Fraction(1, SECOND), Fraction(0)),
    )
    return Demuxer(source, Deadline(None))


def parts_of(found: Demuxer) -> list[tuple[list[int], list[int]]]:
    """(video stamps, audio stamps) of each part."""
    parts = []
    while True:
        video = list(iter(found.video, None))
        audio = list(iter(found.audio, None))
        parts.append(([p.pts for p in video], [p.pts for p in audio]))
        if not found.next_part():
            return parts


def times(first: int, count: int) -> str:
    return " ".join(f"v{first + 40 * i} a{first + 40 * i}" for i in range(count))


@pytest.mark.parametrize(("name", "parts"), [("mpegts", {0}), ("ogg", {0, 1, 2, 3})])
def test_stamps_of_sound_that_are_counted_move_no_clock(name, parts):
    """The container's packets of sound come each 300 ms; between them libavformat counts up to 700 ms.
    The pictures lie ahead of the sound in the file."""
    packets = []
    for at in range(0, 1200, 300):
        packets += [Packet(1, at + 100 * i, at + 100 * i, pos=None if i else at) for i in range(8)]
        packets += file_of(" ".join(f"v{t}" for t in range(at + 700, at + 1000, 40)))
    found = demuxer(packets, name=name)
    for _ in packets:
        found._read()
    assert {part for part, _ in found._audio.waiting} == parts


def test_each_stream_comes_whole_however_they_lie_in_the_file():
    packets = file_of("a0 a40 a80 v0 v40 v80 a120 v120")
    assert parts_of(demuxer(packets)) == [([0, 40, 80, 120], [0, 40, 80, 120])]
    found = demuxer(packets)
    assert [found.audio().pts for _ in range(4)] == [0, 40, 80, 120]
    assert [found.video().pts for _ in range(4)] == [0, 40, 80, 120]


@pytest.mark.parametrize("begin", [13, 60_000])
@pytest.mark.parametrize("leader", "av")
def test_a_clock_that_restarts_or_jumps_begins_a_part_of_both_streams(begin, leader):
    """Two recordings, of which one stream comes to the seam before the other."""
    words = times(0, 100).split() + times(begin, 100).split()
    words.sort(key=lambda word: word[0] != leader)  # stable: all of the leader's, all of the other's
    places = [2 * i if i < 200 else 2 * (i - 200) + 7 for i in range(400)]  # the other three packets later
    words = [words[i] for i in sorted(range(400), key=places.__getitem__)]
    found = demuxer(file_of(" ".join(words)))
    (video, audio), (video2, audio2) = parts_of(found)
    assert video == audio == list(range(0, 4000, 40))
    assert video2 == audio2 == list(range(begin, begin + 4000, 40))
    assert found.video_clock.seconds(begin) == 4  # the second follows the first's last picture
    assert (found.extent.first, found.extent.stop) == (begin, begin + 4000)


@pytest.mark.parametrize("gone", ["v", "a"])
def test_a_gap_in_one_stream_alone_is_no_jump_of_the_clock(gone):
    words = [w for w in times(0, 1000).split() if not (w[0] == gone and 8000 <= int(w[1:]) < 32000)]
    ((video, audio),) = parts_of(demuxer(file_of(" ".join(words))))
    assert (video[-1], audio[-1]) == (39960, 39960)


def test_a_jump_of_the_sounds_clock_alone_begins_no_part():
    words = [f"v{40 * i} a{40 * i if i < 100 else 40 * (i - 100)}" for i in range(300)]
    ((video, audio),) = parts_of(demuxer(file_of(" ".join(words))))
    assert len(video) == len(audio) == 300
    sound_first = demuxer(file_of(" ".join(words)))
    assert len(list(iter(sound_first.audio, None))) == 300


def test_each_jump_of_the_sound_is_given_its_time_to_be_followed():
    """Twice the sound restarts 1.5 s before the pictures do."""
    words = [f"a{40 * i % 4000} v{40 * (i - 37) % 4000}" for i in range(37, 300)]
    parts = parts_of(demuxer(file_of(" ".join(words))))
    assert [video[0] for video, _ in parts] == [0, 0, 0]
    assert [audio[0] for _, audio in parts] == [1480, 0, 0]


@pytest.mark.parametrize("order", ["a{0} v{0}", "v{0} a{0}"])
def test_a_recording_of_sound_alone_between_two_others_gives_no_pictures_its_sound(order):
    """The recordings' sound begins at 0, 5 and 3 ms."""
    between = " ".join(f"a{5 + 40 * i}" for i in range(100))
    last = " ".join(order.format(3 + 40 * i) for i in range(100))
    found = demuxer(file_of(f"{times(0, 100)} {between} {last}"))
    parts = parts_of(found)
    assert [(video[0], audio[:1]) for video, audio in parts if video] == [(0, [0]), (3, [3])]


def test_sound_that_was_not_asked_for_is_no_sound_of_the_next_part():
    for drops in (False, True):
        found = demuxer(file_of(f"{times(0, 100)} a13 {times(13, 100)}"))
        assert len(list(iter(found.video, None))) == 100
        if drops:
            found.drop_sound()
        assert found.next_part()
        assert [packet.pts for packet in iter(found.audio, None)] == [13, *range(13, 4013, 40)]


def test_a_small_step_back_is_no_other_clock_where_stamps_should_not_jump():
    words = f"{times(0, 100)} {times(3500, 100)}"
    assert len(parts_of(demuxer(file_of(words), may_jump=False, name="mov"))) == 1
    assert len(parts_of(demuxer(file_of(words)))) == 2


def test_what_is_known_of_pictures_counts_those_that_are_shown_and_have_a_stamp():
    packets = [Packet(0, 40 * i, 40 * i) for i in range(5)]
    packets[0].is_discard = True
    found = demuxer(packets)
    assert len(list(iter(found.video, None))) == 5
    assert (found.extent.first, found.extent.stop, found.lacks_stamps) == (40, 200, False)
    packets[3].pts = packets[3].dts = None
    found = demuxer(packets)
    assert len(list(iter(found.video, None))) == 5
    assert (found.extent.stop, found.lacks_stamps) == (200, True)


def test_a_picture_is_stamped_by_its_pts_or_else_by_its_dts():
    packets = [Packet(0, 8, 4), Packet(0, None, 4), Packet(0, 8, None), Packet(0, 0, 4)]
    assert [stamp_of(packet) for packet in packets] == [8, 4, 8, 0]


def test_a_file_that_cannot_be_read_on_ends_there_and_empty_packets_are_none():
    packets = file_of(times(0, 5))
    packets[4].size = 0
    found = demuxer(packets)

    def demux(_: object) -> Iterator[Packet]:
        yield from packets
        raise av.InvalidDataError(22, "by the test")

    found._container.demux = demux
    assert parts_of(found) == [([0, 40, 120, 160], [0, 40, 80, 120, 160])]
    assert found.last_s == 0.16


def test_the_last_stamp_is_the_later_of_both_streams():
    found = demuxer(file_of(f"{times(0, 5)} a200 a240"))
    parts_of(found)
    assert found.last_s == 0.24


def test_the_time_limit_is_looked_at_with_each_packet():
    found = demuxer(file_of(times(0, 5)))
    found._deadline = Deadline(-1)
    with pytest.raises(MediaError) as caught:
        found.video()
    assert caught.value.reason is Reason.TIMEOUT


def test_a_jump_ahead_is_a_gap_where_a_containers_stamps_do_not_jump():
    words = times(0, 100) + " " + times(60_000, 100)
    assert len(parts_of(demuxer(file_of(words), may_jump=False, name="mov"))) == 1
    assert len(parts_of(demuxer(file_of(words)))) == 2


def test_a_part_without_sound_takes_none_of_the_part_before():
    words = times(0, 100) + " " + " ".join(f"v{13 + 40 * i}" for i in range(100))
    assert [len(audio) for _, audio in parts_of(demuxer(file_of(words)))] == [100, 0]


def test_a_skip_leads_to_the_last_keyframe_before_the_instant_and_leaves_no_sound_out():
    packets = file_of(times(0, 1000))
    for i, packet in enumerate(packets):
        packet.is_keyframe = i % 100 == 0  # a video packet every 2 s
    found = demuxer(packets)
    assert found.video().pts == 0
    assert found.skip_to(15_000, since=0)
    assert found.video().pts == 14_000
    assert found.was_skipped
    assert [found.audio().pts for _ in range(3)] == [0, 40, 80]


def test_a_skip_without_a_keyframe_on_the_way_leaves_nothing_out():
    packets = file_of(times(0, 1000))
    for packet in packets[1:]:
        packet.is_keyframe = False
    found = demuxer(packets)
    assert found.video().pts == 0
    assert not found.skip_to(15_000, since=0)
    assert not found.was_skipped
    assert found.video().pts == 40


def test_a_skip_does_not_take_a_keyframe_that_waits_to_be_decoded_for_one_ahead():
    packets = file_of(" ".join(f"v{40 * i}" for i in range(1000)))
    for i, packet in enumerate(packets):
        packet.is_keyframe = i in (0, 10)
    found = demuxer(packets)
    found.unread([found.video() for _ in range(20)])
    assert [found.video().pts for _ in range(3)] == [0, 40, 80]
    assert not found.skip_to(15_000, since=800)
    assert found.video().pts == 120


@pytest.mark.parametrize("has_dts", [True, False])
def test_a_skip_reads_no_further_than_a_second_past_the_instant_and_holds_few_bytes(has_dts):
    packets = file_of(" ".join(f"v{40 * i}" for i in range(1000)))
    for i, packet in enumerate(packets):
        packet.is_keyframe = i % 100 == 0
        packet.dts = packet.dts if has_dts else None
    rest = iter(packets)
    found = demuxer(packets)
    found._container.demux = lambda _: rest
    assert found.skip_to(15_000, since=0)
    assert 16_000 <= next(rest).pts < 16_200
    for packet in packets:
        packet.is_keyframe, packet.size = packet.pts == 0, 1 << 20
    rest = iter(packets)
    found = demuxer(packets)
    found._container.demux = lambda _: rest
    assert not found.skip_to(39_000, since=0)
    assert next(rest).pts < 70 * 40


class Index(list):
    """Keyframes of a container that seeks, by their ticks."""

    def search_timestamp(self, tick: int) -> int:
        return sum(entry.timestamp <= tick for entry in self) - 1


def seekable(packets: list[Packet]) -> Demuxer:
    found = demuxer(packets, may_jump=False, name="mov")
    state = SimpleNamespace(begin=0)

    def seek(tick: int, *, stream: object) -> None:
        place = stream.index_entries.search_timestamp(tick)
        begin = stream.index_entries[place].timestamp
        state.begin = next(i for i, p in enumerate(packets) if p.pts >= begin)

    def demux(_: object) -> Iterator[Packet]:
        yield from packets[state.begin :]

    found._container.seek, found._container.demux, found._can_seek = seek, demux, True
    keys = [SimpleNamespace(timestamp=p.pts) for p in packets if p.stream_index == 0 and p.is_keyframe]
    found._video.stream.index_entries = Index(keys)
    return found


def with_keyframes(packets: list[Packet], every_ms: int) -> list[Packet]:
    for packet in packets:
        packet.is_keyframe = packet.pts % every_ms == 0
    return packets


@pytest.mark.parametrize("sound_first", [False, True])
def test_a_seek_leads_to_the_last_keyframe_with_sound_from_a_second_before_the_instant(sound_first):
    words = times(0, 1000).split()
    if sound_first:  # all of it: more was read of the sound than the seek leads to
        words.sort(key=lambda word: word[0])
    found = seekable(with_keyframes(file_of(" ".join(words)), 2000))
    assert [found.video().pts, found.audio().pts] == [0, 0]
    assert found.skip_to(20_000, since=0)
    assert found.video().pts == 20_000 and found.was_skipped
    assert found.audio().pts == 18_000
    assert not found.has_next_part() and len(list(iter(found.video, None))) == 499


def test_a_seek_never_goes_back_nor_where_no_keyframe_is_ahead():
    found = seekable(with_keyframes(file_of(times(0, 1000)), 20_000))
    assert [found.video().pts for _ in range(3)] == [0, 40, 80]
    assert not found.skip_to(19_000, since=80)
    assert not found.was_skipped and found.video().pts == 120


def test_the_pts_that_libavformat_makes_up_for_avi_are_not_believed():
    packets = [Packet(0, pts, 40 * i) for i, pts in enumerate((40, 200, 80, 120))]
    found = demuxer(packets, may_jump=False, name="avi")
    assert [packet.pts for packet in iter(found.video, None)] == [0, 40, 80, 120]
    assert found.extent.stop == 160
