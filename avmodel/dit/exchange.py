"""Replaces the samples in a folder by new ones as a whole: a kill at any moment leaves the old or the new.

    OUT/.new      new samples are written here, shard by shard; a kill leaves the old ones as they were
    OUT/.ready    renamed from .new: the new samples are complete; now the old ones are removed
    OUT/.moving   renamed from .ready: the old ones are gone; now the new ones are moved into OUT

What a kill interrupted after `.ready` is there is finished by `finish_exchange`. Other files in OUT stay.
The caller holds the lock of OUT.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from avprep.shards.layout import HEADER_FILE, LEDGER_FOLDER, PLAN_FILE, SHARDS_FOLDER, STATS_FILE

NEW, READY, MOVING = ".new", ".ready", ".moving"
REQUEST_FILE = "request.json"
CLIP_FILE = re.compile(r"[0-9a-f]{16}_\d{11}\.(mp4|wav)")
_FOLDERS = (LEDGER_FOLDER, SHARDS_FOLDER)  # ledgers first: without them no shard counts as finished
_FILES = (HEADER_FILE, PLAN_FILE, STATS_FILE, "samples.json", "sheet.png", REQUEST_FILE)


def _nothing_is_kept(_folder: Path) -> bool:
    return False


@contextmanager
def staged(out: Path, is_kept: Callable[[Path], bool] = _nothing_is_kept) -> Iterator[Path]:
    """A folder to write new samples into. When the block ends well, they replace those in `out`.

    Args:
        is_kept: whether the folder, as a killed run left it or as this block's error leaves it, holds a part
            that is worth keeping; else it is removed.
    """
    new = out / NEW
    if not is_kept(new):
        shutil.rmtree(new, ignore_errors=True)
    new.mkdir(exist_ok=True)
    try:
        yield new
    except BaseException:
        if not is_kept(new):
            shutil.rmtree(new, ignore_errors=True)
        raise
    os.rename(new, out / READY)
    finish_exchange(out)


def finish_exchange(out: Path) -> None:
    """Does what is left of an exchange, if anything. May be interrupted and repeated anywhere."""
    if (out / READY).is_dir():
        for path in earlier_files(out):
            path.unlink(missing_ok=True)
        os.rename(out / READY, out / MOVING)
    if (out / MOVING).is_dir():
        _move_all(out / MOVING, out)
        shutil.rmtree(out / MOVING)


def earlier_files(out: Path) -> list[Path]:
    """The files of the samples in `out`."""
    shards = [path for folder in _FOLDERS for path in sorted((out / folder).glob("*"))]
    clips = [path for path in out.iterdir() if CLIP_FILE.fullmatch(path.name)]
    return [*shards, *(out / name for name in _FILES if (out / name).exists()), *clips]


def _move_all(moving: Path, out: Path) -> None:
    """Ledgers last: where they are, everything is."""
    files = [path for path in moving.rglob("*") if path.is_file()]
    for path in sorted(files, key=lambda path: (path.parent.name == LEDGER_FOLDER, path)):
        target = out / path.relative_to(moving)
        target.parent.mkdir(exist_ok=True)
        os.replace(path, target)
