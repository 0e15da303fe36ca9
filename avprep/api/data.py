"""What a finished output holds: its clips for training, and its ledger."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import webdataset

from avprep.checks import require_whole
from avprep.errors import ArgumentError
from avprep.media.mux import decode_frames
from avprep.shards import dataset as shards
from avprep.shards.clips import Members
from avprep.shards.dataset import Item, LatentDataset
from avprep.shards.latents import KIND as LATENTS_KIND
from avprep.shards.latents import EncoderHeader
from avprep.shards.ledger import finished_shards, read_record, read_table
from avprep.shards.store import LocalStore, ShardError, open_store
from avprep.shards.verify import kind_of
from avprep.spec import ClipSpec

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

    Raises:
        ArgumentError: an unknown field.
        ShardError: no output of clips, nothing finished in it, or a shard whose size is not its ledger's.
    """

    def __init__(
        self, out: str | os.PathLike[str], *, fields: Sequence[str] = ("frames", "mel", "json")
    ) -> None:
        super().__init__(out, fields=fields, decode_h264=decode_frames)


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
        ShardError: no such output, or nothing finished in it; while reading, a damaged clip.
    """
    require_whole("shuffle", shuffle, least=0)
    header = shards.header_of(out, None)
    decode = _decoder(header, fields)
    data = webdataset.WebDataset(
        _finished_paths(out),
        shardshuffle=shuffle,
        detshuffle=bool(shuffle) and seed is not None,
        seed=seed,
        nodesplitter=webdataset.split_by_node,
    )
    if shuffle:
        buffer = webdataset.shuffle if seed is None else partial(webdataset.detshuffle, seed=seed)
        data = data.compose(buffer(shuffle))
    return data.map(_Sample(os.fspath(out), decode))


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
    decode: shards.ClipDecoder | shards.LatentDecoder

    def __call__(self, sample: dict[str, bytes | str]) -> Item:
        members: Members = {name: data for name, data in sample.items() if not name.startswith("__")}
        item = shards.decoded(f"{self.out}: clip {sample['__key__']}", self.decode, members)
        return {"__key__": sample["__key__"], "__url__": sample["__url__"], **item}


def _decoder(header: dict, fields: Sequence[str] | None) -> shards.ClipDecoder | shards.LatentDecoder:
    kind = kind_of(header)
    if kind == LATENTS_KIND:
        known, default = shards.latent_fields(header), ("latent", "json")
        checked = shards.checked_fields(default if fields is None else fields, known)
        return shards.LatentDecoder(EncoderHeader.from_dict(header), checked)
    if kind == "clips":
        default = ("frames", "mel", "json")
        checked = shards.checked_fields(default if fields is None else fields, shards.CLIP_FIELDS)
        return shards.ClipDecoder(ClipSpec.from_dict(header["spec"]), checked, decode_frames)
    raise ShardError(f"spec.json says that it holds {kind!r}, which this version does not know")


def _finished_paths(out: str | os.PathLike[str]) -> list[str]:
    """The tars of the finished shards, ascending."""
    store = open_store(out)
    if not isinstance(store, LocalStore):
        raise ShardError(f"{store.uri}: web_dataset reads a local folder; copy it there")
    if any(character in store.uri for character in "#?;"):
        raise ArgumentError(f"out = {store.uri}: webdataset takes '#', '?' and ';' for parts of a URL")
    names = [read_record(store, index).name for index in finished_shards(store)]
    if not any(names):
        raise ShardError(f"{store.uri} holds no finished clip")
    return [str(store.root / name) for name in names if name]
