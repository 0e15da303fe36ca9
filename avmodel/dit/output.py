"""The output of a sampling: latents in shards, each whole or absent. A run resumes after the last one.

A folder of samples holds beside them KEY.mp4, KEY.wav, sheet.png, samples.json and request.json.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from avmodel.dit.exchange import REQUEST_FILE
from avmodel.dit.prompts import Prompt
from avprep.shards.clips import clip_key
from avprep.shards.latents import SUMS_ENTRY, EncoderHeader, LatentPacker, LatentSums
from avprep.shards.layout import LATENTS
from avprep.shards.ledger import finished_shards, read_ledger, read_record
from avprep.shards.plan import PlanRow
from avprep.shards.store import open_store
from avprep.shards.writer import OutputWriter

SHARD_SIZE = (
    256  # clips: what a kill costs at most, and what is kept in memory (12 MiB of the paper's latents)
)
FINGERPRINT = "sample-"  # how the fingerprint of these outputs begins
SAMPLES_FILE, SHEET_FILE = "samples.json", "sheet.png"


@dataclass(frozen=True)
class SampleRow:
    """One clip of the plan."""

    number: int
    key: str
    prompt: Prompt


def sample_rows(prompts: Sequence[Prompt], seed: int) -> list[SampleRow]:
    """Keys ascend with the clips' numbers."""
    return [
        SampleRow(number, clip_key(f"sample of seed {seed}", number), prompt)
        for number, prompt in enumerate(prompts)
    ]


def shards_of(rows: Sequence[SampleRow]) -> list[Sequence[SampleRow]]:
    """The clips of each shard."""
    return [rows[first : first + SHARD_SIZE] for first in range(0, len(rows), SHARD_SIZE)]


def part_in(folder: Path, request: dict[str, Any]) -> int:
    """The clips in the folder's finished shards, if they are of this very request; else 0."""
    try:
        stored = json.loads((folder / REQUEST_FILE).read_bytes())
    except (OSError, ValueError):
        return 0
    if stored != request:
        return 0
    store = open_store(folder)
    return sum(len(read_ledger(store, index)[0]) for index in finished_shards(store))


class SampleOutput:
    """Writes the shards of a sampling into a folder, which may hold some of them."""

    def __init__(
        self,
        folder: Path,
        rows: Sequence[SampleRow],
        header: EncoderHeader,
        request: dict[str, Any],
        seed: int,
    ) -> None:
        self._folder, self._header, self._store = folder, header, open_store(folder)
        self.shards = shards_of(rows)
        (folder / REQUEST_FILE).write_text(json.dumps(request, indent=1, sort_keys=True))
        self._writer = OutputWriter(
            self._store,
            LATENTS,
            header.output_header(packed=False, posterior=False),
            fingerprint=f"{FINGERPRINT}{seed}-{header.weights[:16]}",
            root=".",
        )
        self._writer.plan([_plan_row(row, index) for row in shard] for index, shard in enumerate(self.shards))

    @property
    def missing(self) -> list[int]:
        """The shards that are still to be made."""
        finished = set(finished_shards(self._store))
        return [index for index in range(len(self.shards)) if index not in finished]

    def write_shard(self, index: int, latents: Sequence[np.ndarray]) -> None:
        """Writes a shard and then its ledger. latents: float16 (C, P, rows, columns), one per row."""
        pack, seconds = LatentPacker(self._header, packed=False), float(self._header.spec.seconds)
        clips = (
            pack(_clip_header(row.prompt, seconds), latent)
            for row, latent in zip(self.shards[index], latents, strict=True)
        )
        rate = self._header.spec.sample_rate
        self._writer.shard(index, clips, sample_rate=rate, entries=pack.ledger_entries)

    def finish(self) -> None:
        """Writes what describes all shards."""
        sums = LatentSums()
        for index in range(len(self.shards)):
            sums.merge(LatentSums.from_json(read_record(self._store, index).extra[SUMS_ENTRY]))
        self._writer.stats({"latents": sums.statistics(self._header), "labels": sums.labels})
        listed = [
            {"key": row.key, "labels": list(row.prompt.labels), "caption": row.prompt.caption}
            for shard in self.shards
            for row in shard
        ]
        (self._folder / SAMPLES_FILE).write_text(json.dumps(listed, indent=1, ensure_ascii=False))


def _plan_row(row: SampleRow, shard: int) -> PlanRow:
    prompt = row.prompt
    return PlanRow(
        key=row.key, shard=shard, source="sample", start=0, labels=prompt.labels, caption=prompt.caption
    )


def _clip_header(prompt: Prompt, seconds: float) -> dict[str, Any]:
    return {
        "labels": list(prompt.labels),
        "caption": prompt.caption,
        "source": "sample",
        "start_s": 0.0,
        "stop_s": seconds,
        "has_audio": True,
    }
