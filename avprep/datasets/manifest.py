"""A list of your own: csv, tsv or parquet with the columns path, start, stop, labels, caption and split.

Only `path` is required. start and stop are seconds of the file; labels are separated by '|' (or a list column
in parquet). Paths are relative to the root, or absolute.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from avprep.datasets.listing import find_list, unique
from avprep.datasets.source import Dataset, DatasetError, DatasetOptions, Listing, Source, caption_of

LAYOUT = (
    "Expected: a manifest.csv, .tsv or .parquet under --root (or given by --list) with a column 'path' and, "
    "if known, start, stop (seconds), labels (separated by '|'), caption and split."
)
COLUMNS = ("path", "start", "stop", "labels", "caption", "split")


def list_sources(options: DatasetOptions) -> Listing:
    """The rows of the manifest; those that say nothing usable are counted.

    Raises:
        DatasetError: no manifest, no 'path' column, a --split without a split column.
    """
    path = options.csv or find_list(options.root, ("manifest.csv", "manifest.tsv", "manifest.parquet"))
    if path is None or not path.is_file():
        raise DatasetError(f"no manifest at {path or options.root}. {LAYOUT}")
    notes: Counter[str] = Counter()
    sources, splits = [], set()
    for row in _rows(path, notes):
        splits.add(row["split"])
        if options.split is not None and row["split"] != options.split:
            continue
        source = _source(row, notes)
        if source is not None:
            sources.append(source)
    if options.split is not None and options.split not in splits:
        found = ", ".join(sorted(str(s) for s in splits if s)) or "none"
        raise DatasetError(f"--split {options.split!r} is no split of {path}; there are: {found}")
    return Listing(options.root, unique(sources, notes), dict(notes))


def _rows(path: Path, notes: Counter[str]) -> Iterator[dict]:
    """Rows as dicts of the six columns, None where there is no such column or nothing in it; in batches."""
    try:
        if path.suffix == ".parquet":
            batches = pq.ParquetFile(path).iter_batches()
        else:
            as_text = pacsv.ConvertOptions(column_types={name: pa.string() for name in COLUMNS})
            delimiter = "\t" if path.suffix == ".tsv" else ","
            batches = pacsv.open_csv(path, parse_options=pacsv.ParseOptions(delimiter=delimiter),
                                     convert_options=as_text)
        for batch in batches:
            if "path" not in batch.schema.names:
                raise DatasetError(f"{path} has no column 'path' (it has {', '.join(batch.schema.names)})")
            unread = [name for name in batch.schema.names if name not in COLUMNS]
            if unread:
                notes[f"columns that are not read ({', '.join(unread)})"] = len(unread)
            columns = {name: batch[name].to_pylist() if name in batch.schema.names else [None] * len(batch)
                       for name in COLUMNS}
            for i in range(len(batch)):
                yield {name: _known(columns[name][i]) for name in COLUMNS}
    except pa.ArrowInvalid as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error


def _known(value: object) -> object:
    """None where nothing is known: an empty cell, or the NaN that pandas leaves in its place."""
    return None if value == "" or isinstance(value, float) and math.isnan(value) else value


def _source(row: dict, notes: Counter[str]) -> Source | None:
    path = row["path"]
    if not isinstance(path, str) or ".." in PurePosixPath(path).parts:
        notes["rows without a usable path (empty, or with '..')"] += 1
        return None
    try:
        start_s, stop_s = _seconds(row["start"]) or 0.0, _seconds(row["stop"])
    except (ValueError, TypeError):
        start_s, stop_s = math.nan, None
    if not (math.isfinite(start_s) and start_s >= 0 and (stop_s is None or start_s < stop_s < math.inf)):
        notes["rows whose start and stop are no span in seconds"] += 1
        return None
    labels = _same(_labels(row["labels"]))
    return Source(path=path, start_s=start_s, stop_s=stop_s, labels=labels,
                  caption=str(row["caption"] or "") or caption_of(labels))


def _seconds(value: object) -> float | None:
    """A cell's; text may say 'nan' too."""
    return None if value is None else _known(float(value))


def _labels(value: object) -> tuple[str, ...]:
    """'a|b', or a list column's; what is empty is no label."""
    if value is None:
        return ()
    parts = value if isinstance(value, list) else str(value).split("|")
    return tuple(label for part in parts if part is not None and (label := str(part).strip()))


@lru_cache(maxsize=1 << 16)
def _same(labels: tuple[str, ...]) -> tuple[str, ...]:
    """Equal labels as one object: a list of millions repeats few of them."""
    return labels


MANIFEST = Dataset("manifest", list_sources, None, LAYOUT)
