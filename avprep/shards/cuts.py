"""cuts/NNNNNN.parquet: the cuts of sources, a row per cut; a source without cuts has one row with nulls.

A file is written for each batch of sources when their cuts are found, so that no run looks for them again. A
file of media that was overwritten is looked at again: the last of its rows, by file, are those in use.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from avprep.shards.layout import CUTS_FOLDER, ShardError, cuts_name
from avprep.shards.parquet import opened_parquet
from avprep.shards.store import Store

SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("version", pa.string()),  # the file's size and time when it was looked at
        ("cut", pa.int32()),  # the number of the cut in the source; null = the source has none
        # Seconds of the source's time: when the last picture of the shot before begins to be shown, and the
        # first picture of the shot after.
        ("before_s", pa.float64()),
        ("after_s", pa.float64()),
    ]
)
_MOST_ROWS = 1 << 26  # of a file
_REMEDY = "remove it: its sources are looked at again"

Times = tuple[float, float]  # before_s, after_s


class SourceCuts(NamedTuple):
    """The cuts of a source, ascending, and the version of its file."""

    source: str
    version: str
    cuts: tuple[Times, ...]


class CutFiles:
    """The files of an output that hold its sources' cuts."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._count: int | None = None  # files, once they were listed

    def read(self) -> dict[str, SourceCuts]:
        """The cuts of every source that was looked at. Raises ShardError for a damaged file."""
        names = self._store.names(CUTS_FOLDER)
        return {found.source: found for name in names for found in self._read(name)}

    def write(self, found: Iterable[SourceCuts]) -> None:
        """Writes the cuts of some sources to a file of their own, whole."""
        if self._count is None:
            self._count = len(self._store.names(CUTS_FOLDER))
        while self._store.exists(cuts_name(self._count)):  # where a damaged one was removed
            self._count += 1
        rows = [row for source in found for row in _rows(source)]
        with self._store.write(cuts_name(self._count)) as file:
            pq.write_table(pa.Table.from_pylist(rows, SCHEMA), file)
        self._count += 1

    def _read(self, name: str) -> Iterable[SourceCuts]:
        with opened_parquet(self._store, name, remedy=_REMEDY, most_rows=_MOST_ROWS) as file:
            if not file.schema.equals(SCHEMA):
                raise ShardError(f"has the columns {file.columns()}, not those of cuts; {_REMEDY}")
            rows = zip(*(column.to_pylist() for column in file.read().columns), strict=True)
            found = groupby(rows, itemgetter(0, 1))
            return [
                SourceCuts(name, version, _times([row[2:] for row in own])) for (name, version), own in found
            ]


def _rows(source: SourceCuts) -> list[dict[str, object]]:
    names = {"source": source.source, "version": source.version}
    nothing: list[dict[str, object]] = [{**names, "cut": None, "before_s": None, "after_s": None}]
    return [
        {**names, "cut": number, "before_s": before_s, "after_s": after_s}
        for number, (before_s, after_s) in enumerate(source.cuts)
    ] or nothing


def _times(rows: list[tuple[int | None, float | None, float | None]]) -> tuple[Times, ...]:
    """Raises ShardError for what `_rows` does not write."""
    if rows == [(None, None, None)]:
        return ()
    times = tuple((a, b) for _, a, b in rows if a is not None and b is not None)
    is_numbered = [number for number, _, _ in rows] == list(range(len(times)))
    are_times = all(math.isfinite(a) and math.isfinite(b) and a <= b for a, b in times)
    if not is_numbered or not are_times or list(times) != sorted(times):
        raise ShardError(f"is damaged (times that no cuts have); {_REMEDY}")
    return times
