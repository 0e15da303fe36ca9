"""Procedural sounding scenes whose class, caption and event times are known, as real mp4 files.

OUT/
  ball/ball_0000.mp4, ball/ball_0010.mp4, rain/rain_0001.mp4 ...
  manifest.csv     path, labels, caption: what the `manifest` dataset reads
  events.json      path -> class, caption, events_s, seed, index
"""

from __future__ import annotations

import csv
import json
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from avprep.errors import AvprepError
from avprep.media.mux import write_mp4
from avprep.scenes.scenes import SCENES
from avprep.scenes.sketch import Timeline, levelled, paint
from avprep.shards.whole import whole_path

CLASSES = tuple(scene.__name__ for scene in SCENES)


class SynthError(AvprepError, ValueError):
    """An option of `write_scenes` out of range: the message names it and the value."""


@dataclass(frozen=True)
class Scene:
    frames: np.ndarray  # (T, size, size, 3) uint8 RGB
    waveform: np.ndarray  # (N,) float32 in [-1, 1], mono
    label: str  # one of CLASSES
    caption: str
    events_s: tuple[float, ...]  # instants at which something sounds or is loudest, ascending


def render_scene(index: int, *, seed: int, timeline: Timeline) -> Scene:
    """Scene `index` of a seed: class `index` mod 10; the rest depends on nothing but (seed, index)."""
    scene = SCENES[index % len(SCENES)]
    parts = scene(np.random.default_rng([seed, index]), timeline)
    return Scene(
        frames=paint(parts, timeline),
        waveform=levelled(parts.sound),
        label=scene.__name__,
        caption=parts.caption,
        events_s=tuple(float(t) for t in parts.events_s),
    )


def write_scenes(
    out_dir: str | Path,
    *,
    n: int,
    seed: int,
    seconds: float = 6.4,
    size: int = 192,
    fps: int = 25,
    sample_rate: int = 44100,
    workers: int = 1,
    on_scene: Callable[[Path], object] | None = None,
) -> list[Path]:
    """Writes scenes 0 to n - 1 of a seed, in turn one of each class; a larger n extends a smaller one.

    Equal arguments give equal files. Those of an earlier call are replaced, each at once.

    Args:
        out_dir: made if need be.
        n: scenes.
        seed: at least 0.
        seconds: length of each, 1 to 600.
        size: pixels, height and width; even, 32 to 1024.
        fps: frames per second, 5 to 120.
        sample_rate: Hz, one of AAC's.
        workers: processes that draw; they change no byte. 1: this one draws.
        on_scene: called with each file as it is done.

    Returns:
        The mp4 files, in the order of their index.

    Raises:
        SynthError: an option out of range.
        MuxError: a sample_rate that AAC lacks.
    """
    for name, value, low, high in (
        ("n", n, 1, 9999),
        ("seed", seed, 0, 2**63),
        ("seconds", seconds, 1, 600),
        ("size", size, 32, 1024),
        ("fps", fps, 5, 120),
        ("workers", workers, 1, 1024),
    ):
        if not low <= value <= high:
            raise SynthError(f"{name} must be from {low} to {high}, not {value}")
    if size % 2:
        raise SynthError(f"size must be even (4:2:0 video), not {size}")
    out_dir, timeline = Path(out_dir), Timeline(seconds, fps, size, sample_rate)
    paths, events = [], {}
    write = partial(_write_scene, out_dir=out_dir, seed=seed, timeline=timeline)
    for path, event in _each(write, n, workers):
        paths.append(path)
        events[path.relative_to(out_dir).as_posix()] = event
        if on_scene is not None:
            on_scene(path)
    _write_lists(out_dir, events)
    return paths


def _each(write: Callable[[int], tuple[Path, dict]], n: int, workers: int) -> Iterator[tuple[Path, dict]]:
    """write(0), write(1) ... write(n - 1), in this order, by `workers` processes."""
    if workers == 1:
        yield from map(write, range(n))
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(write, range(n))


def _write_scene(index: int, *, out_dir: Path, seed: int, timeline: Timeline) -> tuple[Path, dict]:
    """Writes one scene. Returns its file, and its entry of events.json."""
    scene = render_scene(index, seed=seed, timeline=timeline)
    path = out_dir / scene.label / f"{scene.label}_{index:04d}.mp4"
    path.parent.mkdir(parents=True, exist_ok=True)
    fps, sample_rate = timeline.fps, timeline.sample_rate
    with whole_path(path) as partial_path:
        write_mp4(
            partial_path, scene.frames, scene.waveform, fps=fps, sample_rate=sample_rate, preset="superfast"
        )
    return path, {
        "class": scene.label,
        "caption": scene.caption,
        "events_s": [round(t, 6) for t in scene.events_s],
        "seed": seed,
        "index": index,
    }


def _write_lists(out_dir: Path, events: dict[str, dict]) -> None:
    with open(out_dir / "manifest.csv", "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("path", "labels", "caption"))
        rows.writerows((path, event["class"], event["caption"]) for path, event in events.items())
    (out_dir / "events.json").write_text(json.dumps(events, indent=1) + "\n", encoding="utf-8")
