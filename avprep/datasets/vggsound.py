"""VGGSound (Chen et al. 2020): 10-second YouTube clips, one label each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from avprep.datasets.listing import find_list, read_rows, require_folder
from avprep.datasets.source import Dataset, DatasetError, DatasetOptions, Listing
from avprep.datasets.youtube import ID_LENGTH, Segment, match

CLIP_S = 10.0
LISTS = {
    "train": ("train.csv", "vgg-train.tsv"),
    "val": ("val.csv", "vgg-val.tsv"),
    "test": ("test.csv", "vgg-test.tsv"),
}
LAYOUT = (
    "Expected: vggsound.csv (id, start, label, split) or lists by split (test.csv, vgg-test.tsv, ...) "
    "in the root or its csv/ or metadata/ folder, or one given by list_file=FILE, and the clips below, named "
    "<id>_<start>.mp4."
)


def list_sources(options: DatasetOptions) -> Listing:
    """One source for each row that has a file. Raises DatasetError where there is no list."""
    require_folder(options.root, LAYOUT)
    notes: Counter[str] = Counter()
    whole = find_list(options.root, ("vggsound.csv",))
    names = [LISTS[s] for s in (LISTS if options.split is None else [options.split])]
    lists = [options.list_file] if options.list_file else [find_list(options.root, n) for n in names]
    if options.list_file is not None and not options.list_file.is_file():
        raise DatasetError(f"list_file = {options.list_file}: it is not there. {LAYOUT}")
    lists = [path for path in lists if path is not None] or ([whole] if whole else [])
    if not lists:
        raise DatasetError(f"no VGGSound list under {options.root}. {LAYOUT}")
    split = options.split if whole is not None and lists == [whole] else None
    segments = [segment for path in lists for segment in read_segments(path, notes, split)]
    missing: list[str] = []
    sources = match(options, segments, notes, missing)
    return Listing(options.root, sources, dict(notes), missing)


def read_segments(path: Path, notes: Counter[str], split: str | None = None) -> Iterator[Segment]:
    """`<id>_000300.mp4,label`, `id,start,label,split` or, in a tsv, `id_000001<TAB>label`."""
    for row in read_rows(path, "\t" if path.suffix == ".tsv" else ","):
        if row[0] in ("id", "ytid", "YTID"):
            continue
        id_, stamp = row[0][:ID_LENGTH], row[0][ID_LENGTH + 1 :].removesuffix(".mp4")
        start, label, row_split = (row[1], row[2], row[3]) if len(row) >= 4 else (stamp, row[-1], None)
        if split is not None and row_split != split:
            continue
        if not start.replace(".", "", 1).isdigit():
            notes["rows that cannot be read"] += 1
            continue
        yield Segment(id_, float(start), float(start) + CLIP_S, (label,))


VGGSOUND = Dataset("vggsound", list_sources, tuple(LISTS), LAYOUT)
