from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from avprep.media.timeline import (
    Clock,
    PacketEntry,
    clip_starts,
    group_starts,
    plan_segments,
    shown_at,
    target_ticks,
)
from avprep.spec import ClipSpec

SPEC = ClipSpec()


def test_a_ten_second_span_holds_six_clips():
    starts = clip_starts(
        start_s=Fraction(0), stop_s=Fraction(10), spec=SPEC, stride_samples=25600, limit=None
    )
    assert starts == [0, 25600, 51200, 76800, 102400, 128000]


def test_a_clip_never_begins_before_its_span_nor_ends_after_it():
    start_s, stop_s = Fraction(834, 1000) + Fraction(1, 90000), Fraction(7)
    starts = clip_starts(start_s=start_s, stop_s=stop_s, spec=SPEC, stride_samples=12800, limit=None)
    assert Fraction(starts[0], 16000) >= start_s > Fraction(starts[0] - 1, 16000)
    assert Fraction(starts[-1] + SPEC.samples, 16000) <= stop_s


def test_a_limit_spreads_clips_over_the_span():
    starts = clip_starts(start_s=Fraction(0), stop_s=Fraction(160), spec=SPEC, stride_samples=25600, limit=4)
    assert starts == [0, 25 * 25600, 50 * 25600, 75 * 25600]


def test_targets_are_the_frames_that_a_30_fps_player_shows():
    clock = Clock(Fraction(1, 30000), Fraction(0))
    pts = [1001 * i for i in range(100)]  # 29.97 fps
    shown = [shown_at(pts, tick) for tick in target_ticks(0, SPEC, clock)]
    # at i/10 s the frame k = floor(i/10 * 30000/1001) is on screen
    assert shown == [1001 * (i * 3000 // 1001) for i in range(16)]


def test_the_containers_start_is_time_zero():
    clock = Clock(Fraction(1, 90000), Fraction(5994667, 1_000_000))
    assert clock.seconds(540000) == Fraction(6) - Fraction(5994667, 1_000_000)
    assert clock.last_tick(clock.seconds(540000)) == 540000


def test_shown_at_is_none_before_the_first_frame():
    assert shown_at([10, 20], 9) is None
    assert shown_at([10, 20], 19) == 10
    assert shown_at([10, 20], 10**9) == 20


def test_groups_break_at_gaps_alone():
    second = SPEC.sample_rate
    starts = [0, 2 * second, 100 * second, 101 * second]
    assert group_starts(starts, spec=SPEC, max_gap_s=10) == [starts[:2], starts[2:]]


def gops(draw):
    """Closed GOPs in decode order, P before the B frames that are shown before it."""
    packets, time = [], 0
    for _ in range(draw(st.integers(1, 5))):
        length = draw(st.integers(1, 12))
        shown = [time + i for i in range(length)]
        order = [shown[0], *sorted(shown[1:], key=lambda t: (t // 3, -(t % 3)))]
        packets += [PacketEntry(pts, i == 0) for i, pts in enumerate(order)]
        time += length
    return packets


@given(st.data())
def test_every_wanted_frame_is_decoded_once_from_its_keyframe(data):
    packets = gops(data.draw)
    all_pts = [p.pts for p in packets]
    wanted = set(data.draw(st.lists(st.sampled_from(all_pts), min_size=1)))
    segments = plan_segments(packets, wanted)
    assert [pts for s in segments for pts in s.wanted] and set().union(
        *(s.wanted for s in segments)
    ) == wanted
    assert sum(len(s.wanted) for s in segments) == len(wanted)
    for before, after in zip(segments, segments[1:], strict=False):
        assert before.stop <= after.first, "no packet is decoded twice"
    for segment in segments:
        assert packets[segment.first].is_key
        inside = {p.pts for p in packets[segment.first : segment.stop]}
        assert segment.wanted <= inside
        assert packets[segment.stop - 1].pts in segment.wanted, "nothing is decoded after the last wanted"
        for place in range(segment.first + 1, segment.stop):
            if packets[place].is_key:
                assert any(p.pts in segment.wanted for p in packets[segment.first : place])


def test_a_leading_frame_of_an_open_gop_needs_the_gop_before():
    # decode order I0 P3 B1 B2 | I6 B4 B5: B4 and B5 come after I6 and are shown before it
    packets = [PacketEntry(pts, pts in (0, 6)) for pts in (0, 3, 1, 2, 6, 4, 5)]
    assert [(s.first, s.stop) for s in plan_segments(packets, {4})] == [(0, 6)]
    assert [(s.first, s.stop) for s in plan_segments(packets, {6})] == [(4, 5)]
    assert [(s.first, s.stop) for s in plan_segments(packets, {1, 6})] == [(0, 3), (4, 5)]
