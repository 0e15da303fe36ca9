"""One way to write an output: the header, the plan, each shard's tar and then its ledger.

A shard is written whole or not at all, its ledger last. Equal clips give equal bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import IO, Any, BinaryIO, cast

from avprep.seconds import Seconds
from avprep.shards.layout import HEADER_FILE, STATS_FILE, Kind, ShardError, ledger_name, shard_name
from avprep.shards.ledger import LedgerRow, ShardRecord, read_record, write_ledger
from avprep.shards.plan import PlanRow, write_plan
from avprep.shards.store import Store
from avprep.shards.tar import Members


class ShardWriter:
    """Writes clips in the order given (ascending keys); counts the bytes and their SHA-256 on the way."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.size = 0
        self._last_key = ""
        self._tar = tarfile.open(fileobj=cast(IO[bytes], self), mode="w|", format=tarfile.USTAR_FORMAT)

    def write(self, data: bytes) -> int:
        """What the tar writes to: the file and the checksum."""
        if self._file.closed:
            return len(data)  # the shard was given up, and its tar ends when it is collected
        self._hash.update(data)
        self.size += len(data)
        self._file.write(data)
        return len(data)

    def add(self, key: str, members: Members) -> None:
        if key <= self._last_key:
            raise ShardError(f"clip {key} comes after {self._last_key}: keys must ascend")
        self._last_key = key
        for suffix, data in members.items():
            entry = tarfile.TarInfo(f"{key}.{suffix}")
            entry.size, entry.mtime, entry.mode = len(data), 0, 0o644
            self._tar.addfile(entry, io.BytesIO(data))

    def close(self) -> str:
        """Ends the tar. Returns the SHA-256 of the whole file, in hex."""
        self._tar.close()
        return self._hash.hexdigest()


def write_header(store: Store, header: dict[str, Any]) -> None:
    with store.write(HEADER_FILE) as file:
        file.write(json.dumps(header, indent=2, sort_keys=True).encode())


def write_stats(store: Store, stats: dict[str, Any]) -> None:
    with store.write(STATS_FILE) as file:
        file.write(json.dumps(stats, indent=2, ensure_ascii=False).encode())


def write_shard(
    store: Store,
    name: str,
    index: int,
    clips: Iterator[tuple[str, Members]],
    fingerprint: str,
    seconds: Seconds,
    replaces: ShardRecord | None = None,
) -> ShardRecord:
    """Writes a shard's tar of (key, files), ascending; none at all where there is no clip.

    The caller writes the ledger after it. Where this shard `replaces` another one, whose clips differ, the
    other's ledger is removed before its tar: at no moment does a ledger stand beside a tar that it does not
    describe. What writing takes is added to `seconds`.
    """
    first = next(clips, None)
    if first is None:
        _remove_ledger(store, index, replaces)
        store.remove(name)
        return ShardRecord("", "", 0, fingerprint)
    with store.write(name) as file:
        writer = ShardWriter(file)
        writer.add(*first)
        for key, members in clips:
            with seconds.measure("write"):
                writer.add(key, members)
        digest = writer.close()
        _remove_ledger(store, index, replaces)
    return ShardRecord(name, digest, writer.size, fingerprint)


def _remove_ledger(store: Store, index: int, replaced: ShardRecord | None) -> None:
    """Removes the replaced shard's ledger only: a worker may outlive the run that was killed, and meet the
    ledger of the next run."""
    if replaced is None or not store.exists(ledger_name(index)):
        return
    if read_record(store, index).sha256 == replaced.sha256:
        store.remove(ledger_name(index))


class OutputWriter:
    """Writes a new output whose clips are known before the first is written: samples of a model, and what
    tests are made of. Jobs, which plan and resume, write the same files by the functions above.

        writer = OutputWriter(store, CLIPS, header, fingerprint="made", root=".")
        writer.plan([[row, row], [row]])
        writer.shard(0, [members, members], sample_rate=16000)
        writer.shard(1, [members], sample_rate=16000)
    """

    def __init__(
        self, store: Store, kind: Kind, header: dict[str, Any], *, fingerprint: str, root: str
    ) -> None:
        self._store, self._kind, self._fingerprint = store, kind, fingerprint
        self._shards: list[list[PlanRow]] = []
        write_header(store, header | {"fingerprint": fingerprint, "root": root})

    def plan(self, shards: Iterable[list[PlanRow]]) -> None:
        """Writes the plan: the clips of each shard, keys ascending."""
        self._shards = [list(rows) for rows in shards]
        write_plan(self._store, self._shards)

    def shard(
        self,
        index: int,
        clips: Iterable[Members],
        *,
        sample_rate: int,
        entries: Callable[[], dict[str, str]] = dict,
    ) -> None:
        """Writes a shard of the plan, all of its clips written, and its ledger.

        Args:
            clips: the files of each clip of the plan's shard, in its order.
            sample_rate: of the plan's starts.
            entries: what the shard's kind adds to its ledger, asked for when all clips are written.
        """
        planned = self._shards[index]
        named = ((row.key, members) for row, members in zip(planned, clips, strict=True))
        name = shard_name(self._kind, index)
        record = write_shard(self._store, name, index, named, self._fingerprint, Seconds())
        rows = [
            LedgerRow(
                key=row.key,
                shard=index,
                source=row.source,
                start_s=row.start / sample_rate,
                status="written",
                residual_ms=0.0,
            )
            for row in planned
        ]
        write_ledger(self._store, index, rows, replace(record, extra=entries()))

    def stats(self, stats: dict[str, Any]) -> None:
        write_stats(self._store, stats)
