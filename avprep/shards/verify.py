"""Re-reads an output against its ledger: every byte by checksum, every clip by its files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

from avprep.shards.clips import DecodeH264, known_labels, load_npy
from avprep.shards.decoders import ClipDecoder, Item, LatentDecoder, decoded
from avprep.shards.integrity import content_damage, sha256_of, size_damage
from avprep.shards.latents import SUMS_ENTRY, EncoderHeader, LatentSums
from avprep.shards.layout import (
    CLIPS,
    LATENT,
    LOGVAR,
    SHARDS_FOLDER,
    ShardError,
    kind_of,
    ledger_name,
    read_header,
    shard_index,
    shard_name,
    spec_of,
)
from avprep.shards.ledger import LedgerRow, ShardRecord, finished_shards, read_ledger
from avprep.shards.plan import PlanReader, PlanRow
from avprep.shards.store import Store
from avprep.shards.tar import Members, largest_clip, largest_latent, read_shard
from avprep.spec import ClipSpec


@dataclass(frozen=True)
class Damage:
    """What is wrong, where."""

    name: str  # the file, or the clip in it
    detail: str
    shard: int | None = None  # that is to be made again; None: of no shard

    def __str__(self) -> str:
        return f"{self.name}: {self.detail}"


def verify(
    store: Store,
    on_shard: Callable[[int], object] = lambda _: None,
    *,
    decode_h264: DecodeH264 | None = None,
) -> Iterator[Damage]:
    """Every damage of an output, shard by shard.

    Unfinished shards are no damage. These are: a tar without its ledger, a ledger without its tar, a changed
    byte, a clip that is missing, doubled or of another spec, a row that the plan does not know.

    Args:
        on_shard: called with the index of each shard when it was looked at.
        decode_h264: frames are decoded too, and source, labels and caption compared with the plan: a deep
            check, which takes several times as long.

    Raises:
        ShardError: no output, or a plan that cannot be read.
    """
    header, plan = read_header(store), PlanReader(store)
    sizes = store.sizes(SHARDS_FOLDER)
    finished = finished_shards(store)
    for index in finished:
        check = _check_of(header, decode_h264, plan, index)
        for damage in _finished_damage(store, index, header, plan, sizes, check):
            yield replace(damage, shard=index)
        on_shard(index)
    named = {shard_name(kind_of(header), index) for index in finished}
    for name in sorted(sizes.keys() - named):
        yield Damage(name, "a shard without a ledger (an interrupted run; the next run remakes it)")


def repair(store: Store, damages: Iterable[Damage]) -> tuple[list[str], list[Damage]]:
    """Removes what is damaged, so that the command that wrote the output makes it again: the ledger of each
    damaged shard, and shards without a ledger. Nothing else is touched: not what is whole, and nothing that
    the plan does not have, as no command would make it again. The caller holds the output's lock.

    Returns:
        The names of the removed files, and the damages that this does not mend.
    """
    kind, shards = kind_of(read_header(store)), PlanReader(store).shards
    removed, left = [], []
    for damage in damages:
        index = shard_index(kind, damage.name) if damage.shard is None else damage.shard
        if index is None or index >= shards:
            left.append(damage)
            continue
        name = shard_name(kind, index) if damage.shard is None else ledger_name(index)
        if store.exists(name):
            store.remove(name)
            removed.append(name)
    return removed, left


def _finished_damage(
    store: Store,
    index: int,
    header: dict[str, Any],
    plan: PlanReader,
    sizes: dict[str, int],
    check: _Check,
) -> Iterator[Damage]:
    """What is wrong with a shard and its ledger."""
    name = ledger_name(index)
    try:
        rows, record = read_ledger(store, index)
    except ShardError as error:
        yield Damage(name, f"cannot be read: {error}")
        return
    yield from _against_plan(name, rows, index, plan)
    if record.fingerprint != header.get("fingerprint"):
        yield Damage(name, "made with other options than spec.json says")
    if record.name and (damage := size_damage(record, sizes.get(record.name))) is not None:
        yield Damage(record.name, damage)
    if not record.name and (unknown := shard_name(kind_of(header), index)) in sizes:
        yield Damage(unknown, "a shard of which its ledger says that it has no clips")
    yield from _shard_damage(store, rows, record, check)


def _against_plan(name: str, rows: list[LedgerRow], index: int, plan: PlanReader) -> Iterator[Damage]:
    if index >= plan.shards:
        yield Damage(name, f"the plan has {plan.shards} shards only")
        return
    planned = [row.key for row in plan.rows(index)]
    if sorted(row.key for row in rows) != sorted(planned):
        why = f"holds {len(rows)} rows that are not the {len(planned)} clips planned"
        is_behind = plan.history().revision > 0
        yield Damage(name, f"{why} (the plan has changed; the next run follows it)" if is_behind else why)


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
        return  # named by its size already
    if (damage := content_damage(record, digest)) is not None:
        yield Damage(record.name, damage)
    seen: set[str] = set()
    try:
        with store.open(record.name) as file:
            for key, members in read_shard(file, check.largest):
                seen.add(key)
                yield from check.clip(record.name, key, members)
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

    largest: int  # bytes that the files of one clip may have

    def clip(self, shard: str, key: str, members: Members) -> Iterator[Damage]: ...

    def end(self, record: ShardRecord) -> Iterator[Damage]:
        """What is wrong with the shard as a whole, once its clips have been looked at."""


def _check_of(header: dict[str, Any], decode_h264: DecodeH264 | None, plan: PlanReader, index: int) -> _Check:
    is_planned = decode_h264 is not None and index < plan.shards
    planned = {row.key: row for row in plan.rows(index)} if is_planned else {}
    if kind_of(header) == CLIPS:
        return _ClipCheck(spec_of(header), decode_h264, planned)
    return _LatentCheck(header, planned)


class _ClipCheck:
    def __init__(self, spec: ClipSpec, decode_h264: DecodeH264 | None, planned: dict[str, PlanRow]) -> None:
        fields = ("json", "mel", "waveform") if decode_h264 is None else ("json", "mel", "waveform", "frames")
        self._decode, self._planned = ClipDecoder(spec, fields, decode_h264), planned
        self.largest = largest_clip(spec)

    def clip(self, shard: str, key: str, members: Members) -> Iterator[Damage]:
        try:
            item = decoded("the clip", self._decode, members)
        except ShardError as error:
            yield Damage(f"{shard} {key}", str(error))
            return
        if not any(suffix.startswith("frame") for suffix in members):
            yield Damage(f"{shard} {key}", "the clip lacks its frames")
        yield from _text_damage(f"{shard} {key}", item, self._planned.get(key))

    def end(self, record: ShardRecord) -> Iterator[Damage]:
        return iter(())


class _LatentCheck:
    def __init__(self, header: dict[str, Any], planned: dict[str, PlanRow]) -> None:
        self._header, self._planned = EncoderHeader.from_dict(header), planned
        options = header.get("options")
        if not isinstance(options, dict) or {"packed", "posterior"} - options.keys():
            raise ShardError("spec.json does not say how its latents are stored")
        self._is_packed = options["packed"]
        fields = ("json", "latent", *(["logvar"] if options["posterior"] else []))
        self._decode = LatentDecoder(self._header, fields)
        self._sums = LatentSums()
        self.largest = largest_latent(self._header.shape)

    def clip(self, shard: str, key: str, members: Members) -> Iterator[Damage]:
        try:
            item = decoded("the latent", self._decoded, members)
        except ShardError as error:
            yield Damage(f"{shard} {key}", str(error))
            return
        self._sums.add(item["latent"], item["json"]["labels"], self._header)
        yield from _text_damage(f"{shard} {key}", item, self._planned.get(key))

    def end(self, record: ShardRecord) -> Iterator[Damage]:
        try:
            stated = LatentSums.from_json(record.extra[SUMS_ENTRY])
        except (KeyError, TypeError, ValueError) as error:
            yield Damage(record.name, f"its ledger holds no sums of latents: {error!r}")
            return
        if stated != self._sums:
            yield Damage(record.name, "its ledger's sums, of which stats.json is made, are not its latents'")

    def _decoded(self, members: Members) -> Item:
        """The fields. Raises ShardError for what training would take and an encoder's run never writes."""
        item = self._decode(members)
        for name, suffix in (("latent", LATENT), ("logvar", LOGVAR)):
            if name not in item:
                continue
            if (load_npy(members[suffix]).ndim == 1) != self._is_packed:
                raise ShardError(f"{suffix} is stored otherwise than spec.json says (packed)")
            if item[name][:, self._header.padding()].any():
                raise ShardError(f"{suffix} with padding that is not zero")
        return item


def _text_damage(name: str, item: Item, planned: PlanRow | None) -> Iterator[Damage]:
    """What the clip header says otherwise than the plan, where there is one."""
    if planned is None:
        return
    stated = item["json"]
    if stated["source"] != planned.source or stated["caption"] != planned.caption:
        yield Damage(name, f"its source or caption is not the plan's: {stated['source'][:80]!r}")
    if planned.caption_from not in (None, stated.get("caption_from")):
        yield Damage(name, f"caption_from is not the plan's: {str(stated.get('caption_from'))[:80]!r}")
    if stated["labels"] != known_labels(planned.labels):
        yield Damage(name, f"labels {stated['labels'][:5]!r} are not the plan's {list(planned.labels)[:5]!r}")
