"""What the paper (ProAV-DiT, arXiv 2511.12072) publishes, as far as it is known here.

Only figures that `docs/model.md` or the project's specification states are here. The tables themselves are in
the paper; a figure that is not known here has no row.
"""

from __future__ import annotations

from dataclasses import dataclass

PAPER = "ProAV-DiT, arXiv 2511.12072"
NO_PROTOCOL = "the paper states neither protocol nor weights"


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """A figure as published."""

    table: int
    metric: str
    value: str
    note: str
    why_not_comparable: str = NO_PROTOCOL


ROWS = (
    PublishedRow(
        table=1,
        metric="FAD",
        value="8 to 12",
        note="range of the table's rows; fits AudioCLIP features x 10,000",
    ),
    PublishedRow(
        table=2,
        metric="FAD",
        value="1.5 to 2.9",
        note="range of the table's rows; another scale than Table 1",
    ),
    PublishedRow(
        table=3,
        metric="seconds per sample, 30 steps",
        value="0.31 and 0.32",
        note="both are given in the paper",
        why_not_comparable="another machine",
    ),
    PublishedRow(
        table=3,
        metric="parameters",
        value="702 M",
        note="with MDSA and text encoder",
        why_not_comparable="includes the text encoder",
    ),
    PublishedRow(
        table=6,
        metric="PSNR, joint over single stream",
        value="+0.85 and +1.40 dB",
        note="which stream is which is not known here",
    ),
)
# What a table reports, by the names of this module's metrics: the features that its numbers need.
FEATURES_OF_TABLE = {
    1: ("i3d", "audioclip"),
    2: ("i3d", "audioclip"),
    3: (),
    4: ("i3d", "audioclip"),
    5: ("i3d", "audioclip"),
    6: (),
    7: (),
}
RECONSTRUCTION_TABLES = (5, 6)
PLANES_TABLE = 7
TIMING_TABLE = 3


def rows_of(table: int) -> list[PublishedRow]:
    return [row for row in ROWS if row.table == table]


def missing_note(table: int) -> str:
    """What is said of the figures that have no row."""
    return f"Table {table}: other figures of the paper ({PAPER}) are not known to this tool"
