"""Hostile lists of sources: csv, tsv, JSON lines, JSON and parquet."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq

from avprep.datasets.table import MAX_CELL

Make = Callable[[], bytes]
_LONG = 10 << 20  # characters of a cell of 10 MB
_ROWS = 50_000

# --- paths, which every form of a list can hold ----------

# Name to (path, whether it is a source under the root).
PATHS: dict[str, tuple[str, bool]] = {
    "plain": ("a/b.mp4", True),
    "traversal": ("../../etc/passwd", False),
    "traversal within": ("a/../../../etc/passwd", False),
    "traversal by one": ("..", False),
    "the root itself": (".", False),
    "back to the root": ("a/..", False),
    "absolute": ("/etc/passwd", False),
    "absolute with two slashes": ("//etc/passwd", False),
    "the root of all": ("/", False),
    "a URL": ("https://example.org/a.mp4", True),  # a file of that name, which is missing
    "a URL with a password": ("https://me:wJalrXUtn@example.org/a.mp4", False),
    "a formula": ("=cmd|' /C calc'!A0", True),
    "a formula of a sum": ("+1+1.mp4", True),
    "an option": ("--out.mp4", True),
    "a pipe": ("|id", True),
    "a demuxer's list": ("concat:a.mp4", True),
    "a device": ("/dev/zero", False),
    "spaces": ("   a b  .mp4", True),
    "a dot too many": ("./././a.mp4", True),
    "4,097 characters": ("a" * 4097, False),
    "escape codes": ("\x1b[31ma.mp4", True),
    "right to left": ("a\u202egpm.4", True),
    "a line end": ("a\nb.mp4", True),
    "an emoji": ("🎬.mp4", True),
    "a combining accent": ("e\u0301.mp4", True),
    "a NUL": ("a\0b.mp4", False),
    "a cell of 10 MB": ("a" * _LONG, False),
}


def as_csv(path: str) -> bytes:
    return f'path,caption\n"{path}",x\n'.encode()


def as_tsv(path: str) -> bytes:
    return f'caption\tpath\nx\t"{path}"\n'.encode()


def as_json_lines(path: str) -> bytes:
    return json.dumps({"path": path}).encode()


def as_json(path: str) -> bytes:
    return json.dumps([{"path": path}]).encode()


def as_parquet(path: str) -> bytes:
    return _parquet({"path": [path]})


FORMS: dict[str, Callable[[str], bytes]] = {
    "csv": as_csv,
    "tsv": as_tsv,
    "jsonl": as_json_lines,
    "json": as_json,
    "parquet": as_parquet,
}

# --- files that are hostile as a whole ----------


def _parquet(columns: dict[str, object], **options: object) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, **options)
    return file.getvalue()


def _zeros(rows: int) -> pa.Array:
    return pa.array(memoryview(bytes(rows)), pa.uint8()).cast(pa.int32())


def _same_text(text: str, rows: int) -> Make:
    def make() -> bytes:
        column = pa.DictionaryArray.from_arrays(_zeros(rows), pa.array([text]))
        return _parquet({"path": column}, store_schema=False)

    return make


def _many_labels(items: int) -> bytes:
    labels = pa.DictionaryArray.from_arrays(_zeros(items), pa.array(["dog"]))
    lists = pa.ListArray.from_arrays(pa.array([0, items], pa.int32()), labels)
    return _parquet({"path": ["a.mp4"], "labels": lists}, store_schema=False)


def _noise(size: int) -> bytes:
    return random.Random(0).randbytes(size)


def _flipped(seed: int) -> Make:
    def make() -> bytes:
        rng, data = random.Random(seed), bytearray(_parquet({"path": [f"{i}.mp4" for i in range(50)]}))
        for _ in range(4):
            data[rng.randrange(4, len(data))] ^= 1 << rng.randrange(8)
        return bytes(data)

    return make


FILES: dict[str, dict[str, Make]] = {
    "csv": {
        "empty": lambda: b"",
        "a header alone": lambda: b"path,start\n",
        "noise": lambda: _noise(100_000),
        "zeros": lambda: bytes(1 << 20),
        "NUL bytes within": lambda: b"path\0,\0start\n\0\0a.mp4,1\n",
        "one line of 40 MB": lambda: b"path," + b"x" * (40 << 20),
        "a header of 50,000 columns": lambda: b"path" + b",x" * _ROWS,
        "a row of 50,000 cells": lambda: b"path\na.mp4" + b"," * _ROWS,
        "a quotation mark that is not closed": lambda: b'path\n"a.mp4\n' + b"b.mp4\n" * _ROWS,
        "50,000 rows of nothing": lambda: b"path,start\n" + b",\n" * _ROWS,
        "50,000 equal rows": lambda: b"path\n" + b"a.mp4\n" * _ROWS,
        "50,000 paths outside": lambda: b"path\n" + b"../a.mp4\n" * _ROWS,
        "50,000 bad spans": lambda: b"path,start\n" + b"a.mp4,x\n" * _ROWS,
        "50,000 splits": lambda: b"path,split\n" + b"".join(b"a,%d\n" % i for i in range(_ROWS)),
        "20,000 quoted cells of 1 kB": lambda: b"path,caption\n" + (b'a,"' + b'""' * 500 + b'"\n') * 20_000,
        "UTF-16": lambda: "path\na.mp4\n".encode("utf-16"),
        "Latin-1": lambda: "path\nä.mp4\n".encode("latin-1"),
        "a byte order mark": lambda: b"\xef\xbb\xbfpath\na.mp4\n",
        "old line ends": lambda: b"path\ra.mp4\r",
        "a column twice": lambda: b"path,path\na,b\n",
        "a header with a password": lambda: b"s3://K:wJalrXUtn@b/a.mp4,1\ns3://K:wJalrXUtn@b/b.mp4,2\n",
        "times beyond all bounds": lambda: (
            b"path,start,stop\na,1e999,2\nb,-1,2\nc,nan,inf\nd,0x10,1\ne,1_0,11\n"
        ),
        "a number of 120,000 digits": lambda: b"path,start\na.mp4," + b"9" * 120_000 + b"\n",
        "gzip": lambda: b"\x1f\x8b" + _noise(1000),
    },
    "jsonl": {
        "noise": lambda: _noise(100_000),
        "50,000 lists deep": lambda: b"[" * _ROWS,
        "50,000 objects deep": lambda: b'{"path":' * _ROWS,
        "numbers of 50,000 digits": lambda: b'{"path": "a", "start": ' + b"9" * _ROWS + b"}",
        "an exponent": lambda: b'{"path": "a", "start": 1e999999999}',
        "a path that is a list": lambda: b'{"path": ["a.mp4"]}',
        "a path that is an object": lambda: b'{"path": {"a": 1}}',
        "labels in labels": lambda: b'{"path": "a.mp4", "labels": [["dog"]]}',
        "50,000 labels": lambda: b'{"path": "a.mp4", "labels": [' + b'"",' * _ROWS + b'""]}',
        "lone surrogates": lambda: b'{"path": "\\ud800.mp4", "caption": "\\udfff"}',
        "NaN": lambda: b'{"path": NaN, "start": Infinity}',
        "a path twice": lambda: b'{"path": "a", "path": "b"}',
        "50,000 names": lambda: b"{" + b"".join(b'"%d":1,' % i for i in range(_ROWS)) + b'"path":"a"}',
        "not objects": lambda: b'1\n"a"\nnull\n[]\ntrue\n',
        "a line of 40 MB": lambda: b'{"path": "' + b"x" * (40 << 20) + b'"}',
        "50,000 lines that are no JSON": lambda: b"x\n" * _ROWS,
        "labels of 10 MB": lambda: json.dumps({"path": "a", "labels": ["x" * MAX_CELL] * 80}).encode(),
    },
    "json": {
        "noise": lambda: _noise(100_000),
        "empty": lambda: b"",
        "50,000 lists deep": lambda: b"[" * _ROWS,
        "an object": lambda: b'{"path": "a.mp4"}',
        "null": lambda: b"null",
        "a list of lists": lambda: b'[["path", "a.mp4"]]',
        "a list of names": lambda: b'["a.mp4"]',
        "cut off": lambda: b'[{"path": "a.mp4"}, {"pa',
        "not UTF-8": lambda: b'[{"path": "\xff\xfe.mp4"}]',
        "a number of 50,000 digits": lambda: b"[" + b"9" * _ROWS + b"]",
    },
    "parquet": {
        "empty": lambda: b"",
        "noise": lambda: b"PAR1" + _noise(5000) + b"PAR1",
        "a footer of 2 GB": lambda: b"PAR1" + bytes(100) + b"\xff\xff\xff\x7fPAR1",
        "40 million equal rows": _same_text("a.mp4", 40_000_000),
        "a text of 100 kB in 50,000 rows": _same_text("x" * 100_000, _ROWS),
        "a text of 100 MB": lambda: _parquet({"path": ["x" * (100 << 20)]}, compression="zstd"),
        "20 million labels": lambda: _many_labels(20_000_000),
        "a path that is a list": lambda: _parquet({"path": [["a.mp4"]]}),
        "a path that is a struct": lambda: _parquet({"path": [{"a": 1}]}),
        "a path that is true": lambda: _parquet({"path": [True]}),
        "a path that is a time": lambda: _parquet({"path": pa.array([1], pa.timestamp("s"))}),
        "bytes that are no UTF-8": lambda: _parquet({"path": pa.array([b"\xff\xfe.mp4"], pa.binary())}),
        "no rows": lambda: _parquet({"path": pa.array([], pa.string())}),
        "no columns": lambda: _parquet({}),
        "columns that differ by case": lambda: _parquet({"path": ["a"], "PATH": ["b"]}),
        "a name of a megabyte": lambda: _parquet({"path": ["a"], "x" * (1 << 20): [1]}),
        "labels that are numbers": lambda: _parquet({"path": ["a"], "labels": [[1, 2]]}),
        **{f"bits flipped, {i}": _flipped(i) for i in range(12)},
    },
}
