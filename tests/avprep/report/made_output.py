"""An output with what a report shows: labels, failures, scores and a selection. Names are hostile."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from avprep.seconds import Seconds
from avprep.shards.clips import pack_clip
from avprep.shards.layout import CLIPS, clips_header, shard_name
from avprep.shards.ledger import LedgerRow, write_ledger
from avprep.shards.plan import PlanRow, write_plan
from avprep.shards.scores import PROBLEMS, write_scores
from avprep.shards.selection import FunnelStep, SelectionHeader, digest_of, write_selection
from avprep.shards.store import LocalStore, open_store
from avprep.shards.tar import Members
from avprep.shards.writer import write_header, write_shard, write_stats
from avprep.spec import ClipSpec

SPEC = ClipSpec(frames=16, size=64, n_mels=32, n_fft=512)
SCRIPT = '<script>window.hostile = 1</script><img src=x onerror="window.hostile = 2">.mp4'
HOSTILE = (
    SCRIPT,
    "two\nlines'\"\\.mp4",
    "\u202egnp.exe",  # an override of the writing direction
    "long " + "x" * 4096,
    "مرحبا.mp4",
    "$\\frac{1}{0}$.mp4",
)
LABELS = ("dog", "</select><b>cat", "$x_1$")


def write_output(out: Path, *, shards: int = 2, each: int = 6) -> Path:
    """`shards` of `each` clips, the last of each failed and the one before it filtered."""
    out.mkdir(parents=True, exist_ok=True)
    store = open_store(out)
    options = {"video_codec": "raw", "crop": "center"}
    header = clips_header(spec=SPEC.to_dict(), options=options, dataset={"name": "made", "split": None})
    write_header(store, header | {"fingerprint": "made", "root": "media"})
    plan = [plan_rows(index, each) for index in range(shards)]
    write_plan(store, plan)
    for index, rows in enumerate(plan):
        _write_shard(store, index, rows)
    _write_selection(store, plan)
    run = {"clips": shards * each, "elapsed_s": 2.0, "clips_per_s": 6.0, "worker_seconds": {"decode": 1.5}}
    write_stats(store, {"last_run": run})
    return out


def plan_rows(shard: int, each: int) -> list[PlanRow]:
    """Of one shard of `each` clips, as all shards before it."""
    return [_plan_row(shard, place, each) for place in range(each)]


def _plan_row(shard: int, place: int, each: int) -> PlanRow:
    number = shard * each + place
    return PlanRow(
        key=f"{number:016x}_00000000000",
        shard=shard,
        source=HOSTILE[number % len(HOSTILE)],
        start=0,
        labels=(LABELS[number % len(LABELS)],),
        caption=f"caption {number} & <i>more</i>",
        source_width=640,
        source_height=480 if place % 2 else None,
        source_s=float(number),
    )


def _write_shard(store: LocalStore, index: int, rows: list[PlanRow]) -> None:
    written = rows[:-2]
    clips = ((row.key, _members(row, place)) for place, row in enumerate(written))
    record = write_shard(store, shard_name(CLIPS, index), index, clips, "made", Seconds())
    ledger = [_ledger_row(row, status="written", residual_ms=float(i)) for i, row in enumerate(written)]
    ledger.append(_ledger_row(rows[-2], status="filtered", reason="silent", detail="-90 dB"))
    ledger.append(_ledger_row(rows[-1], status="failed", reason="corrupt", detail="<b>damage</b>"))
    write_ledger(store, index, ledger, record)
    table = pa.table(
        {
            "key": [row.key for row in written],
            "loudness": [-10.0 * (index + 1) - place for place in range(len(written))],
            "cut": [place % 2 == 0 for place in range(len(written))],
            "tag": ["text"] * len(written),
            "problems": pa.array([[]] * len(written), PROBLEMS.type),
        }
    )
    scores = {name: "" for name in ("loudness", "cut", "tag")}
    write_scores(store, index, table, clips_sha256=record.sha256, scores=scores)


def _ledger_row(row: PlanRow, **values) -> LedgerRow:
    return LedgerRow(key=row.key, shard=row.shard, source=row.source, start_s=0.0, **values)


def _members(row: PlanRow, place: int) -> Members:
    rng = np.random.default_rng(place)
    frames = np.full(SPEC.frames_shape, 40 + 20 * place, np.uint8)
    frames[:, :, : 8 * (place + 1)] = 200
    header = {
        "source": row.source,
        "start_s": 0.0,
        "stop_s": float(SPEC.seconds),
        "labels": list(row.labels),
        "caption": row.caption,
        "fps": SPEC.fps,
        "has_audio": place != 0,
    }
    waveform = 0.01 * rng.standard_normal(SPEC.samples)
    waveform[SPEC.samples // 2 :][:400] += 0.8 * np.sin(np.arange(400) / 3)
    return pack_clip(
        header=header,
        mel=rng.uniform(-1, 1, SPEC.mel_shape).astype(np.float16),
        waveform=waveform.astype(np.float32),
        sample_rate=SPEC.sample_rate,
        frames=frames,
        codec="raw",
        encode_h264=lambda _: b"",
    )


def _write_selection(store: LocalStore, plan: list[list[PlanRow]]) -> None:
    keys = [row.key for row in plan[0][:4]]
    header = SelectionHeader(
        query="loudness > -15 and 0.5 >= cut",
        options={},
        funnel=(
            FunnelStep(step="all", removed=0, kept=8),
            FunnelStep(step="loudness > -15", removed=4, kept=4),
        ),
        fingerprint="made",
        digest=digest_of(keys),
    )
    write_selection(store, "loud", pa.table({"key": keys, "shard": [0] * len(keys)}), header)
