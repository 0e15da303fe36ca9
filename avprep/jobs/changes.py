"""What became of the sources since the plan was made: new ones, ones that went, ones that are others now."""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from operator import attrgetter

from avprep.datasets.source import Source, caption_of
from avprep.jobs.config import FromMedia, Growth
from avprep.jobs.events import digest_of
from avprep.media.source import file_version
from avprep.shards.plan import PlannedSpan, PlanReader

_THREADS, _PATHS_EACH = 16, 256  # a network file system answers in its own time: many are asked at once
_SHOWN = 3
_PATH = attrgetter("path")


@dataclass(frozen=True)
class Changes:
    """The sources listed now against those of the plan."""

    new: list[Source] = field(default_factory=list)  # not in the plan
    gone: list[str] = field(default_factory=list)  # paths in the plan, and not listed or not there
    overwritten: list[str] = field(default_factory=list)  # paths of files with another size or time
    relisted: list[str] = field(default_factory=list)  # paths with other labels, captions or spans
    mended: list[str] = field(default_factory=list)  # rows of the list that named no source, and do now
    same: int = 0  # spans of the plan that are listed

    @property
    def changed(self) -> frozenset[str]:
        return frozenset(self.overwritten).union(self.relisted)

    def after(self, growth: Growth) -> Changes:
        """What is left when these are in the plan."""
        left = replace(self, mended=[]) if growth else self
        left = replace(left, new=[]) if growth.add_new else left
        return replace(left, overwritten=[], relisted=[]) if growth.replace_changed else left

    def new_on_mended_lines(self) -> list[Source]:
        """The new sources that mended rows of the list name now."""
        lines = {path.rpartition(":")[2] for path in self.mended}
        return [source for source in self.new if str(source.line) in lines]

    def messages(self) -> Iterator[str]:
        """One for each kind of change, with the first of their names."""
        anew = "replace_changed=True clips them anew"
        if self.new:
            names = _named(dict.fromkeys(source.path for source in self.new))
            yield f"new since the plan was made: {len(self.new):,} sources ({names}); add_new=True adds them"
        if self.gone:
            names = _named(self.gone)
            yield f"not there any more: {len(self.gone):,} files of the plan ({names}); their clips stay"
        if self.overwritten:
            names = _named(self.overwritten)
            yield f"another size or time than when planned: {len(self.overwritten):,} files ({names}); {anew}"
        if self.relisted:
            names = _named(self.relisted)
            count = len(self.relisted)
            yield f"other labels, captions or spans than planned: {count:,} files ({names}); {anew}"
        if self.mended:
            names, count = _named(self.mended), len(self.mended)
            yield (
                f"mended or removed since the plan was made: {count:,} rows of the list that named no file "
                f"or span ({names}); add_new=True or replace_changed=True takes their failed rows out"
            )


def _named(paths: Iterable[str]) -> str:
    paths = list(paths)
    return ", ".join(paths[:_SHOWN]) + (", ..." if len(paths) > _SHOWN else "")


def find_changes(source: FromMedia, plan: PlanReader) -> Changes:
    """Compares the listing with the plan, and the files that both have with what they were."""
    listed = _Listed(source.sources)
    # As ordered sets: the clips of a file may lie in several shards.
    gone: dict[str, None] = {}
    overwritten: dict[str, None] = {}
    relisted: dict[str, None] = {}
    mended: list[str] = []
    same = 0
    for span, version in _with_versions(str(source.root), plan.spans()):
        found = listed.take(span)
        if not found and span.fault:
            mended.append(span.path)
            continue
        if not found or (span.version and not version):
            gone[span.path] = None
            continue
        same += 1
        if span.version and version != span.version:
            overwritten[span.path] = None
        if not any(_is_listed_alike(one, span) for one in found):
            relisted[span.path] = None
    # A limit leaves some out by design, until it is not reached.
    is_full = source.plan.limit is not None and plan.clips - len(mended) >= source.plan.limit
    new = [] if is_full else listed.left()
    return Changes(new, sorted(gone), sorted(overwritten), sorted(relisted), mended, same)


class _Listed:
    """The listed sources, of which there may be millions: found by bisection, and ticked off."""

    def __init__(self, sources: list[Source]) -> None:
        self._sources = sorted(sources, key=_PATH)
        self._is_taken = bytearray(len(sources))

    def take(self, span: PlannedSpan) -> list[Source]:
        """The source that the plan has there; all of the file where the plan does not know its span."""
        first = bisect_left(self._sources, span.path, key=_PATH)
        stop = bisect_right(self._sources, span.path, lo=first, key=_PATH)
        found = [i for i in range(first, stop) if span.start_s in (None, self._sources[i].start_s)]
        for i in found:
            self._is_taken[i] = True
        return [self._sources[i] for i in found]

    def left(self) -> list[Source]:
        """Those that the plan does not have."""
        return [one for one, is_taken in zip(self._sources, self._is_taken, strict=True) if not is_taken]


def _is_listed_alike(source: Source, span: PlannedSpan) -> bool:
    if span.start_s is not None and source.stop_s != span.stop_s:
        return False
    if span.fault or source.fault:
        return span.fault == source.fault
    if span.events:
        return digest_of(source) == span.events
    return (source.labels, source.caption or caption_of(source.labels)) == (span.labels, span.caption)


def _with_versions(root: str, spans: Iterator[PlannedSpan]) -> Iterator[tuple[PlannedSpan, str]]:
    """The spans with what their files are now."""
    with ThreadPoolExecutor(_THREADS) as pool:
        while batch := list(islice(spans, _THREADS * _PATHS_EACH)):
            parts = [batch[i : i + _PATHS_EACH] for i in range(0, len(batch), _PATHS_EACH)]
            for part, versions in zip(parts, pool.map(partial(_versions, root), parts), strict=True):
                yield from zip(part, versions, strict=True)


def _versions(root: str, spans: list[PlannedSpan]) -> list[str]:
    return [file_version(os.path.join(root, span.path)) if span.version else "" for span in spans]
