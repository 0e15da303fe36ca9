"""An output as every job holds it: locked, begun once, gone on with only as it was begun.

To resume, run the same command again: what decides the bytes is in spec.json and must be the same; the plan
is kept; a shard whose ledger is there is done.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from avprep.credentials import require_no_credentials
from avprep.errors import ArgumentError, AvprepError
from avprep.shards.layout import (
    CUTS_FOLDER,
    HEADER_FILE,
    LEDGER_FOLDER,
    OUTPUT_FILES,
    SHARDS_FOLDER,
    fingerprint_of,
    kind_of,
    read_header,
)
from avprep.shards.store import Store, is_remote
from avprep.shards.writer import write_header
from avprep.signals import StopSignal, stop_on_signal

REBUILDING = "rebuilding"  # of spec.json: a rebuild was begun and is not at its end yet
# Of spec.json, not compared: the inputs may move between runs, a batch size and a device are found by trying,
# and a rebuild ends.
_REMEMBERED = ("fingerprint", "root", "roots", "batch_size", "device", REBUILDING)


def absolute(name: str, uri: str | os.PathLike[str]) -> str:
    """An output's place, as workers find it that run in another folder. `name`: of the argument.

    Raises:
        ArgumentError: no place is named, or one with credentials.
    """
    require_no_credentials(name, uri)
    if not isinstance(uri, (str, os.PathLike)) or not os.fspath(uri).strip():
        raise ArgumentError(f"{name} must name a folder, not {uri!r}")
    return os.fspath(uri) if is_remote(os.fspath(uri)) else os.path.abspath(uri)


def require_apart(out: str | os.PathLike[str], root: Path) -> None:
    """Checks that an output and the media's folder do not lie in each other: a rebuild could remove media,
    and the next listing could take the output for media.

    Raises:
        ArgumentError: they do, or no output is named.
    """
    place = absolute("out", out)
    if is_remote(place):
        return
    ours, theirs = Path(place).resolve(), root.resolve()
    if ours.is_relative_to(theirs) or theirs.is_relative_to(ours):
        how = "is" if ours == theirs else "lies in" if ours.is_relative_to(theirs) else "holds"
        raise ArgumentError(f"out = {os.fspath(out)}: it {how} root={root}; give a folder beside it")


class JobError(AvprepError):
    """The job cannot be begun, or cannot go on."""


class Stopped(AvprepError):
    """A signal asked the job to stop; what was in hand is finished, or dropped at the second signal."""

    def __init__(self, signal_number: int, *, is_dropped: bool = False) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number
        self.is_dropped = is_dropped

    def __str__(self) -> str:
        in_hand = "dropped" if self.is_dropped else "finished"
        return f"stopped by {signal.Signals(self.signal_number).name}; the shards in hand are {in_hand}"


class Stop:
    """Whether a signal has asked to stop."""

    def __init__(self, asked: StopSignal) -> None:
        self._signal = asked

    def __call__(self) -> bool:
        return bool(self._signal)

    def check(self) -> None:
        """Raises Stopped where one has."""
        if self._signal.number is not None:
            raise Stopped(self._signal.number)


@contextmanager
def stopping_in_order() -> Iterator[Stop]:
    """The first SIGINT or SIGTERM lets the shards in hand finish; at the second they are dropped.

    Raises:
        Stopped: at the second signal.
    """
    with stop_on_signal() as asked:
        try:
            yield Stop(asked)
        except KeyboardInterrupt:
            if asked.number is None:
                raise
            raise Stopped(asked.number, is_dropped=True) from None


def open_output(store: Store, header: dict[str, Any], *, root: str, rebuild: bool) -> str:
    """Checks an output that was begun, or begins one. Returns the fingerprint.

    Args:
        header: spec.json without what is only remembered: everything that decides the shards' bytes.
        root: where the inputs lie, remembered for `status`.
        rebuild: what is there is removed first. A rebuild that was interrupted goes on, with this argument
            and without it.

    Raises:
        JobError: it was begun with another header, or is not this tool's.
    """
    header = json.loads(json.dumps(header))  # as it is read back
    fingerprint = fingerprint_of(header)
    begun = store.exists(HEADER_FILE)
    if begun:
        found = read_header(store)
        _require_kind(store, found, header)
        if not rebuild:
            _refuse_differences(store, found, header)
            return fingerprint
        if found.get(REBUILDING) and found["fingerprint"] == fingerprint:
            return fingerprint
    elif store.names(LEDGER_FOLDER):
        raise JobError(f"out = {store.uri}: it holds a ledger and no spec.json; it is no output of avprep")
    _clear(store)
    entries = {"fingerprint": fingerprint, "root": root}
    write_header(store, header | entries | ({REBUILDING: True} if rebuild else {}))
    return fingerprint


def require_same(store: Store, header: dict[str, Any]) -> None:
    """Raises JobError where an output that is there was begun with another header: a run would refuse it."""
    found = read_header(store)
    _require_kind(store, found, header)
    _refuse_differences(store, found, json.loads(json.dumps(header)))


def end_rebuild(store: Store) -> None:
    """All shards are there: the next rebuild starts over again."""
    header = read_header(store)
    if header.pop(REBUILDING, False):
        write_header(store, header)


def _clear(store: Store) -> None:
    """What a rebuild starts from: ledgers first, so that no shard ever looks whole that is not."""
    folders = (LEDGER_FOLDER, SHARDS_FOLDER, CUTS_FOLDER)
    for name in [*chain.from_iterable(map(store.names, folders)), *OUTPUT_FILES]:
        store.remove(name)


def _require_kind(store: Store, found: dict[str, Any], header: dict[str, Any]) -> None:
    if kind_of(found) != kind_of(header):
        raise JobError(
            f"out = {store.uri}: it holds {kind_of(found)}, not {kind_of(header)}; give another folder"
        )


def _refuse_differences(store: Store, found: dict[str, Any], header: dict[str, Any]) -> None:
    found = {name: value for name, value in found.items() if name not in _REMEMBERED}
    for field_name, then, now in _differences(found, header):
        raise JobError(
            f"out = {store.uri}: it was begun with {field_name} = {then!r}; this run has {now!r}. "
            f"Give the same value to go on, another folder to keep both, or rebuild=True to start over."
        )


def _differences(then: dict, now: dict, prefix: str = "") -> Iterator[tuple[str, object, object]]:
    # The spec first: other fields follow from it; what a checkpoint is last: its weights name it.
    first = ("format", "spec", "options", "clips", "weights")
    for key in sorted({*then, *now}, key=lambda k: (first.index(k) if k in first else len(first), k)):
        a, b = then.get(key), now.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            yield f"{prefix}{key}", a, b
