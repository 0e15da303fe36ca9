"""A finished latent shard without some of its clips: nothing is encoded again."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import replace

from avprep.seconds import Seconds
from avprep.shards.decoders import LatentDecoder, decoded
from avprep.shards.latents import SUMS_ENTRY, EncoderHeader, LatentSums
from avprep.shards.layout import LATENTS, shard_name
from avprep.shards.ledger import LedgerRow, ShardRecord, read_ledger, write_ledger
from avprep.shards.store import Store
from avprep.shards.tar import Members, largest_latent, read_named_shard
from avprep.shards.writer import write_shard


def without_clips(
    store: Store, index: int, keys: AbstractSet[str], header: EncoderHeader
) -> tuple[list[LedgerRow], ShardRecord]:
    """Writes the shard and its ledger anew, without the clips of these keys.

    Raises:
        ShardError: the shard is damaged; nothing is written.
        OSError: the output cannot be read or written.
    """
    rows, record = read_ledger(store, index)
    rows = [row for row in rows if row.key not in keys]
    sums, decode = LatentSums(), LatentDecoder(header, ("json", "latent"))

    def kept() -> Iterator[tuple[str, Members]]:
        if not record.name:
            return
        for key, members in read_named_shard(store, record.name, largest_latent(header.shape)):
            if key not in keys:
                item = decoded(f"{record.name} {key}", decode, members)
                sums.add(item["latent"], item["json"]["labels"], header)
                yield key, members

    name = shard_name(LATENTS, index)
    written = write_shard(store, name, index, kept(), record.fingerprint, Seconds(), record)
    written = replace(written, extra={**record.extra, SUMS_ENTRY: sums.to_json()})
    write_ledger(store, index, rows, written)
    return rows, written
