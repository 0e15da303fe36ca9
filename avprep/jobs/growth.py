"""A plan that is there is brought up to date with its sources, as far as a run asks for it."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from avprep.datasets.source import Source
from avprep.jobs.changes import Changes, find_changes
from avprep.jobs.config import FromMedia, Growth
from avprep.jobs.output import JobError
from avprep.jobs.planner import Planner
from avprep.jobs.progress import Progress
from avprep.shards.layout import PLAN_FILE
from avprep.shards.plan import PlanReader
from avprep.shards.store import Store


@dataclass(frozen=True)
class PlanUpdate:
    """What a run takes into the plan that is there."""

    changes: Changes  # of the sources since the plan was made
    growth: Growth
    new: list[Source] = field(default_factory=list)  # to be planned, into new shards
    dropped: AbstractSet[str] = frozenset()  # paths whose rows go

    @property
    def left(self) -> Changes:
        """What is not taken."""
        return self.changes.after(self.growth)


def update_plan(
    store: Store, planner: Planner, source: FromMedia, growth: Growth, progress: Progress
) -> tuple[PlanReader, Changes]:
    """The plan: made now where there is none, or brought up to date; and what differs from the sources still,
    which is reported.

    Raises:
        JobError: the sources are others than the plan's altogether.
    """
    if not store.exists(PLAN_FILE):
        return planner.plan_once(store), Changes()
    plan = PlanReader(store)
    update = find_update(plan, source, growth, store.uri)
    for message in update.left.messages():
        progress.say(message)
    if update.new or update.dropped:
        plan = planner.grow(store, plan, update.new, update.dropped)
    return plan, update.left


def find_update(plan: PlanReader, source: FromMedia, growth: Growth, out: str) -> PlanUpdate:
    """Compares the sources with the plan of the output `out`.

    Raises:
        JobError: the sources are others than the plan's altogether.
    """
    changes = find_changes(source, plan)
    dropped = (changes.changed if growth.replace_changed else frozenset()) | (
        frozenset(changes.mended) if growth else frozenset()
    )
    new = changes.new if growth.add_new else []
    if growth.replace_changed and not growth.add_new:
        new = changes.new_on_mended_lines()
    new = [one for one in new if one.path not in dropped]
    if new and not changes.same:
        raise JobError(
            f"add_new = True: none of the sources that {out} was planned from is under "
            f"root = {source.root}; clips of other media go into another output"
        )
    new += [one for one in source.sources if one.path in dropped]
    return PlanUpdate(changes, growth, new, dropped)
