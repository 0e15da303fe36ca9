"""The plan: every clip of every source once, in shards, however the sources are listed."""

from __future__ import annotations

import random
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avprep.datasets.source import Event, Source
from avprep.errors import ArgumentError
from avprep.jobs.clip import planned_sources
from avprep.jobs.config import PlanOptions
from avprep.jobs.planning import broken_key, plan_shards, replanned, rows_again
from avprep.media.probe import MediaInfo, Part
from avprep.media.timeline import Cut
from avprep.reasons import MediaError, Reason
from avprep.shards.clips import source_number
from avprep.shards.plan import PlanRow
from avprep.spec import ClipSpec
from avprep.stages.tasks import Probed

SPEC = ClipSpec()  # clips of 1.6 s, 25600 samples
BROKEN = MediaError(Reason.CORRUPT, "no header")


def info(seconds: float) -> MediaInfo:
    part = Part(Fraction(0), Fraction(seconds).limit_denominator(1000))
    return MediaInfo(format="mp4", parts=(part,), width=64, height=64, video_codec="h264", audio_codec=None)


def probed(seconds: float) -> Probed:
    return Probed("version", info(seconds) if seconds else BROKEN)


def plan(sources, seconds, **options):
    """Shards of rows. `seconds`: of each path; 0 = it cannot be opened."""

    def headers(ordered):
        return ((s, probed(seconds[s.path])) for s in ordered)

    return list(plan_shards(sources, SPEC, PlanOptions(**options), headers))


@given(
    st.dictionaries(st.integers(0, 99).map(str), st.sampled_from([0, 1.0, 1.6, 3.3, 16.0]), min_size=1),
    st.integers(1, 12),
    st.randoms(),
)
def test_the_plan_is_every_clip_once_whatever_the_order(seconds, shard_size, shuffled: random.Random):
    sources = [Source(path=path) for path in seconds]
    shards = plan(sources, seconds, shard_size=shard_size)
    shuffled.shuffle(sources)
    assert plan(sources, seconds, shard_size=shard_size) == shards
    rows = [row for shard in shards for row in shard]
    assert [row.shard for row in rows] == [i for i, shard in enumerate(shards) for _ in shard]
    assert all(0 < len(shard) <= shard_size for shard in shards)
    assert all([row.key for row in shard] == sorted(row.key for row in shard) for shard in shards)
    found = sorted((row.source, row.start, row.reason) for row in rows)
    expected = []
    for path, length in seconds.items():
        starts = range(0, int(length * 16000) - 25600 + 1, 25600)
        reason = "corrupt" if not length else "too_short"
        expected += [(path, start, "") for start in starts] or [(path, 0, reason)]
    assert found == sorted(expected)


def test_rows_say_what_the_source_s_header_says():
    known = MediaInfo(
        format="mp4",
        parts=(Part(Fraction(0), Fraction(2)), Part(Fraction(5), Fraction(13, 2))),
        width=640,
        height=360,
        video_codec="h264",
        audio_codec=None,
        fps=29.97,
    )
    found = plan_shards([Source(path="a")], SPEC, PlanOptions(), lambda s: [(s[0], Probed("v", known))])
    for row in (row for shard in found for row in shard):
        size = row.source_width, row.source_height
        assert (*size, row.source_fps, row.source_s) == (640, 360, 29.97, 3.5)
    ((lost,),) = plan([Source(path="b")], {"b": 0})
    assert (lost.source_width, lost.source_height, lost.source_fps, lost.source_s) == (None,) * 4


@given(st.integers(1, 40), st.integers(1, 8))
def test_a_source_stays_in_one_shard_unless_it_fills_it(count, shard_size):
    shards = plan([Source(path=str(i)) for i in range(count)], {str(i): 4.8 for i in range(count)},
                  shard_size=shard_size)  # fmt: skip
    spread = {}
    for rows in shards:
        for row in rows:
            spread.setdefault(row.source, set()).add(row.shard)
    assert all(len(found) == 1 for found in spread.values()) == (shard_size >= 3)


