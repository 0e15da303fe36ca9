"""Which stored scores of a shard can be used: those of its very bytes, with all of their columns.

Light: jobs import this, without torch."""

from __future__ import annotations

from avprep.scores.catalogue import SCORES
from avprep.shards.ledger import ShardRecord
from avprep.shards.scores import TYPES, ScoresRecord


def stored_scores(stored: ScoresRecord | None, record: ShardRecord) -> dict[str, str]:
    """The scores that are stored of this very shard with all of their columns, each with its weights'
    SHA-256. None of them is, where the shard was made again with other bytes."""
    if stored is None or stored.clips_sha256 != record.sha256:
        return {}
    return {
        score.name: stored.scores[score.name]
        for score in SCORES
        if score.name in stored.scores
        and all(stored.columns.get(column.name) == TYPES[column.kind] for column in score.columns)
    }
