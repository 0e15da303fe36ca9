"""The datasets: where sources and labels come from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from avprep.datasets.folder import FOLDER
from avprep.datasets.source import Dataset, DatasetError, DatasetOptions, Listing

DATASETS: dict[str, Dataset] = {
    "folder": FOLDER,
}


def default_root(name: str, environ: Mapping[str, str]) -> Path:
    """`$AVPREP_DATA/<name>`. Raises DatasetError, with the layout, where that is not set or not there."""
    layout = DATASETS[name].layout
    base = environ.get("AVPREP_DATA")
    if not base:
        raise DatasetError(f"--root is not given and $AVPREP_DATA is not set. {layout}")
    root = Path(base) / name
    if not root.exists():
        raise DatasetError(f"--root is not given and {root} ($AVPREP_DATA/{name}) is not there. {layout}")
    return root


def list_dataset(name: str, options: DatasetOptions) -> Listing:
    """The dataset's sources. Raises DatasetError for an unknown split or a root without the layout."""
    dataset = DATASETS[name]
    if options.split is not None and dataset.splits and options.split not in dataset.splits:
        splits = ", ".join(dataset.splits)
        raise DatasetError(f"--split {options.split!r} is no split of {name}; there are: {splits}")
    if options.split is not None and not dataset.splits:
        raise DatasetError(f"--split {options.split!r}: {name} has no splits")
    return dataset.list_sources(options)
