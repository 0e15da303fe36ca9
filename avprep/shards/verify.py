"""Re-reads an output against its ledger: every byte by checksum, every clip by its files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from avprep.shards.clips import Members, ShardError, load_npy, load_waveform, read_shard, sha256_of
from avprep.shards.ledger import LedgerRow, ShardRecord, finished_shards, read_ledger
from avprep.shards.plan import PlanReader
from avprep.shards.store import Store
from avprep.spec import ClipSpec


@dataclass(frozen=True)
class Damage:
    """What is wrong, where."""

    name: str     # the file, or the clip in it
    detail: str

    def __str__(self) -> str:
        return f"{self.name}: {self.detail}"


def read_header(store: Store) -> dict[str, Any]:
    """spec.json. Raises ShardError where there is none or it is no JSON."""
    try:
        with store.open("spec.json") as file:
            return json.load(file)
    except FileNotFoundError:
        raise ShardError(f"{store.uri} holds no spec.json: not an output of avprep") from None
    except ValueError as error:
        raise ShardError(f"{store.uri}/spec.json is damaged: {error}") from error


def verify(store: Store, on_shard: Callable[[int], None] = lambda _: None) -> Iterator[Damage]:
    """Every damage of an output, shard by shard. `on_shard` hears of each shard looked at.

    Unfinished shards are no damage; a tar without its ledger, a ledger without its tar, a changed byte, a
    clip that is missing, doubled or of another spec, and a row that the plan does not know are.
    """
    header = read_header(store)
    spec = ClipSpec.from_dict(header["spec"])
    plan = PlanReader(store)
    done = finished_shards(store)
    named = set()
    for index in done:
        try:
            rows, record = read_ledger(store, index)
        except (OSError, ValueError, KeyError) as error:
            yield Damage(f"ledger/{index:06d}.parquet", f"cannot be read: {error}")
            continue
        named.add(record.name)
        yield from _against_plan(index, rows, plan)
        if record.fingerprint != header["fingerprint"]:
            yield Damage(f"ledger/{index:06d}.parquet", "made with other options than spec.json says")
        yield from _shard_damage(store, rows, record, spec)
        on_shard(index)
    for name in store.names("shards"):
        if name not in named:
            yield Damage(name, "a shard without a ledger (an interrupted run; the next run remakes it)")


def _against_plan(index: int, rows: list[LedgerRow], plan: PlanReader) -> Iterator[Damage]:
    name = f"ledger/{index:06d}.parquet"
    if index >= plan.shards:
        yield Damage(name, f"the plan has {plan.shards} shards only")
        return
    planned = [row.key for row in plan.rows(index)]
    if sorted(row.key for row in rows) != sorted(planned):
        yield Damage(name, f"holds {len(rows)} rows that are not the {len(planned)} clips planned")


def _shard_damage(
    store: Store, rows: list[LedgerRow], record: ShardRecord, spec: ClipSpec
) -> Iterator[Damage]:
    written = {row.key for row in rows if row.status == "written"}
    if not record.name:
        if written:
            yield Damage("ledger", f"{len(written)} clips written and no shard named")
        return
    try:
        with store.open(record.name) as file:
            digest = sha256_of(file)
    except FileNotFoundError:
        yield Damage(record.name, "is not there, though its ledger says it is whole")
        return
    if digest != record.sha256:
        yield Damage(record.name, f"its bytes are not those written (SHA-256 {digest[:12]}, "
                                  f"not {record.sha256[:12]})")
    seen: set[str] = set()
    try:
        with store.open(record.name) as file:
            for key, members in read_shard(file):
                seen.add(key)
                yield from _clip_damage(f"{record.name} {key}", members, spec)
    except ShardError as error:
        yield Damage(record.name, str(error))
    if seen != written:
        yield Damage(record.name, f"holds {len(seen)} clips, its ledger says {len(written)}: "
                                  f"{', '.join(sorted(seen ^ written)[:3])}")


def _clip_damage(name: str, members: Members, spec: ClipSpec) -> Iterator[Damage]:
    missing = {"json", "mel.npy", "audio.flac"} - members.keys()
    if missing or not any(suffix.startswith("frame") for suffix in members):
        yield Damage(name, f"lacks {', '.join(sorted(missing)) or 'its frames'}")
        return
    try:
        json.loads(members["json"])
        mel = load_npy(members["mel.npy"])
        samples = len(load_waveform(members["audio.flac"]))
    except (ValueError, RuntimeError) as error:  # soundfile's errors are RuntimeErrors
        yield Damage(name, f"cannot be read: {error}")
        return
    if mel.shape != spec.mel_shape or mel.dtype != np.float16:
        yield Damage(name, f"a mel stack of {mel.dtype} {mel.shape}, not float16 {spec.mel_shape}")
    elif not (np.abs(mel) <= 1).all():
        yield Damage(name, "a mel stack with values outside [-1, 1]")
    if samples != spec.samples:
        yield Damage(name, f"{samples} samples of sound, not {spec.samples}")
