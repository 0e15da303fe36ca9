"""A list of your own: csv, tsv, JSON lines, JSON or parquet with the columns path, start, stop, labels,
caption and split.

Only `path` is required. start and stop are seconds of the file; labels are separated by '|' (or a list in
parquet and JSON). Paths are relative to the root, or absolute. A list may come from others: files outside of
the root are read only where `allow_outside` says so.
"""

from __future__ import annotations

import math
import posixpath
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from avprep.credentials import REMEDY, credentials_in
from avprep.datasets.listing import find_list, unique
from avprep.datasets.source import Dataset, DatasetError, DatasetOptions, Listing, Source

if TYPE_CHECKING:
    from avprep.datasets.table import Cell, Fault, Row

NAMES = (
    "manifest.csv",
    "manifest.tsv",
    "manifest.parquet",
    "manifest.jsonl",
    "manifest.ndjson",
    "manifest.json",
)
LAYOUT = (
    "Expected: a manifest.csv, .tsv, .jsonl, .json or .parquet under the root (or given by list_file=FILE), "
    "with a column 'path' and, if known, start, stop (seconds), labels (separated by '|'), caption and split."
)
COLUMNS = ("path", "start", "stop", "labels", "caption", "split")
# Columns that may have another name in the list -> the argument that gives it.
_ARGUMENTS = {"path": "path_column", "labels": "label_column", "caption": "caption_column"}
MAX_START_S = 24 * 3600  # no file is believed to be longer
_MAX_PATH = 4096  # PATH_MAX
_SPLITS_SHOWN = 20
_MOST_BAD_ROWS = 1 << 20  # that are named one by one: a file of other kind may have any number

NO_PATH = "rows without a usable path (empty, too long, or with a NUL in it)"
OUTSIDE = "rows whose file lies outside of the root (allow_outside=True reads them)"
SECRET_ROWS = f"rows that hold credentials ({REMEDY})"
NO_SPAN = "rows whose start and stop are no span in seconds"
UNNAMED = f"such rows beyond the first {_MOST_BAD_ROWS:,}, which are counted and not in the ledger"
NAN_CELLS = "start and stop cells that say NaN, taken for empty"


def list_sources(options: DatasetOptions) -> Listing:
    """The rows of the manifest; those that say nothing usable are counted, and named by their lines.

    Raises:
        DatasetError: no manifest, one that cannot be read, no 'path' column, a column that was asked for and
            is not there, a split that it does not have.
    """
    from avprep.datasets.table import Columns, read_table  # pyarrow: the other datasets do without

    path = options.list_file or find_list(options.root, NAMES)
    if path is None or not path.is_file():
        given = f"list_file = {path}: it is not there" if path else f"no manifest at {options.root}"
        raise DatasetError(f"{given}. {LAYOUT}")
    names = _column_names(options)
    rows = _Rows(options, path, names)
    columns = Columns(tuple(names.values()), frozenset([names["labels"]]))
    for line, row in read_table(path, columns, rows.notes):
        rows.add(line, row)
    return rows.listing()


def _column_names(options: DatasetOptions) -> dict[str, str]:
    """Of each column, its name in the list."""
    names = dict(zip(COLUMNS, COLUMNS, strict=True))
    for column, argument in _ARGUMENTS.items():
        given = getattr(options, argument)
        if given is None:
            continue
        name = given.strip().lower()
        others = [other for other, used in names.items() if used == name and other != column]
        if not name or others:
            why = f"it is read as {others[0]} too" if others else "it names no column"
            raise DatasetError(f"{argument} = {given!r}: {why}")
        names[column] = name
    return names


