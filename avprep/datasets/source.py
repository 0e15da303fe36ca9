"""What a dataset is to the rest of the project: a list of sources, and counts of what it left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from avprep.errors import AvprepError
from avprep.shards.layout import prompt_of

LONGEST_TEXT = 131_072  # characters of a source's labels, and of its caption: the csv module's bound


class DatasetError(AvprepError):
    """The dataset cannot be listed. The message is one paragraph that says what was expected where."""


class Event(NamedTuple):
    """Something that sounds in a source, `[start_s, stop_s)`: seconds from the start of the source's span."""

    start_s: float
    stop_s: float
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One media file, or a span of it that the dataset names.

    `path` is relative to the dataset's root, with '/' between folders; it is the source's identity.
    The span is half-open, in seconds of the file's own time: `[start_s, stop_s)`. `stop_s` None means
    'to the end of the video', which the plan asks of the file.
    """

    path: str
    start_s: float = 0.0
    stop_s: float | None = None
    # True where the span is in the time of the original video and the file may have been trimmed to it
    # (AudioSet's `<id>.mp4`): the plan asks the file how long it is. Trimmed means that the whole file
    # is the span.
    maybe_trimmed: bool = False
    labels: tuple[str, ...] = ()
    caption: str = ""  # '' = the dataset gives none: `caption_of` makes it from the labels
    events: tuple[Event, ...] = ()  # in time; () = not known, or not asked for
    line: int | None = None  # of the list that names it, for messages; None = no list, or not known
    # Why the row of a list names no source: its place in the list stands for the path, nothing is opened, and
    # the plan has one failed row for it.
    fault: str = ""


@dataclass(frozen=True)
class Listing:
    """The sources of a dataset in its own order, and what was counted on the way.

    `notes` maps a sentence's subject to its count, e.g. {'csv rows without a file': 1204}; the CLI prints
    each as a line. Sources are unique by (path, start_s).
    """

    root: Path
    sources: list[Source]
    notes: dict[str, int] = field(default_factory=dict)
    # Lines that name the listed sources without a file: an id; of YouTube clips also start and stop, by tabs.
    missing: list[str] = field(default_factory=list)
    bad_rows: list[Source] = field(default_factory=list)  # those with a fault


@dataclass(frozen=True, kw_only=True)
class DatasetOptions:
    """What `avprep clip` passes to a dataset, one hop from the command line."""

    root: Path
    split: str | None = None  # one of the dataset's splits; None = all
    list_file: Path | None = None  # the list, where it does not lie at its usual place under root
    label_from_folder: bool = False  # `folder` only: the parent folder's name is the label
    follow_links: bool = False  # links to folders are entered
    exclude_labels: tuple[str, ...] = ()  # sources with any of these labels are left out
    # AudioSet only:
    with_ancestors: bool = False  # the classes that a label is a kind of are labels, too
    min_label_quality: float | None = None  # labels that were found right less often are left out; None = all
    at_events: bool = False  # its strong lists: sources have their events
    # `manifest` only: names of columns in the list; None = path, labels, caption.
    path_column: str | None = None
    label_column: str | None = None
    caption_column: str | None = None
    allow_outside: bool = False  # `manifest` only: files that lie outside of the root are read, too


# A dataset is one function from options to a listing, and the names of its splits.
@dataclass(frozen=True)
class Dataset:
    name: str
    list_sources: Callable[[DatasetOptions], Listing]
    splits: tuple[str, ...] | None  # () = it has none; None = its list names them
    layout: str  # the paragraph that says what is expected on disk
    has_classes: bool = False  # whether its labels are rated, and ordered in an ontology


@lru_cache(maxsize=1 << 16)
def caption_of(labels: tuple[str, ...]) -> str:
    """The caption of clips whose dataset gives labels alone: the paper's prompt, one string per tuple."""
    return prompt_of(*labels)
