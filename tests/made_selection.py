"""Selections as `avprep select` writes them, of keys that a test names."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from avprep.shards.layout import read_header
from avprep.shards.selection import SelectionHeader, digest_of, write_selection
from avprep.shards.store import open_store


def write_keys(out: Path, keys: Iterable[str], *, name: str = "some", fingerprint: str | None = None) -> str:
    """Writes a selection of an output. Returns its digest.

    Args:
        fingerprint: of the clips that it was made of; None: the output's own.
    """
    keys, store = list(keys), open_store(out)
    header = SelectionHeader(
        query="",
        options={},
        funnel=(),
        fingerprint=read_header(store)["fingerprint"] if fingerprint is None else fingerprint,
        digest=digest_of(keys),
    )
    columns = {"key": pa.array(keys, pa.string()), "shard": pa.array([0] * len(keys), pa.int32())}
    write_selection(store, name, pa.table(columns), header)
    return header.digest
