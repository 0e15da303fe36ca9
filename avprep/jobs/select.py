"""A selection: which finished clips to train on, chosen by their scores. No media is opened.

    scored clips -> each term of the query -> exclude_ids -> near_duplicates -> per_label -> limit -> split

Every step leaves a row in the funnel. Near-duplicates and caps keep the first clips in the order asked for.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from avprep.errors import ArgumentError
from avprep.jobs.config import SelectConfig
from avprep.jobs.duplicates import PRINTS, near_groups
from avprep.jobs.exclusion import is_excluded, read_ids
from avprep.jobs.output import JobError
from avprep.jobs.query import Term, parse_query
from avprep.jobs.splits import by_source, joined_sources
from avprep.scores.base import Column, Score
from avprep.scores.catalogue import COLUMNS, SCORES
from avprep.shards.layout import CLIPS
from avprep.shards.ledger import finished_shards, read_columns, read_record
from avprep.shards.lock import lock
from avprep.shards.outputs import header_of
from avprep.shards.plan import PlanReader
from avprep.shards.scores import TYPES, read_scores_if_there
from avprep.shards.selection import (
    SCHEMA,
    FunnelStep,
    SelectionHeader,
    digest_of,
    read_selection,
    selection_name,
    write_selection,
)
from avprep.shards.store import Store, open_store
from avprep.stages.stored_scores import is_stored

RANDOM = "random"
_READERS = 8  # shards read at once: an object store answers each after a while
# Of the plan: what the files' headers say. A plan of an earlier version does not know them.
_OF_SOURCES = (
    Column(name="source_width", kind="int", unit="pixels", meaning="of the source, as stored"),
    Column(name="source_height", kind="int", unit="pixels", meaning="of the source, as stored"),
    Column(name="source_fps", kind="float", unit="1/s", meaning="pictures of the source, on average"),
    Column(name="source_s", kind="float", unit="s", meaning="length of the source's video"),
)
_COLUMNS = {column.name: column for column in (*COLUMNS, *_OF_SOURCES)}


def run_select(config: SelectConfig) -> dict[str, SelectionHeader]:
    """Chooses the clips and writes the selection, and each of its splits as NAME-SPLIT.

    Returns:
        The headers by the selections' names, that of the whole one first.

    Raises:
        ArgumentError: a query or an order that cannot be, with the columns that there are.
        JobError: another selection has the name; scores are missing or stale; or a split has no clip.
        OutputInUse: another run holds the output.
        ShardError: no output of clips, or a damaged file of it.
        OSError: the output cannot be written.
    """
    store, clips = open_store(config.clips), header_of(config.clips, CLIPS)
    for name in (config.name, *(f"{config.name}-{split}" for split in config.split)):
        selection_name(name)
    terms = parse_query(config.query)
    for term in terms:
        term.require(TYPES[_column("query", term.column, str(term)).kind])
    columns = _needed_columns(terms, config)
    ids = None if config.exclude_ids is None else read_ids(config.exclude_ids)
    with lock(store):
        table = _candidates(store, columns)
        steps = [FunnelStep(step="finished clips", removed=0, kept=len(table))]
        for term in terms:
            table = _filtered(table, term, steps)
        if ids is not None:
            table = _without_excluded(store, table, ids, steps)
        table = _capped(store, _deduplicated(_ordered(table, config), config, steps), config, steps)
        tables, funnels = {config.name: table}, {config.name: steps}
        for split, part in _split(store, table, config).items():
            step = FunnelStep(
                step=f"split {split} by {config.by}", removed=len(table) - len(part), kept=len(part)
            )
            tables[f"{config.name}-{split}"], funnels[f"{config.name}-{split}"] = part, [*steps, step]
        made = {n: _header(part, config, clips, ids, funnels[n]) for n, part in tables.items()}
        _write(store, tables, made, config)
        if config.ids is not None:
            _write_ids(store, table, int(clips["spec"]["sample_rate"]), config.ids)
    return made


def _needed_columns(terms: Sequence[Term], config: SelectConfig) -> list[str]:
    by, _ = _sorting(config.order)
    prints = [column.name for column in PRINTS] if config.near_duplicates is not None else []
    return list(dict.fromkeys([*(term.column for term in terms), *([by] if by else []), *prints]))


def _header(
    table: pa.Table,
    config: SelectConfig,
    clips: Mapping[str, object],
    ids: frozenset[str] | None,
    steps: list[FunnelStep],
) -> SelectionHeader:
    options: dict[str, object] = {n: getattr(config, n) for n in ("order", "seed", "per_label", "limit")}
    if ids is not None:
        options["exclude_ids"] = digest_of(ids)
    if config.near_duplicates is not None:
        options["near_duplicates"] = config.near_duplicates
    if config.split:
        options |= {"split": dict(config.split), "by": config.by}
    return SelectionHeader(
        query=config.query,
        options=options,
        funnel=tuple(steps),
        fingerprint=str(clips.get("fingerprint", "")),
        digest=digest_of(table["key"].sort().to_pylist()),
    )


def _write(
    store: Store, tables: dict[str, pa.Table], made: dict[str, SelectionHeader], config: SelectConfig
) -> None:
    """Writes the selection and its splits; none of them where one would replace another selection."""
    if not config.rebuild:
        for name, header in made.items():
            if store.exists(selection_name(name)):
                _refuse_another(store, name, header)
    for name, table in tables.items():
        write_selection(store, name, table.select(SCHEMA.names), made[name])


def _refuse_another(store: Store, name: str, made: SelectionHeader) -> None:
    """A selection that a model was trained on is not replaced by accident."""
    _, found = read_selection(store, name)
    if (found.digest, found.options) != (made.digest, made.options):
        raise JobError(
            f"name = {name}: it is there, of the query {found.query!r}; give another name, or rebuild=True "
            f"to replace it"
        )


def _column(argument: str, name: str, given: str) -> Column:
    if name not in _COLUMNS:
        raise ArgumentError(
            f"{argument} = {given}: there is no column {name}; the columns are {', '.join(_COLUMNS)}"
        )
    return _COLUMNS[name]


def _sorting(order: str) -> tuple[str | None, str]:
    """The column that sorts (None: at random), and Arrow's word for the direction."""
    if order == RANDOM:
        return None, ""
    name = order.removeprefix("-")
    if _column("order", name, order).kind == "bits":
        raise ArgumentError(f"order = {order}: {name} holds bits, which have no order")
    return name, "descending" if order.startswith("-") else "ascending"


