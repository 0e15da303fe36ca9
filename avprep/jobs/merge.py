"""Several finished outputs as one: the shards of the first, then those of the second, under new numbers.

    A/shards/clips-000000.tar  \\
    A/shards/clips-000001.tar   >  C/shards/clips-000000.tar ... clips-000002.tar, linked or copied
    B/shards/clips-000000.tar  /

Plan, ledgers and scores follow the shards; bytes and keys of clips are those that they were.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from avprep.errors import ArgumentError
from avprep.jobs.config import MergeConfig
from avprep.jobs.output import Stop, end_rebuild, open_output, stopping_in_order
from avprep.jobs.progress import EncodeReport, JobReport, Progress, keep_stats
from avprep.shards.captions import merge_captions
from avprep.shards.copying import bring_shard, link_or_copy
from avprep.shards.integrity import forget_damaged, size_damage
from avprep.shards.latents import SUMS_ENTRY, EncoderHeader, LatentSums
from avprep.shards.layout import (
    LATENTS,
    PLAN_FILE,
    SHARDS_FOLDER,
    ShardError,
    kind_of,
    read_header,
    scores_name,
    shard_name,
)
from avprep.shards.ledger import Sums, finished_shards, read_columns, read_ledger, read_record, write_ledger
from avprep.shards.lock import lock
from avprep.shards.outputs import Output, open_outputs
from avprep.shards.plan import PlanReader, PlanRow, write_plan
from avprep.shards.store import Store, open_store
from avprep.shards.writer import write_header

# Of an output header: what each part may have otherwise. Options are kept where all agree.
_OF_A_PART = ("fingerprint", "root", "roots", "options", "dataset", "clips", "merged", "device", "batch_size")


@dataclass(frozen=True)
class Merged:
    """What a run of the merge job did, and what the output holds after it."""

    report: JobReport
    linked: int  # shards
    copied: int
    empty: int  # shards in which no clip is written: there is nothing to bring but the ledger

    @property
    def made(self) -> int:
        return self.linked + self.copied + self.empty


@dataclass(frozen=True)
class _Part:
    """One of the outputs, and the number that its first shard gets."""

    output: Output
    plan: PlanReader
    first: int

    @property
    def store(self) -> Store:
        return self.output.store


def run_merge(config: MergeConfig, progress: Progress) -> Merged:
    """Makes one output of several. An interrupted run continues when it is started again.

    Raises:
        ArgumentError: fewer than two outputs, one that is named twice, is not finished or is `out` itself.
        ShardError: outputs that do not go together, with the fields; two with a clip of the same key; a
            damaged one.
        JobError: the output was begun of other outputs.
        OutputInUse: another run holds the output.
        Stopped: after SIGINT or SIGTERM, when the shard in hand is done.
        OSError: the output cannot be written.
    """
    if len(config.outputs) < 2:
        raise ArgumentError(f"outputs must be at least 2, not {len(config.outputs)}")
    parts, store = _opened(config), open_store(config.out)
    header = merged_header(parts)
    with lock(store), stopping_in_order() as stop:
        fingerprint = open_output(store, header, root="", rebuild=config.rebuild)
        _remember_roots(store, parts)
        for damage in forget_damaged(store):
            progress.say(f"{damage}; it is made again")
        if not store.exists(PLAN_FILE):
            write_plan(store, _planned(parts))
        merged = _Merging(store, parts, fingerprint, progress, stop).run()
        if kind_of(header) == LATENTS:
            merge_captions([part.store for part in parts], store)
        keep_stats(store, merged.report)
        end_rebuild(store)
    return merged


# --- what is merged --------------------------------------------------------------------------------------


def _opened(config: MergeConfig) -> list[_Part]:
    parts, first = [], 0
    for output in open_outputs(config.outputs, None):
        if output.store.uri.rstrip("/") == open_store(config.out).uri.rstrip("/"):
            raise ArgumentError(f"out = {config.out}: it is one of the outputs that are merged")
        plan = PlanReader(output.store)
        missing = plan.shards - len(_finished(output.store, plan))
        if missing:
            raise ArgumentError(
                f"outputs = {output.store.uri}: {missing} of its {plan.shards} shards "
                f"are not made yet; finish it first, by the same command"
            )
        parts.append(_Part(output, plan, first))
        first += plan.shards
    _refuse_equal_keys(parts)
    return parts


def _finished(store: Store, plan: PlanReader) -> list[int]:
    """The shards that are made; of a plan that was changed since, those that are made by it."""
    finished = finished_shards(store)
    if not plan.history().revision:
        return finished
    return [i for i in finished if plan.holds(i, read_columns(store, i, "key")["key"])]


def _refuse_equal_keys(parts: list[_Part]) -> None:
    owner: dict[str, _Part] = {}
    for part in parts:
        for key in part.plan.keys():
            if owner.setdefault(key, part) is not part:
                raise ShardError(
                    f"{owner[key].store.uri} and {part.store.uri} both plan a clip of the key {key}: a "
                    f"source of each has the same path under its root. Clip one of them from the folder "
                    f"above its root, so that the paths differ"
                )


def merged_header(parts: list[_Part]) -> dict[str, Any]:
    """spec.json of the output, without what is only remembered. Entries under `merged` are the parts', in
    order; options are those on which all agree.

    Raises:
        ShardError: latents that are stored otherwise than the first ones.
    """
    first, options = parts[0].output.header, [_options(part) for part in parts]
    if kind_of(first) == LATENTS:
        _require_same_files(parts)
    entries = [entry for part in parts for entry in _merged_of(part)]
    return {name: value for name, value in first.items() if name not in _OF_A_PART} | {
        "options": {n: v for n, v in options[0].items() if all(own.get(n) == v for own in options)},
        "dataset": {"name": "merged"},
        "merged": {str(number): entry for number, entry in enumerate(entries)},
    }


def _require_same_files(parts: list[_Part]) -> None:
    """Raises ShardError where latents are stored otherwise than the first ones: an output has one layout."""
    wanted = _options(parts[0])
    for part in parts[1:]:
        found = _options(part)
        for name in ("packed", "posterior"):
            if found.get(name) != wanted.get(name):
                raise ShardError(
                    f"{part.store.uri} and {parts[0].store.uri} do not go together: the first has "
                    f"options.{name} = {found.get(name)}, not {wanted.get(name)}"
                )


def _options(part: _Part) -> dict[str, Any]:
    options = part.output.header.get("options")
    return options if isinstance(options, dict) else {}


def _merged_of(part: _Part) -> list[dict[str, Any]]:
    """What identifies a part; of a part that was merged itself, its own parts."""
    header = part.output.header
    if isinstance(header.get("merged"), dict):
        return list(header["merged"].values())
    plan = part.plan.history().identity
    names = ("fingerprint", "options", "dataset", "clips")
    return [{"plan": plan, "shards": part.plan.shards} | {n: header[n] for n in names if n in header}]


def _remember_roots(store: Store, parts: list[_Part]) -> None:
    """Where the media of each part lie: a clip is tried again there."""
    headers = [part.output.header for part in parts]
    roots = [root for header in headers for root in header.get("roots", [header.get("root", "")])]
    header = read_header(store)
    if header.get("roots") != roots:
        write_header(store, header | {"roots": roots})


def _planned(parts: list[_Part]) -> Iterator[list[PlanRow]]:
    for part in parts:
        for index in range(part.plan.shards):
            yield [replace(row, shard=part.first + index) for row in part.plan.rows(index)]


# --- the shards --------------------------------------------------------------------------------------------


class _Merging:
    """Brings over the shards that are not there yet."""

    def __init__(
        self, store: Store, parts: list[_Part], fingerprint: str, progress: Progress, stop: Stop
    ) -> None:
        self._store, self._parts, self._fingerprint = store, parts, fingerprint
        self._progress, self._stop = progress, stop
        header = parts[0].output.header
        self._kind = kind_of(header)
        self._report = JobReport()
        self._latents = LatentSums()
        if self._kind == LATENTS:
            self._report = EncodeReport(header=EncoderHeader.from_dict(header), latents=self._latents)
        self._brought: Counter[str] = Counter()

    def run(self) -> Merged:
        there = set(finished_shards(self._store))
        shards = [(part, index) for part in self._parts for index in range(part.plan.shards)]
        self._report.shards = len(shards)
        todo = [(part, index) for part, index in shards if not self._stands(part, index, there)]
        self._check_sizes(todo)
        clips = sum(part.plan.clips_of(i for of, i in todo if of is part) for part in self._parts)
        self._progress.planned(clips, len(todo))
        waiting = {(part.first, index) for part, index in todo}
        for part, index in shards:
            self._bring(part, index, is_there=(part.first, index) not in waiting)
            self._stop.check()
        counts = {how: self._brought[how] for how in ("linked", "copied", "empty")}
        return Merged(self._report, **counts)

    def _stands(self, part: _Part, index: int, there: set[int]) -> bool:
        """Whether the shard is there, made of what the part holds now."""
        number = part.first + index
        if number not in there:
            return False
        return read_record(self._store, number).sha256 == read_record(part.store, index).sha256

    def _check_sizes(self, todo: list[tuple[_Part, int]]) -> None:
        """Raises ShardError before anything is written where a tar is missing or of another size."""
        for part in self._parts:
            sizes = part.store.sizes(SHARDS_FOLDER)
            for record in (read_record(part.store, index) for of, index in todo if of is part):
                damage = size_damage(record, sizes.get(record.name)) if record.name else None
                if damage is not None:
                    raise ShardError(f"{part.store.uri}/{damage}")

    def _bring(self, part: _Part, index: int, *, is_there: bool) -> None:
        """The tar, the scores and, last, the ledger of a shard; its rows are counted."""
        rows, record = read_ledger(part.store, index)
        sums, number = Sums(), part.first + index
        sums.add(rows)
        self._report.sums.merge(sums)
        if self._kind == LATENTS:
            self._latents.merge(LatentSums.from_json(record.extra[SUMS_ENTRY]))
        if is_there:
            return
        name = shard_name(self._kind, number) if record.name else ""
        how = "empty"
        if name:
            how = "linked" if bring_shard(part.store, record, self._store, name) else "copied"
        if part.store.exists(scores_name(index)):
            link_or_copy(part.store, scores_name(index), self._store, scores_name(number))
        rows = [replace(row, shard=number) for row in rows]
        write_ledger(self._store, number, rows, replace(record, name=name, fingerprint=self._fingerprint))
        self._brought[how] += 1
        self._progress.shard_done(sums, None)
