"""The table of an evaluation, printed and written.

In OUT: evaluation.json (everything that decides the numbers, and the numbers), evaluation.csv (the table,
which `avprep report` shows too) and evaluation.md.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from avmodel.evaluate.published import PublishedRow, missing_note
from avprep.shards.store import whole_file

COLUMNS = (
    "metric",
    "side",
    "value",
    "95 % interval",
    "seeds",
    "clips",
    "better",
    "features",
    "protocol",
    "note",
)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One number, or why there is none."""

    metric: str
    side: str  # 'generated', 'reference' or 'both'
    value: float | None  # None: not computed; `note` says why
    low: float | None = None  # of the interval over clips; None: not computed
    high: float | None = None
    per_seed: tuple[float, ...] = ()
    clips: str = ""
    better: str = ""  # 'lower', 'higher', or '' where neither is
    features: str = ""  # the network and the first digits of its file's SHA-256
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was measured, under which protocol, and of what."""

    protocol: str  # for people
    described: dict[str, Any]  # everything that decides the numbers, for evaluation.json
    measurements: tuple[Measurement, ...]
    warnings: tuple[str, ...] = ()
    table: int | None = None  # of the paper
    published: tuple[PublishedRow, ...] = ()

    def rows(self) -> list[tuple[str, ...]]:
        """Our rows above the published ones, under `COLUMNS`."""
        ours = [_cells(one, self.protocol.split(":")[0]) for one in self.measurements]
        return ours + [_published_cells(row) for row in self.published]

    def text(self) -> str:
        """What is printed: the protocol, the warnings, the table."""
        lines = [f"protocol {self.protocol}", *(f"warning: {warning}" for warning in self.warnings), ""]
        return "\n".join([*lines, _aligned(self.rows()), *self._remarks()])

    def markdown(self) -> str:
        header = [f"Protocol: {self.protocol}.", *(f"- Warning: {warning}" for warning in self.warnings)]
        rows = [COLUMNS, tuple("---" for _ in COLUMNS), *self.rows()]
        table = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
        return "\n\n".join(["\n".join(header), "\n".join(table), *self._remarks()]) + "\n"

    def csv(self) -> str:
        file = io.StringIO()
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *self.rows()])
        return file.getvalue()

    def json(self) -> str:
        entries = {
            "protocol": self.protocol,
            **self.described,
            "warnings": list(self.warnings),
            "measurements": [asdict(one) for one in self.measurements],
            "table": self.table,
            "published": [asdict(row) for row in self.published],
        }
        return json.dumps(entries, indent=1, sort_keys=True, default=str, allow_nan=False)

    def write(self, out: Path) -> None:
        """Writes the three files. Each appears whole or not at all."""
        out.mkdir(parents=True, exist_ok=True)
        for suffix, content in (("json", self.json()), ("csv", self.csv()), ("md", self.markdown())):
            with whole_file(out / f"evaluation.{suffix}") as file:
                file.write(content.encode())

    def _remarks(self) -> list[str]:
        return [] if self.table is None else [missing_note(self.table)]


def not_computed(metric: str, why: str) -> Measurement:
    return Measurement(metric=metric, side="both", value=None, note=f"not computed: {why}")


def _cells(one: Measurement, protocol: str) -> tuple[str, ...]:
    interval = "" if one.low is None or one.high is None else f"{one.low:.4g} to {one.high:.4g}"
    spread = f"{len(one.per_seed)}, sd {np.std(one.per_seed, ddof=1):.2g}" if len(one.per_seed) > 1 else ""
    value = "-" if one.value is None else f"{one.value:.4g}"
    return (
        one.metric,
        one.side,
        value,
        interval,
        spread,
        one.clips,
        one.better,
        one.features,
        protocol,
        one.note,
    )


def _published_cells(row: PublishedRow) -> tuple[str, ...]:
    note = f"as published; {row.note}; not comparable: {row.why_not_comparable}"
    return (row.metric, "paper", row.value, "", "", "", "", "", "not stated", note)


def _aligned(rows: Sequence[tuple[str, ...]]) -> str:
    shown = [COLUMNS, *rows]
    widths = [max(len(row[i]) for row in shown) for i in range(len(COLUMNS))]
    kept = [i for i in range(len(COLUMNS)) if any(row[i] for row in rows)]
    lines = ["  ".join(row[i].ljust(widths[i]) for i in kept).rstrip() for row in shown]
    return "\n".join(lines)
