"""Finished outputs as map-style datasets: any clip by its position or its key, as NumPy arrays.

`torch.utils.data.DataLoader` takes them as they are; torch is not needed. An item is a dict:

    clips     key str | frames uint8 (T, H, W, RGB) | mel float16 (T, n_mels, W) | waveform float32 (samples,)
    latents   key str | latent float16 (C, P, rows, columns) | logvar, of the same kind (where stored)
    both      labels, a list of str | caption str | json, the clip's header, which holds both and more
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from itertools import count
from operator import index as as_index
from typing import Any, Self

import numpy as np

from avprep.errors import ArgumentError, ClipNotFound
from avprep.shards.clips import DecodeH264
from avprep.shards.damage import OnDamage
from avprep.shards.decoders import ClipDecoder, Item, LatentDecoder, decoded
from avprep.shards.index import ClipReader
from avprep.shards.latents import EncoderHeader
from avprep.shards.layout import CLIPS, LATENTS, ShardError, spec_of
from avprep.shards.order import ClipOrder, checked_shares
from avprep.shards.outputs import Output, Places, choose_clips, open_outputs
from avprep.shards.tar import Members

CLIP_FIELDS = ("frames", "mel", "waveform", "labels", "caption", "json")
LATENT_FIELDS = ("latent", "logvar", "labels", "caption", "json")


class _MapStyle:
    """What both datasets share: the clips of some outputs, a reader per process, and a decoder."""

    def __init__(
        self,
        outputs: Sequence[Output],
        decode: Callable[[Members], Item],
        *,
        select: str | None,
        shares: Sequence[float] | None,
        on_damage: OnDamage,
    ) -> None:
        self.headers = tuple(output.header for output in outputs)
        self.shares = checked_shares(shares, len(outputs))
        chosen = choose_clips(outputs, select=select, on_damage=on_damage)
        self.index, self.selections = chosen.index, chosen.selections
        self._decode = decode
        self._reader: ClipReader | None = None
        self._positions: dict[str, int] | None = None

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, position: int) -> Item:
        """The clip at a position; -1 is the last.

        Raises:
            IndexError: no such position.
            ShardError: the shard has changed since it was indexed, or the clip's files are damaged.
        """
        position = self._position(position)
        members, key = self.members(position), self.index.keys[position]
        return {"key": key} | decoded(f"{self.index.output(position)}: clip {key}", self._decode, members)

    @property
    def keys(self) -> tuple[str, ...]:
        """The clips' keys, by position: ascending by output, by shard, and by key in a shard."""
        return self.index.keys

    @property
    def name(self) -> str:
        """The outputs, for messages."""
        return ", ".join(self.index.outputs)

    @property
    def fingerprint(self) -> str:
        """Of the outputs, in their order."""
        return " + ".join(str(header.get("fingerprint", "")) for header in self.headers)

    def by_key(self, key: str) -> Item:
        """The clip of a key. Raises ClipNotFound, a KeyError, where there is none."""
        if self._positions is None:
            self._positions = {known: i for i, known in enumerate(self.keys)}
        if key not in self._positions:
            raise ClipNotFound(f"{self.name} holds no finished clip with key {key!r}")
        return self[self._positions[key]]

    def members(self, position: int) -> Members:
        """A clip's files as they lie in the shard: suffix ('mel.npy') to bytes."""
        if self._reader is None:  # one per process: opened where it is used
            self._reader = ClipReader(self.index)
        return self._reader[self._position(position)]

    def subset(self, positions: np.ndarray) -> Self:
        """The clips at these positions, which ascend: a dataset of its own. It may be empty."""
        chosen = copy(self)
        chosen.index = self.index.subset(positions)
        chosen._reader = chosen._positions = None
        return chosen

    def order(self, *, seed: int, epoch: int = 0, position: int = 0) -> Iterator[int]:
        """Positions of clips without end: shuffled epochs in a row, from the `position`-th of `epoch` on.

        With `shares`, an epoch is as many clips as the dataset has, each output's in its share of them.

        Nothing but (seed, epoch, position), the shares and the numbers of clips decides them, so that a run
        that counts what it has taken goes on exactly where it was.
        """
        for name, value in (("seed", seed), ("epoch", epoch), ("position", position)):
            if value < 0:
                raise ArgumentError(f"{name} must be at least 0, not {value}")
        return map(self.clip_order(seed).at, count(epoch * len(self) + position))

    def clip_order(self, seed: int) -> ClipOrder:
        """What `order` gives, at any place. Raises ShardError for an output that has a share and no clip."""
        clips = self.index.clips_by_output().tolist()
        if self.shares is not None and 0 in clips:
            raise ShardError(f"{self.index.outputs[clips.index(0)]} has a share, and no clip to train on")
        return ClipOrder(clips, seed=seed, shares=self.shares)

    def _position(self, position: int) -> int:
        position = as_index(position)
        if not -len(self) <= position < len(self):
            raise IndexError(f"position {position} of {len(self)} clips")
        return position % len(self)

    def __getstate__(self) -> dict[str, Any]:
        """Without the reader: its open files are this process's."""
        return self.__dict__ | {"_reader": None}


