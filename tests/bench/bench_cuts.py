"""What cuts and bars cost: seconds of one core per minute of video.

python -m tests.bench.bench_cuts MEDIA

bars          16 pictures per source
scenedetect   25 pictures per second, compared with their neighbours
transnetv2    the same pictures through the network
clip          all clips that the sources give, decoded and with their mel stacks, for comparison
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click

from avprep.api.clips import read_clips
from avprep.media.bars import bars_of_source
from avprep.media.detectors import DETECTORS
from avprep.media.probe import probe
from avprep.media.shots import find_cuts, open_detector
from avprep.reasons import MediaError


@click.command()
@click.argument("media", type=click.Path(path_type=Path, exists=True, file_okay=False))
def main(media: Path) -> None:
    seconds = dict(_seconds_of_files(media))
    minutes = sum(seconds.values()) / 60
    click.echo(f"{len(seconds)} files, {minutes:.2f} minutes of video")
    detectors = {name: partial(find_cuts, detector=open_detector(name)) for name in DETECTORS}
    for name, work in {"bars": bars_of_source, **detectors, "clip": _read_all}.items():
        began = time.process_time()
        failed = sum(not _is_done(work, path) for path in seconds)
        spent = (time.process_time() - began) / minutes
        click.echo(f"{name:12} {spent:6.2f} s per minute; {failed} files failed")


def _seconds_of_files(media: Path) -> list[tuple[Path, float]]:
    """Those that can be probed."""
    found = []
    for path in sorted(path for path in media.iterdir() if path.is_file()):
        try:
            parts = probe(path).parts
        except MediaError:
            continue
        found.append((path, float(sum(part.stop_s - part.start_s for part in parts))))
    return found


def _read_all(path: Path) -> None:
    for _ in read_clips(path, on_failure=lambda _: None):
        continue


def _is_done(work: Callable[[Path], object], path: Path) -> bool:
    try:
        work(path)
    except MediaError:
        return False
    return True


if __name__ == "__main__":
    main()
