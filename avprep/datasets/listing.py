"""Walking a dataset's folders, and the small things that several datasets share."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path

from avprep.datasets.source import DatasetError, Source

MEDIA_SUFFIXES = frozenset(
    ".mp4 .m4v .mov .mkv .webm .avi .ts .mts .m2ts .mpg .mpeg .flv .wmv .asf .ogv .ogg .3gp .3g2".split()
)


def media_files(root: Path, notes: Counter[str]) -> Iterator[str]:
    """Paths of the media files under root, '/'-separated, relative to it, in no order.

    Hidden files and folders are left out without a word; folders reached by a link are not entered;
    other files, and names that are no UTF-8, are counted.
    """
    folders = [("", str(root))]
    while folders:
        prefix, folder = folders.pop()
        try:
            entries = os.scandir(folder)
        except PermissionError:
            notes["folders that cannot be read"] += 1
            continue
        with entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                path = prefix + entry.name
                if entry.is_dir(follow_symlinks=False):
                    folders.append((path + "/", entry.path))
                elif os.path.splitext(entry.name)[1].lower() not in MEDIA_SUFFIXES:
                    notes["files that are no media, by their suffix"] += 1
                elif not is_utf8(path):
                    notes["files whose name is no UTF-8"] += 1
                else:
                    yield path


def require_folder(root: Path, layout: str) -> None:
    """Raises DatasetError with the expected layout where root is no folder."""
    if not root.is_dir():
        raise DatasetError(f"no folder {root}. {layout}")


def find_list(root: Path, names: tuple[str, ...]) -> Path | None:
    """The first of the list files that lies under root or its usual subfolders."""
    for folder in ("", "csv", "meta", "metadata", "lists", "splits", "data"):
        for name in names:
            path = root / folder / name
            if path.is_file():
                return path
    return None


def read_rows(path: Path, delimiter: str = ",") -> Iterator[list[str]]:
    """Rows of a csv or tsv with their blanks stripped; comment lines ('#') and empty ones are left out."""
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        for row in csv.reader((line for line in file if not line.startswith("#")), delimiter=delimiter,
                              skipinitialspace=True):
            cells = [cell.strip() for cell in row]
            if any(cells):
                yield cells


def folders_of(path: str) -> list[str]:
    """The folder names on the way to a file, outermost first."""
    return path.split("/")[:-1]


def stem_of(path: str) -> str:
    return os.path.splitext(path.rsplit("/", 1)[-1])[0]


def unique(sources: list[Source], notes: Counter[str]) -> list[Source]:
    """Sources sorted by path and start, each (path, start_s) once; repeats are counted."""
    found: list[Source] = []
    for source in sorted(sources, key=attrgetter("path", "start_s")):  # stable: the first listed stays
        if found and (found[-1].path, found[-1].start_s) == (source.path, source.start_s):
            notes["sources that were listed twice"] += 1
        else:
            found.append(source)
    return found


def is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
