"""Files that appear whole or not at all: written under a temporary name, then renamed.

Every temporary file of this project on a local disk is called `.NAME.PID.tmp`, and lies beside the file
that it becomes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_TEMPORARY = re.compile(r"\..+\.[0-9]{1,10}\.tmp")


@contextmanager
def whole_path(path: Path) -> Iterator[Path]:
    """A temporary name to write under, for libraries that open files themselves. What was written there is
    fsynced and gets the name `path` when the block ends well; otherwise what stands at `path` is kept.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        _fsync(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _fsync(path.parent)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """As `whole_path`, with the file open for writing."""
    with whole_path(path) as temporary, open(temporary, "wb") as file:
        yield file


def remove_temporary(folder: Path) -> None:
    """Removes the temporary files that killed runs left in a folder, and no other file. The caller holds the
    lock of the output: nothing else writes there."""
    try:
        with os.scandir(folder) as entries:
            begun = [e.path for e in entries if is_temporary(e.name) and e.is_file(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return
    for path in begun:
        Path(path).unlink(missing_ok=True)


def is_temporary(name: str) -> bool:
    """Whether a file's name is that of a file which is being written, or was when its process was killed."""
    return _TEMPORARY.fullmatch(name) is not None


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
