"""The `sources` argument of `clip_dataset`: a dataset's root folder, or a list of files under a root."""

from __future__ import annotations

import math
import os
import posixpath
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from avprep.checks import require_one_of
from avprep.credentials import require_no_credentials
from avprep.datasets import DATASETS, list_dataset
from avprep.datasets.source import LONGEST_TEXT, DatasetOptions, Event, Source
from avprep.errors import ArgumentError

AnyPath = str | os.PathLike[str]
AnySources = AnyPath | Iterable[Source | AnyPath]
_GIVEN = "sources"  # the dataset's name in spec.json where the caller lists the sources


@dataclass(frozen=True, kw_only=True)
class ListedSources:
    """Sources with paths relative to the root, and the name of their dataset in spec.json."""

    dataset: str
    root: Path
    sources: list[Source]


def listed_sources(
    sources: AnySources, root: AnyPath | None, dataset: str, options: DatasetOptions
) -> ListedSources:
    """`options`: how a folder is listed; its root is not read.

    Raises:
        ArgumentError: no folder, no list under a root, or arguments that do not go with each other.
        DatasetError: the folder cannot be listed, or holds no source.
    """
    require_one_of("dataset", dataset, tuple(DATASETS))
    require_no_credentials("root", root)
    require_no_credentials("list_file", options.list_file)
    if isinstance(sources, (str, os.PathLike)):
        require_no_credentials("sources", sources)
        return _of_folder(Path(sources), root, dataset, options)
    if root is None:
        raise ArgumentError("root needs a value for a list of sources: their paths are kept relative to it")
    if replace(options, at_events=False) != DatasetOptions(root=options.root) or dataset != "folder":
        raise ArgumentError(
            "dataset, split, list_file, label_from_folder, follow_links, exclude_labels, with_ancestors, "
            "min_label_quality, path_column, label_column, caption_column and allow_outside go with a "
            "folder, not with a list of sources"
        )
    if not os.path.isdir(root):
        raise ArgumentError(f"root = {os.fspath(root)!r}: no such folder")
    return ListedSources(dataset=_GIVEN, root=Path(root), sources=_checked(sources, Path(root)))


def _of_folder(folder: Path, root: AnyPath | None, dataset: str, options: DatasetOptions) -> ListedSources:
    if root is not None:
        raise ArgumentError(f"root = {os.fspath(root)!r}: it goes with a list; a folder is its own root")
    if not folder.is_dir():
        raise ArgumentError(
            f"sources = {str(folder)!r}: no such folder; for single files give a list of them and root, the "
            f"folder that they lie in"
        )
    listing = list_dataset(dataset, replace(options, root=folder))
    return ListedSources(dataset=dataset, root=listing.root, sources=[*listing.sources, *listing.bad_rows])


def _checked(sources: Iterable[Source | AnyPath], root: Path) -> list[Source]:
    """Each with its path relative to the root, once per (path, start_s)."""
    found: dict[tuple[str, float], Source] = {}
    for i, given in enumerate(sources):
        source = given if isinstance(given, Source) else Source(path=os.fspath(given))
        require_no_credentials(f"sources[{i}]", source.path)
        name = f"sources[{i}] = {source.path!r}"
        source = _source(name, source, root)
        if (source.path, source.start_s) in found:
            raise ArgumentError(f"{name}: it is given twice with start_s = {source.start_s:g}")
        found[source.path, source.start_s] = source
    if not found:
        raise ArgumentError("sources must name a file, not none")
    return sorted(found.values(), key=lambda source: (source.path, source.start_s))


def _source(name: str, source: Source, root: Path) -> Source:
    """The source with its path in one spelling, and its events in time."""
    stop_s = math.inf if source.stop_s is None else source.stop_s
    if not 0 <= source.start_s < stop_s or not source.start_s < math.inf:
        raise ArgumentError(f"{name}: [{source.start_s}, {source.stop_s}) is no span of seconds")
    if isinstance(source.labels, str):
        raise ArgumentError(f"{name}: labels must be a tuple of strings, not {source.labels!r}")
    labels = tuple(source.labels)
    if max(len(source.caption), sum(map(len, labels))) > LONGEST_TEXT:
        raise ArgumentError(f"{name}: its labels and its caption may have {LONGEST_TEXT:,} characters each")
    path = _relative(name, source.path, root)
    return replace(source, path=path, labels=labels, events=_events(name, source))


def _events(name: str, source: Source) -> tuple[Event, ...]:
    """Raises ArgumentError for what is no event."""
    events = []
    for given in source.events:
        try:
            start_s, stop_s, labels = given
            is_event = 0 <= start_s < stop_s < math.inf and not isinstance(labels, str)
        except (TypeError, ValueError):
            is_event = False
        if not is_event:
            raise ArgumentError(f"{name}: {given!r:.80} is no event (start_s, stop_s, labels)")
        events.append(Event(float(start_s), float(stop_s), tuple(labels)))
    return tuple(sorted(events))


def _relative(name: str, path: str, root: Path) -> str:
    """The path under the root in one spelling: it is the source's identity. Raises ArgumentError."""
    relative = posixpath.normpath(path)
    for folder in (root.absolute(), root.resolve()):
        relative = relative.removeprefix(str(folder).rstrip("/") + "/")
    if relative.startswith("/") or relative.split("/", 1)[0] in ("..", ".", "") or "\0" in relative:
        raise ArgumentError(f"{name}: it does not lie under root = {root}")
    return relative
