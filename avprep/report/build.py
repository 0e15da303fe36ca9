"""A report of an output or a training folder: reads it, makes the page, writes it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from avprep.report import charts
from avprep.report.config import ReportConfig, ReportError
from avprep.report.evaluation import read_tables
from avprep.report.output import add_output
from avprep.report.page import FolderMedia, InlineMedia, Media, Page, render
from avprep.report.training import METRICS_FILE, read_curves, read_pictures
from avprep.shards.layout import HEADER_FILE, LEDGER_FOLDER
from avprep.shards.store import LocalStore, Store, open_store

_MARK = '<meta name="generator" content="avprep report">'
_PAGE, _MEDIA = "index.html", "media"
_MOST_CURVES = 6  # in a chart
_TABLE_FOLDERS = ("", "evaluation")


def write_report(out: str, to: Path, config: ReportConfig) -> tuple[Path, Page]:
    """Writes the report of `out` and returns the page's path.

    Args:
        out: an output of clips, latents or samples, or a training folder: a folder or a URI.
        to: the folder to write, or with `is_single_file` the file. An earlier report there is replaced.

    Raises:
        ReportError: nothing in `out` to report on, or a place that holds something else.
    """
    store = open_store(out)
    is_output = store.exists(HEADER_FILE) or bool(store.names(LEDGER_FOLDER))
    if not is_output and not store.exists(METRICS_FILE):
        raise ReportError(f"{store.uri} holds no {HEADER_FILE}, no ledger and no {METRICS_FILE}: no report")
    if isinstance(store, LocalStore) and to.absolute().is_relative_to(store.root):
        raise ReportError(f"{to} lies in {out}: a report is written beside what it shows")
    _refuse_other(to, config)
    with _whole_folder(to.parent) as folder:
        media = InlineMedia() if config.is_single_file else FolderMedia(folder / _MEDIA)
        page = _page_of(store, config, media, is_output=is_output)
        made = folder / _PAGE
        made.write_bytes(render(page).encode("utf-8", "backslashreplace"))
        if config.is_single_file:
            os.replace(made, to)
            return to, page
        if to.exists():
            shutil.rmtree(to)
        os.replace(folder, to)
    return to / _PAGE, page


def _page_of(store: Store, config: ReportConfig, media: Media, *, is_output: bool) -> Page:
    page = Page(title=store.uri.rstrip("/").rpartition("/")[2], kind="training")
    if is_output:
        add_output(page, store, config, media)
    if store.exists(METRICS_FILE):
        _add_training(page, store, media)
    page.tables = read_tables(store, _TABLE_FOLDERS, page.add_damage)
    return page


@contextmanager
def _whole_folder(parent: Path) -> Iterator[Path]:
    """A folder for what is being made; whatever is not moved out of it is removed."""
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".report-", dir=parent))
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _refuse_other(to: Path, config: ReportConfig) -> None:
    """Raises ReportError where something else than an earlier report is."""
    if to.exists() and to.is_dir() == config.is_single_file:
        raise ReportError(f"{to} is {'a folder' if to.is_dir() else 'a file'}: give another place")
    page = to if config.is_single_file else to / _PAGE
    is_in_use = to.is_file() or (to.is_dir() and any(to.iterdir()))
    if is_in_use and not _is_report(page):
        raise ReportError(f"{to} holds something else than a report: give another place")


def _is_report(page: Path) -> bool:
    if not page.is_file():
        return False
    with open(page, encoding="utf-8", errors="replace") as file:
        return _MARK in file.read(4096)


# --- a training folder -------------------------------------------------------------------------------------


def _add_training(page: Page, store: Store, media: Media) -> None:
    for group, found in sorted(read_curves(store, page.add_damage).items()):
        names = sorted(found)
        for first in range(0, len(names), _MOST_CURVES):
            part = {
                name: (found[name].steps, found[name].values) for name in names[first : first + _MOST_CURVES]
            }
            page.curves.append((group, charts.curves(part, title=f"{group} over the steps")))
    pictures = read_pictures(store, page.add_damage)
    page.pictures = [(picture, media.add("picture", picture.png)) for picture in pictures]
