"""Whether a shard's file is the one that its ledger describes."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import BinaryIO

from avprep.shards.layout import SHARDS_FOLDER, ShardError, ledger_name
from avprep.shards.ledger import ShardRecord, finished_shards, read_record
from avprep.shards.store import Store

_CHUNK = 1 << 20  # bytes
_SHARE = 0.05  # of the time that the background check is busy


def sha256_of(file: BinaryIO) -> str:
    """The SHA-256 of the rest of a file, in hex."""
    digest = hashlib.sha256()
    while data := file.read(_CHUNK):
        digest.update(data)
    return digest.hexdigest()


class HashingReader:
    """A file for a tar to read, and the SHA-256 of all of it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._hash.update(data)
        return data

    def sha256(self) -> str:
        while self.read(1 << 20):
            continue
        return self._hash.hexdigest()


def size_damage(record: ShardRecord, size: int | None) -> str | None:
    """What is wrong with a shard whose file has `size` bytes (None: there is none); None where nothing is."""
    if size is None:
        return f"{record.name} is not there, though its ledger says it is whole"
    if size != record.size:
        return f"{record.name} has {size:,} bytes, not the {record.size:,} its ledger says"
    return None


def content_damage(record: ShardRecord, sha256: str) -> str | None:
    """What is wrong with a shard whose bytes have this SHA-256; None where nothing is."""
    if sha256 == record.sha256:
        return None
    return f"{record.name}: its bytes are not those written (SHA-256 {sha256[:12]}, not {record.sha256[:12]})"


def damage_of(path: str, record: ShardRecord) -> str | None:
    """What is wrong with the bytes of a local shard, all of which are read; None where nothing is."""
    with open(path, "rb", buffering=0) as file:
        return content_damage(record, sha256_of(file))


class BackgroundCheck:
    """Takes the checksum of each shard once while others read them, on a thread of its own.

    It is busy for `share` of the time, so that readers keep the processor and the disk: at 1 GB/s and 5 %,
    a dataset of 100 GB takes about half an hour.

        with BackgroundCheck(paths, records) as check:
            for batch in batches:
                check.raise_damage()
    """

    def __init__(
        self, paths: Sequence[str], records: Sequence[ShardRecord], *, share: float = _SHARE
    ) -> None:
        self._shards, self._pause = list(zip(paths, records, strict=True)), 1 / share - 1
        self._stop, self._damage = threading.Event(), ""
        self.checked = 0  # shards found whole so far
        self._thread = threading.Thread(target=self._run, name="shard-check", daemon=True)

    def raise_damage(self) -> None:
        """Raises ShardError once a shard was found that is not as its ledger says."""
        if self._damage:
            raise ShardError(self._damage)

    def wait(self) -> None:
        """Returns when every shard was looked at, or one was found damaged."""
        self._thread.join()

    def __enter__(self) -> BackgroundCheck:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        for path, record in self._shards:
            try:
                digest = self._sha256_of(path)
            except OSError as error:
                self._damage = f"{path} cannot be read: {error.strerror}"
                return
            if digest is None:
                return
            damage = content_damage(record, digest)
            if damage is not None:
                self._damage = f"{path.removesuffix(record.name)}{damage}"
                return
            self.checked += 1

    def _sha256_of(self, path: str) -> str | None:
        """None where the check was ended meanwhile."""
        digest = hashlib.sha256()
        with open(path, "rb", buffering=0) as file:
            while True:
                started = time.perf_counter()
                data = file.read(_CHUNK)
                if not data:
                    return digest.hexdigest()
                digest.update(data)
                if self._stop.wait((time.perf_counter() - started) * self._pause):
                    return None


def forget_damaged(store: Store) -> list[str]:
    """Removes the ledger of each shard whose file is missing or has another size, so that the next run makes
    it again. Only sizes are looked at: a resumed run must not read all that was written.

    The caller holds the output's lock.

    Returns:
        What was wrong with each, to be shown.
    """
    sizes, found = store.sizes(SHARDS_FOLDER), []
    for index in finished_shards(store):
        record = read_record(store, index)
        damage = size_damage(record, sizes.get(record.name)) if record.name else None
        if damage is not None:
            store.remove(ledger_name(index))
            found.append(damage)
    return found
