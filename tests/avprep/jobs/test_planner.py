"""A plan that grows: the clips of one plan over all sources, in whatever steps they came."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from avprep.datasets.source import Source
from avprep.jobs.config import FromMedia, PlanOptions
from avprep.jobs.output import Stop
from avprep.jobs.planner import Planner
from avprep.jobs.progress import Progress
from avprep.shards.plan import PlanReader, PlanRow
from avprep.shards.store import LocalStore, open_store
from avprep.signals import StopSignal
from avprep.stages.tasks import Probed
from tests.avprep.jobs.test_planning import probed


class MadePlanner(Planner):
    """Opens no media: a file has as many seconds as its name says; 0 = it cannot be opened."""

    def __init__(self, shard_size: int) -> None:
        options = PlanOptions(shard_size=shard_size)
        source = FromMedia(dataset="made", root=Path("/"), sources=[], plan=options)
        super().__init__(source, None, Stop(StopSignal()), Progress())

    def _probe(self, sources: Iterable[Source]) -> Iterator[tuple[Source, Probed]]:
        return ((source, probed(float(source.path.split()[0]))) for source in sources)


def grown(
    store: LocalStore, steps: list[list[Source]], dropped: list[set[str]], shard_size: int
) -> PlanReader:
    """The plan of the first step, grown by the others; at each, these paths are planned anew."""
    store.remove("plan.parquet")
    planner = MadePlanner(shard_size)
    planner._source.sources[:] = steps[0]
    plan = planner.plan_once(store)
    there = list(steps[0])
    for new, anew in zip(steps[1:], dropped, strict=True):
        paths = anew & {source.path for source in there}
        plan = planner.grow(store, plan, new + [s for s in there if s.path in paths], paths)
        there += new
    return plan


def rows_of(plan: PlanReader) -> list[list[PlanRow]]:
    return [plan.rows(i) for i in range(plan.shards)]


SECONDS = (0, 1.0, 1.6, 3.3, 16.0)
PATHS = [f"{seconds} {i}" for seconds in SECONDS for i in range(4)]


@settings(deadline=None)
@given(
    steps=st.lists(st.sampled_from(PATHS), unique=True, min_size=1).flatmap(
        lambda paths: st.lists(st.integers(1, len(paths)), max_size=4).map(
            lambda cuts: [paths[a:b] for a, b in zip([0, *sorted(cuts)], [*sorted(cuts), None], strict=True)]
        )
    ),
    anew=st.lists(st.sets(st.sampled_from(PATHS), max_size=3), min_size=4, max_size=4),
    shard_size=st.integers(1, 12),
)
def test_a_plan_grown_in_any_steps_has_the_rows_of_one_over_all(tmp_path_factory, steps, anew, shard_size):
    steps = [[Source(path=path) for path in step] for step in steps if step]
    anew = anew[: len(steps) - 1]
    store = open_store(tmp_path_factory.getbasetemp())
    whole = {
        row.key: row.reason
        for rows in rows_of(grown(store, [sum(steps, [])], [], shard_size))
        for row in rows
    }
    plan = grown(store, steps, anew, shard_size)
    shards = rows_of(plan)
    found = {row.key: row.reason for rows in shards for row in rows}
    assert found == whole and plan.clips == len(found)
    assert all(len(rows) <= shard_size for rows in shards)
    assert all(row.shard == i for i, rows in enumerate(shards) for row in rows)
    generations = plan.history().generations
    assert generations[0] == 0 and list(generations) == sorted(generations) and generations[-1] <= plan.shards


def test_rows_that_stay_are_not_touched_and_the_identity_neither(tmp_path):
    store = open_store(tmp_path)
    first = [Source(path=f"3.3 {i}") for i in range(5)]
    plan = grown(store, [first], [], 4)
    before, identity = rows_of(plan), plan.history().identity
    plan = MadePlanner(4).grow(store, plan, [Source(path="16.0 new")], frozenset())
    assert rows_of(plan)[: len(before)] == before
    history = plan.history()
    assert (history.identity, history.generations, history.revision) == (identity, (0, len(before)), 1)


def test_nothing_new_writes_nothing(tmp_path):
    store = open_store(tmp_path)
    span = Source(path="16.0 a", start_s=0.0)
    plan = grown(store, [[span]], [], 4)
    before = (tmp_path / "plan.parquet").read_bytes()
    # Another span of the file, all of whose clips are planned already.
    assert MadePlanner(4).grow(store, plan, [Source(path="16.0 a", start_s=3.2)], frozenset()) is plan
    assert (tmp_path / "plan.parquet").read_bytes() == before
