from bisect import bisect_right
from fractions import Fraction
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from avprep.media.timeline import (
    Clock,
    Cut,
    Extent,
    Part,
    clip_starts,
    spread,
    starts_at,
    starts_in_shots,
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


def at(*instants_s: float, start_s: float = 0, stop_s: float = 10) -> list[float]:
    instants = [Fraction(instant_s).limit_denominator(1000) for instant_s in instants_s]
    span = {"start_s": Fraction(start_s), "stop_s": Fraction(stop_s)}
    starts, left_out = starts_at(instants, **span, cuts=(), spec=SPEC)
    assert left_out == []
    return [start / 16000 for start in starts]


def test_a_clip_begins_at_an_instant_or_as_much_earlier_as_the_end_of_the_span_wants():
    assert at(2.627, 0) == [0, 2.627]
    assert at(9.0) == [8.4]
    assert at(2, 3.59, 3.6) == [2, 3.6]  # the second one lies in the first clip
    assert at(8.0, 9.7) == [8.0]  # a clip with the second one would overlap the first
    assert at(-1, 10, 11) == []
    assert at(1, start_s=0.5, stop_s=2) == []  # no clip fits


def test_a_clip_begins_at_the_last_sample_that_is_not_after_its_instant():
    third = Fraction(100_001, 48_000)  # between the samples 33333 and 33334
    for start_s, start in ((Fraction(0), 33333), (third, 33334)):  # not before the span
        found = starts_at([third], start_s=start_s, stop_s=Fraction(9), cuts=(), spec=SPEC)
        assert found == ([start], [])


def test_a_clip_at_an_instant_ends_with_its_shot_or_is_left_out():
    near, far = Cut(3.875, 4.0), Cut(5.0, 5.04)
    span = {"start_s": Fraction(0), "stop_s": Fraction(9), "spec": SPEC}
    assert starts_at([Fraction(3)], **span, cuts=[near, far]) == ([38000], [])  # its last frame is at 3.875
    assert starts_at([Fraction(4)], **span, cuts=[near, far]) == ([], [(64000, far)])  # a shot of 1 s
    assert starts_at([Fraction("3.95")], **span, cuts=[near]) == ([], [(63200, near)])  # within the cut
    taken = [Fraction(2), Fraction("3.7")]  # a clip of the second one would overlap the first
    assert starts_at(taken, **span, cuts=[near]) == ([32000], [(59200, near)])


@given(
    st.lists(st.fractions(0, 12, max_denominator=1000), max_size=6),
    st.fractions(0, 4, max_denominator=1000),
    st.fractions(4, 12, max_denominator=1000),
)
def test_clips_at_instants_lie_in_the_span_and_do_not_overlap(instants_s, start_s, stop_s):
    starts, left_out = starts_at(instants_s, start_s=start_s, stop_s=stop_s, cuts=(), spec=SPEC)
    assert left_out == []
    assert all(b - a >= SPEC.samples for a, b in pairwise(starts))
    assert all(start >= start_s * 16000 and start + SPEC.samples <= stop_s * 16000 for start in starts)
    clips = [(Fraction(start, 16000), Fraction(start + SPEC.samples, 16000)) for start in starts]
    inside = [instant_s for instant_s in instants_s if start_s <= instant_s < stop_s]
    sample = Fraction(1, 16000)
    for a, b in clips:  # every clip has an instant, at its start or where the span leaves no other place
        assert any(a <= i < a + sample or (a - sample < i < b and b + sample > stop_s) or
                   (i < a < start_s + sample) for i in inside)  # fmt: skip
    for i in inside:  # every instant has a clip, or one is in its way
        wanted = min(i, stop_s - SPEC.seconds)
        assert any(a - sample < i < b + sample or a <= wanted < b + sample for a, b in clips) or (
            stop_s - start_s < SPEC.seconds + sample
        )


@given(
    st.lists(st.fractions(0, 12, max_denominator=1000), max_size=6),
    st.lists(st.tuples(st.floats(0, 12), st.floats(0, 2)), max_size=4),
)
def test_no_clip_at_an_instant_contains_a_cut(instants_s, found):
    cuts = [Cut(before_s, before_s + length_s) for before_s, length_s in sorted(found)]
    span = {"start_s": Fraction(0), "stop_s": Fraction(12)}
    starts, left_out = starts_at(instants_s, **span, cuts=cuts, spec=SPEC)
    to_last_frame = Fraction(SPEC.samples - SPEC.samples_per_frame, 16000)
    for start in starts:
        at_s = Fraction(start, 16000)
        assert not any(cut.is_inside(at_s, at_s + to_last_frame) for cut in cuts)
    assert all(b - a >= SPEC.samples for a, b in pairwise(starts))
    assert not starts or (starts[0] >= 0 and starts[-1] + SPEC.samples <= 12 * 16000)
    assert not {start for start, _ in left_out} & set(starts)


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


@st.composite
def cut_lists(draw) -> list[Cut]:
    """Cuts as detectors and lists have them: ascending by when they begin; some overlap."""
    spans = st.tuples(st.integers(0, 12_000), st.sampled_from([1, 2, 40, 440, 2500]))
    found = draw(st.lists(spans, max_size=12))
    return [Cut(begin / 1000, (begin + length) / 1000) for begin, length in sorted(found)]


@settings(deadline=None)
@given(
    cut_lists(),
    st.fractions(0, 5, max_denominator=90_000),
    st.fractions(0, 14, max_denominator=90_000),
    st.sampled_from([1601, 8000, 25600, 40_000]),
)
def test_no_clip_contains_a_cut_and_whatever_is_left_out_does(cuts, start_s, seconds, stride):
    span = {"start_s": start_s, "stop_s": start_s + seconds, "spec": SPEC}
    starts, left_out = starts_in_shots(cuts=cuts, stride_samples=stride, **span)
    rate, last = SPEC.sample_rate, SPEC.samples - SPEC.samples_per_frame

    def contained(start: int) -> list[Cut]:
        return [cut for cut in cuts if cut.is_inside(Fraction(start, rate), Fraction(start + last, rate))]

    assert not any(map(contained, starts))
    assert all(cut in contained(start) for start, cut in left_out)
    found = sorted([*starts, *(start for start, _ in left_out)])
    assert len(set(found)) == len(found)
    within = range(-int(-start_s * rate // 1), int((start_s + seconds) * rate // 1) - SPEC.samples + 1)
    assert all(start in within for start in found)
    # Clips follow each other at the stride, or begin with a shot: no room for one is given away.
    firsts = {within.start} | {-int(-Fraction(cut.next_shot_s) * rate // 1) for cut in cuts}
    assert all(start in firsts or start - stride in starts for start in found)
    assert bool(found) == bool(within)


@given(st.fractions(0, 5, max_denominator=90_000), st.fractions(0, 14, max_denominator=90_000))
def test_without_cuts_the_starts_are_those_of_the_span(start_s, seconds):
    span = {"start_s": start_s, "stop_s": start_s + seconds, "spec": SPEC, "stride_samples": 8000}
    away = [Cut(100.0, 100.04)]
    assert starts_in_shots(cuts=[], **span) == starts_in_shots(cuts=away, **span) == (clip_starts(**span), [])


def test_clips_begin_with_each_shot():
    cuts = [Cut(3.96, 4.0), Cut(4.96, 5.0), Cut(5.96, 6.5)]
    starts, left_out = starts_in_shots(
        start_s=Fraction(0), stop_s=Fraction(9), cuts=cuts, spec=SPEC, stride_samples=25600
    )
    assert [start / 16000 for start in starts] == [0, 1.6, 6.5]
    assert [(start / 16000, cut) for start, cut in left_out] == [
        (3.2, cuts[0]), (4.0, cuts[1]), (5.0, cuts[2]),
    ]  # fmt: skip


def test_a_cut_between_the_last_picture_of_a_clip_and_the_next_is_not_in_it():
    """The last of 16 frames is shown at 1.5 s."""
    span = {"start_s": Fraction(0), "stop_s": Fraction(16, 10), "spec": SPEC, "stride_samples": 25600}
    assert starts_in_shots(cuts=[Cut(1.5, 1.54)], **span) == ([0], [])
    assert starts_in_shots(cuts=[Cut(1.49, 1.53)], **span) == ([], [(0, Cut(1.49, 1.53))])


def test_a_clip_may_begin_with_the_first_picture_of_a_shot_and_end_with_the_last():
    """Both times are floats that are not the times of the samples: 1.6 is later than 8/5."""
    span = {"start_s": Fraction(0), "stop_s": Fraction(32, 10), "spec": SPEC, "stride_samples": 25600}
    assert Fraction(1.6) > Fraction(8, 5)
    assert starts_in_shots(cuts=[Cut(1.56, 1.6)], **span) == ([0, 25600], [])
    later = span | {"start_s": Fraction(8, 10), "stop_s": Fraction(24, 10)}
    assert Fraction(2.3) < Fraction(23, 10)
    assert starts_in_shots(cuts=[Cut(2.3, 2.34)], **later) == ([12800], [])