def test_sources_come_in_the_order_of_a_hash_so_that_classes_mix():
    sources = [Source(path=f"{label}/{i}") for label in ("a", "b") for i in range(50)]
    shards = plan(sources, {source.path: 1.6 for source in sources}, shard_size=1)
    order = [rows[0].source for rows in shards]
    assert order == sorted(order, key=source_number)
    assert 15 < sum(path.startswith("a/") for path in order[:50]) < 35


def test_a_limit_asks_for_no_more_sources_than_it_needs():
    asked = []

    def headers(ordered):
        for source in ordered:
            asked.append(source.path)
            yield source, probed(4.8)

    sources = [Source(path=str(i)) for i in range(10)]
    shards = list(plan_shards(sources, SPEC, PlanOptions(limit=4), headers))
    assert sum(map(len, shards)) == 4 and len(asked) == 2


def test_the_stride_and_the_cap_decide_the_starts():
    rows = plan([Source(path="a")], {"a": 4.0}, stride_samples=8000)[0]
    assert sorted(row.start for row in rows) == [0, 8000, 16000, 24000, 32000]
    rows = plan([Source(path="a")], {"a": 4.0}, stride_samples=8000, clips_per_source=2)[0]
    assert len(rows) == 2 and {row.start for row in rows} <= {0, 8000, 16000, 24000, 32000}


def test_overlapping_spans_of_a_file_share_their_clips():
    spans = [Source(path="a", start_s=0.0, stop_s=3.2), Source(path="a", start_s=1.6, stop_s=4.8)]
    (rows,) = plan(spans, {"a": 9.0})
    assert sorted(row.start for row in rows) == [0, 25600, 51200]


def test_a_span_is_cut_from_the_file_unless_the_file_is_the_span():
    span = {"path": "a", "start_s": 30.0, "stop_s": 40.0}
    whole, trimmed = {"a": 60.0}, {"a": 10.5}
    (rows,) = plan([Source(**span, maybe_trimmed=True)], whole)
    assert min(row.start for row in rows) == 30 * 16000
    (rows,) = plan([Source(**span, maybe_trimmed=True)], trimmed)
    assert min(row.start for row in rows) == 0
    (rows,) = plan([Source(**span)], trimmed)
    assert [(row.start, row.reason) for row in rows] == [(30 * 16000, "too_short")]


# --- events ------------------------------------------------------------------------------------------------

DOG, CAT, RAIN = (Event(start_s, stop_s, (label,)) for start_s, stop_s, label in
                  ((2.5, 2.75, "dog"), (3.0, 9.0, "cat"), (9.5, 9.9, "rain")))  # fmt: skip
EVENTS = {"labels": ("dog", "cat", "rain"), "events": (DOG, CAT, RAIN)}


def placed(source: Source, seconds: float, **options) -> dict[float, tuple[str, ...]]:
    """Seconds to the labels of every clip."""
    (rows,) = plan([source], {source.path: seconds}, at_events=True, **options)
    assert all(row.caption == f"a video of {', '.join(row.labels)}" for row in rows if not row.reason)
    return {row.start / SPEC.sample_rate: row.labels for row in rows if not row.reason}


def test_clips_start_at_onsets_and_have_the_labels_of_what_sounds_in_them():
    # The cat begins within the dog's clip, and is heard in the last one no more: that ends with the file.
    assert placed(Source(path="a", **EVENTS), 10.0) == {2.5: ("dog", "cat"), 8.4: ("cat", "rain")}


def test_onsets_are_counted_from_the_start_of_the_span_unless_the_file_is_the_span():
    span = Source(path="a", start_s=30.0, stop_s=40.0, maybe_trimmed=True, **EVENTS)
    assert list(placed(span, 60.0)) == [32.5, 38.4]
    assert list(placed(span, 10.5)) == [2.5, 8.9]


