"""Hostile clips, latents, ledgers and headers, made from sound ones.

An input changes a finished output. Where it changes a shard, the ledger is made to agree with it: what is
tested is the reading, not the checksum.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from PIL import Image

from avprep.media.mux import encode_frames
from avprep.shards.clips import save_npy
from avprep.shards.latents import EncoderHeader
from avprep.shards.layout import HEADER_FILE, ledger_name
from avprep.shards.ledger import read_ledger, write_ledger
from avprep.shards.store import open_store
from avprep.shards.tar import Members, read_shard
from avprep.shards.writer import ShardWriter
from tests.avmodel.made_latents import write_latents
from tests.hostile.tar_corpus import ChangeTar
from tests.made_clips import TINY, write_clips

ENCODER = EncoderHeader(
    spec=TINY,
    channels=2,
    planes=("v_hw", "v_tw", "v_th"),
    rows=8,
    columns=8,
    valid_rows=(8, 4, 4),
    weights="w",
    config={},
)
GIB = 1 << 30

ChangeMembers = Callable[[Members], Members]
ChangeOutput = Callable[[Path], None]


def make_output(kind: str, out: Path) -> Path:
    """One shard of two clips, or two shards of two latents each."""
    if kind == "clips":
        return write_clips(out, sources=1, clips_each=2)
    return write_latents(out, ENCODER, count=4)


def change_tar(out: Path, change: ChangeTar) -> None:
    """Changes the first shard, and its ledger with it."""
    store = open_store(out)
    rows, record = read_ledger(store, 0)
    data = change((out / record.name).read_bytes())
    (out / record.name).write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    write_ledger(store, 0, rows, replace(record, sha256=digest, size=len(data)))


def change_members(out: Path, change: ChangeMembers) -> None:
    """Changes the files of the first clip of the first shard, and its ledger with them."""

    def rewritten(data: bytes) -> bytes:
        file = io.BytesIO()
        writer = ShardWriter(file)
        for i, (key, members) in enumerate(read_shard(io.BytesIO(data))):
            writer.add(key, dict(sorted(change(members).items())) if i == 0 else members)
        writer.close()
        return file.getvalue()

    change_tar(out, rewritten)


# --- the files of a clip ---------------------------------------------------------------------------------


def _replaced(suffix: str, data: bytes) -> ChangeMembers:
    return lambda members: members | {suffix: data}


def _without(suffix: str) -> ChangeMembers:
    return lambda members: {name: data for name, data in members.items() if name != suffix}


def _stated(**values: object) -> ChangeMembers:
    """Changes entries of the clip header."""
    return lambda members: members | {"json": json.dumps(json.loads(members["json"]) | values).encode()}


def _unstated(name: str) -> ChangeMembers:
    def change(members: Members) -> Members:
        header = json.loads(members["json"])
        del header[name]
        return members | {"json": json.dumps(header).encode()}

    return change


HEADERS: dict[str, ChangeMembers] = {
    "header: a list": _replaced("json", b"[]"),
    "header: a number": _replaced("json", b"1"),
    "header: null": _replaced("json", b"null"),
    "header: 10**6 lists deep": _replaced("json", b"[" * 10**6 + b"]" * 10**6),
    "header: 10**5 objects deep": _replaced("json", b'{"a":' * 10**5 + b"1" + b"}" * 10**5),
    "header: not UTF-8": _replaced("json", b'{"source": "\xff\xfe"}'),
    "header: empty": _replaced("json", b""),
    "header: cut off": lambda members: members | {"json": members["json"][:-3]},
    "header: of 8 MB": _replaced("json", b"[" + b"[]," * (8 << 18) + b"[]]"),
    "header: a number of 10**5 digits": _replaced("json", b'{"start_s": ' + b"9" * 10**5 + b"}"),
    "labels: a number": _stated(labels=3),
    "labels: an object": _stated(labels={"dog": 1}),
    "labels: text": _stated(labels="dog"),
    "labels: numbers": _stated(labels=[1, 2]),
    "labels: lists": _stated(labels=[["dog"]]),
    "labels: null": _stated(labels=None),
    "caption: a number": _stated(caption=4),
    "caption: null": _stated(caption=None),
    "source: a list": _stated(source=["a.mp4"]),
    "start: NaN": _stated(start_s=float("nan")),
    "start: infinite": _stated(start_s=float("inf")),
    "start: true": _stated(start_s=True),
    "stop: text": _stated(stop_s="1.6"),
    "sound: a number": _stated(has_audio=1),
    "no labels": _unstated("labels"),
    "no caption": _unstated("caption"),
    "no header": _without("json"),
}


def _mel(array: np.ndarray) -> ChangeMembers:
    return _replaced("mel.npy", save_npy(array))


def _npy(header: str, data: bytes = b"") -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


_FLAT = np.zeros(TINY.mel_shape, np.float16)
_OBJECTS = _npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", b"cos\nsystem\n(S'true'\ntR.")
_HUGE = _npy("{'descr': '<f2', 'fortran_order': False, 'shape': (999999999999, 999999999999), }")
_EMPTY_AND_HUGE = _npy("{'descr': '<f2', 'fortran_order': False, 'shape': (0, 999999999999, 9), }")
_CODE = _npy("{'descr': __import__('os').system('true'), 'fortran_order': False, 'shape': (1,), }")

MELS: dict[str, ChangeMembers] = {
    "mel: float32": _mel(_FLAT.astype(np.float32)),
    "mel: float64": _mel(_FLAT.astype(np.float64)),
    "mel: int8": _mel(_FLAT.astype(np.int8)),
    "mel: uint16": _mel(_FLAT.astype(np.uint16)),
    "mel: of one frame less": _mel(_FLAT[:-1]),
    "mel: flat": _mel(_FLAT.ravel()),
    "mel: with one axis more": _mel(_FLAT[None]),
    "mel: NaN": _mel(np.where(np.arange(_FLAT.size) == 7, np.nan, 0).reshape(_FLAT.shape).astype(np.float16)),
    "mel: infinite": _mel(_FLAT + np.float16("inf")),
    "mel: 10**4": _mel(_FLAT + np.float16(1e4)),
    "mel: a little above 1": _mel(_FLAT - np.float16(1.001)),
    "mel: objects": _replaced("mel.npy", _OBJECTS),
    "mel: of 10**24 values": _replaced("mel.npy", _HUGE),
    "mel: of none of many values": _replaced("mel.npy", _EMPTY_AND_HUGE),
    "mel: code in its header": _replaced("mel.npy", _CODE),
    "mel: cut off": lambda members: members | {"mel.npy": members["mel.npy"][:-1]},
    "mel: one byte more": lambda members: members | {"mel.npy": members["mel.npy"] + b"\0"},
    "mel: a header that does not end": _replaced("mel.npy", b"\x93NUMPY\x01\x00\xff\xff{"),
    "mel: empty": _replaced("mel.npy", b""),
    "no mel": _without("mel.npy"),
}


def _frames(array: np.ndarray) -> ChangeMembers:
    return _replaced("frames.npy", save_npy(array))


def _jpegs(*pictures: bytes, first: int = 0) -> ChangeMembers:
    named = {f"frame{first + i:02d}.jpg": picture for i, picture in enumerate(pictures)}
    return lambda members: _without("frames.npy")(members) | named


def _jpeg(size: int = 16, mode: str = "RGB", kind: str = "JPEG", **options: object) -> bytes:
    Image.new(mode, (size, size)).save(file := io.BytesIO(), kind, **options)
    return file.getvalue()


def _bomb(side: int) -> bytes:
    """A small picture whose header claims side x side pixels."""
    data = _jpeg()
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", side, side) + data[at + 4 :]


def _mp4(count: int, size: int) -> ChangeMembers:
    video = encode_frames(np.zeros((count, size, size, 3), np.uint8), fps=10)
    return lambda members: _without("frames.npy")(members) | {"frames.mp4": video}


_BLACK = np.zeros(TINY.frames_shape, np.uint8)

FRAMES: dict[str, ChangeMembers] = {
    "frames: float16": _frames(_BLACK.astype(np.float16)),
    "frames: int16": _frames(_BLACK.astype(np.int16)),
    "frames: one more": _frames(np.concatenate([_BLACK, _BLACK[:1]])),
    "frames: larger": _frames(np.zeros((4, 18, 16, 3), np.uint8)),
    "frames: with alpha": _frames(np.zeros((4, 16, 16, 4), np.uint8)),
    "frames: empty": _replaced("frames.npy", b""),
    "no frames": _without("frames.npy"),
    "jpeg: 20000 x 20000": _jpegs(*[_bomb(20000)] * 4),
    "jpeg: 65535 x 65535": _jpegs(*[_bomb(65535)] * 4),
    "jpeg: 12000 x 12000": _jpegs(*[_bomb(12000)] * 4),
    "jpeg: other size": _jpegs(*[_jpeg(18)] * 4),
    "jpeg: progressive": _jpegs(*[_jpeg(progressive=True)] * 4),
    "jpeg: grey": _jpegs(*[_jpeg(mode="L")] * 4),
    "jpeg: CMYK": _jpegs(*[_jpeg(mode="CMYK")] * 4),
    "jpeg: is a PNG": _jpegs(*[_jpeg(kind="PNG")] * 4),
    "jpeg: is a GIF": _jpegs(*[_jpeg(mode="P", kind="GIF")] * 4),
    "jpeg: cut off": _jpegs(*[_jpeg()[:-20]] * 4),
    "jpeg: two bytes": _jpegs(*[b"\xff\xd8"] * 4),
    "jpeg: one missing": _jpegs(*[_jpeg()] * 3),
    "jpeg: 100 frames": _jpegs(*[_jpeg()] * 100),
    "jpeg: numbered from 1": _jpegs(*[_jpeg()] * 4, first=1),
    "mp4: noise": lambda members: _without("frames.npy")(members) | {"frames.mp4": b"\0" * 999},
    "mp4: one frame more": _mp4(5, 16),
    "mp4: one frame less": _mp4(3, 16),
    "mp4: 200 frames": _mp4(200, 16),
    "mp4: larger": _mp4(4, 512),
}


def _flac(samples: int = TINY.samples, rate: int = 16000, channels: int = 1, kind: str = "FLAC") -> bytes:
    shape = samples if channels == 1 else (samples, channels)
    soundfile.write(file := io.BytesIO(), np.zeros(shape), rate, format=kind, subtype="PCM_16")
    return file.getvalue()


def _promising(samples: int) -> bytes:
    """A FLAC whose header claims another number of samples, in 36 bits from byte 21 on."""
    data = bytearray(_flac())
    data[21] = data[21] & 0xF0 | samples >> 32
    data[22:26] = struct.pack(">I", samples & 0xFFFFFFFF)
    return bytes(data)


SOUNDS: dict[str, ChangeMembers] = {
    "flac: 2**36 samples promised": _replaced("audio.flac", _promising(2**36 - 1)),
    "flac: 2**30 samples promised": _replaced("audio.flac", _promising(2**30)),
    "flac: no length": _replaced("audio.flac", _promising(0)),
    "flac: one sample less": _replaced("audio.flac", _flac(TINY.samples - 1)),
    "flac: other rate": _replaced("audio.flac", _flac(rate=16001)),
    "flac: stereo": _replaced("audio.flac", _flac(channels=2)),
    "flac: is a WAV": _replaced("audio.flac", _flac(kind="WAV")),
    "flac: cut off": lambda members: members | {"audio.flac": members["audio.flac"][:200]},
    "flac: empty": _replaced("audio.flac", b""),
    "no sound": _without("audio.flac"),
}

# --- latents ---------------------------------------------------------------------------------------------

_ZERO = np.zeros(ENCODER.shape, np.float16)


def _latent(array: np.ndarray) -> ChangeMembers:
    return _replaced("latent.npy", save_npy(array))


LATENT_FILES: dict[str, ChangeMembers] = {
    "latent: float64": _latent(_ZERO.astype(np.float64)),
    "latent: float32": _latent(_ZERO.astype(np.float32)),
    "latent: int8": _latent(_ZERO.astype(np.int8)),
    "latent: int16": _latent(_ZERO.astype(np.int16)),
    "latent: 10**4": _latent(_ZERO + np.float16(1e4)),
    "latent: -1.001": _latent(_ZERO - np.float16(1.001)),
    "latent: NaN": _latent(_ZERO + np.float16("nan")),
    "latent: infinite": _latent(_ZERO - np.float16("inf")),
    "latent: one plane less": _latent(_ZERO[:, :-1]),
    "latent: of a batch": _latent(_ZERO[None]),
    "latent: packed, one value less": _latent(np.zeros(ENCODER.values - 1, np.float16)),
    "latent: objects": _replaced("latent.npy", _OBJECTS),
    "latent: of 10**24 values": _replaced("latent.npy", _HUGE),
    "latent: empty": _replaced("latent.npy", b""),
    "no latent": _without("latent.npy"),
}

# --- ledgers and output headers --------------------------------------------------------------------------


def _ledger(change: Callable[[pa.Table], pa.Table]) -> ChangeOutput:
    def changed(out: Path) -> None:
        path = out / ledger_name(0)
        pq.write_table(change(pq.read_table(path)), path)

    return changed


def _entry(**entries: str) -> ChangeOutput:
    changed = {name.encode(): value.encode() for name, value in entries.items()}
    return _ledger(lambda table: table.replace_schema_metadata(table.schema.metadata | changed))


def _ledger_bytes(change: Callable[[bytes], bytes]) -> ChangeOutput:
    def changed(out: Path) -> None:
        path = out / ledger_name(0)
        path.write_bytes(change(path.read_bytes()))

    return changed


LEDGERS: dict[str, ChangeOutput] = {
    "ledger: names /etc/passwd": _entry(name="/etc/passwd"),
    "ledger: names ../../x.tar": _entry(name="../../x.tar"),
    "ledger: names another shard": _entry(name="shards/clips-000001.tar"),
    "ledger: names a ledger": _entry(name="ledger/000000.parquet"),
    "ledger: a size that is text": _entry(size="many"),
    "ledger: a negative size": _entry(size="-1"),
    "ledger: a size of 2**70": _entry(size=str(2**70)),
    "ledger: no entries": _ledger(lambda table: table.replace_schema_metadata(None)),
    "ledger: cut off": _ledger_bytes(lambda data: data[:-9]),
    "ledger: its first half": _ledger_bytes(lambda data: data[: len(data) // 2]),
    "ledger: noise": _ledger_bytes(lambda data: np.random.default_rng(0).bytes(len(data))),
    "ledger: noise within": _ledger_bytes(lambda data: data[:-300] + bytes(292) + data[-8:]),
    "ledger: empty": _ledger_bytes(lambda data: b""),
}


def _output_header(**values: object) -> ChangeOutput:
    def changed(out: Path) -> None:
        header = json.loads((out / HEADER_FILE).read_bytes())
        (out / HEADER_FILE).write_text(json.dumps(header | values))

    return changed


def _header_bytes(data: bytes) -> ChangeOutput:
    return lambda out: (out / HEADER_FILE).write_bytes(data) and None


OUTPUT_HEADERS: dict[str, ChangeOutput] = {
    "spec.json: a list": _header_bytes(b"[]"),
    "spec.json: null": _header_bytes(b"null"),
    "spec.json: empty": _header_bytes(b""),
    "spec.json: not UTF-8": _header_bytes(b"\xff\xfe\x00"),
    "spec.json: 10**6 lists deep": _header_bytes(b"[" * 10**6),
    "spec.json: of 8 MB": _header_bytes(b'{"a": "' + b"x" * (8 << 20) + b'"}'),
    "spec.json: of a later format": _output_header(format=2),
    "spec.json: of no kind": _output_header(kind="models"),
    "spec.json: a kind that is a list": _output_header(kind=["clips"]),
    "spec.json: a spec that is a list": _output_header(spec=[]),
    "spec.json: no spec": _output_header(spec=None),
    "spec.json: 10**9 frames": _output_header(spec=TINY.to_dict() | {"frames": 10**9}),
    "spec.json: a size that is text": _output_header(spec=TINY.to_dict() | {"size": "16"}),
    "spec.json: a field too many": _output_header(spec=TINY.to_dict() | {"codec": 1}),
}


def _encoder(**values: object) -> ChangeOutput:
    latent = ENCODER.to_dict()["latent"]
    return _output_header(latent=latent | values)


ENCODER_HEADERS: dict[str, ChangeOutput] = {
    "encoder: no planes": _encoder(planes=[]),
    "encoder: planes that are numbers": _encoder(planes=[1, 2, 3]),
    "encoder: planes that are one number": _encoder(planes=3),
    "encoder: 10**5 planes": _encoder(planes=["v_hw"] * 10**5, valid_rows=[8] * 10**5),
    "encoder: 10**12 columns": _encoder(columns=10**12),
    "encoder: -1 channels": _encoder(channels=-1),
    "encoder: half a row": _encoder(rows=8.5),
    "encoder: rows that are text": _encoder(rows="8"),
    "encoder: valid rows beyond the rows": _encoder(valid_rows=[9, 4, 4]),
    "encoder: valid rows that are text": _encoder(valid_rows=["8", "4", "4"]),
    "encoder: a field too many": _encoder(model="x"),
    "encoder: nothing": _output_header(latent=None),
}
