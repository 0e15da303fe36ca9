"""The datasets: where sources and labels come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from avprep.checks import require_between
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
    _require_classes(dataset, options)
    for argument in ("path_column", "label_column", "caption_column"):
        given = getattr(options, argument)
        if given is not None and name != "manifest":
            raise DatasetError(f"{argument} = {given!r}: dataset {name} has no such columns; manifest has")
    listing = _without_labels(dataset.list_sources(options), options.exclude_labels)
    if not listing.sources:
        why = "; ".join(f"{count:,} {what}" for what, count in listing.notes.items() if count)
        raise DatasetError(
            f"{name} has no source under {listing.root} ({why or 'is its disk mounted?'}). {dataset.layout}"
        )
    return listing


def _require_classes(dataset: Dataset, options: DatasetOptions) -> None:
    """Raises DatasetError where the options need ratings or an ontology that the dataset does not have."""
    if dataset.has_classes:
        if options.min_label_quality is not None:
            require_between("min_label_quality", options.min_label_quality, 0, 1)
    elif options.at_events:
        raise DatasetError(f"at_events = True: the labels of {dataset.name} have no times")
    elif options.with_ancestors:
        raise DatasetError(f"with_ancestors = True: the labels of {dataset.name} have no ontology")
    elif options.min_label_quality is not None:
        raise DatasetError(
            f"min_label_quality = {options.min_label_quality:g}: the labels of {dataset.name} are not rated"
        )


def _without_labels(listing: Listing, labels: tuple[str, ...]) -> Listing:
    """The listing without the sources that have any of the labels; they are counted."""
    if not labels:
        return listing
    kept = [source for source in listing.sources if not set(labels) & set(source.labels)]
    removed = {"sources with a label of exclude_labels": len(listing.sources) - len(kept)}
    return replace(listing, sources=kept, notes=listing.notes | removed)
