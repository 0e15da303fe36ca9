"""The clips that the page plays: mp4 with sound, the strip of frames, and the mel stack under it."""

from __future__ import annotations

import io
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from PIL import Image

from avprep.dsp.av_align import audio_onsets
from avprep.media.mux import MuxError, decode_frames, write_mp4
from avprep.report.summary import Summary, scores_of
from avprep.report.tally import Pick
from avprep.shards.decoders import ClipDecoder, LatentDecoder, decoded
from avprep.shards.latents import EncoderHeader
from avprep.shards.layout import LATENTS, Kind, ShardError, shard_name
from avprep.shards.store import LocalStore, Store
from avprep.shards.tar import BLOCK, Members, clip_extents, members_of, read_named_shard
from avprep.spec import ClipSpec

_CELL = 72  # pixels, side of a frame in the strip
_MOST_CELLS = 32
_LARGEST_MP4 = 32 << 20  # bytes of a video that lies beside the shards


@dataclass(frozen=True)
class Player:
    """A clip on the page."""

    key: str
    shard: int
    why: tuple[str, ...]  # what it was chosen for
    header: dict[str, Any]  # source, start_s, stop_s, labels, caption, has_audio
    scores: dict[str, float]
    media: dict[str, bytes] = field(repr=False)  # 'mp4', 'poster', 'strip' (JPEG), 'mel', 'planes' (PNG)
    onsets: tuple[float, ...] = ()  # of the sound, as shares of the clip's length
    notes: tuple[str, ...] = ()  # what could not be shown, and why


def choose(summary: Summary, count: int) -> dict[Pick, tuple[str, ...]]:
    """At most `count` clips, each with what it was chosen for: half at random, then the others by turns."""
    at_random = summary.picks["at random"].picks
    others = [[(why, pick) for pick in low.picks] for why, low in summary.picks.items() if why != "at random"]
    by_turns = [entry for entry in chain.from_iterable(zip_longest(*others)) if entry]
    half = count // 2 if by_turns else count
    first = [("at random", pick) for pick in at_random[:half]]
    rest = [("at random", pick) for pick in at_random[half:]]
    places: dict[tuple[int, str], Pick] = {}
    reasons: dict[Pick, list[str]] = {}
    for why, pick in [*first, *by_turns, *rest]:
        place = (pick.shard, pick.key)
        if place not in places and len(places) < count:
            places[place] = pick
            reasons[pick] = []
        if place in places and why not in reasons[places[place]]:
            reasons[places[place]].append(why)
    return {pick: tuple(found) for pick, found in reasons.items()}


class Players:
    """Makes the players of the chosen clips of an output.

    Args:
        kind, header: of the output.
        largest: bytes that the files of one clip may have.
        videos: where KEY.mp4 of latents lie; None: in the output itself, as samples have them.
    """

    def __init__(
        self, store: Store, kind: Kind, header: dict[str, Any], *, largest: int, videos: Store | None
    ) -> None:
        self._store, self._kind, self._largest, self._videos = store, kind, largest, videos
        if kind == LATENTS:
            self._encoder = EncoderHeader.from_dict(header)
            self._spec = self._encoder.spec
        else:
            self._spec = ClipSpec.from_dict(header["spec"])

    def make(self, chosen: dict[Pick, tuple[str, ...]], on_damage: Callable[[str], None]) -> Iterator[Player]:
        """The players, by shard and key; a clip that cannot be read goes to `on_damage` instead."""
        by_shard: dict[int, dict[str, tuple[str, ...]]] = defaultdict(dict)
        for pick, why in chosen.items():
            by_shard[pick.shard][pick.key] = why
        for shard, wanted in sorted(by_shard.items()):
            scores = scores_of(self._store, shard, set(wanted))
            name = shard_name(self._kind, shard)
            found = self._members(name, set(wanted), on_damage)
            for key, members in found:
                try:
                    yield self._player(key, shard, wanted[key], members, scores.get(key, {}))
                except ShardError as error:
                    on_damage(f"{name}: {error}")

    def _members(
        self, name: str, wanted: set[str], on_damage: Callable[[str], None]
    ) -> Iterator[tuple[str, Members]]:
        try:
            for key, members in read_clips_of(self._store, name, wanted, self._largest):
                wanted.discard(key)
                yield key, members
        except ShardError as error:
            on_damage(f"{name}: {error}")
        except OSError as error:
            on_damage(f"{name} cannot be read: {error}")
        else:
            for key in sorted(wanted):
                on_damage(f"{name} does not hold clip {key}, which its ledger says is written")

    def _player(
        self, key: str, shard: int, why: tuple[str, ...], members: Members, scores: dict[str, float]
    ) -> Player:
        make = self._of_latent if self._kind == LATENTS else self._of_clip
        return make(key, members, Player(key, shard, why, {}, scores, {}))

    def _of_clip(self, key: str, members: Members, empty: Player) -> Player:
        decode = ClipDecoder(self._spec, ("frames", "mel", "waveform", "json"), decode_frames)
        clip = decoded(f"clip {key}", decode, members)
        frames = clip["frames"]
        media = {"strip": strip_of(frames), "mel": mel_picture(clip["mel"]), "poster": poster_of(frames)}
        notes: tuple[str, ...] = ()
        try:
            media["mp4"] = mp4_of(frames, clip["waveform"], self._spec)
        except MuxError as error:
            notes = (f"no video: {error}",)
        onsets = audio_onsets(clip["waveform"], self._spec.sample_rate) / float(self._spec.seconds)
        shares = tuple(round(float(share), 4) for share in onsets if 0 <= share <= 1)
        return Player(key, empty.shard, empty.why, clip["json"], empty.scores, media, shares, notes)

    def _of_latent(self, key: str, members: Members, empty: Player) -> Player:
        latent = decoded(f"clip {key}", LatentDecoder(self._encoder, ("latent", "json")), members)
        media, notes = {"planes": planes_picture(latent["latent"], self._encoder)}, []
        video = read_small(self._videos or self._store, f"{key}.mp4")
        if video is not None:
            media["mp4"] = video
            notes += compared(video, self._spec)
        return Player(key, empty.shard, empty.why, latent["json"], empty.scores, media, (), tuple(notes))


