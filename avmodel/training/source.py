"""What a training learns from, as entries of its identity: the bytes of its shards, not only their number."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from avprep.shards.dataset import ClipDataset, LatentDataset
from avprep.shards.index import ShardIndex


def shards_identity(index: ShardIndex) -> dict[str, str]:
    """`keys`: a SHA-256 of the clips' keys. `shards`: one of the checksums that the ledgers give the shards,
    which cover everything in them: pictures, sound, latents, labels and captions.

    Both in the order of the shards. Damaged shards that the index leaves out count in neither.
    """
    return {
        "keys": _sha256(index.keys),
        "shards": _sha256(f"{record.name} {record.sha256}" for record in index.records),
    }


def choice_identity(data: ClipDataset | LatentDataset) -> dict[str, Any]:
    """Which clips are drawn, and how often. `selection`: the digest of each output's selection, or None where
    all clips are drawn. `shares`: of the outputs, or None where each clip is drawn once per epoch."""
    return {
        "selection": list(data.selections) or None,
        "shares": None if data.shares is None else list(data.shares),
    }


def file_identity(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(f"{line}\n".encode())
    return digest.hexdigest()
