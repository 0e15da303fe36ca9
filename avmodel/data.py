"""Clips and latents for training: read at random through an index, in an order that any run can resume.

Every run of the same seed sees the same batches, however many workers read them and wherever it was
interrupted: the order is one endless row of clips (`ClipOrder`), and step k takes its k-th piece.

    row      | epoch 0, shuffled by (seed, 0) | epoch 1, shuffled by (seed, 1) | ...
    step     |  0  |  1  |  2  |  3  |  4  |  5  ...                 B * world clips a step
    rank 0   |##   |##   |##   |##   |##   |##                       B of them each
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from avmodel.latents import LatentLayout
from avprep.dsp.mel import stack_to_frames
from avprep.media.mux import decode_frames
from avprep.shards.damage import OnDamage
from avprep.shards.dataset import ClipDataset, LatentDataset
from avprep.shards.latents import EncoderHeader
from avprep.shards.layout import ShardError
from avprep.shards.order import ClipOrder
from avprep.shards.outputs import Places

PREFETCH = 4  # batches that each loader process reads ahead


class ClipBatch(NamedTuple):
    """Clips as they are stored."""

    frames: Tensor  # uint8 (B, T, H, W, RGB)
    mel: Tensor  # float16 (B, T, n_mels, W), in [-1, 1]


class ClipData(ClipDataset, Dataset):
    """The clips of one or several outputs of `avprep clip`.

    Raises:
        ArgumentError, ShardError: as `ClipDataset`.
    """

    def __init__(
        self,
        out: Places,
        *,
        select: str | None = None,
        shares: Sequence[float] | None = None,
        on_damage: OnDamage = "end",
    ) -> None:
        super().__init__(
            out,
            fields=("frames", "mel"),
            decode_h264=decode_frames,
            select=select,
            shares=shares,
            on_damage=on_damage,
        )

    def __getitem__(self, position: int) -> ClipBatch:  # type: ignore[override]  # tensors, for `collate`
        item = super().__getitem__(position)
        return ClipBatch(torch.from_numpy(item["frames"]), torch.from_numpy(item["mel"]))

    def split_by_source(self, share: float) -> tuple[ClipData, ClipData]:
        """(training, held out): whole sources, `share` of them on average, the same for every seed.

        A clip's key begins with the hash of its source: the hash decides.
        """
        kept, held = _by_source(self.index.keys, share)
        return self.subset(kept), self.subset(held)


class LatentBatch(NamedTuple):
    """Latents as they are stored, and whose they are."""

    latent: Tensor  # float16 (B, C, P, rows, columns)
    labels: list[tuple[str, ...]]  # (B)
    captions: list[str]  # (B)


class LatentData(LatentDataset, Dataset):
    """The latents of one or several outputs of `avprep encode`.

    Raises:
        ArgumentError, ShardError: as `LatentDataset`.
    """

    def __init__(
        self,
        out: Places,
        *,
        select: str | None = None,
        shares: Sequence[float] | None = None,
        on_damage: OnDamage = "end",
    ) -> None:
        super().__init__(out, select=select, shares=shares, on_damage=on_damage)
        self.layout = layout_of(self.encoder)

    def __getitem__(self, position: int) -> LatentBatch:  # type: ignore[override]  # for `collate`
        item = super().__getitem__(position)
        text = item["json"]
        labels: Any = tuple(text["labels"])  # of one clip: `collate` makes a list of them
        return LatentBatch(torch.from_numpy(item["latent"]), labels, text["caption"])

    def split_by_source(self, share: float) -> tuple[LatentData, LatentData]:
        """(training, held out): the same sources as those of `ClipData.split_by_source`."""
        kept, held = _by_source(self.index.keys, share)
        return self.subset(kept), self.subset(held)


def _by_source(keys: Sequence[str], share: float) -> tuple[np.ndarray, np.ndarray]:
    """Positions: (kept, held out)."""
    held = np.array([int(key[:8], 16) / 2**32 for key in keys]) < share
    return np.flatnonzero(~held), np.flatnonzero(held)


def layout_of(encoder: EncoderHeader) -> LatentLayout:
    """The layout that latents' header states. Raises ShardError for one that this version does not know."""
    try:
        streams = tuple(dict.fromkeys(plane[0] for plane in encoder.planes))
        grid, frames = encoder.valid_rows[:2]
        layout = LatentLayout(channels=encoder.channels, frames=frames, grid=grid, streams=streams)
    except (TypeError, ValueError, IndexError) as error:
        raise ShardError(f"its latents are of a layout that this version does not know: {error}") from error
    stated = (encoder.planes, encoder.valid_rows, encoder.shape)
    if (layout.planes, layout.valid_rows, layout.shape) != stated:
        raise ShardError(f"planes {encoder.planes} of {encoder.valid_rows} rows are none this version knows")
    return layout


class Steps(Sampler[list[int]]):
    """The positions of each step's batch for one rank, from step `first` on, without end."""

    def __init__(
        self, order: ClipOrder, batch: int, *, first: int = 0, rank: int = 0, world: int = 1
    ) -> None:
        self._order, self._batch, self._first = order, batch, first
        self._rank, self._world = rank, world

    def share_of(self, count: int) -> range:
        """This rank's share of `count` tasks, each of which one rank does."""
        return range(self._rank, count, self._world)

    def __iter__(self) -> Iterator[list[int]]:
        at = (self._first * self._world + self._rank) * self._batch
        while True:
            yield [self._order.at(place) for place in range(at, at + self._batch)]
            at += self._world * self._batch


def collate(samples: list[Any]) -> Any:
    """One ClipBatch or LatentBatch of many: tensors are stacked, text is listed."""
    fields = (list(field) for field in zip(*samples, strict=True))
    return type(samples[0])(*(torch.stack(f) if isinstance(f[0], Tensor) else f for f in fields))


def step_loader(data: Dataset, steps: Steps, *, workers: int, pin: bool) -> DataLoader:
    """Batches of `data` in the order of `steps`, read by `workers` processes (0: in this one)."""
    return DataLoader(
        data,
        batch_sampler=steps,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin,
        persistent_workers=workers > 0,
        prefetch_factor=PREFETCH if workers else None,
        worker_init_fn=_leave_signals_to_the_trainer,
    )


def _leave_signals_to_the_trainer(_worker: int) -> None:
    """A SIGTERM to the whole group (timeout, systemd, Slurm, torchrun) must not take the readers away from a
    step that the trainer finishes before it saves. They end with the trainer, however that ends."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def to_model(batch: ClipBatch, size: int) -> dict[str, Tensor]:
    """Clips as the model sees them (docs/model.md 1): v (B, 3, T, S, S) and a (B, 1, T, S, S), float32
    in [-1, 1]; the mel stack is replicated to the frames' size."""
    video = batch.frames.permute(0, 4, 1, 2, 3).float() / 127.5 - 1
    audio = stack_to_frames(batch.mel.float(), size)[:, None]
    return {"v": video.contiguous(), "a": audio}


def to_pixels(video: Tensor) -> Tensor:
    """v (B, 3, T, S, S) in [-1, 1] -> uint8 frames (B, T, S, S, RGB)."""
    return ((video.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 4, 1)
