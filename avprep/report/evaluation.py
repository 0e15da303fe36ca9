"""Evaluation tables: the CSV files that an evaluation leaves beside an output or a model."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass

from avprep.shards.store import Store

_LARGEST = 1 << 20  # bytes
_MOST_ROWS, _MOST_COLUMNS = 60, 24


@dataclass(frozen=True)
class Table:
    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def read_tables(store: Store, folders: tuple[str, ...], on_damage: Callable[[str], None]) -> list[Table]:
    """The CSV tables in these folders of a store; a file that is no table goes to `on_damage`."""
    tables = []
    for folder in folders:
        for listed in store.names(folder):
            name = listed.lstrip("/")  # of the output's own folder
            if not name.endswith(".csv"):
                continue
            try:
                tables.append(_read(store, name))
            except (ValueError, csv.Error, OSError) as error:
                on_damage(f"{name} is no table: {error}")
    return tables


def _read(store: Store, name: str) -> Table:
    with store.open(name) as file:
        data = file.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise ValueError(f"it has more than {_LARGEST:,} bytes")
    rows = [tuple(row[:_MOST_COLUMNS]) for row in csv.reader(io.StringIO(data.decode())) if row]
    if not rows:
        raise ValueError("it is empty")
    return Table(name, rows[0], tuple(rows[1 : _MOST_ROWS + 1]))
