"""AudioSet (Gemmeke et al. 2017): 10-second segments of YouTube videos, 527 classes, several per segment.

The temporally-strong labels (Hershey et al. 2021) are splits of their own: a segment has the labels of its
events, and on request the events themselves.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from avprep.datasets.audioset_classes import ancestors, class_names, label_quality, strong_names
from avprep.datasets.listing import find_list, require_folder
from avprep.datasets.source import Dataset, DatasetError, DatasetOptions, Event, Listing
from avprep.datasets.youtube import ID_LENGTH, Segment, labelled_by_folder, match

LISTS = {
    "balanced_train": ("balanced_train_segments.csv",),
    "unbalanced_train": ("unbalanced_train_segments.csv",),
    "eval": ("eval_segments.csv",),
}
STRONG_LISTS = {
    "strong": ("audioset_train_strong.tsv",),
    "strong_eval": ("audioset_eval_strong.tsv", "audioset_eval_strong_framed_posneg.tsv"),
}
LAYOUT = (
    "Expected: one or more of balanced_train_segments.csv, unbalanced_train_segments.csv and "
    "eval_segments.csv, or audioset_train_strong.tsv and mid_to_display_name.tsv (in the root, its csv/ or "
    "metadata/ folder, or one given by list_file=FILE), and the videos in any folders below, named <id>.mp4 "
    "(whole or trimmed), <id>_<start>_<end>.mp4 (milliseconds or whole seconds), <id>_<seconds>.mp4 or "
    "id_<id>.mp4."
)
SEGMENT_S = 10.0  # of the strong lists, which give starts only
_MID = re.compile(r"/[mgt]/[0-9a-z_]+")


class StrongEvent(NamedTuple):
    """An event: seconds from its segment's start, its label by mid and what that is a kind of."""

    start_s: float
    stop_s: float
    mids: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """A segment of a list, its labels by mid."""

    id: str
    start_s: float
    stop_s: float
    mids: tuple[str, ...]
    events: tuple[StrongEvent, ...] = ()  # of a strong list, in time


def list_sources(options: DatasetOptions) -> Listing:
    """One source for each segment that has a file. Raises DatasetError where there is no list.

    Without a list, files in folders named by a class are taken with that class.
    """
    require_folder(options.root, LAYOUT)
    notes: Counter[str] = Counter()
    is_strong = options.split in STRONG_LISTS or (
        options.list_file is not None and options.list_file.suffix == ".tsv"
    )
    if options.at_events and not is_strong:
        raise DatasetError(
            f"at_events = True: the labels of split={options.split} have no times; those of "
            f"split=strong and split=strong_eval have"
        )
    by_split = STRONG_LISTS if is_strong else LISTS
    splits = list(LISTS) if options.split is None else [options.split]
    lists = (
        [options.list_file] if options.list_file else [find_list(options.root, by_split[s]) for s in splits]
    )
    lists = [path for path in lists if path is not None]
    if lists:
        names = strong_names(options.root) if is_strong else class_names()
        read = read_strong_rows if is_strong else read_rows
        rows = (row for path in lists for row in read(path, notes))
        rows = (row if options.at_events else replace(row, events=()) for row in rows)
        segments = [_segment(row, names, notes) for row in _relabelled(rows, options, notes)]
        missing: list[str] = []
        sources = match(options, segments, notes, missing)
        return Listing(options.root, sources, dict(notes), missing)
    by_name = {name.lower(): name for name in class_names().values()}
    sources = [] if options.split else list(labelled_by_folder(options, by_name, notes))
    if not sources:
        asked = f" for split={options.split}" if options.split else ""
        raise DatasetError(f"no AudioSet list{asked} under {options.root}. {LAYOUT}")
    return Listing(options.root, sources, dict(notes))


def read_segments(path: Path, notes: Counter[str]) -> Iterator[Segment]:
    """The segments of a list, with the labels' names."""
    for row in read_rows(path, notes):
        yield _segment(row, class_names(), notes)


def read_rows(path: Path, notes: Counter[str]) -> Iterator[Row]:
    """The rows of a list in any of the forms that are about: two, three or no '#' lines or a header row,
    blanks after commas or none, labels in one quoted cell or strewn over many by other tools' quoting."""
    for line in _lines(path):
        cells = [cell.strip().strip('"') for cell in line.split(",", 3)]
        if line.startswith("#") or len(cells) < 4 or cells[0] == "YTID":
            continue
        span = _span(cells[1], cells[2])
        if span is None:
            notes["rows that cannot be read"] += 1
        else:
            yield Row(cells[0][:ID_LENGTH], *span, tuple(dict.fromkeys(_MID.findall(cells[3]))))


