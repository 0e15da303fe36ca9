"""A folder with a result file per clip: one run writes at a time, and a file is whole or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from avprep.shards.lock import lock
from avprep.shards.store import LocalStore


@contextmanager
def result_folder(out: Path, suffix: str) -> Iterator[None]:
    """Makes the folder, holds its lock, and removes what a killed run had begun to write.

    Args:
        suffix: of the result files, with its dot.

    Raises:
        OutputInUse: another run writes there.
    """
    with lock(LocalStore(str(out)), sweeps=False):  # the folder may hold temporary files of others
        for begun in out.glob(f".*{suffix}.begun"):
            begun.unlink(missing_ok=True)
        yield


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A name to write under; the file gets its own at the end of the block, if that ends well."""
    begun = path.with_name(f".{path.name}.begun")
    try:
        yield begun
        os.replace(begun, path)
    except BaseException:
        begun.unlink(missing_ok=True)
        raise
