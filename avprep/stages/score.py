"""A finished clip shard in, its scores out: a row per written clip.

`ClipScorer` computes a row from a clip's files, `write_rows` writes those of a shard. The clip stage uses
both for the scores that it writes with its shards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from avprep.media.mux import decode_frames
from avprep.reasons import MediaError
from avprep.scores.base import OpenScore, ScoreError, WeightPaths, needed_fields
from avprep.scores.catalogue import SCORES
from avprep.scores.clip import ScoredClip
from avprep.shards.decoders import ClipDecoder, decoded
from avprep.shards.integrity import HashingReader
from avprep.shards.layout import ShardError
from avprep.shards.scores import KEY, PROBLEMS, TYPES, read_scores, write_scores
from avprep.shards.store import Store, open_store
from avprep.shards.tar import Members, largest_clip, read_shard
from avprep.spec import ClipSpec
from avprep.stages.tasks import ScoreResult, ScoreTask

Row = dict[str, Any]  # values by column, with 'key' and 'problems'
Guard = Callable[[], AbstractContextManager]


def score_shard(task: ScoreTask, *, guard: Guard = nullcontext) -> ScoreResult:
    """Computes the task's scores and writes them beside those that are kept. `guard` is entered per clip.

    A clip that cannot be read, or that a score cannot be computed of, has nulls and a problem. A shard that
    is not the one that its ledger describes is left alone: the result says why.

    Raises:
        ScoreUnavailable: a score cannot run on this machine.
    """
    store = open_store(task.clips)
    scorer = ClipScorer(task.spec, task.scores, task.weights_yamnet, guard)
    try:
        rows = list(_rows(store, task, scorer))
        if task.is_trial:
            return _result(task.index, rows)
        return write_rows(store, task, rows)
    except ShardError as error:
        return ScoreResult(index=task.index, damage=str(error))


class ClipScorer:
    """Computes the scores of clips from their files, on one thread: N workers use N cores, and the values do
    not depend on N. `guard` is entered per clip.

    Raises:
        ScoreUnavailable: a score cannot run on this machine.
    """

    def __init__(self, spec: ClipSpec, scores: tuple[str, ...], yamnet: Path | None, guard: Guard) -> None:
        torch.set_num_threads(1)
        self._spec, self._scores, self._guard = spec, _opened(scores, yamnet), guard
        fields = needed_fields(opened.score for opened in self._scores)
        self._decode = ClipDecoder(spec, fields, decode_frames)

    def row(self, key: str, members: Members) -> Row:
        """The row of a clip; nulls and a problem where its files are damaged or a score refuses it."""
        with self._guard():
            try:
                fields = decoded("the clip in its shard", self._decode, members)
            except ShardError as error:
                return self.lost(key, error)
            clip = ScoredClip(self._spec, fields)
            row: Row = {"key": key}
            problems: list[str] = []
            for score in self._scores:
                try:
                    row |= score(clip)
                except ScoreError as error:
                    row |= _nulls(score)
                    problems.append(_problem(score, error))
        return row | {"problems": problems}

    def lost(self, key: str, error: MediaError | ShardError) -> Row:
        """The row of a clip that cannot be read."""
        row: Row = {"key": key, "problems": [_problem(score, error) for score in self._scores]}
        for score in self._scores:
            row |= _nulls(score)
        return row


@cache  # networks are loaded once per process
def _opened(names: tuple[str, ...], yamnet: Path | None) -> tuple[OpenScore, ...]:
    """The scores of these names, in the catalogue's order. Raises ScoreUnavailable."""
    if find_spec("cv2") is not None:
        import cv2

        cv2.setNumThreads(1)
    paths = WeightPaths(yamnet=yamnet)
    found = [score for score in SCORES if score.name in names]
    for score in found:
        score.require(paths)
    return tuple(OpenScore(score=score, measure=score.open(paths)) for score in found)


def _nulls(opened: OpenScore) -> Row:
    return {column.name: None for column in opened.score.columns}


def _problem(opened: OpenScore, error: Exception) -> str:
    return f"{opened.score.name}: {error}"


def _rows(store: Store, task: ScoreTask, scorer: ClipScorer) -> Iterator[Row]:
    """The rows of the task's clips, in order.

    Raises:
        ShardError: the shard is missing, damaged, or not the one that its ledger describes.
    """
    tried, verdicts = set(task.keys), dict(task.verdicts)
    found: list[str] = []
    try:
        file = store.open(task.name)
    except FileNotFoundError:
        raise ShardError(f"{task.name} is not there, though its ledger says it is whole") from None
    with file:
        hashing = HashingReader(file)
        try:
            for key, members in read_shard(hashing, largest_clip(task.spec)):
                found.append(key)
                if key in tried:
                    yield scorer.lost(key, verdicts[key]) if key in verdicts else scorer.row(key, members)
        except ShardError as error:
            raise ShardError(f"{task.name}: {error}") from error
        if task.is_trial:
            return
        if tuple(found) != task.keys:
            raise ShardError(f"{task.name} holds other clips than its ledger says")
        if hashing.sha256() != task.sha256:
            raise ShardError(f"{task.name}: its bytes are not those written")


def _result(index: int, rows: list[Row]) -> ScoreResult:
    return ScoreResult(index=index, clips=len(rows), problems=sum(bool(row["problems"]) for row in rows))


# --- the file of scores ----------------------------------------------------------------------------------


def write_rows(store: Store, task: ScoreTask, rows: list[Row]) -> ScoreResult:
    """Writes the new columns with the kept ones, in the catalogue's order whatever was computed first.

    Raises:
        ShardError: the kept scores are of other clips, or damaged.
    """
    kept = _kept(store, task)
    columns: dict[str, Any] = {}
    fields = [KEY]
    for score in SCORES:
        for column in score.columns:
            if score.name in task.scores:
                columns[column.name] = [row[column.name] for row in rows]
            elif kept is not None and score.name in task.kept:
                columns[column.name] = kept[column.name].to_pylist()
            else:
                continue
            about = {"unit": column.unit, "meaning": column.meaning}
            fields.append(pa.field(column.name, TYPES[column.kind], metadata=about))
    columns["key"] = list(task.keys)
    columns["problems"] = _problems(task, rows, kept)
    table = pa.table(columns, pa.schema([*fields, PROBLEMS]))
    identities = dict(task.kept)
    identities |= {s.name: s.identity(task.weights_sha256) for s in SCORES if s.name in task.scores}
    ordered = {score.name: identities[score.name] for score in SCORES if score.name in identities}
    write_scores(store, task.index, table, clips_sha256=task.sha256, scores=ordered)
    return _result(task.index, rows)


def _kept(store: Store, task: ScoreTask) -> pa.Table | None:
    """The stored scores, where some are kept. Raises ShardError where they are of other clips."""
    if not task.kept:
        return None
    table = read_scores(store, task.index)
    if table["key"].to_pylist() != list(task.keys):
        raise ShardError(f"the scores of {task.name} are of other clips: remove their file")
    return table


def _problems(task: ScoreTask, rows: list[Row], kept: pa.Table | None) -> list[list[str]]:
    """Of each clip, those of the kept scores and the new ones, in the catalogue's order."""
    order = {score.name: i for i, score in enumerate(SCORES)}
    stored = kept["problems"].to_pylist() if kept is not None else [[]] * len(rows)
    found = []
    for old, row in zip(stored, rows, strict=True):
        stays = [problem for problem in old or () if problem.partition(":")[0] in task.kept]
        found.append(sorted([*stays, *row["problems"]], key=lambda p: order[p.partition(":")[0]]))
    return found