def read_strong_rows(path: Path, notes: Counter[str]) -> Iterator[Row]:
    """The segments of a temporally-strong list, `segment_id start_time_seconds end_time_seconds label` by
    tabs: an event per line, its segment's id ends in _<start in ms>. Labels in the order of their onsets.

    A list with a fifth column, present or not, is framed: lines of labels that are not present are skipped.
    """
    segments: dict[str, list[StrongEvent]] = {}  # by their ids
    for line in _lines(path):
        cells = [cell.strip() for cell in line.split("\t")]
        if cells[0] in ("segment_id", "filename") or not line.strip() or cells[4:] == ["NOT_PRESENT"]:
            continue
        span = _span(cells[1], cells[2]) if len(cells) >= 4 else None
        if span is None or not _MID.fullmatch(cells[3]) or not re.fullmatch(r".{11}_\d+", cells[0]):
            notes["rows that cannot be read"] += 1
            continue
        segments.setdefault(cells[0], []).append(StrongEvent(*span, (cells[3],)))
    for segment_id, found in segments.items():
        start_s = int(segment_id[ID_LENGTH + 1 :]) / 1000
        events = _joined(found)
        mids = tuple(dict.fromkeys(mid for event in events for mid in event.mids))
        yield Row(segment_id[:ID_LENGTH], start_s, start_s + SEGMENT_S, mids, events)


def _joined(found: list[StrongEvent]) -> tuple[StrongEvent, ...]:
    """Events in time. Those of one label that touch are one: a framed list has a line per frame."""
    events: list[StrongEvent] = []
    for event in sorted(found, key=lambda event: (event.mids, event.start_s)):
        if events and events[-1].mids == event.mids and event.start_s <= events[-1].stop_s:
            events[-1] = events[-1]._replace(stop_s=max(event.stop_s, events[-1].stop_s))
        else:
            events.append(event)
    return tuple(sorted(events, key=lambda event: (event.start_s, event.mids)))


def _relabelled(rows: Iterator[Row], options: DatasetOptions, notes: Counter[str]) -> Iterator[Row]:
    """The rows without labels of low quality, and with what their labels are kinds of."""
    if options.min_label_quality is not None:
        rows = _of_quality(rows, options.min_label_quality, label_quality(options.root), notes)
    if not options.with_ancestors:
        yield from rows
        return
    above = ancestors(options.root)
    for row in rows:
        higher = [parent for mid in row.mids for parent in above(mid)]
        events = tuple(event._replace(mids=event.mids + above(event.mids[0])) for event in row.events)
        yield replace(row, mids=tuple(dict.fromkeys([*row.mids, *higher])), events=events)


def _of_quality(
    rows: Iterator[Row], least: float, quality: Mapping[str, float], notes: Counter[str]
) -> Iterator[Row]:
    for row in rows:
        kept = tuple(mid for mid in row.mids if quality.get(mid, 0.0) >= least)
        notes["labels below min_label_quality, or never rated"] += len(row.mids) - len(kept)
        if kept:
            events = tuple(event for event in row.events if event.mids[0] in kept)
            yield replace(row, mids=kept, events=events)
        else:
            notes["rows without a label of min_label_quality"] += 1


def _segment(row: Row, names: Mapping[str, str], notes: Counter[str]) -> Segment:
    def named(mids: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(names[mid] for mid in mids if mid in names))

    notes["labels that are none of the 527 classes"] += sum(mid not in names for mid in row.mids)
    events = tuple(
        Event(event.start_s, event.stop_s, labels) for event in row.events if (labels := named(event.mids))
    )
    return Segment(row.id, row.start_s, row.stop_s, named(row.mids), events)


def _span(start: str, stop: str) -> tuple[float, float] | None:
    """Seconds; None where these are no span."""
    try:
        start_s, stop_s = float(start), float(stop)
    except ValueError:
        return None
    return (start_s, stop_s) if 0 <= start_s < stop_s < math.inf else None


def _lines(path: Path) -> Iterator[str]:
    if not path.is_file():
        raise DatasetError(f"list_file = {path}: it is not there. {LAYOUT}")
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        yield from (line.rstrip("\n") for line in file)


AUDIOSET = Dataset("audioset", list_sources, (*LISTS, *STRONG_LISTS), LAYOUT, has_classes=True)