def _write_ids(store: Store, table: pa.Table, sample_rate: int, path: Path) -> None:
    """source, start_s and key of the chosen clips by tabs, in order: a list that others can follow."""
    plan, keys = PlanReader(store), table["key"].combine_chunks()
    columns = plan.values_of("source", keys), plan.values_of("start", keys), keys
    rows = zip(*(column.to_pylist() for column in columns), strict=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write("source\tstart_s\tkey\n")
        file.writelines(f"{source}\t{start / sample_rate:g}\t{key}\n" for source, start, key in rows)


# --- the candidates --------------------------------------------------------------------------------------


def _candidates(store: Store, columns: list[str]) -> pa.Table:
    """key, shard and the columns of every written clip of the finished shards, ascending by key.

    Raises:
        JobError: a shard has no scores of itself for one of the columns.
    """
    of_sources = [column.name for column in _OF_SOURCES if column.name in columns]
    columns = [name for name in columns if name not in of_sources]
    owners = [score for score in SCORES if any(column.name in columns for column in score.columns)]
    schema = pa.schema([SCHEMA.field("key"), *(pa.field(n, TYPES[_COLUMNS[n].kind]) for n in columns)])
    tables, clips, lacking = [schema.empty_table()], [], Counter[str]()
    indices = finished_shards(store)
    with ThreadPoolExecutor(_READERS) as readers:
        for missing, rows in readers.map(partial(_shard_rows, store, schema, owners), indices):
            lacking.update(missing)
            tables.append(rows)
            clips.append(len(rows))
    if lacking:
        of_shards = ", ".join(f"{name} of {shards:,} shards" for name, shards in lacking.items())
        raise JobError(
            f"{store.uri}: of {len(indices):,} shards, scores are missing: {of_shards}; score first"
        )
    shards = np.repeat(np.array(indices, np.int32), clips)
    table = pa.concat_tables(tables).add_column(1, SCHEMA.field("shard"), pa.array(shards)).sort_by("key")
    if len(pc.unique(table["key"])) < len(table):
        raise JobError(f"{store.uri}: a key is there twice; verify the output")
    for name in of_sources:
        table = table.append_column(name, PlanReader(store).values_of(name, table["key"].combine_chunks()))
    return table


def _shard_rows(
    store: Store, schema: pa.Schema, owners: Sequence[Score], index: int
) -> tuple[list[str], pa.Table]:
    """Of the scores that have the schema's columns those that a shard lacks, and its rows; no rows where it
    has no clip or lacks any."""
    record = read_record(store, index)
    if not record.name:
        return [], schema.empty_table()
    if not owners:
        rows = read_columns(store, index, "key", "status")
        written = rows.filter(pc.equal(rows["status"], "written"))
        return [], written.select(schema.names).replace_schema_metadata(None)
    found = read_scores_if_there(store, index, schema.names)
    missing = [score.name for score in owners if not is_stored(score, found[1] if found else None, record)]
    if missing or found is None:
        return missing, schema.empty_table()
    return [], found[0].select(schema.names).replace_schema_metadata(None)


# --- the steps -------------------------------------------------------------------------------------------


def _filtered(table: pa.Table, term: Term, funnel: list[FunnelStep]) -> pa.Table:
    """The clips of which the term holds; of a null it does not."""
    mask = term.holds(table[term.column])
    kept = table.filter(mask)
    removed = len(table) - len(kept)
    step = FunnelStep(step=str(term), removed=removed, undefined=mask.null_count, kept=len(kept))
    funnel.append(step)
    return kept


def _ordered(table: pa.Table, config: SelectConfig) -> pa.Table:
    """In the order asked for; equal ones, and all at random, by what follows from the key alone.

    A random order ranks each clip by a hash of seed and key: clips that are added later, or removed, change
    the order of no others.
    """
    by, direction = _sorting(config.order)
    if by is not None:
        keys = [(by, direction), ("key", "ascending")]  # nulls last
        return table.take(pc.sort_indices(table, sort_keys=keys))
    salted = hashlib.blake2b(digest_size=8, key=config.seed.to_bytes(8))
    ranks = [_rank(salted, key) for key in table["key"].cast(pa.binary()).to_pylist()]
    numbers = np.frombuffer(b"".join(ranks), ">u8").astype(np.uint64)
    return table.take(pa.array(np.argsort(numbers, kind="stable")))


def _rank(salted: hashlib.blake2b, key: bytes) -> bytes:
    """The hash of seed and key. To copy the one of the seed takes half as long as to make it."""
    copy = salted.copy()
    copy.update(key)
    return copy.digest()


def _without_excluded(
    store: Store, table: pa.Table, ids: frozenset[str], funnel: list[FunnelStep]
) -> pa.Table:
    sources = PlanReader(store).values_of("source", table["key"].combine_chunks()).dictionary_encode()
    named = [is_excluded(source, ids) for source in sources.dictionary.to_pylist()]
    kept = table.filter(pc.invert(pa.array(named, pa.bool_()).take(sources.indices)))
    funnel.append(FunnelStep(step="exclude_ids", removed=len(table) - len(kept), kept=len(kept)))
    return kept


def _deduplicated(table: pa.Table, config: SelectConfig, funnel: list[FunnelStep]) -> pa.Table:
    """The first clip of each group of near-duplicates; all clips, with their group, where splits keep groups
    together."""
    if config.near_duplicates is None:
        return table
    groups = near_groups(table, config.near_duplicates)
    if config.by == "group":
        return table.append_column("group", pa.array(groups))
    firsts = np.unique(groups, return_index=True)[1]
    kept = table.take(pa.array(np.sort(firsts)))
    sizes = np.bincount(groups) if len(groups) else np.zeros(1, np.int64)
    step = (
        f"near-duplicates within {config.near_duplicates} bits: {int((sizes > 1).sum()):,} groups, "
        f"the largest of {int(sizes.max()):,}"
    )
    funnel.append(FunnelStep(step=step, removed=len(table) - len(kept), kept=len(kept)))
    return kept


def _capped(store: Store, table: pa.Table, config: SelectConfig, funnel: list[FunnelStep]) -> pa.Table:
    """At most `per_label` clips of each label, then `limit` in all, the first in order."""
    if config.per_label is not None:
        kept = table.take(_first_of_labels(store, table["key"], config.per_label))
        removed = len(table) - len(kept)
        funnel.append(FunnelStep(step=f"{config.per_label} per label", removed=removed, kept=len(kept)))
        table = kept
    if config.limit is not None:
        kept = table.slice(0, config.limit)
        removed = len(table) - len(kept)
        funnel.append(FunnelStep(step=f"limit of {config.limit}", removed=removed, kept=len(kept)))
        table = kept
    return table


def _first_of_labels(store: Store, keys: pa.ChunkedArray, most: int) -> pa.Array:
    """The positions of the clips of which no label has `most` clips before them. Clips without a label count
    as of one label of their own."""
    taken: Counter[str] = Counter()
    positions = []
    for position, labels in enumerate(
        PlanReader(store).values_of("labels", keys.combine_chunks()).to_pylist()
    ):
        own = set(labels or ()) or {""}
        if all(taken[label] < most for label in own):
            taken.update(own)
            positions.append(position)
    return pa.array(positions, pa.int64())


def _split(store: Store, table: pa.Table, config: SelectConfig) -> dict[str, pa.Table]:
    """The clips of each split, in order. Raises JobError where one has none."""
    if not config.split:
        return {}
    sources = PlanReader(store).values_of("source", table["key"].combine_chunks()).to_pylist()
    if config.by == "group":
        sources = joined_sources(sources, table["group"].to_numpy())
    numbers = by_source(sources, config.split, config.seed)
    parts = {name: table.filter(pa.array(numbers == i)) for i, name in enumerate(config.split)}
    for name, part in parts.items():
        if not len(part):
            raise JobError(
                f"split = {name}: none of the {len(set(sources)):,} sources or groups falls into it; another "
                f"seed or a larger share may give it some"
            )
    return parts
