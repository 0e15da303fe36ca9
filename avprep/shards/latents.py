"""A latent shard: the layout of a clip shard, with the planes of a latent in place of frames and sound.

    KEY.json          labels, caption, caption_from, source, start_s, stop_s, has_audio
    KEY.latent.npy    float16 (C, P, rows, columns), zero below each plane's valid rows; in [-1, 1]
                      packed: the valid values alone, 1-D: plane by plane, each (C, valid_rows, columns)
    KEY.logvar.npy    the posterior's log-variance in the same layout, if stored

Two more entries in a shard's ledger: the exact sums that the statistics are made of, and the checksum of the
clip shard that it was made from.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from avprep.shards.clips import known_labels, pack_clip_header, save_npy
from avprep.shards.layout import CLIP_HEADER, FORMAT_VERSION, LATENT, LATENTS, LOGVAR, ShardError, spec_of
from avprep.shards.tar import Members
from avprep.spec import ClipSpec

# What the KEY.json of a latent keeps of its clip's; every KEY.json must have them.
CARRIED_FIELDS = ("labels", "caption", "source", "start_s", "stop_s", "has_audio")
CARRIED_IF_THERE = ("caption_from",)  # clips of earlier versions lack it
# Ledger entries (ShardRecord.extra).
SUMS_ENTRY, CLIPS_ENTRY = "latents", "clips_sha256"
SATURATED = 0.99
_MOST, _MOST_PLANES = 4096, 64  # of a header's channels, rows and columns; of its planes
# Every float16 in [-1, 1] is a whole number of these, so that sums of them are exact in any order.
_UNIT = 2**24


@dataclass(frozen=True, kw_only=True)
class EncoderHeader:
    """What an encoder makes and of what; all of it is in the fingerprint of what it has made.

    Raises:
        ShardError: planes and rows that do not go together.
    """

    spec: ClipSpec
    channels: int  # C
    planes: tuple[str, ...]  # names, in the order of the stack: P of them
    rows: int  # of the stack: the tallest plane's
    columns: int
    valid_rows: tuple[int, ...]  # a plane; the rows under them are padding
    weights: str  # SHA-256 of the checkpoint's weights, hex
    config: dict[str, Any]  # the model's, for whoever reads the output

    def __post_init__(self) -> None:
        numbers = {"channels": self.channels, "rows": self.rows, "columns": self.columns}
        for name, value in numbers.items():
            if type(value) is not int or not 1 <= value <= _MOST:
                raise ShardError(f"{name} must be a whole number from 1 to {_MOST}, not {value!r}")
        if not all(type(valid) is int for valid in self.valid_rows):
            raise ShardError(f"valid rows {self.valid_rows!r} are not whole numbers")
        if not all(type(plane) is str for plane in self.planes) or len(self.planes) > _MOST_PLANES:
            raise ShardError(f"planes {self.planes!r:.80} are not at most {_MOST_PLANES} names")
        if len(self.valid_rows) != len(self.planes) or not self.planes:
            raise ShardError(f"{len(self.planes)} planes and {len(self.valid_rows)} numbers of valid rows")
        if not all(0 < valid <= self.rows for valid in self.valid_rows):
            raise ShardError(f"valid rows {self.valid_rows} of a stack of {self.rows} rows")

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(C, P, rows, columns)"""
        return (self.channels, len(self.planes), self.rows, self.columns)

    @property
    def values(self) -> int:
        """Real values of a latent: all but the padding."""
        return self.channels * self.columns * sum(self.valid_rows)

    def padding(self) -> np.ndarray:
        """bool (P, rows): True where a plane has no such row."""
        return np.arange(self.rows) >= np.array(self.valid_rows)[:, None]

    def packed_layout(self) -> list[dict[str, Any]]:
        """Where each plane lies in a packed latent: its offset, and its shape (C, valid_rows, columns)."""
        layout, offset = [], 0
        for plane, valid in zip(self.planes, self.valid_rows, strict=True):
            shape = [self.channels, valid, self.columns]
            layout.append({"plane": plane, "offset": offset, "shape": shape})
            offset += math.prod(shape)
        return layout

    def to_dict(self) -> dict[str, Any]:
        """The entries of spec.json."""
        entries = asdict(self) | {"planes": list(self.planes), "valid_rows": list(self.valid_rows)}
        outer = {name: entries.pop(name) for name in ("spec", "weights", "config")}
        return outer | {"latent": entries}

    def output_header(self, *, packed: bool, posterior: bool) -> dict[str, Any]:
        """The output header of latents that this encoder makes, without what is only remembered."""
        header: dict[str, Any] = {"format": FORMAT_VERSION, "kind": LATENTS}
        header["options"] = {"packed": packed, "posterior": posterior}
        if packed:
            header["packed"] = self.packed_layout()
        return header | self.to_dict()

    @classmethod
    def from_dict(cls, header: dict[str, Any]) -> EncoderHeader:
        """The encoder's entries of a spec.json. Raises ShardError where they are no latents'."""
        if header.get("kind") != LATENTS:
            raise ShardError("its spec.json is not that of latents (avprep encode)")
        try:
            latent = dict(header["latent"])
            planes, valid_rows = tuple(latent.pop("planes")), tuple(latent.pop("valid_rows"))
            return cls(
                spec=spec_of(header),
                planes=planes,
                valid_rows=valid_rows,
                weights=header["weights"],
                config=header["config"],
                **latent,
            )
        except ShardError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise ShardError(f"a spec.json of latents without what belongs there: {error}") from error


