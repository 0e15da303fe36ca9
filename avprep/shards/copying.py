"""Files of one output in another: linked where both lie on one file system, else copied."""

from __future__ import annotations

import os

from avprep.shards.integrity import HashingReader, content_damage
from avprep.shards.layout import ShardError
from avprep.shards.ledger import ShardRecord
from avprep.shards.store import LocalStore, Store
from avprep.shards.whole import whole_path

_CHUNK = 1 << 20  # bytes


def link_or_copy(source: Store, name: str, target: Store, new_name: str) -> str | None:
    """Links a file, which is then on the disk once; where that cannot be, copies it. Nothing of this project
    changes a finished file in place, so that neither output can change the other's.

    Returns:
        The SHA-256 of what was copied, in hex; None where it was linked.
    """
    if isinstance(source, LocalStore) and isinstance(target, LocalStore):
        path = target.root / new_name
        path.parent.mkdir(exist_ok=True)
        try:
            with whole_path(path) as temporary:
                os.link(source.root / name, temporary)
            return None
        except OSError:
            pass  # another file system, or one without links
    with source.open(name) as theirs, target.write(new_name) as ours:
        reader = HashingReader(theirs)
        while data := reader.read(_CHUNK):
            ours.write(data)
        return reader.sha256()


def bring_shard(source: Store, record: ShardRecord, target: Store, new_name: str) -> bool:
    """As `link_or_copy`, of a shard's tar. Returns whether it was linked.

    Raises:
        ShardError: what was copied is not what the ledger describes. A link is not read.
    """
    copied = link_or_copy(source, record.name, target, new_name)
    damage = None if copied is None else content_damage(record, copied)
    if damage is not None:
        target.remove(new_name)
        raise ShardError(f"{source.uri}/{damage}")
    return copied is None
