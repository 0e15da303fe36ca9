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
from avprep.shards.integrity import size_damage
from avprep.shards.latents import EncoderHeader
from avprep.shards.layout import LATENTS, SHARDS_FOLDER, ShardError, kind_of, spec_of
from avprep.shards.ledger import finished_shards, read_record, read_table
from avprep.shards.store import LocalStore, open_store
from avprep.shards.tar import Members, largest_clip, largest_latent, read_shard

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ClipDataset", "LatentDataset", "read_ledger", "web_dataset"]


class ClipDataset(shards.ClipDataset):
    """The clips of an output of `avprep clip`, by position or key: `data[i]`, `data.by_key(key)`.

    An item is a dict: 'key' str, 'frames' uint8 (T, H, W, RGB) however they are stored, 'mel' float16
    (T, n_mels, W) in [-1, 1], 'waveform' float32 (samples,), 'json' the clip's header. Clips are read at
    random from local shards, of which at most 256 are open at once. It travels to DataLoader workers, by fork
    or by pickle; within a process, use it from one thread at a time.

    Args:
        out: the output, a local folder. What is finished when the dataset is made is in it.
        fields: which of 'frames', 'mel', 'waveform' and 'json' an item holds; the rest is not decoded.
        on_damage: 'end' raises ShardError where a shard is missing or of another size than its ledger says.
            'skip' leaves it out, as well as each one whose SHA-256 differs: all of the output is read first.
            `index.left_out` names what was left out.

    Raises:
        ArgumentError: an unknown field, or an unknown `on_damage`.
        ShardError: no output of clips, nothing finished in it, or a shard whose size is not its ledger's.
    """

    def __init__(
        self,
        out: str | os.PathLike[str],
        *,
        fields: Sequence[str] = ("frames", "mel", "json"),
        on_damage: OnDamage = "end",
    ) -> None:
        super().__init__(out, fields=fields, decode_h264=decode_frames, on_damage=on_damage)


def web_dataset(
    out: str | os.PathLike[str],
    *,
    fields: Sequence[str] | None = None,
    shuffle: int = 0,
    seed: int | None = None,
) -> webdataset.WebDataset:
    """A `webdataset.WebDataset` over the finished shards of an output, decoded.

    Samples are dicts: '__key__', '__url__' and the fields of `ClipDataset` or `LatentDataset`. Shards are
    split between nodes (torch.distributed) and then between DataLoader workers, so each worker needs one.
    No other decoder of webdataset is used; some of them unpickle.

    Args:
        out: an output of `avprep clip` or `avprep encode`, a local folder.
        fields: what is decoded. None: 'frames', 'mel', 'json' of clips; 'latent', 'json' of latents.
        shuffle: shuffles the shards, and the clips in a buffer of so many, before they are decoded; 0 = the
            order of the output.
        seed: of the shuffling; None = another one each time.

    Raises:
        ArgumentError: an argument out of range, or a path that webdataset would take for a URL.
        ShardError: no such output, or nothing finished in it; while reading, a damaged shard or clip.
    """
    require_whole("shuffle", shuffle, least=0)
    header = shards.header_of(out, None)
    decode, largest = _decoder(header, fields)
    paths = _finished_paths(out)
    data = webdataset.WebDataset(paths, shardshuffle=False)
    # Its own stages are replaced: they read tars by Python's tarfile, which some sizes make read for ever.
    data.pipeline = [
        webdataset.SimpleShardList(paths),
        webdataset.split_by_node,
        webdataset.split_by_worker,
        *([_shuffled(shuffle, seed)] if shuffle else []),
        _ReadShards(largest),
        *([_shuffled(shuffle, seed)] if shuffle else []),
    ]
    return data.map(_Sample(os.fspath(out), decode))


def _shuffled(size: int, seed: int | None) -> Callable:
    return webdataset.shuffle(size) if seed is None else webdataset.detshuffle(size, seed=seed)


@dataclass(frozen=True)
class _ReadShards:
    """The stage that reads: shards' paths to samples of undecoded files."""

    largest: int

    def __call__(self, urls: Iterable[dict[str, str]]) -> Iterator[dict[str, bytes | str]]:
        for url in urls:
            try:
                with open(url["url"], "rb") as file:
                    for key, members in read_shard(file, self.largest):
                        yield {"__key__": key, "__url__": url["url"], **members}
            except ShardError as error:
                raise ShardError(f"{url['url']}: {error}") from error


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
    shards.header_of(out, None)
    return read_table(open_store(out))


@dataclass(frozen=True)
class _Sample:
    """A webdataset sample to its decoded fields."""

    out: str
    decode: ClipDecoder | LatentDecoder

    def __call__(self, sample: dict[str, Any]) -> Item:
        members: Members = {name: data for name, data in sample.items() if not name.startswith("__")}
        item = decoded(f"{self.out}: clip {sample['__key__']}", self.decode, members)
        return {"__key__": sample["__key__"], "__url__": sample["__url__"], **item}


def _decoder(header: dict, fields: Sequence[str] | None) -> tuple[ClipDecoder | LatentDecoder, int]:
    """What decodes a sample, and the bytes that its files may have."""
    kind = kind_of(header)
    default: tuple[str, ...]
    if kind == LATENTS:
        known, default = shards.latent_fields(header), ("latent", "json")
        checked = shards.checked_fields(default if fields is None else fields, known)
        encoder = EncoderHeader.from_dict(header)
        return LatentDecoder(encoder, checked), largest_latent(encoder.shape)
    default = ("frames", "mel", "json")
    checked = shards.checked_fields(default if fields is None else fields, shards.CLIP_FIELDS)
    spec = spec_of(header)
    return ClipDecoder(spec, checked, decode_frames), largest_clip(spec)


def _finished_paths(out: str | os.PathLike[str]) -> list[str]:
    """The tars of the finished shards, ascending. Raises ShardError for one missing or of another size."""
    store = open_store(out)
    if not isinstance(store, LocalStore):
        raise ShardError(f"{store.uri}: web_dataset reads a local folder; copy it there")
    if any(character in store.uri for character in "#?;"):
        raise ArgumentError(f"out = {store.uri}: webdataset takes '#', '?' and ';' for parts of a URL")
    records = [read_record(store, index) for index in finished_shards(store)]
    sizes, found = store.sizes(SHARDS_FOLDER), [record for record in records if record.name]
    for record in found:
        damage = size_damage(record, sizes.get(record.name))
        if damage is not None:
            raise ShardError(f"{store.uri}/{damage}")
    if not found:
        raise ShardError(f"{store.uri} holds no finished clip")
    return [str(store.root / record.name) for record in found]