class ClipDataset(_MapStyle):
    """The clips of one or several outputs of `avprep clip`: those of their finished shards.

    Args:
        out: the output, a local folder; or several, of the same spec.
        fields: what an item holds besides its key, of 'frames', 'mel', 'waveform', 'labels', 'caption' and
            'json'; what is left out is not decoded.
        decode_h264: of frames that are stored as H.264.
        select: the name of a selection of each output: only its clips are read.
        shares: of each output among the clips that `order` gives; None: each clip once per epoch.
        on_damage: as `index_shards`; what was left out is in `index.left_out`.

    Raises:
        ArgumentError: an unknown field, or shares that are not one number per output.
        ShardError: no such output, nothing finished in it, no such selection; outputs whose specs differ, or
            that have clips of the same key.
    """

    def __init__(
        self,
        out: Places,
        *,
        fields: Sequence[str] = ("frames", "mel", "json"),
        decode_h264: DecodeH264,
        select: str | None = None,
        shares: Sequence[float] | None = None,
        on_damage: OnDamage = "end",
    ) -> None:
        outputs = open_outputs(out, CLIPS)
        self.spec = spec_of(outputs[0].header)
        decode = ClipDecoder(self.spec, checked_fields(fields, CLIP_FIELDS), decode_h264)
        super().__init__(outputs, decode, select=select, shares=shares, on_damage=on_damage)


class LatentDataset(_MapStyle):
    """The latents of one or several outputs of `avprep encode`: those of their finished shards.

    `encoder` says what made them: spec, planes, rows, and the SHA-256 of the weights.

    Args:
        out: the output, a local folder; or several, of the same encoder.
        fields: what an item holds besides its key, of 'latent', 'logvar', 'labels', 'caption' and 'json'.
            'logvar' is there where the output was made with `posterior`.
        select: the name of a selection of each output, or of the clips that it was encoded from.
        shares, on_damage: as for `ClipDataset`.

    Raises:
        ArgumentError: an unknown field, 'logvar' where it is not stored, or shares that are not one number
            per output.
        ShardError: as `ClipDataset`; outputs of different encoders.
    """

    def __init__(
        self,
        out: Places,
        *,
        fields: Sequence[str] = ("latent", "json"),
        select: str | None = None,
        shares: Sequence[float] | None = None,
        on_damage: OnDamage = "end",
    ) -> None:
        outputs = open_outputs(out, LATENTS)
        for output in outputs:
            fields = checked_fields(fields, latent_fields(output.header))
        self.encoder = EncoderHeader.from_dict(outputs[0].header)
        self.spec = self.encoder.spec
        decode = LatentDecoder(self.encoder, tuple(fields))
        super().__init__(outputs, decode, select=select, shares=shares, on_damage=on_damage)


def latent_fields(header: dict[str, Any]) -> tuple[str, ...]:
    """The fields that the latents of an output have."""
    options = header.get("options")
    has_logvar = isinstance(options, dict) and options.get("posterior") is True
    return tuple(field for field in LATENT_FIELDS if has_logvar or field != "logvar")


def checked_fields(fields: Sequence[str], known: tuple[str, ...]) -> tuple[str, ...]:
    """Raises ArgumentError for a field that the output does not have, and for a string in place of a list."""
    unknown = [fields] if isinstance(fields, str) else [name for name in fields if name not in known]
    if unknown:
        raise ArgumentError(f"fields must be of {', '.join(known)}; not {', '.join(map(repr, unknown))}")
    return tuple(fields)
