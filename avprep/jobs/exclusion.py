"""Lists of ids that must not be selected: the test sets of published benchmarks."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from avprep.datasets.youtube import parse_name
from avprep.errors import ArgumentError

_MOST_BYTES = 1 << 30
_HEADINGS = frozenset({"ytid", "id", "video_id", "youtube_id", "segment_id", "path", "source"})


def read_ids(path: Path) -> frozenset[str]:
    """The ids of a list, one per line: the first cell of a CSV or TSV row.

    A cell is a YouTube id, alone or with a time behind it (`<id>_30000`, `<id>_000030.mp4`), or a source's
    path, file name or stem. AudioSet's and VGGSound's published lists are read as they are.

    Raises:
        ArgumentError: the file is not there, is too large, or holds no id.
    """
    if not path.is_file():
        raise ArgumentError(f"exclude_ids = {path}: it is no file")
    if path.stat().st_size > _MOST_BYTES:
        raise ArgumentError(f"exclude_ids = {path}: it is larger than {_MOST_BYTES:,} bytes")
    found: set[str] = set()
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        for line in file:
            cell = re.split(r"[,\t]", line, maxsplit=1)[0].strip().strip('"').strip()
            if cell and not cell.startswith("#") and cell.lower() not in _HEADINGS:
                found |= _names_of(cell)
    if not found:
        raise ArgumentError(f"exclude_ids = {path}: it holds no id")
    return frozenset(found)


def is_excluded(source: str, ids: frozenset[str]) -> bool:
    """Whether a source, by its path, has one of the ids. All segments of a video have its id."""
    path = PurePosixPath(source)
    return not ids.isdisjoint({path.name, path.stem} | _names_of(source))


def _names_of(text: str) -> set[str]:
    """The text itself, and the YouTube id that it begins with, if any."""
    named = parse_name(text)
    return {text} if named is None else {text, named.id}
