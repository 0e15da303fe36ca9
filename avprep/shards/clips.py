"""A clip shard: one tar in WebDataset convention, the same bytes for the same clips.

KEY.audio.flac    the waveform, 16 bit, at the spec's rate
KEY.frame00.jpg.. one JPEG a frame      | KEY.frames.npy  raw uint8  | KEY.frames.mp4  H.264
KEY.json          source, start_s, stop_s, labels, caption, fps, frame_times_s, residual_ms, has_audio
KEY.mel.npy       the mel stack, float16 in [-1, 1]
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from avprep.shards.codecs import VIDEO_CODECS, VideoCodec
from avprep.shards.ledger import ShardRecord, ledger_name, read_record
from avprep.shards.store import ShardError, Store

JPEG_QUALITY = 95

# Version 1.0 of the format; the length of the header lies in bytes 8 and 9.
_NPY_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '(?P<dtype>\|[biu]1|<[iuf][248])', 'fortran_order': False, "
    rb"'shape': \((?P<shape>(?:\d{1,12}, ?)*(?:\d{1,12})?)\), \} *\n",
    re.DOTALL,
)

# One clip's files: suffix ('mel.npy') to bytes.
Members = dict[str, bytes]


def clip_key(path: str, start: int) -> str:
    """KEY of the clip of a source (its path under the root) that starts at a sample.

    The clips of a source share the first half, so that keys sort by source and then by time.
    """
    return f"{source_number(path):016x}_{start:011d}"


def source_number(path: str) -> int:
    """64 bits of a hash of a source's path: what its clips' keys begin with, as a number."""
    return int.from_bytes(hashlib.blake2b(path.encode("utf-8", "surrogateescape"), digest_size=8).digest())


def pack_clip(
    *,
    header: dict[str, Any],
    mel: np.ndarray,
    waveform: np.ndarray,
    sample_rate: int,
    frames: np.ndarray,
    codec: VideoCodec,
    encode_h264: Callable[[np.ndarray], bytes],
) -> Members:
    """A clip's files. mel (frames, n_mels, W); waveform (samples,); frames uint8 (frames, H, W, RGB)."""
    members = {
        "audio.flac": _flac(waveform, sample_rate),
        "json": json.dumps(header, ensure_ascii=False, sort_keys=True).encode(),
        "mel.npy": _npy(mel.astype(np.float16)),
    }
    if codec == "raw":
        members["frames.npy"] = _npy(frames)
    elif codec == "jpeg":
        digits = max(2, len(str(len(frames) - 1)))  # one width, so that names sort as the frames follow
        members |= {f"frame{i:0{digits}d}.jpg": _jpeg(frame) for i, frame in enumerate(frames)}
    elif codec == "h264":
        members["frames.mp4"] = encode_h264(frames)
    else:
        raise ValueError(f"video codec {codec!r} is none of {', '.join(VIDEO_CODECS)}")
    return dict(sorted(members.items()))


def unpack_frames(members: Members, decode_h264: Callable[[bytes], np.ndarray]) -> np.ndarray:
    """The frames of a clip, uint8 (frames, H, W, RGB), however they are stored."""
    if "frames.npy" in members:
        return load_npy(members["frames.npy"])
    if "frames.mp4" in members:
        return decode_h264(members["frames.mp4"])
    pictures = sorted(name for name in members if name.startswith("frame") and name.endswith(".jpg"))
    if not pictures:
        raise ShardError(f"a clip without frames (it holds {', '.join(members)})")
    return np.stack([np.asarray(Image.open(io.BytesIO(members[name]))) for name in pictures])


def load_npy(data: bytes) -> np.ndarray:
    """An array from .npy bytes as `pack_clip` writes them: numbers, in C order. Raises ShardError for others.

    Not by numpy.load, which has its header parsed as Python source: before Python 3.11.8 that fails now and
    then with a SystemError where two threads are at it (github.com/python/cpython/issues/106905), and the
    threads that read shards run for days.
    """
    start = 10 + int.from_bytes(data[8:10], "little")
    header = _NPY_HEADER.fullmatch(data, 0, start)
    if header is None:
        raise ShardError(f"no array of numbers as numpy writes them (it begins with {data[:80]!r})")
    shape = tuple(int(length) for length in header["shape"].split(b",") if length.strip())
    dtype = np.dtype(header["dtype"].decode())
    if len(data) - start != dtype.itemsize * math.prod(shape):
        raise ShardError(f"{len(data) - start} bytes for an array of {dtype} {shape}")
    return np.frombuffer(data, dtype, offset=start).reshape(shape).copy()  # a view could not be written to


