"""A list of cuts that is given: csv, tsv, jsonl, json or parquet, or a folder of parquet files.

    source,cut_s               source,before_s,after_s
    a.mp4,12.345               a.mp4,12.320,12.360       a hard cut
    a.mp4,31.920               a.mp4,30.040,31.920       a dissolve
    b.mp4,                     b.mp4,,                   no cuts

A row is a cut: `cut_s` is when the first picture after it begins to be shown; or, of a transition that takes
its time, `before_s` is when the last picture before it does, and `after_s` when the first one after it does.
The `cuts` folder of an output is such a list.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from avprep.datasets.source import DatasetError, Source
from avprep.datasets.table import Columns, Fault, Row, read_table

_COLUMNS = Columns(("source", "cut_s", "before_s", "after_s"), frozenset())
_ROUNDED_S = 0.001  # lists round times to a millisecond: a cut is looked for this much around `cut_s`
_LONGEST_S = 10 * 24 * 3600.0

Times = tuple[float, float]  # before_s, after_s


@dataclass(frozen=True)
class CutList:
    """The cuts of sources, as a file names them."""

    path: Path
    sha256: str
    _times: Mapping[str, array[float]] = field(repr=False)  # before_s and after_s in turn, by source

    @property
    def identity(self) -> str:
        """What a resumed run compares."""
        return f"sha256 {self.sha256}"

    def of(self, source: str) -> list[Times]:
        """Ascending; [] for a source that the list does not name."""
        times = self._times.get(source, ())
        return sorted(zip(times[::2], times[1::2], strict=True))

    def names(self, sources: Iterable[Source]) -> int:
        """How many of these files the list names."""
        return len({source.path for source in sources} & self._times.keys())


def read_cut_list(path: Path) -> CutList:
    """
    Raises:
        DatasetError: there is no such file, or a row is no cut: the message has its line.
    """
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise DatasetError(f"{path}: no such list of cuts")
    digest, times = hashlib.sha256(), {}
    for file in files:
        with open(file, "rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
        times.update(_read(file))  # of a source in two files of a folder, the later ones are in use
    return CutList(path, digest.hexdigest(), times)


def _read(path: Path) -> dict[str, array[float]]:
    times: dict[str, array[float]] = {}
    for line, row in read_table(path, _COLUMNS, Counter()):
        try:
            source, cut = _cut(row)
        except ValueError as error:
            raise DatasetError(f"{path}, line {line}: {error}") from error
        times.setdefault(source, array("d")).extend(cut or ())
    return times


def _cut(row: Row | Fault) -> tuple[str, Times | None]:
    """The source, and the cut; None where the row says that there is none. Raises ValueError."""
    if isinstance(row, Fault):
        raise ValueError(row.detail)
    source, cells = row["source"], {name: row[name] for name in _COLUMNS.names[1:]}
    if not isinstance(source, str):
        raise ValueError("it names no source")
    given = {name: _seconds(name, cell) for name, cell in cells.items() if isinstance(cell, str)}
    if not given:
        return source, None
    if set(given) == {"cut_s"}:
        return source, (given["cut_s"] - _ROUNDED_S, given["cut_s"] + _ROUNDED_S)
    if set(given) != {"before_s", "after_s"}:
        raise ValueError(f"it has {', '.join(given)}; a cut has cut_s, or before_s and after_s")
    if given["before_s"] > given["after_s"]:
        raise ValueError(f"before_s = {given['before_s']:g} is later than after_s = {given['after_s']:g}")
    return source, (given["before_s"], given["after_s"])


def _seconds(name: str, cell: str) -> float:
    try:
        seconds = float(cell)
    except ValueError:
        raise ValueError(f"{name} = {cell[:50]!r} is no number of seconds") from None
    if not math.isfinite(seconds) or not 0 <= seconds <= _LONGEST_S:
        raise ValueError(f"{name} = {cell[:50]} is no time of a source")
    return seconds
