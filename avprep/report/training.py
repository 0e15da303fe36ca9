"""A training folder: the curves of metrics.jsonl, and the pictures among its TensorBoard events."""

from __future__ import annotations

import io
import json
import math
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from avprep.errors import shown
from avprep.shards.store import Store

METRICS_FILE, BOARD_FOLDER = "metrics.jsonl", "tensorboard"
_MOST_POINTS, _MOST_SERIES = 1500, 120
_MOST_PICTURES = 8  # per name, evenly over the steps
_LONGEST_LINE = 1 << 20
_EVENTS = re.compile(r"events\.out\.tfevents\.[\w.\-]+")


@dataclass
class Series:
    """Points of one curve; where there are too many, every second one goes, and so on."""

    steps: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    _stride: int = 1
    _seen: int = 0

    def add(self, step: float, value: float) -> None:
        if self._seen % self._stride == 0:
            self.steps.append(step)
            self.values.append(value)
        self._seen += 1
        if len(self.steps) > _MOST_POINTS:
            self.steps, self.values, self._stride = self.steps[::2], self.values[::2], self._stride * 2


def read_curves(store: Store, on_damage: Callable[[str], None]) -> dict[str, dict[str, Series]]:
    """Group -> name -> curve. 'v/l1' and 'a/l1' are one group, as are all 'saturated/...'."""
    groups: dict[str, dict[str, Series]] = {}
    bad = count = 0
    with store.open(METRICS_FILE) as file:
        while line := file.readline(_LONGEST_LINE):
            try:
                row = json.loads(line)
                step = float(row["step"])
            except (ValueError, KeyError, TypeError, RecursionError):
                bad += 1
                continue
            for name, value in row.items():
                if name == "step" or type(value) not in (int, float) or not math.isfinite(value):
                    continue
                group = groups.setdefault(_group(name), {})
                if name not in group and count < _MOST_SERIES:
                    group[name], count = Series(), count + 1
                if name in group:
                    group[name].add(step, float(value))
    if bad:
        on_damage(f"{METRICS_FILE}: {bad:,} lines are no JSON objects with a step")
    return {group: curves for group, curves in groups.items() if curves}


def _group(name: str) -> str:
    first, _, rest = name.partition("/")
    return rest if first in ("v", "a") and rest else first


@dataclass(frozen=True)
class Picture:
    name: str
    step: int
    png: bytes = field(repr=False)


def read_pictures(store: Store, on_damage: Callable[[str], None]) -> list[Picture]:
    """Pictures of the TensorBoard event files, evenly over the steps."""
    from google.protobuf.message import DecodeError
    from tensorboard.compat.tensorflow_stub.errors import OpError

    found: dict[str, list[Picture]] = {}
    for name in store.names(BOARD_FOLDER):
        if not _EVENTS.fullmatch(name.removeprefix(f"{BOARD_FOLDER}/")):
            continue
        try:
            for picture in _of_events(store, name):
                found.setdefault(picture.name, []).append(picture)
        except (DecodeError, OpError, ValueError, OSError, SyntaxError) as error:
            on_damage(f"{name} cannot be read: {shown(error)}")
    return [picture for name in sorted(found) for picture in _evenly(found[name])]


def _of_events(store: Store, name: str) -> list[Picture]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with tempfile.TemporaryDirectory() as folder:  # TensorBoard reads local files only
        path = Path(folder) / "events.out.tfevents.0"
        with store.open(name) as source, open(path, "wb") as copy:
            shutil.copyfileobj(source, copy)
        events = EventAccumulator(str(path), size_guidance={"images": 64, "scalars": 1, "tensors": 1})
        events.Reload()
        return [
            Picture(tag, event.step, _checked_png(event.encoded_image_string))
            for tag in events.Tags()["images"]
            for event in events.Images(tag)
        ]


def _checked_png(data: bytes) -> bytes:
    """The picture, written anew: what the page shows is a PNG whatever the file says."""
    picture = Image.open(io.BytesIO(data), formats=("PNG",))
    file = io.BytesIO()
    picture.convert("RGB").save(file, "PNG", optimize=True)
    return file.getvalue()


def _evenly(pictures: list[Picture]) -> list[Picture]:
    pictures = sorted(pictures, key=lambda picture: picture.step)
    if len(pictures) <= _MOST_PICTURES:
        return pictures
    last = len(pictures) - 1
    return [pictures[i * last // (_MOST_PICTURES - 1)] for i in range(_MOST_PICTURES)]
