"""Latents per second: the trainer's loader against plain webdataset on the same shards, in one process.

    python -m tests.bench.bench_loader [--clips 4096]

Both give batches of 64 float16 latents of the paper's shape with their labels, shuffled, in alternating
rounds; the median counts. The last row is what the paper's transformer consumes at batch 64 on a GPU of 790
TFLOP/s (58.5 TFLOP per step, docs/model.md 7): 865 per second, a bound that no real step reaches.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import webdataset

from avmodel.config import MDSA_PRESETS
from avmodel.data import LatentData, Steps, step_loader
from avprep.shards.latents import EncoderHeader
from avprep.shards.order import ClipOrder
from avprep.spec import ClipSpec
from tests.avmodel.made_latents import write_latents

BATCH, ROUNDS = 64, 5
EATEN_PER_S = 64 / (58.5 / 790)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clips", type=int, default=4096)
    count = parser.parse_args().clips
    with tempfile.TemporaryDirectory() as folder:
        out = write_latents(Path(folder) / "latents", _header(), count=count)
        loaders = {"avmodel": lambda: _own(out), "webdataset": lambda: _plain(out, count)}
        rates: dict[str, list[float]] = {name: [] for name in loaders}
        for _ in range(ROUNDS):
            for name, loader in loaders.items():
                rates[name].append(_rate(loader(), count // BATCH))
    own, plain = (statistics.median(rates[name]) for name in ("avmodel", "webdataset"))
    print(f"{count} latents, batches of {BATCH}, one process, median of {ROUNDS} rounds")
    print("loader        latents/s   against it   aim")
    print(f"avmodel      {own:10,.0f}")
    print(f"webdataset   {plain:10,.0f}   {own / plain:9.2f}x   2x {'met' if own >= 2 * plain else 'MISSED'}")
    verdict = "met" if own >= 10 * EATEN_PER_S else "MISSED"
    print(f"DiT, GPU     {EATEN_PER_S:10,.0f}   {own / EATEN_PER_S:9.2f}x   10x {verdict}")


def _header() -> EncoderHeader:
    layout = MDSA_PRESETS["paper"].layout
    return EncoderHeader(
        spec=ClipSpec(), channels=layout.channels, planes=layout.planes, rows=layout.rows,
        columns=layout.columns, valid_rows=layout.valid_rows, weights="0" * 64, config={},
    )  # fmt: skip


def _own(out: Path) -> Iterator[torch.Tensor]:
    data = LatentData(out)
    for batch in step_loader(data, Steps(ClipOrder([len(data)], seed=0), BATCH), workers=0, pin=False):
        yield batch.latent


def _plain(out: Path, count: int) -> Iterator[torch.Tensor]:
    urls = sorted(str(path) for path in (out / "shards").iterdir())
    samples = webdataset.WebDataset(urls, shardshuffle=len(urls)).shuffle(1000)
    while True:
        latents = []
        for sample in samples:
            json.loads(sample["json"])
            latents.append(torch.from_numpy(np.load(io.BytesIO(sample["latent.npy"]), allow_pickle=False)))
            if len(latents) == BATCH:
                yield torch.stack(latents)
                latents = []


def _rate(batches: Iterator[torch.Tensor], count: int) -> float:
    next(batches)  # opens the shards
    started = time.perf_counter()
    for batch in islice(batches, count - 2):
        assert batch.shape[0] == BATCH
    return (count - 2) * BATCH / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