def read_clips_of(store: Store, name: str, wanted: set[str], largest: int) -> Iterator[tuple[str, Members]]:
    """The wanted clips of a shard, by key. Of a local shard only headers and these clips are read; a remote
    one is read from its beginning to the last of them. Raises ShardError for a damaged tar."""
    if not isinstance(store, LocalStore):
        last = max(wanted)
        for key, members in read_named_shard(store, name, largest):
            if key in wanted:
                yield key, members
            if key >= last:
                return
        return
    with store.open(name) as file:
        length = file.seek(0, io.SEEK_END)
        for key, offset, size in clip_extents(lambda at: _read_at(file, at, BLOCK), length, largest):
            if key in wanted:
                pieces = members_of(_read_at(file, offset, size))
                yield key, {member.suffix: content for member, content in pieces}


def _read_at(file, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)


def read_small(store: Store, name: str) -> bytes | None:
    """The bytes of a file that may be there; None where it is not, or is too large for a page."""
    if "/" in name or not store.exists(name):
        return None
    with store.open(name) as file:
        data = file.read(_LARGEST_MP4 + 1)
    return data if len(data) <= _LARGEST_MP4 else None


def mp4_of(frames: np.ndarray, waveform: np.ndarray, spec: ClipSpec) -> bytes:
    """An mp4 with sound. Raises MuxError for a spec that mp4 cannot hold."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_mp4(path, frames, waveform, fps=spec.fps, sample_rate=spec.sample_rate, crf=23)
        return path.read_bytes()


def strip_of(frames: np.ndarray) -> bytes:
    """JPEG: the frames uint8 (T, H, W, RGB) side by side; of more than 32, every n-th."""
    step = -(-len(frames) // _MOST_CELLS)
    cells = [
        Image.fromarray(frame).resize((_CELL, _CELL), Image.Resampling.LANCZOS) for frame in frames[::step]
    ]
    strip = Image.new("RGB", (_CELL * len(cells), _CELL))
    for i, cell in enumerate(cells):
        strip.paste(cell, (i * _CELL, 0))
    return _encoded(strip, "JPEG", quality=80)


def poster_of(frames: np.ndarray) -> bytes:
    """JPEG: the first frame, which the player shows before it plays."""
    poster = Image.fromarray(frames[0])
    poster.thumbnail((256, 256))
    return _encoded(poster, "JPEG", quality=80)


def mel_picture(mel: np.ndarray) -> bytes:
    """PNG: the mel stack (T, n_mels, W) as one spectrogram, low bands at the bottom, -1 dark."""
    joined = mel.astype(np.float32).transpose(1, 0, 2).reshape(mel.shape[1], -1)[::-1]
    levels = ((joined + 1) * 127.5).round().astype(np.uint8)
    return _paletted(levels, "magma")


def planes_picture(latent: np.ndarray, encoder: EncoderHeader) -> bytes:
    """PNG: a row for each plane, a cell for each channel; -1 blue, 0 white, 1 red, padding left out."""
    gap = 1
    rows = []
    for p, valid in enumerate(encoder.valid_rows):
        cells = [np.pad(channel[:valid], gap) for channel in latent[:, p].astype(np.float32)]
        rows.append(np.concatenate(cells, axis=1))
    levels = ((np.concatenate(rows) + 1) * 127.5).round().astype(np.uint8)
    return _paletted(levels, "RdBu_r", scale=max(1, 512 // levels.shape[1]))


def compared(video: bytes, spec: ClipSpec) -> list[str]:
    """The PSNR between the halves of a video that `avprep decode` wrote to compare: original, decoded."""
    from torch import from_numpy

    from avprep.dsp.psnr import psnr_v

    shape = (spec.frames, spec.size, 2 * spec.size, 3)
    try:
        frames = decode_frames(video, shape)
    except MuxError:
        return []  # one picture: there is nothing to compare
    left, right = (half.copy() for half in np.split(frames[None], 2, axis=3))
    value = psnr_v(from_numpy(left), from_numpy(right)).item()
    return [f"original left, decoded right: PSNR {value:.1f} dB, of the video file"]


def _paletted(levels: np.ndarray, colours: str, scale: int = 1) -> bytes:
    picture = Image.fromarray(levels, "L").convert("P")
    palette = (colormaps[colours](np.arange(256))[:, :3] * 255).round().astype(np.uint8)
    picture.putdata(levels.ravel().tolist())
    picture.putpalette(palette.tobytes())
    size = (picture.width * scale, picture.height * scale)
    return _encoded(picture.resize(size, Image.Resampling.NEAREST), "PNG", optimize=True)


def _encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()
