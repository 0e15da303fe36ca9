"""Walking a dataset's folders, and the small things that several datasets share."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterator
from heapq import heappop, heappush
from operator import attrgetter
from pathlib import Path

from avprep.datasets.source import DatasetError, Source

# What the containers that avprep.media.probe accepts are named by.
MEDIA_SUFFIXES = frozenset(
    ".mp4 .m4v .mov .qt .f4v .3gp .3g2 .3gpp .ismv .insv .lrv .mkv .mk3d .webm .avi .divx .amv "
    ".ts .mts .m2ts .m2t .trp .mpg .mpeg .mpe .vob .m1v .m2v .mpv .h264 .264 .hevc .265 .ivf "
    ".flv .wmv .asf .wtv .ogv .ogg .ogm .rm .rmvb .nut .dv .dif .mxf .gxf .nsv".split()
)
# What lies beside videos, made by downloaders and other tools: never a video, whatever its name says.
SIDECAR_SUFFIXES = frozenset(
    ".json .jsonl .txt .csv .tsv .xml .yaml .yml .md .html .url .description .log .nfo .md5 .sha256 "
    ".vtt .srt .ass .ssa .lrc .ttml .sub .idx .srv1 .srv2 .srv3 .sbv "
    ".jpg .jpeg .png .webp .gif .avif .bmp .part .ytdl .temp .tmp .aria2 .download .crdownload .lock "
    ".wav .mp3 .m4a .aac .flac .opus .oga .weba .wma .npy .npz .pt .pth .pkl .h5 .hdf5 .parquet .arrow .mat "
    ".tar .zip .gz .tgz .7z .rar .bz2 .xz .zst .py .sh".split()
)
NO_MEDIA = "files that are no media, by their suffix"
LINKS_NOT_ENTERED = "links to folders, which were not entered (follow_links=True enters them)"


def media_files(
    root: Path, notes: Counter[str], *, follow_links: bool = False, any_suffix: bool = False
) -> Iterator[str]:
    """Paths of the media files under root, '/'-separated, relative to it, in no order.

    Hidden files and folders are left out and not counted; links to folders, other files, and names that are
    not UTF-8 are counted.

    Args:
        follow_links: links to folders are entered, after all that is reached without them. A folder that
            several paths lead to is entered once, by a real path if there is one.
        any_suffix: for datasets that match files by name: all files but SIDECAR_SUFFIXES.
    """
    links: list[str] = []  # a heap: which path leads into a folder must not depend on the order of names
    entered: set[tuple[int, int]] = set()
    tree: str | None = ""
    while tree is not None:
        for entry, path in _walk(root, tree, entered if follow_links else None, links, notes):
            suffix = suffix_of(entry.name)
            if suffix in SIDECAR_SUFFIXES or not (any_suffix or suffix in MEDIA_SUFFIXES):
                notes[NO_MEDIA] += 1
            elif not is_utf8(path):
                notes["files whose name is no UTF-8"] += 1
            else:
                yield path
        if links and not follow_links:
            notes[LINKS_NOT_ENTERED] = len(links)
        tree = heappop(links) + "/" if links and follow_links else None


def _walk(
    root: Path, tree: str, entered: set[tuple[int, int]] | None, links: list[str], notes: Counter[str]
) -> Iterator[tuple[os.DirEntry, str]]:
    """The files under `root / tree` and their paths; links to folders are added to `links`.

    `entered`: identities of the folders that were entered before, which are not entered again; None = links
    are not followed, and none can be met twice.
    """
    folders = [tree]
    while folders:
        prefix = folders.pop()
        folder = os.path.join(root, prefix)
        try:
            if entered is not None and not _is_new(folder, entered):
                notes["folders reached twice, by links, and entered once"] += 1
                continue
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    path = prefix + entry.name
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(path + "/")
                    elif entry.is_symlink() and os.path.isdir(entry.path):
                        heappush(links, path)
                    else:
                        yield entry, path
        except PermissionError:
            notes["folders that cannot be read"] += 1


def _is_new(folder: str, entered: set[tuple[int, int]]) -> bool:
    """Whether the folder is none of those, which it then joins."""
    found = os.stat(folder)
    identity = found.st_dev, found.st_ino
    is_new = identity not in entered
    entered.add(identity)
    return is_new


def suffix_of(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def require_folder(root: Path, layout: str) -> None:
    """Raises DatasetError with the expected layout where root is no folder."""
    if not root.is_dir():
        raise DatasetError(f"no folder {root}. {layout}")


def find_list(root: Path, names: tuple[str, ...]) -> Path | None:
    """The first of the list files that lies under root or its usual subfolders."""
    for folder in ("", "csv", "meta", "metadata", "lists", "splits", "data"):
        for name in names:
            path = root / folder / name
            if path.is_file():
                return path
    return None


def read_rows(path: Path, delimiter: str = ",") -> Iterator[list[str]]:
    """Rows of a csv or tsv with their blanks stripped; comment lines ('#') and empty ones are left out."""
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        for row in csv.reader(
            (line for line in file if not line.startswith("#")), delimiter=delimiter, skipinitialspace=True
        ):
            cells = [cell.strip() for cell in row]
            if any(cells):
                yield cells


def folders_of(path: str) -> list[str]:
    """The folder names on the way to a file, outermost first."""
    return path.split("/")[:-1]


def stem_of(path: str) -> str:
    return os.path.splitext(path.rsplit("/", 1)[-1])[0]


def unique(sources: list[Source], notes: Counter[str]) -> list[Source]:
    """Sources sorted by path and start, each (path, start_s) once; repeats are counted."""
    found: list[Source] = []
    for source in sorted(sources, key=attrgetter("path", "start_s")):  # stable: the first listed stays
        if found and (found[-1].path, found[-1].start_s) == (source.path, source.start_s):
            notes["sources that were listed twice"] += 1
        else:
            found.append(source)
    return found


def is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