def test_an_event_behind_the_end_of_the_pictures_has_no_clip():
    assert list(placed(Source(path="a", **EVENTS), 5.0)) == [2.5]
    assert list(placed(Source(path="a", **EVENTS), 4.0)) == [2.4]  # the end of the file moves it


def test_a_source_of_which_no_event_is_left_says_so():
    ((row,),) = plan([Source(path="a", **EVENTS)], {"a": 2.0}, at_events=True)
    assert (row.reason, row.detail) == ("no_event", "3 events, none within its pictures")
    ((row,),) = plan([Source(path="a", **EVENTS)], {"a": 1.0}, at_events=True)
    assert row.reason == "too_short"


def test_what_ends_as_a_clip_starts_or_starts_as_it_ends_does_not_sound_in_it():
    spans = ((0.5, 2.5, "before"), (2.5, 2.6, "at"), (4.1, 5.0, "after"), (4.0999, 4.2, "within"))
    events = tuple(Event(start_s, stop_s, (label,)) for start_s, stop_s, label in spans)
    source = Source(path="a", labels=("before", "at", "after", "within"), events=events)
    assert placed(source, 10.0)[2.5] == ("at", "within")


def test_a_source_is_read_once_whatever_its_clips_are_called():
    (rows,) = plan([Source(path="a", **EVENTS)], {"a": 10.0}, at_events=True)
    (source,) = planned_sources(rows)
    assert source.starts == (40000, 134400)
    assert [source.text_of(start).labels for start in source.starts] == [("dog", "cat"), ("cat", "rain")]


def test_a_clip_at_an_event_lies_within_a_shot():
    found = Probed("v", info(10.0), (Cut(3.75, 3.8), Cut(9.0, 9.04)))
    events = (DOG, Event(9.02, 9.9, ("rain",)))
    source = Source(path="a", labels=("dog", "rain"), events=events)
    ((first, second),) = plan_shards(
        [source], SPEC, PlanOptions(at_events=True), lambda sources: [(sources[0], found)]
    )
    assert (first.start / 16000, first.reason, first.labels) == (2.25, "", ("dog",))
    assert (second.start / 16000, second.reason) == (8.4, "cut")


def test_the_cap_is_spread_over_the_events():
    assert list(placed(Source(path="a", **EVENTS), 10.0, clips_per_source=1)) == [2.5]


def test_a_caption_of_the_dataset_is_that_of_every_clip_and_says_so():
    (rows,) = plan([Source(path="a", caption="pets", **EVENTS)], {"a": 10.0}, at_events=True)
    assert {(row.caption, row.caption_from) for row in rows} == {("pets", "source")}


def test_events_are_not_read_where_they_are_not_asked_for():
    assert plan([Source(path="a", **EVENTS)], {"a": 10.0}) == plan(
        [Source(path="a", labels=EVENTS["labels"])], {"a": 10.0}
    )


def test_a_stride_does_not_go_with_events():
    with pytest.raises(ArgumentError, match="^at_events = True: .*give no stride"):
        PlanOptions(at_events=True, stride_samples=1)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ({"labels": ("dog", "cat")}, ("a video of dog, cat", "labels")),
        ({"labels": ("dog",), "caption": "a video of dog"}, ("a video of dog", "source")),
        ({"caption": "pets"}, ("pets", "source")),
        ({}, ("", "")),
    ],
)
def test_a_caption_says_what_it_is_from(source, expected):
    for seconds in (0, 1.0, 1.6):
        ((row,),) = plan([Source(path="a", **source)], {"a": seconds})
        assert (row.caption, row.caption_from) == expected


