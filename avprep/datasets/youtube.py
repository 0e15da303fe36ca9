"""What the lists of YouTube clips share: an 11-character id, a start, and files named by them somehow."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from avprep.datasets.listing import media_files, stem_of, unique
from avprep.datasets.source import Source, caption_of

ID_LENGTH = 11
_ID = re.compile(r"[0-9A-Za-z_-]{11}")


@dataclass(frozen=True, slots=True)
class Segment:
    """A row of a list: `[start_s, stop_s)` of a video."""

    id: str
    start_s: float
    stop_s: float
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NamedFile:
    """A media file whose name tells a video and perhaps the seconds that were cut out of it."""

    path: str
    id: str
    seconds: tuple[float, ...]   # () = the name tells no time; else start, or start and stop


def parse_name(path: str) -> NamedFile | None:
    """`<id>`, `<id>_<start_ms>_<stop_ms>`, `<id>_<seconds>`, `<id>_000361`, each with or without `id_`.

    None where the name does not begin with an id.
    """
    stem = stem_of(path)
    if stem.startswith("id_") and _ID.fullmatch(stem[3 : 3 + ID_LENGTH]) and _is_tail(stem[3 + ID_LENGTH :]):
        stem = stem[3:]
    id_, tail = stem[:ID_LENGTH], stem[ID_LENGTH:]
    if not _ID.fullmatch(id_) or not _is_tail(tail):
        return None
    parts = tail.split("_")[1:]
    # Two whole numbers are milliseconds (`_30000_40000`); one number is seconds (`_40.000`, `_000361`).
    scale = 0.001 if len(parts) == 2 and all("." not in part for part in parts) else 1.0
    return NamedFile(path, id_, tuple(float(part) * scale for part in parts))


def _is_tail(tail: str) -> bool:
    return re.fullmatch(r"(_\d+(\.\d+)?){0,2}", tail) is not None


def match(root: Path, segments: Iterable[Segment], notes: Counter[str]) -> list[Source]:
    """The sources of a list: one file for each segment that has any; the rest is counted.

    A file whose name tells a time is trimmed to it, and is the segment's if that time is the segment's
    start or stop. A file named by its id alone may be whole or trimmed: the plan asks its length.
    """
    by_id: dict[str, list[NamedFile]] = defaultdict(list)
    for path in sorted(media_files(root, notes)):
        named = parse_name(path)
        if named is None:
            notes["files not named by a video id"] += 1
        else:
            by_id[named.id].append(named)
    sources, used = [], set()
    for segment in segments:
        files = [f for f in by_id.get(segment.id, ()) if _is_of(f, segment)]
        if not files:
            notes["rows without a file (deleted videos are normal)"] += 1
            continue
        notes["copies of a file in other folders"] += len({f.path for f in files}) - 1
        used.update(f.path for f in files)
        sources.append(_source(files[0], segment))
    left = sum(len(files) for files in by_id.values()) - len(used)
    notes["files without a row"] += left
    for key in [key for key, count in notes.items() if not count]:
        del notes[key]
    return unique(sources, notes)


def _is_of(file: NamedFile, segment: Segment) -> bool:
    times = (segment.start_s, segment.stop_s)
    return not file.seconds or any(abs(s - t) < 0.5 for s in file.seconds for t in times)


def _source(file: NamedFile, segment: Segment) -> Source:
    labels = segment.labels
    if file.seconds:
        return Source(path=file.path, labels=labels, caption=caption_of(labels))
    return Source(path=file.path, start_s=segment.start_s, stop_s=segment.stop_s, maybe_trimmed=True,
                  labels=labels, caption=caption_of(labels))


def labelled_by_folder(root: Path, labels: dict[str, str], notes: Counter[str]) -> Iterator[Source]:
    """Media in folders named by a label (blanks or '_' between words), for roots without a list."""
    for path in sorted(media_files(root, notes)):
        found = [labels[name] for name in (f.replace("_", " ").lower() for f in path.split("/")[:-1])
                 if name in labels]
        if found:
            yield Source(path=path, labels=(found[-1],), caption=caption_of((found[-1],)))
        else:
            notes["files in a folder that is none of the classes"] += 1
