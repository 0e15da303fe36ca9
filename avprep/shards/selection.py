"""selections/NAME.parquet: the keys of chosen clips in the order of the choice, and how they were chosen.

A selection is made of an output of clips. Latents made of those clips have the same keys: `find_selection`
finds it for both.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from avprep.errors import ArgumentError
from avprep.shards.layout import LATENTS, SELECTIONS_FOLDER, ShardError
from avprep.shards.parquet import opened_parquet
from avprep.shards.store import Store, is_remote, open_store

SCHEMA = pa.schema([("key", pa.string()), ("shard", pa.int32())])
MOST_ROWS = 1 << 28
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")
_REMEDY = "run avprep select again"


@dataclass(frozen=True, kw_only=True)
class FunnelStep:
    """What a step of a selection left of the clips before it."""

    step: str  # a term of the query, or what else removes clips
    removed: int
    undefined: int = 0  # of the removed: the column is null
    kept: int


@dataclass(frozen=True, kw_only=True)
class SelectionHeader:
    """How a selection was made, and of what."""

    query: str
    options: Mapping[str, object]  # order, seed, per_label, limit
    funnel: tuple[FunnelStep, ...]
    fingerprint: str  # of the output of clips
    digest: str  # SHA-256 of the set of keys: see `digest_of`


def digest_of(keys: Iterable[str]) -> str:
    """The SHA-256 of the keys, sorted, each with a line end: equal for equal sets, in any order."""
    digest = hashlib.sha256()
    for key in sorted(keys):
        digest.update(f"{key}\n".encode())
    return digest.hexdigest()


def selection_name(name: str) -> str:
    """The file of a selection. Raises ArgumentError for a name that could be a path."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ArgumentError(f"name must be of up to 64 letters, digits, '_' and '-', not {name!r}")
    return f"{SELECTIONS_FOLDER}/{name}.parquet"


def write_selection(store: Store, name: str, table: pa.Table, header: SelectionHeader) -> None:
    """Writes the file whole. `table` has the columns of SCHEMA."""
    metadata = {"selection": json.dumps(asdict(header))}
    with store.write(selection_name(name)) as file:
        pq.write_table(table.cast(SCHEMA).replace_schema_metadata(metadata), file)


def read_selection(store: Store, name: str) -> tuple[pa.Table, SelectionHeader]:
    """The chosen clips in order, and how they were chosen.

    Raises:
        ArgumentError: a name that could be a path.
        ShardError: there is no such selection, it is damaged, or its keys are not those of its digest.
    """
    file_name = selection_name(name)
    try:
        with opened_parquet(store, file_name, remedy=_REMEDY, most_rows=MOST_ROWS) as file:
            if not file.schema.equals(SCHEMA):
                raise ShardError(f"has the columns {file.columns()}, not those of a selection")
            header = _header(file.schema.metadata or {})
            table = file.read().replace_schema_metadata(None)
            keys = table["key"].to_pylist()
            if None in keys or len(set(keys)) < len(keys) or digest_of(keys) != header.digest:
                raise ShardError(f"is damaged: its keys are not those of its digest; {_REMEDY}")
    except FileNotFoundError:
        raise ShardError(f"{store.uri} holds no selection {name}") from None
    return table, header


def find_selection(store: Store, header: Mapping[str, Any], name: str) -> tuple[frozenset[str], str]:
    """The chosen keys of an output, and their digest.

    It is looked up in the output itself; for latents, then in the output of clips that they were encoded
    from, where `header` says that it lies. It may be copied from there into the latents' own folder.

    Args:
        header: of the output.

    Raises:
        ArgumentError: a name that could be a path.
        ShardError: there is no such selection, it is damaged, or it was made of other clips.
    """
    file_name = selection_name(name)
    fingerprint, places = header.get("fingerprint"), [store]
    if header.get("kind") == LATENTS:
        clips = header.get("clips")
        fingerprint = clips.get("fingerprint") if isinstance(clips, dict) else None
        root = header.get("root")
        # A header of a local output does not make this machine reach for another one.
        if fingerprint is not None and isinstance(root, str) and is_remote(root) <= is_remote(store.uri):
            places.append(open_store(root))
    place = next((place for place in places if place.exists(file_name)), None)
    if place is None:
        looked = " or ".join(place.uri for place in places)
        raise ShardError(f"there is no selection {name}: no {file_name} in {looked}")
    table, found = read_selection(place, name)
    if fingerprint not in (None, found.fingerprint):
        raise ShardError(
            f"{place.uri}/{file_name} was made of other clips than those of {store.uri} (fingerprint "
            f"{found.fingerprint[:12]}, not {str(fingerprint)[:12]}); {_REMEDY}"
        )
    return frozenset(table["key"].to_pylist()), found.digest


def _header(metadata: Mapping[bytes, bytes]) -> SelectionHeader:
    try:
        found = json.loads(metadata[b"selection"])
        found["funnel"] = tuple(FunnelStep(**step) for step in found["funnel"])
        return SelectionHeader(**found)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ShardError(f"is damaged: no header of a selection ({error}); {_REMEDY}") from error