def test_rows_planned_again_replace_the_broken_one_and_move_no_other():
    sources = [Source(path=str(i)) for i in range(4)]
    shards = plan(sources, {"0": 3.2, "1": 0, "2": 3.2, "3": 1.6}, shard_size=3)
    broken = broken_key(sources[1], SPEC)
    (old,) = (row for rows in shards for row in rows if row.key == broken)
    assert old.reason == "corrupt"
    found = {broken: rows_again(sources[1], probed(8.0), SPEC, PlanOptions(), set())}
    again = list(replanned(shards, found, shard_size=3))
    places = {row.key: row.shard for rows in shards for row in rows if row.key != broken}
    now = {row.key: row.shard for rows in again for row in rows}
    assert places.items() <= now.items() and len(now) == len(places) + 5
    assert all(len(rows) <= 3 for rows in again)
    assert [row.reason for rows in again for row in rows if row.source == "1"] == [""] * 5


def test_clips_that_another_span_has_are_not_planned_again():
    source = Source(path="a")
    planned = {row.key for row in rows_again(source, probed(1.6), SPEC, PlanOptions(), set())}
    assert [row.start for row in rows_again(source, probed(4.8), SPEC, PlanOptions(), planned)] == [
        25600,
        51200,
    ]


@pytest.mark.parametrize("name", ["shard_size", "limit", "clips_per_source", "stride_samples"])
@pytest.mark.parametrize("value", [0, -1, 2.5, True, "3"])
def test_options_out_of_range_are_named(name, value):
    with pytest.raises(ArgumentError, match=f"^{name} must be a whole number, at least 1, not {value!r}"):
        PlanOptions(**{name: value})


# --- cuts ---------------------------------------------------------------------------------------------------


def plan_with_cuts(source: Source, seconds: float, cuts: list[Cut], **options) -> list[PlanRow]:
    found = replace(probed(seconds), cuts=tuple(cuts))
    shards = plan_shards(
        [source], SPEC, PlanOptions(**options), lambda sources: ((s, found) for s in sources)
    )
    return [row for rows in shards for row in rows]


@given(
    st.lists(st.tuples(st.integers(0, 20_000), st.sampled_from([2, 40, 500])), max_size=20),
    st.integers(0, 4000),
    st.integers(4001, 25_000),
    st.none() | st.integers(1, 6),
)
def test_no_planned_clip_contains_a_cut(found, start_ms, stop_ms, most):
    cuts = [Cut(begin / 1000, (begin + length) / 1000) for begin, length in sorted(found)]
    source = Source(path="a", start_s=start_ms / 1000, stop_s=stop_ms / 1000)
    rows = plan_with_cuts(source, 16.0, cuts, clips_per_source=most)
    assert len({row.key for row in rows}) == len(rows) > 0
    assert most is None or len(rows) <= most
    for row in rows:
        first_s = row.start / 16000
        if row.reason == "too_short":
            assert len(rows) == 1
            continue
        assert source.start_s <= first_s and first_s + 1.6 <= min(source.stop_s, 16.0)
        assert any(cut.is_inside(first_s, first_s + 1.5) for cut in cuts) == (row.reason == "cut")


def test_what_a_cut_leaves_out_is_a_row_that_names_the_cut():
    rows = plan_with_cuts(Source(path="a"), 5.0, [Cut(2.0, 2.125)])
    assert [(row.start, row.reason, row.detail) for row in rows] == [
        (0, "", ""),
        (25600, "cut", "a cut from 2.000 s to 2.125 s"),
        (34000, "", ""),
    ]


def test_cuts_under_a_cap_that_is_reached_anyway_leave_nothing_out():
    cuts = [Cut(2.0, 2.04), Cut(4.0, 4.04)]
    rows = plan_with_cuts(Source(path="a"), 16.0, cuts, clips_per_source=3)
    assert [row.reason for row in rows] == ["", "", ""]
    rows = plan_with_cuts(Source(path="a"), 6.0, cuts, clips_per_source=3)
    assert [row.reason for row in rows] == ["", "", ""]
    rows = plan_with_cuts(Source(path="a"), 3.0, [Cut(1.0, 1.04)], clips_per_source=3)
    assert [row.reason for row in rows] == ["cut", ""]
