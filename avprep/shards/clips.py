"""A clip shard: one tar in WebDataset convention, the same bytes for the same clips.

KEY.audio.flac    the waveform, 16 bit, at the spec's rate
KEY.frame00.jpg.. one JPEG a frame      | KEY.frames.npy  raw uint8  | KEY.frames.mp4  H.264
KEY.json          source, start_s, stop_s, labels, caption, caption_from, fps, frame_times_s,
                  residual_ms, has_audio
KEY.mel.npy       the mel stack, float16 in [-1, 1]
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from avprep.shards.layout import (
    AUDIO,
    CLIP_HEADER,
    H264_FRAMES,
    MEL,
    MOST_CLIP_HEADER,
    RAW_FRAMES,
    VIDEO_CODECS,
    ShardError,
    VideoCodec,
    jpeg_frame,
)
from avprep.shards.tar import Members
from avprep.spec import ClipSpec

JPEG_QUALITY = 95
NO_LABEL = ""  # in KEY.json, of a clip without labels

# An H.264 mp4 and the shape (frames, H, W, RGB) that its frames must have -> uint8 frames of that shape.
DecodeH264 = Callable[[bytes, tuple[int, ...]], np.ndarray]

# Version 1.0 of the format; the length of the header lies in bytes 8 and 9.
_NPY_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '(?P<dtype>\|[biu]1|<[iuf][248])', 'fortran_order': False, "
    rb"'shape': \((?P<shape>(?:\d{1,12}, ?){0,8}(?:\d{1,12})?)\), \} *\n",
    re.DOTALL,
)


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
        AUDIO: _flac(waveform, sample_rate),
        CLIP_HEADER: pack_clip_header(header),
        MEL: save_npy(mel.astype(np.float16)),
    }
    if codec == "raw":
        members[RAW_FRAMES] = save_npy(frames)
    elif codec == "jpeg":
        members |= {jpeg_frame(i, len(frames)): _jpeg(frame) for i, frame in enumerate(frames)}
    elif codec == "h264":
        members[H264_FRAMES] = encode_h264(frames)
    else:
        raise ValueError(f"video codec {codec!r} is none of {', '.join(VIDEO_CODECS)}")
    return dict(sorted(members.items()))


def pack_clip_header(header: dict[str, Any]) -> bytes:
    """The bytes of KEY.json.

    A clip without labels is stored with the one label '': an empty list has no type in JSON, and a reader
    that infers types from the first clips (Hugging Face datasets) refuses the first label after them.
    `known_labels` removes it.

    Raises:
        ShardError: more bytes than a reader takes. Datasets bound their texts, so that no source leads here.
    """
    labels = list(header["labels"]) or [NO_LABEL]
    data = json.dumps(header | {"labels": labels}, ensure_ascii=False, sort_keys=True).encode()
    if len(data) > MOST_CLIP_HEADER:
        raise ShardError(f"a clip header of {len(data):,} bytes; at most {MOST_CLIP_HEADER:,} are read")
    return data


def known_labels(labels: Sequence[str]) -> list[str]:
    """The labels of a clip, without the one that stands for none."""
    return [] if list(labels) == [NO_LABEL] else list(labels)


def unpack_frames(members: Members, shape: tuple[int, ...], decode_h264: DecodeH264) -> np.ndarray:
    """The frames of a clip, however they are stored.

    Args:
        shape: (frames, H, W, RGB), what they must be; nothing much larger is decompressed.

    Raises:
        ShardError: no frames, or JPEG frames of another number, size or kind.
        ValueError, OSError, SyntaxError, struct.error: bytes that do not decode.
    """
    if RAW_FRAMES in members:
        return load_npy(members[RAW_FRAMES])
    if H264_FRAMES in members:
        return decode_h264(members[H264_FRAMES], shape)
    pictures = sorted(name for name in members if name.startswith("frame") and name.endswith(".jpg"))
    if not pictures:
        raise ShardError(f"a clip without frames (it holds {', '.join(members)})")
    if pictures != [jpeg_frame(i, shape[0]) for i in range(shape[0])]:
        raise ShardError(f"{len(pictures)} frames, {pictures[0]} to {pictures[-1]}; the spec says {shape[0]}")
    return np.stack([_load_jpeg(members[name], shape[1:]) for name in pictures])


def _load_jpeg(data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """uint8 of `shape` (H, W, RGB). A picture may decompress to a million times its bytes, and a progressive
    one may be decoded thousands of times over: neither is decoded."""
    try:
        picture = Image.open(io.BytesIO(data), formats=("JPEG",))
    except Image.DecompressionBombError as error:
        raise ShardError(f"a frame that is too large: {error}") from error
    found = (picture.height, picture.width, len(picture.getbands()))
    if found != shape or picture.mode != "RGB" or "progressive" in picture.info:
        raise ShardError(f"frames of {found}, {picture.mode}: not baseline JPEGs in RGB of {tuple(shape)}")
    return np.asarray(picture)


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


def load_waveform(data: bytes, spec: ClipSpec) -> np.ndarray:
    """float32 (samples,) of the FLAC file.

    Raises:
        ShardError: sound of another length, rate or number of channels than the spec's; a FLAC header can
            promise 2**36 samples, and memory is taken for them before the first is decoded.
        RuntimeError: bytes that are no FLAC file.
    """
    import soundfile  # here and in `_flac`: a machine that only trains may lack it

    with soundfile.SoundFile(io.BytesIO(data)) as file:
        found, wanted = (file.frames, file.samplerate, file.channels), (spec.samples, spec.sample_rate, 1)
        if file.format != "FLAC" or found != wanted:
            raise ShardError(
                f"sound of {found[0]} samples at {found[1]} Hz in {found[2]} channels ({file.format}), "
                f"not {wanted[0]} at {wanted[1]} Hz in 1 (FLAC)"
            )
        waveform = file.read(dtype="float32")
    if waveform.shape != (spec.samples,):
        raise ShardError(f"sound that ends after {len(waveform)} of {spec.samples} samples")
    return waveform


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


def save_npy(array: np.ndarray) -> bytes:
    """The .npy bytes of an array in C order."""
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(array), allow_pickle=False)
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
