"""Latents of two labels that are easy to tell apart, as `avprep encode` writes them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from avprep.shards.latents import EncoderHeader, LatentPacker, LatentSums
from avprep.shards.layout import LATENTS
from avprep.shards.plan import PlanRow
from avprep.shards.store import open_store
from avprep.shards.tar import Members
from avprep.shards.writer import OutputWriter

LEVELS = {"low": -0.5, "high": 0.5}


def write_latents(
    out: Path,
    header: EncoderHeader,
    *,
    first: int = 0,
    count: int = 24,
    packed: bool = False,
    noise: float = 0.05,
    levels: dict[str, float] = LEVELS,
    unlabelled: int = 0,
) -> Path:
    """`count` latents, by turns of label 'low' (values near -0.5) and 'high' (near 0.5), in two shards. The
    first `unlabelled` have no label. Outputs of another `first` have other keys."""
    out.mkdir(parents=True, exist_ok=True)
    rng, sums = np.random.default_rng(0), LatentSums()
    entries = header.output_header(packed=packed, posterior=False)
    writer = OutputWriter(
        open_store(out), LATENTS, entries, fingerprint=f"made {count} from {first}", root="."
    )
    keys = sorted(
        hashlib.sha256(str(first + i).encode()).hexdigest()[:16] + "_00000000000" for i in range(count)
    )
    halves = [keys[: count // 2], keys[count // 2 :]]
    labels = {key: list(levels)[i % 2] for i, key in enumerate(keys)}
    named = {key: [] if i < unlabelled else [labels[key]] for i, key in enumerate(keys)}
    writer.plan(
        [PlanRow(key=k, shard=i, source=k, start=0, labels=tuple(named[k]), caption="") for k in half]
        for i, half in enumerate(halves)
    )

    def members(key: str, pack: LatentPacker) -> Members:
        latent = rng.normal(levels[labels[key]], noise, header.shape).clip(-1, 1).astype(np.float16)
        latent[:, header.padding()] = 0
        clip = {"labels": named[key], "caption": "", "source": key, "start_s": 0.0, "stop_s": 1.0}
        return pack(clip | {"has_audio": True}, latent)

    for i, half in enumerate(halves):
        pack = LatentPacker(header, packed=packed)
        clips = (members(key, pack) for key in half)
        writer.shard(i, clips, sample_rate=header.spec.sample_rate, entries=pack.ledger_entries)
        sums.merge(pack.sums)
    writer.stats({"latents": sums.statistics(header), "labels": sums.labels})
    return out
