"""Two streams, pulled apart and part by part, from files that are lists of stamps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from types import SimpleNamespace

import pytest

from avprep.media.limits import Deadline
from avprep.media.packets import AVFMT_TS_DISCONT, Demuxer
from avprep.media.timeline import Clock

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
        container=container, video=streams[0], audio=streams[1] if has_sound else None, can_seek=False,
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


@pytest.mark.parametrize("gone", ["v", "a"])
def test_a_gap_in_one_stream_alone_is_no_jump_of_the_clock(gone):
    words = [w for w in times(0, 1000).split() if not (w[0] == gone and 8000 <= int(w[1:]) < 32000)]
    ((video, audio),) = parts_of(demuxer(file_of(" ".join(words))))
    assert (video[-1], audio[-1]) == (39960, 39960)


def test_a_jump_of_the_sounds_clock_alone_begins_no_part():
    words = [f"v{40 * i} a{40 * i if i < 100 else 40 * (i - 100)}" for i in range(300)]
    ((video, audio),) = parts_of(demuxer(file_of(" ".join(words))))
    assert len(video) == len(audio) == 300


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


def test_the_pts_that_libavformat_makes_up_for_avi_are_not_believed():
    packets = [Packet(0, pts, 40 * i) for i, pts in enumerate((40, 200, 80, 120))]
    found = demuxer(packets, may_jump=False, name="avi")
    assert [packet.pts for packet in iter(found.video, None)] == [0, 40, 80, 120]
    assert found.extent.stop == 160
