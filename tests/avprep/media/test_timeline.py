from bisect import bisect_right
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from avprep.media.timeline import (
    Clock,
    Extent,
    Part,
    clip_starts,
    spread,
    starts_of_parts,
    target_ticks,
)
from avprep.spec import ClipSpec

SPEC = ClipSpec()


def test_a_ten_second_span_holds_six_clips():
    starts = clip_starts(start_s=Fraction(0), stop_s=Fraction(10), spec=SPEC, stride_samples=25600)
    assert starts == [0, 25600, 51200, 76800, 102400, 128000]


def test_a_clip_never_begins_before_its_span_nor_ends_after_it():
    start_s, stop_s = Fraction(834, 1000) + Fraction(1, 90000), Fraction(7)
    starts = clip_starts(start_s=start_s, stop_s=stop_s, spec=SPEC, stride_samples=12800)
    assert Fraction(starts[0], 16000) >= start_s > Fraction(starts[0] - 1, 16000)
    assert Fraction(starts[-1] + SPEC.samples, 16000) <= stop_s


def test_a_limit_spreads_clips_over_the_span():
    starts = clip_starts(start_s=Fraction(0), stop_s=Fraction(160), spec=SPEC, stride_samples=25600)
    assert spread(starts, 4) == [0, 25 * 25600, 50 * 25600, 75 * 25600]


def test_targets_are_the_frames_that_a_30_fps_player_shows():
    clock = Clock(Fraction(1, 30000), Fraction(0))
    pts = [1001 * i for i in range(100)]  # 29.97 fps
    shown = [pts[bisect_right(pts, tick) - 1] for tick in target_ticks(0, SPEC, clock)]
    # at i/10 s the frame k = floor(i/10 * 30000/1001) is on screen
    assert shown == [1001 * (i * 3000 // 1001) for i in range(16)]


def test_the_containers_start_is_time_zero():
    clock = Clock(Fraction(1, 90000), Fraction(5994667, 1_000_000))
    assert clock.seconds(540000) == Fraction(6) - Fraction(5994667, 1_000_000)
    assert clock.last_tick(clock.seconds(540000)) == 540000


def test_each_part_has_clips_of_its_own_and_none_lies_across_two():
    parts = [Part(Fraction(-1), Fraction(4)), Part(Fraction(4), Fraction(8))]
    assert starts_of_parts(parts, spec=SPEC, stride_samples=25600) == [0, 25600, 64000, 89600]


@given(st.permutations([0, 3, 6, 9, 12]), st.sampled_from([0, None, 7]))
def test_the_last_picture_lasts_as_long_as_it_says_or_as_those_before_it(order, duration):
    extent = Extent()
    for pts in order:
        extent.add(pts, duration if pts == 12 else 3)
    assert (extent.first, extent.last) == (0, 12)
    assert extent.stop == 12 + (duration or 3)


def test_the_tick_of_an_instant_is_the_last_that_is_not_after_it():
    clock = Clock(Fraction(1, 10), Fraction(3))
    instants_s = [Fraction(0), Fraction(1, 100), Fraction(99, 1000), Fraction(1, 10), Fraction(-1, 100)]
    assert [clock.last_tick(seconds) for seconds in instants_s] == [30, 30, 30, 31, 29]


def test_an_extent_remembers_few_stamps():
    extent = Extent()
    for pts in range(1000):
        extent.add(pts, 1)
    assert (extent.first, extent.stop) == (0, 1000)
    assert len(extent._stamps) < 100
