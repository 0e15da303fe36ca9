"""The sections of the page that an output fills: facts, funnel, histograms, failures, times, clips."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Sequence
from typing import Any

from avprep.reasons import FILTERED, Reason
from avprep.report import charts
from avprep.report.config import ReportConfig
from avprep.report.page import Media, Page, Step, Times, add_players
from avprep.report.players import Players, choose
from avprep.report.selections import read_selections
from avprep.report.summary import Summary, summarize
from avprep.report.tally import Histogram
from avprep.shards.latents import EncoderHeader
from avprep.shards.layout import CLIPS, LATENTS, STATS_FILE, ShardError, kind_of, read_header, spec_of
from avprep.shards.selection import find_selection
from avprep.shards.store import Store, open_store
from avprep.shards.tar import largest_clip, largest_latent
from avprep.spec import SpecError

_SAMPLES_FILE = "samples.json"  # what avmodel sample writes in the place of statistics
_LARGEST_JSON = 16 << 20  # bytes


def add_output(page: Page, store: Store, config: ReportConfig, media: Media) -> None:
    """Adds all sections of an output of `avprep clip`, `encode` or `avmodel sample` to the page, in place.

    What is damaged in the output is listed on the page and ends nothing.

    Args:
        media: where the players' files are written.

    Raises:
        ShardError: `config.select` names a selection that the output does not have.
    """
    page.kind, header = CLIPS, {}
    try:
        header = read_header(store)
        page.kind = kind_of(header)
    except ShardError as error:
        page.add_damage(str(error))
    page.selections, damages = read_selections(store)
    thresholds: dict[str, list[float]] = {}
    for selection in page.selections:
        for name, values in selection.thresholds().items():
            thresholds[name] = sorted({*thresholds.get(name, ()), *values})
    keys = None if config.select is None else find_selection(store, header, config.select)[0]
    summary = summarize(store, clips=config.clips, seed=config.seed, thresholds=thresholds, keys=keys)
    for what in damages:
        page.add_damage(what)
    page.summary, page.damaged = summary, page.damaged + summary.damaged
    page.damages += summary.damages
    stats = _read_json(store, STATS_FILE, page)
    page.facts, page.funnel = _facts(store, header, summary), _funnel(summary, page)
    if config.select is not None:
        page.facts.append(("shown", f"the clips of selection {config.select}"))
    page.failures, page.times = _failures(store, summary, page.kind), _times(stats)
    page.histograms = _histograms(summary, thresholds)
    if header:
        _add_clips(page, store, header, summary, config, media)
    if page.kind == LATENTS:
        page.planes_table = _planes(stats or _read_json(store, _SAMPLES_FILE, page), header)


def _add_clips(
    page: Page,
    store: Store,
    header: dict[str, Any],
    summary: Summary,
    config: ReportConfig,
    media: Media,
) -> None:
    try:
        spec = spec_of(header)
        if page.kind == LATENTS:
            encoder = EncoderHeader.from_dict(header)
            largest = largest_latent(encoder.shape)
            page.planes, page.clips_title = ", ".join(encoder.planes), "Latents"
        else:
            largest = largest_clip(spec)
    except (ShardError, SpecError) as error:
        page.add_damage(f"no clip can be shown: {error}")
        return
    videos = open_store(config.decoded) if config.decoded else None
    players = Players(store, kind_of(header), header, largest=largest, videos=videos)
    add_players(page, list(players.make(choose(summary, config.clips), page.add_damage)), media)


def _facts(store: Store, header: dict[str, Any], summary: Summary) -> list[tuple[str, str]]:
    spec, options = header.get("spec"), header.get("options")
    facts = [("output", store.uri), ("shards", f"{summary.finished:,} of {summary.shards:,} finished")]
    if isinstance(spec, dict):
        facts += [(name, str(value)) for name, value in list(spec.items())[:12]]
    if isinstance(options, dict):
        facts += [(name, str(value)) for name, value in list(options.items())[:16] if value is not None]
    return [
        *facts,
        ("media", str(header.get("root", ""))),
        ("fingerprint", str(header.get("fingerprint", ""))),
    ]


def _funnel(summary: Summary, page: Page) -> list[Step]:
    sums = summary.sums
    largest = max(1, summary.planned, sums.planned)
    steps = []
    if summary.planned:
        steps.append(("planned", summary.planned, "clips of the plan", 0, "s0"))
    steps.append(("in the ledger", sums.planned, "clips of the finished shards", 0, "s0"))
    for status, colour in (("written", "s2"), ("filtered", "s1"), ("failed", "mark")):
        steps.append((status, sums.by_status[status], "", 0, colour))
        of_status = [row for row in sums.by_reason.most_common() if _status_of(row[0]) == status]
        steps += [(reason, count, _meaning(reason)[0], 1, colour) for reason, count in of_status]
    for selection in page.selections:
        steps.append((f"selected: {selection.name}", selection.clips, "", 0, "s3"))
    return [
        Step(name, count, min(1, count / largest), meaning, depth, colour)
        for name, count, meaning, depth, colour in steps
    ]


def _status_of(reason: str) -> str:
    return "filtered" if reason in FILTERED else "failed"


def _meaning(reason: str) -> tuple[str, str]:
    """(what happened, what to do); a damaged ledger may have a reason that there is not."""
    found = next((known for known in Reason if known.value == reason), None)
    if found is None:
        return "", ""
    return found.meaning, found.advice


def _failures(store: Store, summary: Summary, kind: str) -> list:
    def command(key: str) -> str:
        return f"avprep status {shlex.quote(store.uri)} --try {shlex.quote(key)}" if kind == CLIPS else ""

    found = []
    for reason, count in summary.sums.by_reason.most_common():
        rows = [(row, command(row.key)) for row in summary.failures if row.reason == reason]
        if rows:
            found.append((reason, count, *_meaning(reason), rows))
    return found


_OF_SOURCES = {  # meaning and unit
    "source_s": ("length of the source's video", "s"),
    "source_fps": ("pictures per second of the source, on average", "1/s"),
    "source_width": ("width of the source, as stored", "pixels"),
    "source_height": ("height of the source, as stored", "pixels"),
}


def _histograms(summary: Summary, thresholds: dict[str, list[float]]) -> list:
    per_source = Histogram()
    per_source.add(summary.sources.counts())
    measured: list[tuple[str, str, str, str, Histogram, Sequence[float]]] = [
        ("residual", "ms between a frame's instant and its picture", "ms", "clips", summary.residual_ms, ()),
        ("clips per source", "written", "clips of one source", "sources", per_source, ()),
    ]
    for name, found in summary.of_sources.items():
        meaning, unit = _OF_SOURCES[name]
        measured.append((name, meaning, unit, "sources", found, tuple(thresholds.get(name, ()))))
    for name, found in sorted(summary.scores.items()):
        undefined = f"{found.undefined:,} without a value" if found.undefined else ""
        measured.append((name, undefined, "", "clips", found, tuple(thresholds.get(name, ()))))
    return [
        (name, meaning, charts.histogram(found, name=name, unit=unit, counted=counted, thresholds=marks))
        for name, meaning, unit, counted, found, marks in measured
        if found.count
    ]


def _times(stats: dict[str, Any]) -> Times | None:
    run = stats.get("last_run")
    if not isinstance(run, dict):
        return None
    texts = [
        f"{value:,.4g} {unit}"
        for name, unit in (("clips", "clips"), ("elapsed_s", "s"), ("clips_per_s", "clips/s"))
        if _is_number(value := run.get(name))
    ]
    stages = run.get("worker_seconds")
    stages = stages if isinstance(stages, dict) else {}
    seconds = {name: value for name, value in list(stages.items())[:24] if _is_number(value)}
    title = "Seconds of all workers, by stage"
    chart = charts.bars(seconds, title=title, unit="worker seconds") if seconds else None
    return Times(f"The last run: {', '.join(texts)}.", chart)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and type(value) is not bool and abs(value) < 1e15  # false for NaN


def _planes(stats: dict[str, Any], header: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """A row for each plane: name, mean and standard deviation per channel, saturated."""
    try:
        found, names = stats["latents"], header["latent"]["planes"]
        rows = zip(names, found["mean"], found["std"], found["saturated"], strict=True)
        return [(str(name), _listed(mean), _listed(std), f"{share:.2%}") for name, mean, std, share in rows]
    except (KeyError, TypeError, ValueError):
        return []


def _listed(values: Iterable[float]) -> str:
    return ", ".join(f"{value:+.3f}" for value in values)


def _read_json(store: Store, name: str, page: Page) -> dict[str, Any]:
    """An object that may be there; {} where it is not, or is damaged, which the page then says."""
    if not store.exists(name):
        return {}
    with store.open(name) as file:
        data = file.read(_LARGEST_JSON + 1)
    try:
        if len(data) > _LARGEST_JSON:
            raise ValueError(f"more than {_LARGEST_JSON:,} bytes")
        found = json.loads(data)
        if not isinstance(found, dict):
            raise ValueError(f"a {type(found).__name__}, not an object")
    except (ValueError, RecursionError) as error:
        page.add_damage(f"{name} is damaged: {error}")
        return {}
    return found
