"""The datasets: where sources and labels come from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from avprep.datasets.aist import AIST
from avprep.datasets.audioset import AUDIOSET
from avprep.datasets.folder import FOLDER
from avprep.datasets.landscape import LANDSCAPE
from avprep.datasets.manifest import MANIFEST
from avprep.datasets.source import Dataset, DatasetError, DatasetOptions, Listing
from avprep.datasets.vggsound import VGGSOUND

DATASETS: dict[str, Dataset] = {
    "aist": AIST,
    "audioset": AUDIOSET,
    "folder": FOLDER,
    "landscape": LANDSCAPE,
    "manifest": MANIFEST,
    "vggsound": VGGSOUND,
}


def default_root(name: str, environ: Mapping[str, str]) -> Path:
    """`$AVPREP_DATA/<name>`. Raises DatasetError, with the layout, where that is not set or not there."""
    layout = DATASETS[name].layout
    base = environ.get("AVPREP_DATA")
    if not base:
        raise DatasetError(f"root needs a value: $AVPREP_DATA is not set. {layout}")
    root = Path(base) / name
    if not root.exists():
        raise DatasetError(f"root needs a value: {root} ($AVPREP_DATA/{name}) is not there. {layout}")
    return root


def list_dataset(name: str, options: DatasetOptions) -> Listing:
    """The dataset's sources. Raises DatasetError for an unknown split and for a root without any source."""
    dataset = DATASETS[name]
    if options.split is not None and dataset.splits is not None and options.split not in dataset.splits:
        splits = ", ".join(dataset.splits) or "none"
        raise DatasetError(f"split = {options.split!r}: {name} has no such split; there are: {splits}")
    listing = dataset.list_sources(options)
    if not listing.sources:
        why = "; ".join(f"{count:,} {what}" for what, count in listing.notes.items() if count)
        raise DatasetError(
            f"{name} has no source under {listing.root} ({why or 'is its disk mounted?'}). {dataset.layout}"
        )
    return listing
