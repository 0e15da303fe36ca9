from __future__ import annotations

from avprep.jobs.clip import planned_sources
from avprep.media.crop import Bars
from avprep.reasons import MediaError, Reason
from avprep.shards.plan import PlanRow


def row(source: str, start: int, detail: str = "", **more) -> PlanRow:
    reason = "cut" if detail else ""
    return PlanRow(
        key=f"{source}_{start:04d}",
        shard=0,
        source=source,
        start=start,
        labels=(),
        caption="",
        reason=reason,
        detail=detail,
        **more,
    )


def test_a_source_is_read_once_whatever_its_cuts_leave_out():
    rows = [row("a", 0), row("a", 1, "1 s"), row("a", 2), row("a", 3, "3 s"), row("a", 4), row("b", 0)]
    found = [(source.path, source.starts, source.verdict) for source in planned_sources(rows)]
    made = [(path, starts) for path, starts, verdict in found if verdict is None]
    assert made == [("a", (0, 2, 4)), ("b", (0,))]
    lost = {starts: verdict for _, starts, verdict in found if isinstance(verdict, MediaError)}
    assert {starts: (lost[starts].reason, lost[starts].detail) for starts in lost} == {
        (1,): (Reason.CUT, "1 s"),
        (3,): (Reason.CUT, "3 s"),
    }


def test_the_bars_of_the_plan_go_with_the_source():
    rows = [row("a", 0, bars=(1, 2, 3, 4)), row("b", 0)]
    assert [source.bars for source in planned_sources(rows)] == [Bars(1, 2, 3, 4), None]