def carried(clip: Mapping[str, Any]) -> dict[str, Any]:
    """What the KEY.json of a latent keeps of its clip's."""
    names = (*CARRIED_FIELDS, *(name for name in CARRIED_IF_THERE if name in clip))
    return {name: clip[name] for name in names}


def pack_clip_latents(
    *,
    clip: dict[str, Any],
    latent: np.ndarray,
    logvar: np.ndarray | None,
    header: EncoderHeader,
    packed: bool,
) -> Members:
    """A clip's files. `latent` and `logvar` float16 (C, P, rows, columns), their padding zero."""
    members = {
        CLIP_HEADER: pack_clip_header(carried(clip)),
        LATENT: save_npy(pack(latent, header) if packed else latent),
    }
    if logvar is not None:
        members[LOGVAR] = save_npy(pack(logvar, header) if packed else logvar)
    return members


class LatentPacker:
    """Packs the clips of one shard and sums what its ledger says of them."""

    def __init__(self, header: EncoderHeader, *, packed: bool) -> None:
        self._header, self._packed = header, packed
        self.sums = LatentSums()

    def __call__(self, clip: dict[str, Any], latent: np.ndarray, logvar: np.ndarray | None = None) -> Members:
        """A clip's files, as `pack_clip_latents`."""
        self.sums.add(latent, list(clip["labels"]), self._header)
        return pack_clip_latents(
            clip=clip, latent=latent, logvar=logvar, header=self._header, packed=self._packed
        )

    def ledger_entries(self) -> dict[str, str]:
        """What the ledger of latents that were made of no clip shard has besides a clip ledger's."""
        return {SUMS_ENTRY: self.sums.to_json()}


def pack(latent: np.ndarray, header: EncoderHeader) -> np.ndarray:
    """(C, P, rows, columns) -> the valid values, 1-D, as `packed_layout` says."""
    return np.concatenate([latent[:, p, :valid].ravel() for p, valid in enumerate(header.valid_rows)])


def unpack(latent: np.ndarray, header: EncoderHeader) -> np.ndarray:
    """A stored latent, packed or not -> (C, P, rows, columns).

    Raises:
        ShardError: of another shape than the header's.
    """
    if latent.shape == header.shape:
        return latent
    if latent.shape != (header.values,):
        raise ShardError(f"a latent of {latent.shape}; spec.json says {header.shape} or ({header.values},)")
    stack = np.zeros(header.shape, latent.dtype)
    for p, place in enumerate(header.packed_layout()):
        _, valid, _ = place["shape"]
        plane = latent[place["offset"] : place["offset"] + math.prod(place["shape"])]
        stack[:, p, :valid] = plane.reshape(place["shape"])
    return stack


@dataclass
class LatentSums:
    """What the statistics of latents are made of: whole numbers, exact whatever is added first.

    `total` counts units of 2**-24 and `squares` units of 2**-48, [plane][channel].
    """

    clips: int = 0
    total: list[list[int]] = field(default_factory=list)
    squares: list[list[int]] = field(default_factory=list)
    saturated: list[int] = field(default_factory=list)  # values beyond SATURATED, a plane
    labels: Counter[str] = field(default_factory=Counter)

    def add(self, latent: np.ndarray, labels: list[str], header: EncoderHeader) -> None:
        """Adds one clip's latent, float16 (C, P, rows, columns), finite and in [-1, 1]."""
        units = (latent.astype(np.float64) * _UNIT).astype(np.int64)
        # int64 holds the squares of 2**14 columns; rows are added without a bound.
        rows, squares = units.sum(3), np.square(units).sum(3)
        beyond = (np.abs(latent) > SATURATED).sum((0, 2, 3))
        self.merge(
            LatentSums(
                clips=1,
                total=[[sum(channel) for channel in plane] for plane in rows.swapaxes(0, 1).tolist()],
                squares=[[sum(channel) for channel in plane] for plane in squares.swapaxes(0, 1).tolist()],
                saturated=beyond.tolist(),
                labels=Counter(known_labels(labels)),
            )
        )

    def merge(self, other: LatentSums) -> None:
        """Adds other clips' sums."""
        if not other.clips:
            return
        if not self.clips:
            self.total = [[0] * len(plane) for plane in other.total]
            self.squares = [[0] * len(plane) for plane in other.squares]
            self.saturated = [0] * len(other.saturated)
        self.clips += other.clips
        self.labels.update(other.labels)
        for p, planes in enumerate(other.total):
            self.saturated[p] += other.saturated[p]
            for c in range(len(planes)):
                self.total[p][c] += other.total[p][c]
                self.squares[p][c] += other.squares[p][c]

    def to_json(self) -> str:
        return json.dumps(asdict(self) | {"labels": dict(sorted(self.labels.items()))}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> LatentSums:
        values = json.loads(text)
        return cls(**values | {"labels": Counter(values["labels"])})

    def statistics(self, header: EncoderHeader) -> dict[str, Any]:
        """`count` of clips; `mean`, `std` [plane][channel]; `saturated` [plane], a share of the values."""
        if not self.clips:
            return {"count": 0, "mean": [], "std": [], "saturated": []}
        sizes = [self.clips * valid * header.columns for valid in header.valid_rows]
        planes = list(zip(sizes, self.total, self.squares, self.saturated, strict=True))
        return {
            "count": self.clips,
            # Ratios of whole numbers, rounded once.
            "mean": [[total / (n * _UNIT) for total in totals] for n, totals, _, _ in planes],
            "std": [
                [
                    math.sqrt((n * square - total**2) / (n * n * _UNIT**2))
                    for total, square in zip(totals, squares, strict=True)
                ]
                for n, totals, squares, _ in planes
            ],
            "saturated": [beyond / (n * header.channels) for n, _, _, beyond in planes],
        }
