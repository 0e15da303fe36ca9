"""AIST++ (Li et al. 2021): dance videos whose names hold genre, camera, dancer, music and choreography.

gBR_sBM_c01_d04_mBR0_ch01     the lists write cAll for the camera: they mean every camera
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from avprep.datasets.listing import find_list, media_files, require_folder, stem_of
from avprep.datasets.source import Dataset, DatasetError, DatasetOptions, Listing, Source

GENRES = {
    "gBR": "break dance",
    "gPO": "pop dance",
    "gLO": "lock dance",
    "gMH": "middle hip-hop dance",
    "gLH": "LA-style hip-hop dance",
    "gHO": "house dance",
    "gWA": "waack dance",
    "gKR": "krump dance",
    "gJS": "street jazz dance",
    "gJB": "ballet jazz dance",
}
SPLITS = ("train", "val", "test")
LAYOUT = (
    "Expected: AIST++ videos below the root, named as gBR_sBM_c01_d04_mBR0_ch01.mp4; for a split the "
    "lists crossmodal_train.txt, crossmodal_val.txt or crossmodal_test.txt (in the root or its splits/ "
    "folder, or one given by list_file=FILE); ignore_list.txt beside them is left out."
)
_NAME = re.compile(r"(g[A-Z]{2})_(s[A-Z]{2})_(c\w{2,3})_(d\d{2})_(m[A-Z]{2}\d)_(ch\d{2})")


def list_sources(options: DatasetOptions) -> Listing:
    """Every video of every camera, by its genre; those on the ignore list are counted and left out."""
    require_folder(options.root, LAYOUT)
    notes: Counter[str] = Counter()
    ignored = _read_names(_list(options.root, "ignore_list.txt"))
    wanted = None
    if options.split is not None or options.list_file is not None:
        listed = options.list_file or _list(options.root, f"crossmodal_{options.split}.txt")
        if listed is None or not listed.is_file():
            asked = f"split = {options.split!r}" if options.list_file is None else f"list_file = {listed}"
            raise DatasetError(f"{asked}: there is no such list under {options.root}. {LAYOUT}")
        wanted = _read_names(listed)
    sources, seen = [], set()
    for path in sorted(media_files(options.root, notes, follow_links=options.follow_links)):
        found = _NAME.match(stem_of(path))
        if found is None or found[1] not in GENRES:
            notes["files not named as AIST++ names them"] += 1
            continue
        name = any_camera(found[0])
        if name in ignored:
            notes["files on the ignore list"] += 1
        elif wanted is None or name in wanted:
            seen.add(name)
            labels = (GENRES[found[1]],)
            sources.append(Source(path=path, labels=labels))
    missing = sorted((wanted or set()) - ignored - seen)
    if missing:
        notes["names of the list without a file"] = len(missing)
    return Listing(options.root, sources, dict(notes), missing)


def any_camera(name: str) -> str:
    """The name with the camera written cAll, as the lists do."""
    return re.sub(r"_c(\d{2}|All)_", "_cAll_", name, count=1)


def _list(root: Path, name: str) -> Path | None:
    return find_list(root, (name, f"aistpp_{name}"))


def _read_names(path: Path | None) -> set[str]:
    if path is None:
        return set()
    return {any_camera(line.strip()) for line in path.read_text().splitlines() if line.strip()}


AIST = Dataset("aist", list_sources, SPLITS, LAYOUT)
