"""Latents of two labels that are easy to tell apart, as `avprep encode` writes them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from avprep.shards.clips import ShardWriter
from avprep.shards.latents import SUMS_ENTRY, EncoderHeader, LatentSums, pack_clip_latents
from avprep.shards.ledger import LedgerRow, ShardRecord, write_ledger
from avprep.shards.plan import PlanRow, write_plan
from avprep.shards.store import open_store

LEVELS = {"low": -0.5, "high": 0.5}


def write_latents(
    out: Path,
    header: EncoderHeader,
    *,
    count: int = 24,
    packed: bool = False,
    noise: float = 0.05,
    levels: dict[str, float] = LEVELS,
) -> Path:
    """`count` latents, by turns of label 'low' (values near -0.5) and 'high' (near 0.5), in two shards."""
    out.mkdir(parents=True, exist_ok=True)
    store, rng, sums = open_store(out), np.random.default_rng(0), LatentSums()
    options = {"packed": packed, "posterior": False}
    entries = {
        "format": 1,
        "kind": "latents",
        "options": options,
        "fingerprint": f"made {count}",
        "root": ".",
    }
    (out / "spec.json").write_text(json.dumps(header.to_dict() | entries))
    keys = sorted(hashlib.sha256(str(i).encode()).hexdigest()[:16] + "_00000000000" for i in range(count))
    halves = [keys[: count // 2], keys[count // 2 :]]
    labels = {key: list(levels)[i % 2] for i, key in enumerate(keys)}
    write_plan(
        store,
        (
            [PlanRow(key=k, shard=i, source=k, start=0, labels=(labels[k],), caption="") for k in half]
            for i, half in enumerate(halves)
        ),
    )
    for i, half in enumerate(halves):
        name, here = f"shards/latents-{i:06d}.tar", LatentSums()
        with store.write(name) as file:
            writer = ShardWriter(file)
            for key in half:
                latent = rng.normal(levels[labels[key]], noise, header.shape).clip(-1, 1).astype(np.float16)
                latent[:, header.padding()] = 0
                here.add(latent, [labels[key]], header)
                clip = {"labels": [labels[key]], "caption": "", "source": key, "start_s": 0.0, "stop_s": 1.0}
                writer.add(
                    key,
                    pack_clip_latents(
                        clip=clip | {"has_audio": True},
                        latent=latent,
                        logvar=None,
                        header=header,
                        packed=packed,
                    ),
                )
            digest = writer.close()
        rows = [
            LedgerRow(key=k, shard=i, source=k, start_s=0.0, status="written", residual_ms=0.0) for k in half
        ]
        record = ShardRecord(name, digest, writer.size, f"made {count}", {SUMS_ENTRY: here.to_json()})
        write_ledger(store, i, rows, record)
        sums.merge(here)
    (out / "stats.json").write_text(json.dumps({"latents": sums.statistics(header), "labels": sums.labels}))
    return out
