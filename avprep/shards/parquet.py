"""Parquet files of an output, read without trust."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from avprep.shards.layout import ShardError
from avprep.shards.store import Store


@contextmanager
def opened_parquet(store: Store, name: str, *, remedy: str) -> Iterator[pq.ParquetFile]:
    """The file, for reading in the block. ShardErrors that the block raises get the file's name.

    Args:
        remedy: what to do about a damaged file, for the message.

    Raises:
        ShardError: the file is damaged.
        OSError: it cannot be opened.
    """
    try:
        with store.open(name) as file:
            yield pq.ParquetFile(file, pre_buffer=False)
    except ShardError as error:
        raise ShardError(f"{store.uri}/{name} {error}") from error
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the machine's; Arrow's own OSErrors, of damaged files, have no number
        raise ShardError(f"{store.uri}/{name} is damaged ({error}); {remedy}") from error
