"""A report of an output or a training folder: reads it, makes the page, writes it."""

from __future__ import annotations

import shutil
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
from avprep.shards.store import LocalStore, Store, open_store, whole_file

_MARK = '<meta name="generator" content="avprep report">'
_MEDIA = "media"
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
    with _target(to, config) as (path, media):
        page = Page(title=store.uri.rstrip("/").rpartition("/")[2], kind="training")
        if is_output:
            add_output(page, store, config, media)
        if store.exists(METRICS_FILE):
            _add_training(page, store, media)
        page.tables = read_tables(store, _TABLE_FOLDERS, page.add_damage)
        with whole_file(path) as file:
            file.write(render(page).encode("utf-8", "backslashreplace"))
    return path, page


@contextmanager
def _target(to: Path, config: ReportConfig) -> Iterator[tuple[Path, Media]]:
    """The page's path and where its media go. Raises ReportError where something else is."""
    page = to if config.is_single_file else to / "index.html"
    if to.exists() and to.is_dir() == config.is_single_file:
        raise ReportError(f"{to} is {'a folder' if to.is_dir() else 'a file'}: give another place")
    is_in_use = to.is_file() or (to.is_dir() and any(to.iterdir()))
    if is_in_use and not _is_report(page):
        raise ReportError(f"{to} holds something else than a report: give another place")
    if config.is_single_file:
        yield page, InlineMedia()
        return
    media = to / _MEDIA
    shutil.rmtree(media, ignore_errors=True)
    media.mkdir(parents=True)
    yield page, FolderMedia(media)


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
