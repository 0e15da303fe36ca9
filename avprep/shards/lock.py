"""The lock of an output: one run writes into it at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from avprep.shards.layout import ShardError
from avprep.shards.store import LocalStore, Store

NAME = ".lock"
_WAIT_S, _POLL_S = 2.0, 0.02
_WAIT_FOR_CHILDREN_S = 30.0  # PyTorch's data loaders notice within 5 s that their parent is gone


class OutputInUse(ShardError):
    """Another run writes into the output: the message names its process."""


@contextmanager
def lock(store: Store) -> Iterator[None]:
    """Holds the lock of a local output, which ends with its process, however that ends. Temporary files that
    lost writers left are removed. An object store offers no lock: there only stale ones are removed.

    Raises:
        OutputInUse: another run holds it.
        OSError: at the end of the block: another folder stands in the place of the one that was locked.
    """
    if not isinstance(store, LocalStore):
        store.sweep()
        yield
        return
    store.root.mkdir(parents=True, exist_ok=True)
    with open(store.root / NAME, "a+") as file:
        if not _locked(file):
            holder = _holder(file) or "another process"
            raise OutputInUse(f"{store.uri}: {holder} is writing there; wait for it or stop it")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {os.uname().nodename}")
        file.flush()
        store.sweep()
        yield
        _require_same(file, store.root)
        store.sweep()  # what workers that were lost had begun
        file.truncate(0)


def _require_same(file: TextIO, root: Path) -> None:
    """What was written before an output vanished (a disk that went and came back) is not in the folder that
    has its place now: the run must not end as if it were."""
    path = root / NAME
    if not path.exists() or not os.path.samestat(path.stat(), os.fstat(file.fileno())):
        said = "it is not the folder that this run began to write into; run the same command again"
        raise FileNotFoundError(errno.ENOENT, said, str(root))


def _locked(file: TextIO) -> bool:
    """Takes the lock. It is inherited by child processes: those of a killed run hold it until they have ended
    too, which is waited for."""
    began = time.monotonic()
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            limit = _WAIT_FOR_CHILDREN_S if _is_gone(_holder(file)) else _WAIT_S
            if time.monotonic() - began > limit:
                return False
            time.sleep(_POLL_S)


def _holder(file: TextIO) -> str:
    """'process PID on HOST', or '' where no run holds the lock."""
    file.seek(0)
    return file.read().strip()


def _is_gone(holder: str) -> bool:
    """Whether the holder is a process of this machine that has ended."""
    words = holder.split()
    if len(words) != 4 or not words[1].isdigit() or words[3] != os.uname().nodename:
        return False
    return not os.path.exists(f"/proc/{words[1]}")