def load_waveform(data: bytes) -> np.ndarray:
    """float32 (samples,) of the FLAC file."""
    import soundfile  # here and in `_flac`: a machine that only trains may lack it

    return soundfile.read(io.BytesIO(data), dtype="float32")[0]


class ShardWriter:
    """Writes clips in the order given (ascending keys); counts the bytes and their SHA-256 on the way."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.size = 0
        self._last_key = ""
        self._tar = tarfile.open(fileobj=self, mode="w|", format=tarfile.USTAR_FORMAT)

    def write(self, data: bytes) -> int:
        """What the tar writes to: the file and the checksum."""
        if self._file.closed:
            return len(data)  # the shard was given up, and its tar ends when it is collected
        self._hash.update(data)
        self.size += len(data)
        self._file.write(data)
        return len(data)

    def add(self, key: str, members: Members) -> None:
        if key <= self._last_key:
            raise ShardError(f"clip {key} comes after {self._last_key}: keys must ascend")
        self._last_key = key
        for suffix, data in members.items():
            entry = tarfile.TarInfo(f"{key}.{suffix}")
            entry.size, entry.mtime, entry.mode = len(data), 0, 0o644
            self._tar.addfile(entry, io.BytesIO(data))

    def close(self) -> str:
        """Ends the tar. Returns the SHA-256 of the whole file, in hex."""
        self._tar.close()
        return self._hash.hexdigest()


def write_shard(
    store: Store,
    name: str,
    index: int,
    clips: Iterator[tuple[str, Members]],
    fingerprint: str,
    seconds: Counter[str],
    replaces: ShardRecord | None = None,
) -> ShardRecord:
    """Writes a shard's tar of (key, files), ascending; none at all where there is no clip.

    The ledger is the caller's to write, after it. Where this shard `replaces` one that stands, whose clips
    are others, that one's ledger goes before its tar does: whatever happens here, none is beside another's
    tar. What writing takes is added to `seconds`.
    """
    first = next(clips, None)
    if first is None:
        _remove_ledger(store, index, replaces)
        store.remove(name)
        return ShardRecord("", "", 0, fingerprint)
    with store.write(name) as file:
        writer = ShardWriter(file)
        writer.add(*first)
        for key, members in clips:
            started = time.perf_counter()
            writer.add(key, members)
            seconds["write"] += time.perf_counter() - started
        digest = writer.close()
        _remove_ledger(store, index, replaces)
    return ShardRecord(name, digest, writer.size, fingerprint)


def _remove_ledger(store: Store, index: int, replaced: ShardRecord | None) -> None:
    """Only the replaced shard's: a worker may outlive the run that was killed, and meet the next one's."""
    if replaced is None or not store.exists(ledger_name(index)):
        return
    if read_record(store, index).sha256 == replaced.sha256:
        store.remove(ledger_name(index))


def read_shard(file: BinaryIO) -> Iterator[tuple[str, Members]]:
    """(key, members) of each clip, in order, one clip in memory at a time.

    Raises:
        ShardError: not a tar, cut off, or a member that is no clip's.
    """
    key, members = "", {}
    try:
        with tarfile.open(fileobj=file, mode="r|") as tar:
            for entry in tar:
                name, _, suffix = entry.name.partition(".")
                if not entry.isfile() or not suffix or "/" in entry.name:
                    raise ShardError(f"member {entry.name!r} is no clip's file")
                if name != key and members:
                    yield key, members
                    members = {}
                key = name
                members[suffix] = tar.extractfile(entry).read()
    except (tarfile.TarError, EOFError) as error:
        raise ShardError(f"the tar is damaged or cut off: {error}") from error
    if members:
        yield key, members


def sha256_of(file: BinaryIO, chunk: int = 1 << 20) -> str:
    digest = hashlib.sha256()
    while data := file.read(chunk):
        digest.update(data)
    return digest.hexdigest()


def merge(old: Iterable[tuple[str, Members]], new: dict[str, Members]) -> Iterator[tuple[str, Members]]:
    """Two sets of clips as one, ascending; where both have a key the new one counts."""
    waiting = sorted(new)
    for key, members in old:
        while waiting and waiting[0] < key:
            yield waiting[0], new[waiting.pop(0)]
        if waiting and waiting[0] == key:
            yield key, new[waiting.pop(0)]
        else:
            yield key, members
    yield from ((key, new[key]) for key in waiting)


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _jpeg(frame: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return file.getvalue()


def _flac(waveform: np.ndarray, sample_rate: int) -> bytes:
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, np.clip(waveform, -1, 1), sample_rate, format="FLAC", subtype="PCM_16")
    return file.getvalue()