class _Rows:
    """The rows of a manifest, taken one by one."""

    def __init__(self, options: DatasetOptions, path: Path, names: dict[str, str]) -> None:
        self._options, self._path, self._names = options, path, names
        self._roots = _spellings(options.root)
        self._splits: set[Cell] = set()
        self._filled: set[str] = set()  # columns with a cell that is not empty
        self._sources: list[Source] = []
        self._bad_rows: list[Source] = []
        self.notes: Counter[str] = Counter()

    def add(self, line: int, row: Row | Fault) -> None:
        from avprep.datasets.table import Fault

        fault = row if isinstance(row, Fault) else self._fault_of(line, row)
        if fault is not None:
            self.notes[fault.kind] += 1
            if len(self._bad_rows) == _MOST_BAD_ROWS:
                self.notes[UNNAMED] += 1
                return
            detail = f"line {line} of {self._path.name}: {fault.detail}"
            self._bad_rows.append(Source(path=f"{self._path.name}:{line}", line=line, fault=detail))

    def _fault_of(self, line: int, row: Row) -> Fault | None:
        """Takes the row, or says why it cannot be taken."""
        from avprep.datasets.table import Fault

        cells = {column: row[name] for column, name in self._names.items()}
        self._filled.update(column for column in _ARGUMENTS if cells[column] is not None)
        if _holds_credentials(cells):
            return Fault(SECRET_ROWS, f"it holds credentials; {REMEDY}")
        split = self._options.split
        self._splits.add(cells["split"])
        if split is not None and cells["split"] != split:
            return None
        path = _path(cells["path"], self._roots)
        if path is None:
            return Fault(NO_PATH, f"no usable path: {str(cells['path'] or '')[:60]!r}")
        if path.startswith("/") and not self._options.allow_outside:
            return Fault(OUTSIDE, f"{path[:200]} lies outside of the root")
        try:
            start_s, stop_s = _span(cells, self.notes)
        except (ValueError, TypeError) as error:
            return Fault(NO_SPAN, str(error))
        self._sources.append(_source(path, start_s, stop_s, cells, line))
        return None

    def listing(self) -> Listing:
        """Raises DatasetError for a column or a split that the list does not have."""
        for column, argument in _ARGUMENTS.items():
            given = getattr(self._options, argument)
            if given is not None and column not in self._filled:
                raise DatasetError(
                    f"{argument} = {given!r}: {self._path} has no such column, or nothing in it"
                )
        split = self._options.split
        if split is not None and split not in self._splits:
            names = sorted(str(s)[:50] for s in self._splits if s)
            more = ", ..." if len(names) > _SPLITS_SHOWN else ""
            found = ", ".join(names[:_SPLITS_SHOWN]) + more or "none"
            raise DatasetError(f"split = {split!r}: {self._path} has no such split; there are: {found}")
        sources = unique(self._sources, self.notes)
        return Listing(self._options.root, sources, dict(self.notes), bad_rows=self._bad_rows)


def _span(row: Row, notes: Counter[str]) -> tuple[float, float | None]:
    """`[start_s, stop_s)`. Raises ValueError or TypeError, with the cells, for what is none."""
    start_s, stop_s = _seconds(row["start"], notes) or 0.0, _seconds(row["stop"], notes)
    if not 0 <= start_s <= MAX_START_S:
        raise ValueError(f"start {start_s:g} is not between 0 and {MAX_START_S} s")
    if stop_s is not None and not math.isfinite(stop_s):
        raise ValueError(f"stop {stop_s:g} is not finite")
    if stop_s is not None and not start_s < stop_s:
        raise ValueError(f"start {start_s:g} is not before stop {stop_s:g}")
    return start_s, stop_s


def _source(path: str, start_s: float, stop_s: float | None, row: Row, line: int) -> Source:
    labels = _same(_labels(row["labels"]))
    return Source(
        path=path,
        start_s=start_s,
        stop_s=stop_s,
        labels=labels,
        caption=_text(row["caption"]) or "",
        line=line,
    )


# --- one file, one path ------------------------------------------------------------------------------------


def _spellings(root: Path) -> tuple[str, ...]:
    """The absolute paths by which a manifest may name the root, each with its '/'."""
    return tuple(dict.fromkeys(str(folder).rstrip("/") + "/" for folder in (root.absolute(), root.resolve())))


def _path(cell: Cell, roots: tuple[str, ...]) -> str | None:
    """The path relative to the root where the file is under it, else absolute, written in one way; None for
    no usable one.

    However a row spells a file ('x', './x', 'a/../x', '/root/x'), it is one source, and its clips have one
    key.
    """
    if not isinstance(cell, str) or "\0" in cell or len(cell) > _MAX_PATH:
        return None
    path = posixpath.normpath(cell)
    if path.split("/", 1)[0] == "..":
        path = posixpath.normpath(roots[0] + path)
    if path.startswith("/"):
        path = "/" + path.lstrip("/")
        path = next((path.removeprefix(root) for root in roots if path.startswith(root)), path)
    return None if path in (".", "/") or path + "/" in roots else path


def _holds_credentials(row: Row) -> bool:
    """In any column: cells end up in the plan, in messages and in the ledger."""
    for cell in row.values():
        text = " ".join(filter(None, cell)) if isinstance(cell, list) else cell
        if text and credentials_in(text) is not None:
            return True
    return False


# --- cells -------------------------------------------------------------------------------------------------


def _text(cell: Cell) -> str | None:
    """A cell of a column that holds no lists. Raises TypeError for a list."""
    if isinstance(cell, list):
        raise TypeError(f"a list where text is expected: {repr(cell)[:60]}")
    return cell


def _seconds(cell: Cell, notes: Counter[str]) -> float | None:
    """Raises ValueError or TypeError for what is no number."""
    text = _text(cell)
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError as error:
        raise ValueError(f"{text[:60]!r} is no number of seconds") from error
    if not math.isnan(seconds):
        return seconds
    notes[NAN_CELLS] += 1
    return None


def _labels(cell: Cell) -> tuple[str, ...]:
    """'a|b', or a list's; what is empty is no label."""
    parts = cell if isinstance(cell, list) else (cell or "").split("|")
    return tuple(label for part in parts if part is not None and (label := part.strip()))


@lru_cache(maxsize=1 << 16)
def _same(labels: tuple[str, ...]) -> tuple[str, ...]:
    """Equal labels as one object: a list of millions repeats few of them."""
    return labels


MANIFEST = Dataset("manifest", list_sources, None, LAYOUT)
