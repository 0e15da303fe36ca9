"""AudioSet's classes: their names, what they are kinds of, and how often their labels were found right.

`audioset_labels.csv` beside this file is AudioSet's class_labels_indices.csv (Google, CC BY 4.0). The other
tables lie among the lists under the dataset's root, as published:

    mid_to_display_name.tsv   names of the temporally-strong labels: some are none of the 527 classes
    ontology.json             which class is a kind of which
    qa_true_counts.csv        of each label, how many of the rated segments have it
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path

from avprep.datasets.listing import find_list
from avprep.datasets.source import DatasetError

NAMES = ("mid_to_display_name.tsv", "audioset_strong_mid_to_display_name.tsv")
ONTOLOGY = ("ontology.json", "audioset_ontology.json")
QUALITY = ("qa_true_counts.csv",)
QUALITY_COLUMNS = ("label_id", "num_rated", "num_true")
_MOST_BYTES = 64 << 20  # of a table


@lru_cache(maxsize=1)
def class_names() -> dict[str, str]:
    """mid ('/m/09x0r') -> display name ('Speech'), 527 of them."""
    text = (files("avprep.datasets") / "audioset_labels.csv").read_text()
    return {row["mid"]: row["display_name"] for row in csv.DictReader(text.splitlines())}


def strong_names(root: Path) -> dict[str, str]:
    """The names of the strong labels, where their table is there, and those of the 527 classes."""
    path = find_list(root, NAMES)
    rows = [] if path is None else [line.split("\t") for line in _text(path).splitlines()]
    return {row[0].strip(): row[1].strip() for row in rows if len(row) == 2} | class_names()


def ancestors(root: Path) -> Callable[[str], tuple[str, ...]]:
    """A function from a mid to those of the 527 classes that it is a kind of, nearest first.

    Raises:
        DatasetError: there is no ontology under the root, or it is damaged.
    """
    path = _required(root, ONTOLOGY, "with_ancestors = True")
    parents: dict[str, list[str]] = {}
    try:
        for entry in json.loads(_text(path)):
            for child in entry["child_ids"]:
                parents.setdefault(str(child), []).append(str(entry["id"]))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise DatasetError(f"{path} is no ontology of AudioSet: {type(error).__name__}: {error}") from error

    @cache
    def above(mid: str) -> tuple[str, ...]:
        found: dict[str, None] = {}
        todo = list(parents.get(mid, ()))
        while todo:
            parent = todo.pop(0)
            if parent not in found and parent != mid:
                found[parent] = None
                todo += parents.get(parent, ())
        return tuple(parent for parent in found if parent in class_names())

    return above


def label_quality(root: Path) -> Mapping[str, float]:
    """mid -> the share of rated segments that have the label, where any was rated.

    Raises:
        DatasetError: there is no table under the root, or it has other columns.
    """
    path = _required(root, QUALITY, "min_label_quality needs a table")
    table = csv.reader(_text(path).splitlines(), skipinitialspace=True)
    columns = [name.strip() for name in next(table, [])]
    if missing := [name for name in QUALITY_COLUMNS if name not in columns]:
        raise DatasetError(f"{path} has the columns {columns!r:.200}; it needs {', '.join(missing)} too")
    found = {}
    for line, cells in enumerate(table, 2):
        row = dict(zip(columns, cells, strict=False))
        try:
            mid, rated, right = (row[name].strip() for name in QUALITY_COLUMNS)
            if int(rated) > 0:
                found[mid] = int(right) / int(rated)
        except (KeyError, ValueError) as error:
            raise DatasetError(f"line {line} of {path}: {cells!r:.100} are no counts of a label") from error
    return found


def _required(root: Path, names: tuple[str, ...], asked: str) -> Path:
    path = find_list(root, names)
    if path is None:
        raise DatasetError(f"{asked}: there is no {names[0]} under {root} or its csv/ or metadata/ folder")
    return path


def _text(path: Path) -> str:
    if path.stat().st_size > _MOST_BYTES:
        raise DatasetError(f"{path} is larger than {_MOST_BYTES:,} bytes")
    return path.read_text(encoding="utf-8-sig", errors="replace")
