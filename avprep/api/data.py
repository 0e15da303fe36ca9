"""What a finished output holds: its clips for training, and its ledger."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import webdataset

from avprep.checks import require_whole
from avprep.errors import ArgumentError
from avprep.media.mux import decode_frames
from avprep.shards import dataset as shards
from avprep.shards.damage import OnDamage
from avprep.shards.dataset import LatentDataset
from avprep.shards.decoders import ClipDecoder, Item, LatentDecoder, decoded
from avprep.shards.integrity import HashingReader, content_damage
from avprep.shards.latents import EncoderHeader
from avprep.shards.layout import LATENTS, ShardError, kind_of, spec_of
from avprep.shards.ledger import ShardRecord, read_table
from avprep.shards.outputs import Output, Places, choose_clips, header_of, open_outputs
from avprep.shards.store import open_store
from avprep.shards.tar import Members, read_shard

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ClipDataset", "LatentDataset", "read_ledger", "web_dataset"]


class ClipDataset(shards.ClipDataset):
    """The clips of outputs of `avprep clip`, by position or key: `data[i]`, `data.by_key(key)`.

    An item is a dict: 'key' str, 'frames' uint8 (T, H, W, RGB) however they are stored, 'mel' float16
    (T, n_mels, W) in [-1, 1], 'waveform' float32 (samples,), 'labels' list of str, 'caption' str, 'json' the
    clip's header. Clips are read at random from local shards, of which at most 256 are open at once. It
    travels to DataLoader workers, by fork or by pickle; within a process, use it from one thread at a time.

    Args:
        out: an output, a local folder; or several, of the same spec and without a key in common. What is
            finished when the dataset is made is in it.
        fields: which of 'frames', 'mel', 'waveform', 'labels', 'caption' and 'json' an item holds; the
            rest is not decoded.
        select: the name of a selection of each output, made by `select`: only its clips are in the dataset.
        shares: of each output among the clips that `order` gives, in any unit: 3 and 7 are 0.3 and 0.7. None:
            each clip comes once per epoch.
        on_damage: 'end' raises ShardError where a shard is missing or of another size than its ledger says.
            'skip' leaves it out, as well as each one whose SHA-256 differs: all of the output is read first.
            `index.left_out` names what was left out.

    Raises:
        ArgumentError: an unknown field, an unknown `on_damage`, or shares that are not one per output.
        ShardError: no output of clips, nothing finished in it, a shard whose size is not its ledger's, or no
            such selection; outputs of different specs, or with a clip of the same key.
    """

    def __init__(
        self,
        out: Places,
        *,
        fields: Sequence[str] = ("frames", "mel", "json"),
        select: str | None = None,
        shares: Sequence[float] | None = None,
        on_damage: OnDamage = "end",
    ) -> None:
        super().__init__(
            out,
            fields=fields,
            decode_h264=decode_frames,
            select=select,
            shares=shares,
            on_damage=on_damage,
        )


def web_dataset(
    out: Places,
    *,
    fields: Sequence[str] | None = None,
    select: str | None = None,
    shuffle: int = 0,
    seed: int | None = None,
    on_damage: OnDamage = "end",
) -> webdataset.WebDataset:
    """A `webdataset.WebDataset` over the finished shards of outputs, decoded.

    Samples are dicts: '__key__', '__url__' and the fields of `ClipDataset` or `LatentDataset`. Shards are
    split between nodes (torch.distributed) and then between DataLoader workers, so each worker needs one.
    No other decoder of webdataset is used; some of them unpickle. A shard's SHA-256 is taken while it is
    read, and compared after its last clip.

    Args:
        out: an output of `avprep clip` or `avprep encode`, a local folder; or several of one kind, as for
            `ClipDataset`, which are read one after the other.
        fields: what is decoded. None: 'frames', 'mel', 'json' of clips; 'latent', 'json' of latents.
        select: as for `ClipDataset` and `LatentDataset`.
        shuffle: shuffles the shards, and the clips in a buffer of so many, before they are decoded; 0 = the
            order of the output.
        seed: of the shuffling; None = another one each time.
        on_damage: as for `ClipDataset`; what 'skip' left out is in the attribute `left_out`.

    Raises:
        ArgumentError: an argument out of range, or a path that webdataset would take for a URL.
        ShardError: as `ClipDataset`; while reading, a damaged shard or clip.
    """
    require_whole("shuffle", shuffle, least=0)
    outputs = open_outputs(out, None)
    for output in outputs:
        if any(character in output.store.uri for character in "#?;"):
            raise ArgumentError(
                f"out = {output.store.uri}: webdataset takes '#', '?' and ';' for parts of a URL"
            )
    decode = _decoder(outputs, fields)
    index = choose_clips(outputs, select=select, on_damage=on_damage).index
    data = webdataset.WebDataset(list(index.paths), shardshuffle=False)
    # Its own stages are replaced: they read tars by Python's tarfile, which some sizes make read for ever.
    data.pipeline = [
        webdataset.SimpleShardList(list(index.paths)),
        webdataset.split_by_node,
        webdataset.split_by_worker,
        *([_shuffled(shuffle, seed)] if shuffle else []),
        _ReadShards(
            largest=max(output.largest for output in outputs),
            records=dict(zip(index.paths, index.records, strict=True)),
            keys=None if select is None else frozenset(index.keys),
        ),
        *([_shuffled(shuffle, seed)] if shuffle else []),
        webdataset.map(decode),
    ]
    data.left_out = index.left_out
    return data


def _shuffled(size: int, seed: int | None) -> Callable:
    return webdataset.shuffle(size) if seed is None else webdataset.detshuffle(size, seed=seed)


@dataclass(frozen=True, kw_only=True)
class _ReadShards:
    """The stage that reads: shards' paths to samples of undecoded files."""

    largest: int
    records: dict[str, ShardRecord]  # by path
    keys: frozenset[str] | None  # of the clips that are read; None: of all

    def __call__(self, urls: Iterable[dict[str, str]]) -> Iterator[dict[str, bytes | str]]:
        for url in urls:
            path = url["url"]
            try:
                for key, members in self._clips(path):
                    if self.keys is None or key in self.keys:
                        yield {"__key__": key, "__url__": path, **members}
            except ShardError as error:
                raise ShardError(f"{path}: {error}") from error

    def _clips(self, path: str) -> Iterator[tuple[str, Members]]:
        """The clips of a shard. Raises ShardError after the last where its bytes are not those written."""
        with open(path, "rb") as file:
            hashing = HashingReader(file)
            yield from read_shard(hashing, self.largest)
            damage = content_damage(self.records[path], hashing.sha256())
        if damage is not None:
            raise ShardError(damage)


