"""Any folder of media files, at any depth; on request the parent folder's name is the label."""

from __future__ import annotations

from collections import Counter

from avprep.datasets.listing import folders_of, media_files, require_folder, unique
from avprep.datasets.source import Dataset, DatasetError, DatasetOptions, Listing, Source

LAYOUT = "Expected: media files (mp4, mkv, webm, ...) at any depth under the root."


def list_sources(options: DatasetOptions) -> Listing:
    """Every media file, whole. Raises DatasetError where root is no folder, and for a list."""
    if options.list_file is not None:
        raise DatasetError(
            f"list_file = {options.list_file}: dataset folder takes every file; manifest takes a list"
        )
    require_folder(options.root, LAYOUT)
    notes: Counter[str] = Counter()
    sources = []
    for path in media_files(options.root, notes, follow_links=options.follow_links):
        folders = folders_of(path)
        labels = (folders[-1],) if options.label_from_folder and folders else ()
        sources.append(Source(path=path, labels=labels))
    return Listing(options.root, unique(sources, notes), dict(notes))


FOLDER = Dataset("folder", list_sources, (), LAYOUT)
