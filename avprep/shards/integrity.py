"""Whether a shard's file is the one that its ledger describes."""

from __future__ import annotations

import hashlib
from typing import BinaryIO

from avprep.shards.layout import SHARDS_FOLDER, ledger_name
from avprep.shards.ledger import ShardRecord, finished_shards, read_record
from avprep.shards.store import Store

_CHUNK = 1 << 20  # bytes


def sha256_of(file: BinaryIO) -> str:
    """The SHA-256 of the rest of a file, in hex."""
    digest = hashlib.sha256()
    while data := file.read(_CHUNK):
        digest.update(data)
    return digest.hexdigest()


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
