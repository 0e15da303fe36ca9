"""The selections of an output, as their metadata describe them: query, funnel, digest."""

from __future__ import annotations

import re
from dataclasses import dataclass

from avprep.errors import ArgumentError
from avprep.shards.layout import SELECTIONS_FOLDER, ShardError
from avprep.shards.selection import read_selection
from avprep.shards.store import Store

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
    for file_name in store.names(SELECTIONS_FOLDER):
        name = file_name.removeprefix(f"{SELECTIONS_FOLDER}/").removesuffix(".parquet")
        try:
            table, header = read_selection(store, name)
        except (ArgumentError, ShardError) as error:
            damages.append(str(error))
            continue
        funnel = tuple((step.step, f"{step.kept:,}") for step in header.funnel)
        found.append(Selection(name, table.num_rows, header.query, header.digest, funnel))
    return found, damages
