"""Re-reads an output against its ledger: every byte by checksum, every clip by its files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from avprep.shards.clips import load_npy, load_waveform
from avprep.shards.integrity import content_damage, sha256_of
from avprep.shards.latents import SUMS_ENTRY, EncoderHeader, LatentSums, unpack
from avprep.shards.layout import (
    AUDIO,
    CLIP_HEADER,
    CLIPS,
    LATENT,
    LOGVAR,
    MEL,
    SHARDS_FOLDER,
    ShardError,
    kind_of,
    ledger_name,
    read_header,
)
from avprep.shards.ledger import LedgerRow, ShardRecord, finished_shards, read_ledger
from avprep.shards.plan import PlanReader
from avprep.shards.store import Store
from avprep.shards.tar import Members, read_shard
from avprep.spec import ClipSpec


@dataclass(frozen=True)
class Damage:
    """What is wrong, where."""

    name: str  # the file, or the clip in it
    detail: str

    def __str__(self) -> str:
        return f"{self.name}: {self.detail}"


def verify(store: Store, on_shard: Callable[[int], None] = lambda _: None) -> Iterator[Damage]:
    """Every damage of an output, shard by shard. `on_shard` hears of each shard looked at.

    Unfinished shards are no damage; a tar without its ledger, a ledger without its tar, a changed byte, a
    clip that is missing, doubled or of another spec, and a row that the plan does not know are.
    """
    header = read_header(store)
    plan = PlanReader(store)
    done = finished_shards(store)
    named = set()
    for index in done:
        try:
            rows, record = read_ledger(store, index)
        except (OSError, ValueError, KeyError) as error:
            yield Damage(ledger_name(index), f"cannot be read: {error}")
            continue
        named.add(record.name)
        yield from _against_plan(index, rows, plan)
        if record.fingerprint != header["fingerprint"]:
            yield Damage(ledger_name(index), "made with other options than spec.json says")
        yield from _shard_damage(store, rows, record, _check_of(header))
        on_shard(index)
    for name in store.names(SHARDS_FOLDER):
        if name not in named:
            yield Damage(name, "a shard without a ledger (an interrupted run; the next run remakes it)")


def _against_plan(index: int, rows: list[LedgerRow], plan: PlanReader) -> Iterator[Damage]:
    name = ledger_name(index)
    if index >= plan.shards:
        yield Damage(name, f"the plan has {plan.shards} shards only")
        return
    planned = [row.key for row in plan.rows(index)]
    if sorted(row.key for row in rows) != sorted(planned):
        yield Damage(name, f"holds {len(rows)} rows that are not the {len(planned)} clips planned")


def _shard_damage(
    store: Store, rows: list[LedgerRow], record: ShardRecord, check: _Check
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
    if (damage := content_damage(record, digest)) is not None:
        yield Damage(record.name, damage)
    seen: set[str] = set()
    try:
        with store.open(record.name) as file:
            for key, members in read_shard(file):
                seen.add(key)
                yield from check.clip(f"{record.name} {key}", members)
    except ShardError as error:
        yield Damage(record.name, str(error))
    if seen != written:
        yield Damage(
            record.name,
            f"holds {len(seen)} clips, its ledger says {len(written)}: "
            f"{', '.join(sorted(seen ^ written)[:3])}",
        )
    yield from check.end(record)


class _Check(Protocol):
    """Looks at the clips of one shard, by their kind."""

    def clip(self, name: str, members: Members) -> Iterator[Damage]: ...

    def end(self, record: ShardRecord) -> Iterator[Damage]:
        """What is wrong with the shard as a whole, once its clips have been looked at."""


def _check_of(header: dict[str, Any]) -> _Check:
    kind = kind_of(header)
    return _ClipCheck(ClipSpec.from_dict(header["spec"])) if kind == CLIPS else _LatentCheck(header)


class _ClipCheck:
    def __init__(self, spec: ClipSpec) -> None:
        self._spec = spec

    def clip(self, name: str, members: Members) -> Iterator[Damage]:
        spec = self._spec
        missing = {CLIP_HEADER, MEL, AUDIO} - members.keys()
        if missing or not any(suffix.startswith("frame") for suffix in members):
            yield Damage(name, f"lacks {', '.join(sorted(missing)) or 'its frames'}")
            return
        try:
            json.loads(members[CLIP_HEADER])
            mel = load_npy(members[MEL])
            samples = len(load_waveform(members[AUDIO]))
        except (ValueError, RuntimeError) as error:  # soundfile's errors are RuntimeErrors
            yield Damage(name, f"cannot be read: {error}")
            return
        if mel.shape != spec.mel_shape or mel.dtype != np.float16:
            yield Damage(name, f"a mel stack of {mel.dtype} {mel.shape}, not float16 {spec.mel_shape}")
        elif not (np.abs(mel) <= 1).all():
            yield Damage(name, "a mel stack with values outside [-1, 1]")
        if samples != spec.samples:
            yield Damage(name, f"{samples} samples of sound, not {spec.samples}")

    def end(self, record: ShardRecord) -> Iterator[Damage]:
        return iter(())


class _LatentCheck:
    def __init__(self, header: dict[str, Any]) -> None:
        self._header = EncoderHeader.from_dict(header)
        self._is_packed = header["options"]["packed"]
        self._arrays = [LATENT, *([LOGVAR] if header["options"]["posterior"] else [])]
        self._sums = LatentSums()

    def clip(self, name: str, members: Members) -> Iterator[Damage]:
        missing = {CLIP_HEADER, *self._arrays} - members.keys()
        if missing:
            yield Damage(name, f"lacks {', '.join(sorted(missing))}")
            return
        try:
            labels = json.loads(members[CLIP_HEADER])["labels"]
            stacks = {suffix: self._stack(suffix, load_npy(members[suffix])) for suffix in self._arrays}
        except (ValueError, KeyError) as error:
            yield Damage(name, f"cannot be read: {error}")
            return
        latent = stacks[LATENT]
        if not (np.abs(latent) <= 1).all():
            yield Damage(name, "a latent with values outside [-1, 1]")
            return
        self._sums.add(latent, labels, self._header)

    def end(self, record: ShardRecord) -> Iterator[Damage]:
        if LatentSums.from_json(record.extra[SUMS_ENTRY]) != self._sums:
            yield Damage(record.name, "its ledger's sums, of which stats.json is made, are not its latents'")

    def _stack(self, suffix: str, array: np.ndarray) -> np.ndarray:
        """Unpacked. Raises ShardError for what an encoder's run never writes."""
        shape = (self._header.values,) if self._is_packed else self._header.shape
        if array.shape != shape or array.dtype != np.float16:
            raise ShardError(f"{suffix} of {array.dtype} {array.shape}, not float16 {shape}")
        stack = unpack(array, self._header)
        if not np.isfinite(stack).all():
            raise ShardError(f"{suffix} with NaN or infinity")
        if stack[:, self._header.padding()].any():
            raise ShardError(f"{suffix} with padding that is not zero")
        return stack
