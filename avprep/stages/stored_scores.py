"""Which stored scores of a shard can be used: those of its very bytes, with all of their columns.

Light: jobs import this, without torch."""

from __future__ import annotations

from avprep.scores.base import Score
from avprep.scores.catalogue import SCORES
from avprep.shards.ledger import ShardRecord
from avprep.shards.scores import TYPES, ScoresRecord


def stored_scores(stored: ScoresRecord | None, record: ShardRecord) -> dict[str, str]:
    """The scores that can be used, each with its identity: see `Score.identity`."""
    if stored is None:
        return {}
    return {s.name: stored.scores[s.name] for s in SCORES if is_stored(s, stored, record)}


def is_stored(score: Score, stored: ScoresRecord | None, record: ShardRecord) -> bool:
    """Whether a score is stored of this very shard with all of its columns. None is, where the shard was made
    again with other bytes. A score of another edition is not: its values mean something else."""
    return (
        stored is not None
        and stored.clips_sha256 == record.sha256
        and score.name in stored.scores
        and score.is_of_edition(stored.scores[score.name])
        and all(stored.columns.get(column.name) == TYPES[column.kind] for column in score.columns)
    )
