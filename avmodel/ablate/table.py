"""The table of an ablation: each variant's PSNR, and its difference to the full model, paired by seed.

A seed decides the first weights and the order of the clips, so both models of a pair share them. Per seed the
difference is the mean over the held-out clips. The interval is Student's t over the seeds: with three, it is
4.3 standard errors to either side.
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
from scipy.stats import t as student

from avmodel.ablate.options import FULL
from avmodel.ablate.run import Cell
from avprep.shards.store import whole_file

COLUMNS = ("variant", "stream", "seeds", "PSNR, dB", "difference to full, dB", "95 % interval")
_NAMES = {"psnr_v": "video", "psnr_a": "sound"}


@dataclass(frozen=True, kw_only=True)
class Row:
    variant: str
    stream: str  # 'video' or 'sound'
    seeds: int
    psnr: float  # dB, mean over seeds and held-out clips
    difference: float | None  # dB to the full model; None of the full model itself
    half_width: float | None  # of the 95 % interval; None below two seeds
    per_seed: tuple[float, ...]  # the differences; of the full model, its PSNR


def rows_of(cells: Sequence[Cell]) -> list[Row]:
    """A row per variant and stream, in the order of the cells; of seeds in which both are finished."""
    variants = dict.fromkeys(cell.variant for cell in cells)
    return [
        row for variant in variants for stream in _NAMES if (row := _row(cells, variant, stream)) is not None
    ]


def _row(cells: Sequence[Cell], variant: str, stream: str) -> Row | None:
    found, full = _by_seed(cells, variant, stream), _by_seed(cells, FULL, stream)
    seeds = [seed for seed in found if seed in full]
    if not seeds:
        return None
    own = np.array([found[seed].mean() for seed in seeds])
    is_full = variant == FULL
    compared = own if is_full else np.array([(found[seed] - full[seed]).mean() for seed in seeds])
    half_width = None
    if len(seeds) > 1:
        error = compared.std(ddof=1) / np.sqrt(len(seeds))
        half_width = float(student.ppf(0.975, len(seeds) - 1) * error)
    return Row(
        variant=variant,
        stream=_NAMES[stream],
        seeds=len(seeds),
        psnr=float(own.mean()),
        difference=None if is_full else float(compared.mean()),
        half_width=half_width,
        per_seed=tuple(compared.tolist()),
    )


def _by_seed(cells: Sequence[Cell], variant: str, stream: str) -> dict[int, np.ndarray]:
    found = ((cell.seed, getattr(cell, stream)) for cell in cells if cell.variant == variant)
    return {seed: psnr for seed, psnr in found if psnr is not None}


def shown(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """The rows as text, under `COLUMNS`."""
    return [
        (
            row.variant,
            row.stream,
            str(row.seeds),
            f"{row.psnr:.2f}",
            "" if row.difference is None else f"{row.difference:+.2f}",
            _interval(row),
        )
        for row in rows
    ]


def _interval(row: Row) -> str:
    if row.half_width is None:
        return ""
    middle = row.psnr if row.difference is None else row.difference
    sign = "" if row.difference is None else "+"
    return f"{middle - row.half_width:{sign}.2f} to {middle + row.half_width:{sign}.2f}"


def aligned(rows: Sequence[Row]) -> str:
    lines = [COLUMNS, *shown(rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def markdown(rows: Sequence[Row], budget: str) -> str:
    lines = [COLUMNS, tuple("---" for _ in COLUMNS), *shown(rows)]
    return f"{budget}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def write_table(out: Path, rows: Sequence[Row], budget: str, described: dict[str, Any]) -> None:
    """Writes ablation.json, .csv and .md, each whole or not at all."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([COLUMNS, *shown(rows)])
    entries = {"budget": budget, **described, "rows": [asdict(row) for row in rows]}
    contents = {
        "json": json.dumps(entries, indent=1, sort_keys=True, default=str),
        "csv": file.getvalue(),
        "md": markdown(rows, budget),
    }
    for suffix, content in contents.items():
        with whole_file(out / f"ablation.{suffix}") as target:
            target.write(content.encode())
