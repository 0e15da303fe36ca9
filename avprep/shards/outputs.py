"""Finished outputs as readers open them: one, or several that go together; all of their clips or some."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from avprep.errors import ArgumentError
from avprep.shards.damage import ON_DAMAGE, OnDamage
from avprep.shards.index import ShardIndex, index_shards, join_indexes
from avprep.shards.latents import EncoderHeader
from avprep.shards.layout import LATENTS, Kind, ShardError, kind_of, read_header, spec_of
from avprep.shards.ledger import finished_shards, read_columns
from avprep.shards.selection import find_selection
from avprep.shards.store import Store, open_store
from avprep.shards.tar import largest_clip, largest_latent

Place = str | os.PathLike[str]
Places = Place | Sequence[Place]  # of one output, or of several


@dataclass(frozen=True)
class Output:
    """An output's place and header."""

    store: Store
    header: dict[str, Any]

    @property
    def largest(self) -> int:
        """Bytes that the files of one clip may have."""
        if kind_of(self.header) == LATENTS:
            return largest_latent(EncoderHeader.from_dict(self.header).shape)
        return largest_clip(spec_of(self.header))


def open_outputs(out: Places, kind: Kind | None) -> tuple[Output, ...]:
    """The outputs, whose clips can be taken for those of one.

    Raises:
        ArgumentError: no output, or one that is named twice.
        ShardError: one is none, is of another kind, or differs from the first in what a clip is; the message
            names the fields.
    """
    places = [os.fspath(place) for place in ([out] if isinstance(out, (str, os.PathLike)) else out)]
    if not places:
        raise ArgumentError("out must name at least one output")
    outputs = tuple(Output(open_store(place), header_of(place, kind)) for place in places)
    uris = [output.store.uri.rstrip("/") for output in outputs]
    for uri in uris:
        if uris.count(uri) > 1:
            raise ArgumentError(f"out = {uri}: the same output is named {uris.count(uri)} times")
    for output in outputs[1:]:
        require_same_clips(outputs[0], output)
    return outputs


def header_of(out: Place, kind: Kind | None) -> dict[str, Any]:
    """spec.json of an output. Raises ShardError where there is none or it is of another kind."""
    header = read_header(open_store(out))
    found = kind_of(header)
    if kind is not None and found != kind:
        made_by = "avprep encode" if kind == LATENTS else "avprep clip"
        raise ShardError(f"{os.fspath(out)} holds {found}, not {kind}: {made_by} makes them")
    return header


def require_same_clips(first: Output, other: Output) -> None:
    """Raises ShardError where a clip of one is not what a clip of the other is, naming the fields."""
    kinds = [kind_of(output.header) for output in (first, other)]
    if kinds[0] != kinds[1]:
        raise ShardError(f"{first.store.uri} holds {kinds[0]}, and {other.store.uri} {kinds[1]}")
    differing = spec_of(other.header).differences(spec_of(first.header))
    if not differing and kinds[0] == LATENTS:
        differing = _differing(*(EncoderHeader.from_dict(output.header) for output in (other, first)))
    if differing:
        raise ShardError(
            f"{other.store.uri} and {first.store.uri} do not go together: the first has {differing}"
        )


def _differing(found: EncoderHeader, wanted: EncoderHeader) -> str:
    """What differs between two encoders; '' where nothing does."""
    names = ("weights", "channels", "planes", "rows", "columns", "valid_rows")
    pairs = [(name, getattr(found, name), getattr(wanted, name)) for name in names]
    return ", ".join(f"{name} = {_short(a)}, not {_short(b)}" for name, a, b in pairs if a != b)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."


@dataclass(frozen=True)
class Chosen:
    """The clips that are read of some outputs."""

    index: ShardIndex
    selections: tuple[str, ...]  # the digest of each output's selection; () where all clips are read


def choose_clips(outputs: Sequence[Output], *, select: str | None, on_damage: OnDamage) -> Chosen:
    """The finished clips of the outputs; with `select`, those of each output's selection of that name.

    Raises:
        ArgumentError: an unknown `on_damage`, or a name that could be a path.
        ShardError: as `index_shards`; equal keys in two outputs; no such selection, or one with clips that
            the output does not hold.
    """
    if on_damage not in ON_DAMAGE:
        raise ArgumentError(f"on_damage must be one of {', '.join(ON_DAMAGE)}, not {on_damage!r}")
    indexes, digests = [], []
    for output in outputs:
        index = index_shards(output.store, largest=output.largest, on_damage=on_damage)
        if select is not None:
            keys, digest = find_selection(output.store, output.header, select)
            index = _selected(output.store, index, select, keys)
            digests.append(digest)
        indexes.append(index)
    return Chosen(join_indexes(indexes), tuple(digests))


def _selected(store: Store, index: ShardIndex, name: str, keys: frozenset[str]) -> ShardIndex:
    chosen = np.flatnonzero([key in keys for key in index.keys])
    if len(chosen) < len(keys) and not index.left_out:
        require_ledger_rows(store, name, keys.difference(index.keys))
    if not len(chosen):
        raise ShardError(f"{store.uri} holds no clip of selection {name}")
    return index.subset(chosen)


def require_ledger_rows(store: Store, name: str, keys: frozenset[str]) -> None:
    """Checks that these clips of selection `name` have rows in the ledger. A row may say why the clip is not
    written: an encoder may have failed on it.

    Raises:
        ShardError: one has none: it is not finished, or was never planned.
    """
    unknown = set(keys)
    for index in finished_shards(store):
        unknown.difference_update(read_columns(store, index, "key")["key"].to_pylist())
    if unknown:
        raise ShardError(
            f"{store.uri} lacks {len(unknown):,} clips of selection {name}, such as {min(unknown)}: they are "
            f"not finished there, or of other sources"
        )
