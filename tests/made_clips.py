"""Clip outputs made of numbers, without a video: what `avprep clip` writes, for tests of what reads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from avprep.shards.clips import clip_key, pack_clip
from avprep.shards.layout import CLIPS, VideoCodec, clips_header
from avprep.shards.plan import PlanRow
from avprep.shards.store import open_store
from avprep.shards.tar import Members
from avprep.shards.writer import OutputWriter
from avprep.spec import ClipSpec

TINY = ClipSpec(frames=4, size=16, n_mels=16, n_fft=256)


def write_clips(
    out: Path,
    *,
    spec: ClipSpec = TINY,
    first_source: int = 0,
    sources: int = 4,
    clips_each: int = 3,
    shard_size: int = 5,
    seed: int = 0,
    labels_of: Callable[[str], tuple[str, ...]] = lambda source: (source[-1],),
    codec: VideoCodec = "raw",
) -> Path:
    """An output of raw clips: moving gradients whose colour and pitch go together, to be learnt.

    Args:
        first_source: the number of the first source: outputs of other sources have other keys.
    """
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    header = clips_header(spec=spec.to_dict(), options={}, dataset={"name": "made", "split": None})
    fingerprint = f"made-{seed}-{sources}-{clips_each}" + (f"-from-{first_source}" if first_source else "")
    writer = OutputWriter(open_store(out), CLIPS, header, fingerprint=fingerprint, root=".")
    planned = sorted(
        (clip_key(f"source {s}", n * spec.samples), f"source {s}", n * spec.samples)
        for s in range(first_source, first_source + sources)
        for n in range(clips_each)
    )
    shards = [planned[i : i + shard_size] for i in range(0, len(planned), shard_size)]
    writer.plan([_plan_row(i, clip, labels_of) for clip in shard] for i, shard in enumerate(shards))
    for i, shard in enumerate(shards):
        members = (_members(source, labels_of(source), start, spec, rng, codec) for _, source, start in shard)
        writer.shard(i, members, sample_rate=spec.sample_rate)
    return out


def _plan_row(shard: int, clip: tuple[str, str, int], labels_of: Callable[[str], tuple[str, ...]]) -> PlanRow:
    key, source, start = clip
    return PlanRow(key=key, shard=shard, source=source, start=start, labels=labels_of(source), caption="")


def _members(
    source: str,
    labels: tuple[str, ...],
    start: int,
    spec: ClipSpec,
    rng: np.random.Generator,
    codec: VideoCodec,
) -> Members:
    hue = rng.random()
    t, y, x = np.meshgrid(*(np.linspace(0, 1, n) for n in spec.frames_shape[:3]), indexing="ij")
    shade = (x + y + t * rng.random()) / 3
    frames = np.stack([255 * shade * hue, 255 * shade * (1 - hue), 128 * shade], axis=-1).astype(np.uint8)
    band = np.linspace(-1, 1, spec.n_mels)[None, :, None]
    mel = np.broadcast_to(np.cos(3 * (band - hue)), spec.mel_shape).astype(np.float16) * 0.9
    header = {
        "source": source,
        "start_s": start / spec.sample_rate,
        "stop_s": (start + spec.samples) / spec.sample_rate,
        "labels": list(labels),
        "caption": "",
        "fps": spec.fps,
        "frame_times_s": [0.0] * spec.frames,
        "residual_ms": 0.0,
        "has_audio": True,
        "sounding_s": float(spec.seconds),
    }
    waveform = (0.1 * np.sin(np.arange(spec.samples) * (0.05 + hue / 10))).astype(np.float32)
    return pack_clip(
        header=header,
        mel=mel,
        waveform=waveform,
        sample_rate=spec.sample_rate,
        frames=frames,
        codec=codec,
        encode_h264=lambda frames: b"",
    )
