"""What is compared: a side gives clips by position, whatever it is stored as.

output of `avprep clip`        frames and sound as stored
output of `avprep encode`      latents, decoded by the MDSA that made them
output of `avmodel sample`     its latents with an MDSA; without one its mp4 files
folder of video files          every window of every file, cut as `avprep clip` cuts
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from avmodel.data import layout_of
from avmodel.dit.checkpoint import check_made_by
from avmodel.evaluate.folder import VideoFolder, has_videos
from avmodel.evaluate.options import Crop
from avmodel.mdsa.checkpoint import Codec, open_codec
from avmodel.metrics import MetricError
from avmodel.training.options import Device
from avprep.dsp.griffin_lim import invert
from avprep.media.mux import decode_frames
from avprep.shards.dataset import ClipDataset, LatentDataset
from avprep.shards.layout import CLIPS, HEADER_FILE, kind_of, read_header, spec_of
from avprep.shards.store import open_store
from avprep.spec import ClipSpec

UNCROPPED = "none"  # square files, and what a model generates
SAMPLE = "sample"  # the source that `avmodel sample` gives its clips
_KEY_HASH = 16  # digits of a key that are its source's


@dataclass(frozen=True, kw_only=True)
class Fields:
    """What two sides should have in common."""

    fps: str  # of the frames that are compared
    frames: int  # per clip
    size: str  # pixels, as stored
    crop: str
    sample_rate: int
    codec: str  # of the frames: H.264 and JPEG leave traces that networks see

    def differences(self, other: Fields) -> list[str]:
        """'fps: 10 and 30' for each field in which they differ; what was not cropped differs in no crop."""
        pairs = ((f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return [
            f"{name}: {ours} and {theirs}"
            for name, ours, theirs in pairs
            if ours != theirs and not (name == "crop" and UNCROPPED in (ours, theirs))
        ]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Shown(NamedTuple):
    """One clip as it is seen and heard."""

    frames: np.ndarray  # uint8 (T, H, W, RGB)
    waveform: np.ndarray  # float32 (samples,)
    caption: str = ""
    labels: tuple[str, ...] = ()


def shown(item: dict[str, Any], frames: np.ndarray, waveform: np.ndarray) -> Shown:
    """A clip with the text of the item that it was read from."""
    return Shown(frames, waveform, item["caption"], tuple(item["labels"]))


class Side(Protocol):
    """One side of a comparison."""

    kind: str  # for people
    fields: Fields
    spec: ClipSpec
    videos: np.ndarray  # int64 (windows,): which video each window is of

    def read(self, positions: np.ndarray) -> list[Shown]:
        """The clips at these positions, which ascend. Raises AvprepError for one that is damaged."""
        ...


class ClipSide:
    """An output of `avprep clip`."""

    kind = "clips"

    def __init__(self, path: Path) -> None:
        self.data = ClipDataset(
            path, fields=("frames", "mel", "waveform", "labels", "caption"), decode_h264=decode_frames
        )
        self.spec = self.data.spec
        options = self.data.headers[0].get("options")
        stored = options if isinstance(options, dict) else {}
        self.fields = fields_of_spec(
            self.spec, crop=str(stored.get("crop", "center")), codec=str(stored.get("video_codec", "raw"))
        )
        self.videos = _videos_of(self.data.keys)

    def read(self, positions: np.ndarray) -> list[Shown]:
        items = (self.data[int(position)] for position in positions)
        return [shown(item, item["frames"], item["waveform"]) for item in items]


class LatentSide:
    """Latents, decoded; the sound by Griffin-Lim."""

    kind = "latents"

    def __init__(self, path: Path, codec: Codec) -> None:
        self._codec = codec
        self.data = LatentDataset(path, fields=("latent", "labels", "caption"))
        self.spec = self.data.spec
        self.layout = layout_of(self.data.encoder)
        check_made_by(self.data.encoder, codec.header, "mdsa:", f"what {path} holds")
        self.fields = fields_of_spec(self.spec, crop=UNCROPPED, codec="decoded latents")
        is_sampled = str(self.data.headers[0].get("fingerprint", "")).startswith(f"{SAMPLE}-")
        self.videos = np.arange(len(self.data)) if is_sampled else _videos_of(self.data.keys)

    def read(self, positions: np.ndarray) -> list[Shown]:
        items = [self.data[int(position)] for position in positions]
        stack = torch.stack([torch.from_numpy(item["latent"]) for item in items])
        frames, mel = self._codec.decode(stack)
        waveforms = invert(mel, self.spec).waveform.numpy()
        return [shown(*parts) for parts in zip(items, frames.numpy(), waveforms, strict=True)]


class FolderSide:
    """Video files, each of one clip or more."""

    kind = "video files"

    def __init__(self, path: Path, spec: ClipSpec, crop: Crop) -> None:
        self._folder = VideoFolder(path, spec, crop)
        self.spec, self.videos = spec, self._folder.videos
        native = self._folder.native
        self.fields = replace(
            fields_of_spec(spec, crop=UNCROPPED if native.is_square else crop, codec=native.codec),
            fps=native.fps,
            size=native.size,
        )
        self.left_out = self._folder.left_out

    def read(self, positions: np.ndarray) -> list[Shown]:
        return [Shown(*pair) for pair in self._folder.read(positions)]


@dataclass(frozen=True, kw_only=True)
class SideRequest:
    """Opens a side, in this process or in another."""

    path: Path
    mdsa: Path | None
    spec: ClipSpec  # of a folder's clips
    crop: Crop  # likewise
    device: Device

    def open(self, *, batch_size: int) -> Side:
        """
        Raises:
            MetricError: nothing there that can be compared.
            AvprepError: shards, latents or a checkpoint that cannot be used.
        """
        kind = _stored_kind(self.path)
        if kind == CLIPS:
            return ClipSide(self.path)
        if kind is not None and self.mdsa is not None:
            codec = open_codec(self.mdsa, device=self.device, batch_size=batch_size, compile=False)
            return LatentSide(self.path, codec)
        if has_videos(self.path):
            return FolderSide(self.path, self.spec, self.crop)
        if kind is not None:
            raise MetricError(f"{self.path} holds latents: `mdsa` must name the checkpoint that made them")
        raise MetricError(f"{self.path} is no output of avprep, and no folder of video files")

    def stored_spec(self) -> ClipSpec | None:
        """The spec in its header; None for a folder of video files."""
        return None if _stored_kind(self.path) is None else spec_of(read_header(open_store(self.path)))


def _stored_kind(path: Path) -> str | None:
    store = open_store(path)
    return kind_of(read_header(store)) if store.exists(HEADER_FILE) else None


def fields_of_spec(spec: ClipSpec, *, crop: str, codec: str) -> Fields:
    return Fields(
        fps=str(spec.fps),
        frames=spec.frames,
        size=f"{spec.size}x{spec.size}",
        crop=crop,
        sample_rate=spec.sample_rate,
        codec=codec,
    )


def _videos_of(keys: tuple[str, ...]) -> np.ndarray:
    """The clips of one source have the first half of their keys in common."""
    _, numbers = np.unique([key[:_KEY_HASH] for key in keys], return_inverse=True)
    return numbers.astype(np.int64)
