"""scores/NNNNNN.parquet: a row per written clip of a shard, in the shard's order.

Columns: key, those of each score, and problems: why a score is null for a clip, 'SCORE: message' each. The
metadata holds the SHA-256 of the clip shard, so that scores of a shard that was made again are known to be
stale, and which scores are there, each with what decides its values: the SHA-256 of its weights, its edition.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from avprep.shards.layout import ShardError, scores_name
from avprep.shards.ledger import MOST_ROWS
from avprep.shards.parquet import ParquetRows, opened_parquet
from avprep.shards.store import Store

KEY = pa.field("key", pa.string())
PROBLEMS = pa.field("problems", pa.list_(pa.string()))
# Of the columns between them: the kinds of values that scores have, and how they are stored.
TYPES = {
    "float": pa.float64(),
    "int": pa.int64(),
    "bool": pa.bool_(),
    "bits": pa.binary(),
    "text": pa.string(),
}
_REMEDY = "remove it and run avprep score: it is made again"


@dataclass(frozen=True)
class ScoresRecord:
    """What a file of scores says of itself."""

    clips_sha256: str  # of the clip shard
    scores: Mapping[str, str]  # those that are there: name to the hash of its weights and its edition
    columns: Mapping[str, pa.DataType]  # those of the scores


def write_scores(
    store: Store, index: int, table: pa.Table, *, clips_sha256: str, scores: Mapping[str, str]
) -> None:
    """Writes the file whole. `table` begins with KEY and ends with PROBLEMS."""
    metadata = {"clips_sha256": clips_sha256, "scores": json.dumps(dict(scores))}
    with store.write(scores_name(index)) as file:
        pq.write_table(table.replace_schema_metadata(metadata), file)


def read_scores(store: Store, index: int, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a shard; of these columns. Raises ShardError for a damaged file or a missing column."""
    with _opened(store, index) as file:
        _record(file)
        missing = [name for name in columns or () if name not in file.schema.names]
        if missing:
            raise ShardError(f"has no column {', '.join(missing)}")
        return file.read(columns)


def read_scores_if_there(
    store: Store, index: int, columns: Sequence[str]
) -> tuple[pa.Table, ScoresRecord] | None:
    """The rows of a shard, of those of the columns that are there, and what the file says of itself; read in
    one go. None where no file is. Raises ShardError for a damaged file."""
    try:
        with _opened(store, index) as file:
            record = _record(file)
            return file.read([name for name in columns if name in file.schema.names]), record
    except FileNotFoundError:
        return None


def read_scores_record(store: Store, index: int) -> ScoresRecord | None:
    """What is stored for a shard, without the rows; None where nothing is. Raises ShardError for a damaged
    file."""
    try:
        with _opened(store, index) as file:
            return _record(file)
    except FileNotFoundError:
        return None


def _opened(store: Store, index: int) -> AbstractContextManager[ParquetRows]:
    return opened_parquet(store, scores_name(index), remedy=_REMEDY, most_rows=MOST_ROWS)


def _record(file: ParquetRows) -> ScoresRecord:
    """Raises ShardError for a file that `write_scores` does not write."""
    fields = list(file.schema)
    if len(fields) < 2 or not (fields[0].equals(KEY) and fields[-1].equals(PROBLEMS)):
        raise ShardError(f"has the columns {file.columns()}, not those of scores; {_REMEDY}")
    names = [field.name for field in fields]
    if len(set(names)) < len(names) or not all(field.type in TYPES.values() for field in fields[1:-1]):
        raise ShardError(f"has columns that no score has; {_REMEDY}")
    metadata = file.schema.metadata or {}
    try:
        sha256, scores = metadata[b"clips_sha256"].decode(), json.loads(metadata[b"scores"])
    except (KeyError, ValueError, RecursionError) as error:
        raise ShardError(f"is damaged: no entry of a file of scores ({error}); {_REMEDY}") from error
    if not isinstance(scores, dict) or not all(isinstance(value, str) for value in scores.values()):
        raise ShardError(f"is damaged: its entry of scores is no table of names; {_REMEDY}")
    return ScoresRecord(sha256, scores, {field.name: field.type for field in fields[1:-1]})
