"""Landscape (Lee et al. 2022): 10-second YouTube clips of nature, 9 classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from avprep.datasets.listing import find_list, read_rows, require_folder
from avprep.datasets.source import Dataset, DatasetError, DatasetOptions, Listing
from avprep.datasets.youtube import ID_LENGTH, Segment, labelled_by_folder, match

CLIP_S = 10.0
CLASSES = (
    "explosion",
    "fire crackling",
    "raining",
    "splashing water",
    "squishing water",
    "thunder",
    "underwater bubbling",
    "waterfall burbling",
    "wind noise",
)
SPLITS = ("train", "test")
LAYOUT = (
    "Expected: landscape.csv (ytid,start_time,class,set) in the root or its csv/ or metadata/ folder, or "
    "given by list_file=FILE, and the clips below; or, without a list, a folder for each class: "
    + ", ".join(CLASSES)
    + "."
)


def list_sources(options: DatasetOptions) -> Listing:
    """One source for each row that has a file, or each file in a class's folder."""
    require_folder(options.root, LAYOUT)
    notes: Counter[str] = Counter()
    path = options.list_file or find_list(options.root, ("landscape.csv",))
    if path is not None:
        segments = list(read_segments(path, notes, options.split))
        missing: list[str] = []
        sources = match(options, segments, notes, missing)
        return Listing(options.root, sources, dict(notes), missing)
    sources = list(labelled_by_folder(options, {name: name for name in CLASSES}, notes))
    if options.split is not None:
        sources = [s for s in sources if options.split in s.path.split("/")[:-1]]
    if not sources:
        raise DatasetError(f"no Landscape list and no class folders under {options.root}. {LAYOUT}")
    return Listing(options.root, sources, dict(notes))


def read_segments(path: Path, notes: Counter[str], split: str | None) -> Iterator[Segment]:
    """`ytid,start_time,class,set`; rows of another class are counted and left out."""
    if not path.is_file():
        raise DatasetError(f"list_file = {path}: it is not there. {LAYOUT}")
    for row in read_rows(path):
        if row[0] == "ytid":
            continue
        if len(row) < 4 or not row[1].replace(".", "", 1).isdigit():
            notes["rows that cannot be read"] += 1
        elif row[2] not in CLASSES:
            notes["rows of a class that is none of the nine"] += 1
        elif split is None or row[3] == split:
            yield Segment(row[0][:ID_LENGTH], float(row[1]), float(row[1]) + CLIP_S, (row[2],))


LANDSCAPE = Dataset("landscape", list_sources, SPLITS, LAYOUT)
