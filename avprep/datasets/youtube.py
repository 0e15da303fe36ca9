"""What lists of YouTube clips share: an 11-character id, a start, and files named after them."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

from avprep.datasets.listing import MEDIA_SUFFIXES, NO_MEDIA, media_files, stem_of, suffix_of, unique
from avprep.datasets.source import DatasetOptions, Event, Source

ID_LENGTH = 11
_SLACK_S = 0.5  # by which a name's time may differ from its row's
_ID = re.compile(r"[0-9A-Za-z_-]{11}")


@dataclass(frozen=True, slots=True)
class Segment:
    """A row of a list: `[start_s, stop_s)` of a video."""

    id: str
    start_s: float
    stop_s: float
    labels: tuple[str, ...]
    events: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True)
class NamedFile:
    """A file whose name holds a video id and perhaps the seconds that were cut from it."""

    path: str
    id: str
    # () = the name holds no time; else start, or start and stop, in seconds, as the name may be read. Two
    # whole numbers (`_30000_40000`, `_30_40`) may be milliseconds or seconds: the list's rows decide.
    readings: tuple[tuple[float, ...], ...]


def parse_name(path: str) -> NamedFile | None:
    """`<id>`, `<id>_<start>_<stop>`, `<id>_<seconds>`, `<id>_000361`, each with or without `id_`.

    None where the name does not begin with an id.
    """
    stem = stem_of(path)
    if stem.startswith("id_") and _ID.fullmatch(stem[3 : 3 + ID_LENGTH]) and _is_tail(stem[3 + ID_LENGTH :]):
        stem = stem[3:]
    id_, tail = stem[:ID_LENGTH], stem[ID_LENGTH:]
    if not _ID.fullmatch(id_) or not _is_tail(tail):
        return None
    parts = tail.split("_")[1:]
    seconds = tuple(float(part) for part in parts)
    if not seconds:
        return NamedFile(path, id_, ())
    if len(parts) == 2 and all("." not in part for part in parts):
        return NamedFile(path, id_, (tuple(number / 1000 for number in seconds), seconds))
    return NamedFile(path, id_, (seconds,))


def _is_tail(tail: str) -> bool:
    return re.fullmatch(r"(_\d{1,12}(\.\d{1,12})?){0,2}", tail) is not None


def match(
    options: DatasetOptions, segments: list[Segment], notes: Counter[str], missing: list[str]
) -> list[Source]:
    """The sources of a list: one file for each segment that has any; the rest is counted, and added to
    `missing`: id, start and stop in seconds, by tabs.

    A file whose name holds a time is trimmed to it, and belongs to the segment with that time. A file named
    by its id alone may be whole or trimmed: planning reads its length. Files are matched by name, whatever
    their suffix; those with a video suffix come first.
    """
    by_id = _files_by_id(options, notes)
    _choose_readings(by_id, segments)
    sources: list[Source] = []
    used: set[str] = set()
    for segment in segments:
        files = [f for f in by_id.get(segment.id, ()) if _is_of(f, segment)]
        if not files:
            notes["rows without a file (deleted videos are normal)"] += 1
            missing.append(f"{segment.id}\t{segment.start_s:g}\t{segment.stop_s:g}")
            continue
        notes["copies of a file in other folders"] += len({f.path for f in files}) - 1
        used.update(f.path for f in files)
        sources.append(_source(files[0], segment))
    left = sum(len(files) for files in by_id.values()) - len(used)
    notes["files without a row"] += left
    for key in [key for key, count in notes.items() if not count]:
        del notes[key]
    return unique(sources, notes)


def _files_by_id(options: DatasetOptions, notes: Counter[str]) -> dict[str, list[NamedFile]]:
    """The files named by each id, those with the suffix of a video first."""
    by_id: dict[str, list[NamedFile]] = defaultdict(list)
    found = media_files(options.root, notes, follow_links=options.follow_links, any_suffix=True)
    for is_odd, path in sorted((suffix_of(path) not in MEDIA_SUFFIXES, path) for path in found):
        named = parse_name(path)
        if named is not None:
            by_id[named.id].append(named)
        elif is_odd:
            notes[NO_MEDIA] += 1
        else:
            notes["files not named by a video id"] += 1
    return by_id


def _choose_readings(by_id: dict[str, list[NamedFile]], segments: list[Segment]) -> None:
    """Of a name with several readings the first that is the time of one of its video's rows stays, if any."""
    doubtful = {id_ for id_, files in by_id.items() if any(len(file.readings) > 1 for file in files)}
    rows: dict[str, list[Segment]] = defaultdict(list)
    for segment in segments:
        if segment.id in doubtful:
            rows[segment.id].append(segment)
    for id_ in doubtful:
        by_id[id_] = [
            replace(
                file,
                readings=next(
                    (
                        (reading,)
                        for reading in file.readings
                        if any(_fits(reading, row) for row in rows[id_])
                    ),
                    file.readings,
                ),
            )
            for file in by_id[id_]
        ]


def _is_of(file: NamedFile, segment: Segment) -> bool:
    return not file.readings or any(_fits(reading, segment) for reading in file.readings)


def _fits(reading: tuple[float, ...], segment: Segment) -> bool:
    """A start and a stop must both be the segment's; a time alone may be either (`<id>_40.000` is a stop)."""
    times = (segment.start_s, segment.stop_s)
    if len(reading) == 2:
        return all(abs(s - t) < _SLACK_S for s, t in zip(reading, times, strict=True))
    return any(abs(s - t) < _SLACK_S for s in reading for t in times)


def _source(file: NamedFile, segment: Segment) -> Source:
    if file.readings:
        return Source(path=file.path, labels=segment.labels, events=segment.events)
    return Source(
        path=file.path,
        start_s=segment.start_s,
        stop_s=segment.stop_s,
        maybe_trimmed=True,
        labels=segment.labels,
        events=segment.events,
    )


def labelled_by_folder(
    options: DatasetOptions, labels: dict[str, str], notes: Counter[str]
) -> Iterator[Source]:
    """Media in folders named by a label (blanks or '_' between words), for roots without a list."""
    for path in sorted(media_files(options.root, notes, follow_links=options.follow_links)):
        found = [
            labels[name]
            for name in (f.replace("_", " ").lower() for f in path.split("/")[:-1])
            if name in labels
        ]
        if found:
            yield Source(path=path, labels=(found[-1],))
        else:
            notes["files in a folder that is none of the classes"] += 1
