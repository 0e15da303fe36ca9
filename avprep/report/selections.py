"""The selections of an output, as their metadata describe them: query, funnel, digest."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from avprep.shards.layout import ShardError
from avprep.shards.store import Store

SELECTIONS_FOLDER = "selections"
_NUMBER = r"-?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_TERM = re.compile(rf"([A-Za-z_]\w*)\s*(?:<=|>=|==|<|>)\s*({_NUMBER})")
_REVERSED = re.compile(rf"({_NUMBER})\s*(?:<=|>=|==|<|>)\s*([A-Za-z_]\w*)")


@dataclass(frozen=True)
class Selection:
    name: str
    clips: int
    query: str
    digest: str
    funnel: tuple[tuple[str, str], ...]  # what was done, and the clips that were left or removed

    def thresholds(self) -> dict[str, list[float]]:
        """Column to the numbers that the query compares it with."""
        found: dict[str, list[float]] = {}
        for name, number in _TERM.findall(self.query):
            found.setdefault(name, []).append(float(number))
        for number, name in _REVERSED.findall(self.query):
            found.setdefault(name, []).append(float(number))
        return found


def read_selections(store: Store) -> tuple[list[Selection], list[str]]:
    """The selections of an output, and what is wrong with those that cannot be read."""
    found, damages = [], []
    for name in store.names(SELECTIONS_FOLDER):
        if not name.endswith(".parquet"):
            continue
        try:
            found.append(_read(store, name))
        except ShardError as error:
            damages.append(str(error))
    return found, damages


def _read(store: Store, name: str) -> Selection:
    try:
        with store.open(name) as file:
            parquet = pq.ParquetFile(file, pre_buffer=False)
            entries = parquet.schema_arrow.metadata or {}
            rows = parquet.metadata.num_rows
        texts = {key.decode(): value.decode() for key, value in entries.items()}
        funnel = tuple(_steps(json.loads(texts.get("funnel", "[]"))))
    except (pa.ArrowException, OSError, ValueError, RecursionError) as error:
        raise ShardError(f"{name} is damaged: {error}") from error
    stem = name.removeprefix(f"{SELECTIONS_FOLDER}/").removesuffix(".parquet")
    return Selection(stem, rows, texts.get("query", ""), texts.get("digest", ""), funnel)


def _steps(funnel: object) -> list[tuple[str, str]]:
    """(step, figures) of a funnel: a mapping, or a list of pairs or of objects."""
    steps = list(funnel.items()) if isinstance(funnel, dict) else funnel
    if not isinstance(steps, list):
        raise ValueError(f"a funnel that is a {type(funnel).__name__}")
    rows = []
    for step in steps:
        values = list(step.values()) if isinstance(step, dict) else step
        first, *rest = values if isinstance(values, list | tuple) and values else [values]
        rows.append((str(first), ", ".join(map(str, rest))))
    return rows
