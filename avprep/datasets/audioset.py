"""AudioSet (Gemmeke et al. 2017): 10-second segments of YouTube videos, 527 classes, several a segment.

`audioset_labels.csv` beside this file is AudioSet's class_labels_indices.csv (Google, CC BY 4.0).
"""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from avprep.datasets.listing import find_list, require_folder
from avprep.datasets.source import Dataset, DatasetError, DatasetOptions, Listing
from avprep.datasets.youtube import ID_LENGTH, Segment, labelled_by_folder, match

LISTS = {
    "balanced_train": "balanced_train_segments.csv",
    "unbalanced_train": "unbalanced_train_segments.csv",
    "eval": "eval_segments.csv",
}
LAYOUT = (
    "Expected: one or more of balanced_train_segments.csv, unbalanced_train_segments.csv and "
    "eval_segments.csv (in the root or its csv/ or metadata/ folder, or one given by list_file=FILE), and "
    "the videos in any folders below, named <id>.mp4 (whole or trimmed), <id>_<start>_<end>.mp4 "
    "(milliseconds or whole seconds), <id>_<seconds>.mp4 or id_<id>.mp4."
)
_MID = re.compile(r"/[mgt]/[0-9a-z_]+")


def list_sources(options: DatasetOptions) -> Listing:
    """One source for each segment that has a file. Raises DatasetError where there is no list.

    Without a list, files in folders named by a class are taken with that class.
    """
    require_folder(options.root, LAYOUT)
    notes: Counter[str] = Counter()
    splits = list(LISTS) if options.split is None else [options.split]
    lists = (
        [options.list_file] if options.list_file else [find_list(options.root, (LISTS[s],)) for s in splits]
    )
    lists = [path for path in lists if path is not None]
    if lists:
        segments = [segment for path in lists for segment in read_segments(path, notes)]
        return Listing(options.root, match(options, segments, notes), dict(notes))
    by_name = {name.lower(): name for name in class_names().values()}
    sources = [] if options.split else list(labelled_by_folder(options, by_name, notes))
    if not sources:
        asked = f" for split={options.split}" if options.split else ""
        raise DatasetError(f"no AudioSet list{asked} under {options.root}. {LAYOUT}")
    return Listing(options.root, sources, dict(notes))


@lru_cache(maxsize=1)
def class_names() -> dict[str, str]:
    """mid ('/m/09x0r') -> display name ('Speech'), 527 of them."""
    text = (files("avprep.datasets") / "audioset_labels.csv").read_text()
    return {row["mid"]: row["display_name"] for row in csv.DictReader(text.splitlines())}


def read_segments(path: Path, notes: Counter[str]) -> Iterator[Segment]:
    """The segments of a list in any of the forms that are about: two, three or no '#' lines or a header row,
    blanks after commas or none, labels in one quoted cell or strewn over many by other tools' quoting."""
    if not path.is_file():
        raise DatasetError(f"list_file = {path}: it is not there. {LAYOUT}")
    names = class_names()
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        for line in file:
            cells = [cell.strip().strip('"') for cell in line.split(",", 3)]
            if line.startswith("#") or len(cells) < 4 or cells[0] == "YTID":
                continue
            try:
                start_s, stop_s = float(cells[1]), float(cells[2])
                if not 0 <= start_s < stop_s < math.inf:
                    raise ValueError(f"no span: {start_s} to {stop_s} s")
            except ValueError:
                notes["rows that cannot be read"] += 1
                continue
            mids = _MID.findall(cells[3])
            labels = tuple(dict.fromkeys(names[mid] for mid in mids if mid in names))
            notes["labels that are none of the 527 classes"] += sum(mid not in names for mid in mids)
            yield Segment(cells[0][:ID_LENGTH], start_s, stop_s, labels)


AUDIOSET = Dataset("audioset", list_sources, tuple(LISTS), LAYOUT)
