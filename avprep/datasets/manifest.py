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
from avprep.datasets.source import Dataset, DatasetError, DatasetOptions, Listing, Source, caption_of

if TYPE_CHECKING:
    from avprep.datasets.table import Cell, Row

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
MAX_START_S = 24 * 3600  # no file is believed to be longer
_MAX_PATH = 4096  # PATH_MAX
_SPANS_SHOWN = 5
_SPLITS_SHOWN = 20

NO_PATH = "rows without a usable path (empty, too long, or with a NUL in it)"
OUTSIDE = "rows whose file lies outside of the root (allow_outside=True reads them)"
SECRET_ROWS = f"rows that hold credentials ({REMEDY})"
NO_SPAN = "rows whose start and stop are no span in seconds"
NAN_CELLS = "start and stop cells that say NaN, taken for empty"


def list_sources(options: DatasetOptions) -> Listing:
    """The rows of the manifest; those that say nothing usable are counted.

    Raises:
        DatasetError: no manifest, one that cannot be read, no 'path' column, a split that it does not have.
    """
    from avprep.datasets.table import read_table  # pyarrow: the other datasets do without

    path = options.list_file or find_list(options.root, NAMES)
    if path is None or not path.is_file():
        given = f"list_file = {path}: it is not there" if path else f"no manifest at {options.root}"
        raise DatasetError(f"{given}. {LAYOUT}")
    notes: Counter[str] = Counter()
    sources, splits = [], set()
    roots = _spellings(options.root)
    no_spans: list[str] = []  # the first of them, for the note
    for line, row in read_table(path, COLUMNS, notes):
        if _holds_credentials(row):
            notes[SECRET_ROWS] += 1
            continue
        splits.add(row["split"])
        if options.split is not None and row["split"] != options.split:
            continue
        file = _path(row["path"], roots)
        if file is None:
            notes[NO_PATH] += 1
            continue
        if file.startswith("/") and not options.allow_outside:
            notes[OUTSIDE] += 1
            continue
        try:
            start_s, stop_s = _span(row, notes)
        except (ValueError, TypeError) as error:
            notes[NO_SPAN] += 1
            if len(no_spans) < _SPANS_SHOWN:
                no_spans.append(f"line {line}: {error}")
            continue
        sources.append(_source(file, start_s, stop_s, row, line))
    if options.split is not None and options.split not in splits:
        names = sorted(str(s)[:50] for s in splits if s)
        more = ", ..." if len(names) > _SPLITS_SHOWN else ""
        found = ", ".join(names[:_SPLITS_SHOWN]) + more or "none"
        raise DatasetError(f"split = {options.split!r}: {path} has no such split; there are: {found}")
    return Listing(options.root, unique(sources, notes), _with_lines(notes, no_spans))


def _with_lines(notes: Counter[str], no_spans: list[str]) -> dict[str, int]:
    """The notes, with the first rows that are no span by their lines."""
    if not no_spans:
        return dict(notes)
    more = "; ..." if notes[NO_SPAN] > len(no_spans) else ""
    named = f"{NO_SPAN} ({'; '.join(no_spans)}{more})"
    return {named if note == NO_SPAN else note: count for note, count in notes.items()}


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
        caption=_text(row["caption"]) or caption_of(labels),
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
