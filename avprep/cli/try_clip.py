"""`avprep status --try`: one planned clip is read again, here and now."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from avprep.cli.group import Refused
from avprep.execution.child import Child, ChildDied
from avprep.media.crop import CROPS, Bars, Crop
from avprep.media.decode import FailedClip
from avprep.media.limits import Deadline
from avprep.reasons import MediaError, Reason
from avprep.shards.layout import HEADER_FILE, kind_of, read_header, spec_of
from avprep.shards.plan import PlanReader
from avprep.shards.store import Store
from avprep.spec import ClipSpec
from avprep.stages.clip import read_source


@dataclass(frozen=True)
class Outcome:
    """Whether a clip that was tried again could be read, and the line that says so."""

    is_read: bool
    text: str


def try_again(store: Store, key: str) -> Outcome:
    """Decodes one planned clip. Raises Refused where the output has no such clip."""
    header = read_header(store)
    if kind_of(header) != "clips":
        raise Refused(
            f"--try {key}: {store.uri} holds {kind_of(header)}; it is a clip that is tried again: "
            f"avprep status CLIPS --try KEY"
        )
    plan = PlanReader(store)
    row = next((r for i in range(plan.shards) for r in plan.rows(i) if r.key == key), None)
    if row is None:
        raise Refused(f"--try {key}: the plan of {store.uri} has no such clip")
    if row.reason == Reason.BAD_ROW:
        return Outcome(False, f"{row.reason}: {row.detail}")
    spec, (root, crop) = spec_of(header), _origin(store, header, row.shard)
    path = root / row.source
    place = f"{path} at {row.start / spec.sample_rate:.3f} s"
    began = time.monotonic()
    try:
        # In a process of its own: a clip that is tried may be one that crashes it.
        with closing(Child()) as child:
            bars = None if row.bars is None else Bars(*row.bars)
            found = child.call(partial(_read_one, row.start, spec, crop, bars), str(path))
    except MediaError as error:
        return Outcome(False, f"{place}: {error}")
    except ChildDied as death:
        return Outcome(False, f"{place}: {Reason.CRASHED}: decoding it ended the process ({death.detail})")
    return Outcome(True, f"{place}: read in {time.monotonic() - began:.2f} s, {found}")


def _origin(store: Store, header: dict[str, Any], shard: int) -> tuple[Path, Crop]:
    """The media's folder and the crop. Raises Refused where spec.json does not say."""
    try:
        root, crop = _stated_origin(header, shard)
    except (KeyError, TypeError, AttributeError):
        root, crop = None, None
    if not isinstance(root, str) or crop not in CROPS:
        raise Refused(
            f"{store.uri}: its {HEADER_FILE} does not say where its media lie and how they are cropped"
        )
    return Path(root), crop


def _stated_origin(header: dict[str, Any], shard: int) -> tuple[Any, Any]:
    """Of a merged output, those of the output that the shard is from."""
    for part, root in zip(header.get("merged", {}).values(), header.get("roots", ()), strict=False):
        if shard < part["shards"]:
            return root, part["options"]["crop"]
        shard -= part["shards"]
    return header["root"], header["options"]["crop"]


def _read_one(start: int, spec: ClipSpec, crop: Crop, bars: Bars | None, path: str) -> str:
    """Reads one clip. Returns what was found; raises MediaError for what keeps it from being one."""
    clip = next(read_source(path, [start], spec=spec, crop=crop, bars=bars, deadline=Deadline(None)))
    if isinstance(clip, FailedClip):
        raise clip.error
    return f"{clip.sound.sounding_s:.3f} s of sound, residual {clip.residual_ms:.1f} ms"
