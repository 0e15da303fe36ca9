"""Reading batches in a training run: the loader's shared memory, and what a failed loader raises."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from avmodel.data import PREFETCH, Steps
from avmodel.training.errors import LoaderError, TrainingError
from avprep.errors import AvprepError
from avprep.shards.index import ShardIndex
from avprep.shards.integrity import BackgroundCheck

SHARED_MEMORY = Path("/dev/shm")
Batch = TypeVar("Batch")


def check_shared_memory(sample: tuple, *, batch_size: int, batches: int, workers: int) -> None:
    """Loader processes hand their batches over in /dev/shm, which has 64 MB in a Docker container. If it is
    too small, they die or hang in the middle of the run, so it is checked before.

    Args:
        sample: one item of the data set, a tuple of tensors and other things.
        batches: the most that the run holds at a time, beside those read ahead.

    Raises:
        TrainingError: /dev/shm has too little room.
    """
    if not workers or not SHARED_MEMORY.is_dir():
        return
    size = sum(part.numel() * part.element_size() for part in sample if isinstance(part, Tensor))
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # on this machine
    needed = size * batch_size * (PREFETCH * workers + batches) * ranks
    free = shutil.disk_usage(SHARED_MEMORY).free
    if needed > free:
        raise TrainingError(
            f"loader_workers = {workers}: {SHARED_MEMORY} has {free / 1e6:,.0f} MB free, and the loader "
            f"needs up to {needed / 1e6:,.0f} MB there at batch size {batch_size}. Use `loader_workers` 0, a "
            f"smaller `batch_size`, or a container with more shared memory (Docker: shm-size)."
        )


def with_checksums(batches: Iterator[Batch], index: ShardIndex, steps: Steps) -> Generator[Batch, None, None]:
    """The batches, while a thread takes each shard's checksum once. The ranks share the shards. Nothing is
    taken if the index was made with all checksums.

    Args:
        batches: a DataLoader's iterator, whose processes have started: forking beside a thread may deadlock.
            They end with this generator.

    Raises:
        ShardError: a shard's bytes are not those written.
    """
    own = steps.share_of(0 if index.is_checked else len(index.paths))
    try:
        with BackgroundCheck([index.paths[i] for i in own], [index.records[i] for i in own]) as check:
            for batch in batches:
                check.raise_damage()
                yield batch
    finally:
        _end_processes(batches)


def _end_processes(batches: Iterator[Batch]) -> None:
    """Ends the loader processes. PyTorch does so when the iterator is freed; but while a traceback holds it,
    the interpreter's exit waits for them forever, because they ignore SIGTERM."""
    shut_down = getattr(batches, "_shutdown_workers", None)  # none if this process reads
    if shut_down is not None:
        shut_down()


@contextmanager
def reading(workers: int) -> Iterator[None]:
    """Around the reading of batches.

    Raises:
        LoaderError: a shard is damaged, or a loader process has died. Faults of the program stay as they are.
    """
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:  # the last two: what it had sent is gone too
        if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker"):
            raise
        raise LoaderError(
            f"loader_workers = {workers}: a process that reads the data has died ({_first_line(error)}). The "
            f"steps done so far are saved; run the same command again to resume."
        ) from error
    except (AvprepError, OSError) as error:
        raise LoaderError(f"the data cannot be read: {_last_line(error)}") from error


def leave_dead_processes_to_the_next_read() -> None:
    """Removes the signal handler that PyTorch installed with the loader.

    It raises as soon as a loader process dies, in the middle of whatever runs: an optimizer step, for
    example, whose state could not be saved then. Without it, the next read finds the dead process.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(". ")


def _last_line(error: Exception) -> str:
    """The message alone: what a loader process raises comes with its traceback before it."""
    text = str(error)
    if not text.startswith("Caught "):
        return text
    return text.splitlines()[-1].partition(": ")[2] or text.splitlines()[-1]
