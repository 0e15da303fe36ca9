"""The scores of a shard, computed while it is made.

Each clip is scored from its packed files, which is what a reader decodes: the file of scores is the one that
the score stage writes of the finished shard.
"""

from __future__ import annotations

from collections.abc import Iterator

from avprep.seconds import Seconds
from avprep.shards.layout import ShardError
from avprep.shards.ledger import ShardRecord
from avprep.shards.scores import read_scores_record
from avprep.shards.store import Store
from avprep.shards.tar import Members
from avprep.spec import ClipSpec
from avprep.stages.score import ClipScorer, Guard, Row, write_rows
from avprep.stages.stored_scores import stored_scores
from avprep.stages.tasks import ScoreResult, ScoreTask, Scoring


class ClipScores:
    """Scores the clips that pass by, and writes their file when the shard is whole.

    Raises:
        ScoreUnavailable: a score cannot run on this machine.
    """

    def __init__(self, spec: ClipSpec, scoring: Scoring, seconds: Seconds, guard: Guard) -> None:
        self._spec, self._scoring, self._seconds = spec, scoring, seconds
        self._scorer = ClipScorer(spec, scoring.scores, scoring.weights_yamnet, guard)
        self._rows: list[Row] = []

    def watched(self, clips: Iterator[tuple[str, Members]]) -> Iterator[tuple[str, Members]]:
        """(key, files) of each clip, as they come."""
        for key, members in clips:
            with self._seconds.measure("score"):
                self._rows.append(self._scorer.row(key, members))
            yield key, members

    def write(self, store: Store, index: int, record: ShardRecord) -> ScoreResult:
        """Writes the file of scores of the shard whose ledger was written just now.

        Stored scores that were not asked for stay, where they are of this shard's bytes. A process that ends
        before this leaves a shard without scores, or with those of the shard before it, which are stale: the
        next run of the clip job or of the score job sees that.
        """
        if not self._rows:
            return ScoreResult(index=index)
        task = ScoreTask(
            index=index,
            clips=store.uri,
            spec=self._spec,
            name=record.name,
            sha256=record.sha256,
            keys=tuple(row["key"] for row in self._rows),
            scores=self._scoring.scores,
            kept=self._kept(store, index, record),
            weights_yamnet=self._scoring.weights_yamnet,
            weights_sha256=self._scoring.weights_sha256,
        )
        return write_rows(store, task, self._rows)

    def _kept(self, store: Store, index: int, record: ShardRecord) -> dict[str, str]:
        """The stored scores that stay. A damaged file is replaced: all that it held can be computed again."""
        try:
            stored = stored_scores(read_scores_record(store, index), record)
        except ShardError:
            return {}
        return {name: digest for name, digest in stored.items() if name not in self._scoring.scores}
