"""Sources -> the plan: which clips there are and the shard each belongs to, before any work starts.

Sources are taken in the order of their keys, a hash: shards come out mixed by class, and the plan depends on
nothing but the sources and the options. The clips of a source stay in one shard unless they alone fill it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from fractions import Fraction
from functools import partial
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING

from avprep.datasets.source import Source, caption_of
from avprep.jobs.config import PlanOptions
from avprep.jobs.events import TimedEvents, digest_of, in_microseconds
from avprep.media.timeline import Cut, spread, starts_at, starts_in_shots
from avprep.reasons import MediaError, Reason
from avprep.shards.clips import clip_key, source_number
from avprep.shards.plan import PlanRow
from avprep.spec import ClipSpec
from avprep.stages.tasks import Probed

if TYPE_CHECKING:
    from avprep.media.probe import MediaInfo

# The sources in their order, each with what was found of its file.
Probe = Callable[[Iterable[Source]], Iterator[tuple[Source, Probed]]]

Span = tuple[Fraction, Fraction]  # [start_s, stop_s)

PROBE_BATCH = 64  # files per task
DETECT_BATCH = 16  # files per task where their cuts are looked for: what a run that is killed has to repeat
# A file that may have been trimmed to its span is taken for whole if it is longer than the span by this.
_TRIMMED_SLACK_S = 2.0


def plan_shards(
    sources: list[Source],
    spec: ClipSpec,
    options: PlanOptions,
    probe: Probe,
    *,
    first: int = 0,
    taken: AbstractSet[str] = frozenset(),
) -> Iterator[list[PlanRow]]:
    """The plan's rows, shard by shard.

    Args:
        probe: asked no further than the limit needs.
        first: the number of the first shard.
        taken: keys of clips that are planned already, by other spans of the same files.
    """
    shard: list[PlanRow] = []
    index = first
    left = options.limit
    path = ""
    planned: set[str] = set()  # clips that an earlier span of the same file has planned already
    # By hash, path and start; in two steps, as millions of long keys would take gigabytes.
    ordered = sorted(sources, key=attrgetter("path", "start_s"))
    ordered.sort(key=lambda source: source_number(source.path))
    for source, probed in probe(ordered):
        if source.path != path:
            path, planned = source.path, set()
        found = _source_rows(source, probed, spec, options)
        rows = [row for row in found if row.key not in planned and row.key not in taken][:left]
        planned.update(row.key for row in rows)
        left = None if left is None else left - len(rows)
        while rows:
            if shard and len(shard) + len(rows) > options.shard_size:
                yield _numbered(shard, index)
                shard, index = [], index + 1
            shard, rows = shard + rows[: options.shard_size], rows[options.shard_size :]
        if left == 0:
            break
    if shard:
        yield _numbered(shard, index)


def replanned(
    shards: Iterable[list[PlanRow]], found: dict[str, list[PlanRow]], shard_size: int
) -> Iterator[list[PlanRow]]:
    """A plan with some rows, by their keys, replaced by others (`rows_again`); everything else stays where it
    is. What a shard has no room for comes in new shards at the end."""
    left: list[PlanRow] = []
    count = 0
    for index, rows in enumerate(shards):
        new = [row for old in rows for row in found.get(old.key, ())]
        kept = [row for row in rows if row.key not in found]
        room = max(shard_size, len(rows)) - len(kept)
        left += new[room:]
        yield _numbered(kept + new[:room], index)
        count += 1
    for first in range(0, len(left), shard_size):
        yield _numbered(left[first : first + shard_size], count)
        count += 1


def broken_key(source: Source, spec: ClipSpec) -> str:
    """The key of the one row that a source has in the plan if it could not be opened then."""
    return clip_key(source.path, _first_sample(source, spec))


def rows_again(
    source: Source, probed: Probed, spec: ClipSpec, options: PlanOptions, planned: set[str]
) -> list[PlanRow]:
    """The rows of a source that could not be opened when the plan was made and can be now.

    `planned`: keys that the plan holds of it besides, by other spans; this source's are added.
    """
    rows = [row for row in _source_rows(source, probed, spec, options) if row.key not in planned]
    planned.update(row.key for row in rows)
    return rows


def _numbered(rows: list[PlanRow], index: int) -> list[PlanRow]:
    """Rows of one shard, ascending by key."""
    return [replace(row, shard=index) for row in sorted(rows, key=lambda row: row.key)]


def _source_rows(source: Source, probed: Probed, spec: ClipSpec, options: PlanOptions) -> list[PlanRow]:
    rows = _clip_rows(source, probed, spec, options)
    if not options.at_events:
        return rows
    digest = digest_of(source)
    return [replace(row, events=digest) for row in rows]


def _clip_rows(source: Source, probed: Probed, spec: ClipSpec, options: PlanOptions) -> list[PlanRow]:
    info = probed.header
    if isinstance(info, MediaError):
        return [_row(source, probed, _first_sample(source, spec), info)]
    spans = _spans(source, info)
    events = _events(source, info) if options.at_events else None
    placed = _placed(spans, events, probed.cuts or (), spec, options)
    if placed:
        return [
            _row(source, probed, start, verdict, events.labels_of(start, spec) if events else None)
            for start, verdict in placed
        ]
    return [_row(source, probed, _first_sample(source, spec), _nothing(source, info, spans, spec, options))]


def _placed(
    spans: list[Span], events: TimedEvents | None, cuts: Sequence[Cut], spec: ClipSpec, options: PlanOptions
) -> list[tuple[int, MediaError | None]]:
    """The starts of a source's clips, ascending, and what keeps the clip there from being made.

    Starts that were left out for a cut are among them as far as they fit under the cap of clips per source:
    without the cuts there would be no more clips.
    """
    place: Callable[..., tuple[list[int], list[tuple[int, Cut]]]]
    if events is None:
        place = partial(starts_in_shots, stride_samples=options.stride(spec))
    else:
        place = partial(starts_at, events.onsets_s)
    starts: list[int] = []
    left_out: list[tuple[int, Cut]] = []
    for start_s, stop_s in spans:
        own, lost = place(start_s=start_s, stop_s=stop_s, cuts=cuts, spec=spec)
        starts, left_out = starts + own, left_out + lost
    most = options.clips_per_source
    placed: list[tuple[int, MediaError | None]] = [(start, None) for start in spread(starts, most)]
    room = None if most is None else most - len(placed)
    placed += [(start, _contains(cut)) for start, cut in spread(left_out, room)]
    return sorted(placed, key=itemgetter(0))


def _contains(cut: Cut) -> MediaError:
    return MediaError(Reason.CUT, f"a cut from {cut.before_s:.3f} s to {cut.after_s:.3f} s")


def _events(source: Source, info: MediaInfo) -> TimedEvents:
    return TimedEvents(source, Fraction(0) if _is_trimmed(source, info) else in_microseconds(source.start_s))


def _nothing(
    source: Source, info: MediaInfo, spans: list[Span], spec: ClipSpec, options: PlanOptions
) -> MediaError:
    """Why a source gives no clip."""
    if options.at_events and any(stop_s - start_s >= spec.seconds for start_s, stop_s in spans):
        return MediaError(Reason.NO_EVENT, f"{len(source.events)} events, none within its pictures")
    return MediaError(Reason.TOO_SHORT, _shortness(source, info, spans, spec))


def _shortness(source: Source, info: MediaInfo, spans: list[Span], spec: ClipSpec) -> str:
    """Why a source gives no clip, and the line of the list that names it."""
    where = "" if source.line is None else f"line {source.line} of the list: "
    end_s = float(max(part.stop_s for part in info.parts))
    if not spans and source.start_s >= end_s:  # a file that was trimmed to its span has other times
        return f"{where}the span starts at {source.start_s:g} s, behind the end of the video at {end_s:.3f} s"
    longest_s = max((float(stop_s - start_s) for start_s, stop_s in spans), default=0.0)
    return f"{where}{longest_s:.3f} s of video, a clip is {float(spec.seconds):g} s"


def _first_sample(source: Source, spec: ClipSpec) -> int:
    return round(source.start_s * spec.sample_rate)


def _row(
    source: Source,
    probed: Probed,
    start: int,
    verdict: MediaError | None,
    labels: tuple[str, ...] | None = None,
) -> PlanRow:
    """`labels`: of the clip alone; None = those of the source."""
    info = None if isinstance(probed.header, MediaError) else probed.header
    labels = source.labels if labels is None else labels
    return PlanRow(
        key=clip_key(source.path, start),
        shard=-1,
        source=source.path,
        start=start,
        labels=labels,
        caption=source.caption or caption_of(labels),
        reason=verdict.reason.value if verdict else "",
        detail=verdict.detail if verdict else "",
        span_start_s=source.start_s,
        span_stop_s=source.stop_s,
        version=probed.version,
        source_width=info.width if info else None,
        source_height=info.height if info else None,
        source_fps=info.fps if info else None,
        source_s=float(sum(part.stop_s - part.start_s for part in info.parts)) if info else None,
        bars=probed.bars,
        caption_from="source" if source.caption else "labels" if labels else "",
    )


def _spans(source: Source, info: MediaInfo) -> list[Span]:
    """The source in its file's own time: a span for each part of the file that it has."""
    parts = _parts(info)
    if _is_trimmed(source, info):
        return parts
    start_s = in_microseconds(source.start_s)
    stop_s = None if source.stop_s is None else in_microseconds(source.stop_s)
    spans = ((max(start_s, a), b if stop_s is None else min(stop_s, b)) for a, b in parts)
    return [(a, b) for a, b in spans if b > a]


def _parts(info: MediaInfo) -> list[Span]:
    return [(max(Fraction(0), part.start_s), part.stop_s) for part in info.parts]


def _is_trimmed(source: Source, info: MediaInfo) -> bool:
    """Whether the file is the span, and not the video that the span is of."""
    if not source.maybe_trimmed or source.stop_s is None:
        return False
    parts, span_s = _parts(info), in_microseconds(source.stop_s) - in_microseconds(source.start_s)
    return parts[-1][1] - parts[0][0] <= span_s + Fraction(_TRIMMED_SLACK_S)