def read_ledger(out: str | os.PathLike[str]) -> pa.Table:
    """The ledger of an output's finished shards: one row per planned clip, as a `pyarrow.Table`.

    A table and not a list, for there are millions of rows: `table.group_by("status")`, `table.filter(...)`
    and `table.to_pandas()` work on columns; `table.to_pylist()` is the list. Columns: key, shard, source,
    start_s, status ('written', 'filtered' or 'failed'), reason ('' where written), detail, residual_ms
    (milliseconds, null where not written). Clips of shards that are not made yet have no row.

    Args:
        out: an output of `avprep clip` or `avprep encode`: a folder, or a URI that pyarrow.fs opens.

    Raises:
        ShardError: no output of avprep, or a damaged ledger.
    """
    header_of(out, None)
    return read_table(open_store(out))


@dataclass(frozen=True)
class _Sample:
    """A webdataset sample to its decoded fields."""

    decode: ClipDecoder | LatentDecoder

    def __call__(self, sample: dict[str, Any]) -> Item:
        members: Members = {name: data for name, data in sample.items() if not name.startswith("__")}
        item = decoded(f"{sample['__url__']}: clip {sample['__key__']}", self.decode, members)
        return {"__key__": sample["__key__"], "__url__": sample["__url__"], **item}


def _decoder(outputs: Sequence[Output], fields: Sequence[str] | None) -> _Sample:
    """What decodes a sample."""
    header = outputs[0].header
    if kind_of(header) == LATENTS:
        wanted: Sequence[str] = ("latent", "json") if fields is None else fields
        for output in outputs:
            wanted = shards.checked_fields(wanted, shards.latent_fields(output.header))
        return _Sample(LatentDecoder(EncoderHeader.from_dict(header), tuple(wanted)))
    wanted = ("frames", "mel", "json") if fields is None else fields
    checked = shards.checked_fields(wanted, shards.CLIP_FIELDS)
    return _Sample(ClipDecoder(spec_of(header), checked, decode_frames))
