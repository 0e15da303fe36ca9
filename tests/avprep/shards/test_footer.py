from __future__ import annotations

import io
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avprep.shards.footer import CODECS, FooterError, read_footer, row_groups

COMPRESSIONS = ["none", "snappy", "gzip", "brotli", "lz4", "zstd"]


def written(compression: str | dict[str, str], *, columns: int = 3, rows: int = 5, group: int = 2) -> bytes:
    values = [["a", "b"], ["x"] * 40, None, [], [""]]
    table = {f"column {i}": pa.array((values * rows)[:rows]) for i in range(columns)}
    table["number"] = pa.array(range(rows))
    pq.write_table(pa.table(table), file := io.BytesIO(), compression=compression, row_group_size=group)
    return file.getvalue()


def footer_of(data: bytes) -> bytes:
    return read_footer(io.BytesIO(data))


def codecs_of(footer: bytes) -> list[int]:
    return [chunk.codec for group in row_groups(footer) for chunk in group.columns]


def known_to_pyarrow(data: bytes) -> list[tuple]:
    metadata = pq.ParquetFile(io.BytesIO(data)).metadata
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    chunks = [(group.num_rows, group.column(j)) for group in groups for j in range(metadata.num_columns)]
    return [(rows, c.compression, c.num_values, c.total_uncompressed_size) for rows, c in chunks]


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.sampled_from(COMPRESSIONS), min_size=1, max_size=20), st.integers(1, 40), st.integers(1, 12)
)
def test_the_chunks_are_those_of_pyarrow(compressions, rows, group):
    by_column = {f"column {i}.list.element": name for i, name in enumerate(compressions)}
    data = written(by_column | {"number": "snappy"}, columns=len(compressions), rows=rows, group=group)
    found = [
        (group.rows, CODECS[chunk.codec].removesuffix("_RAW"), chunk.values, chunk.uncompressed_size)
        for group in row_groups(footer_of(data))
        for chunk in group.columns
    ]
    assert found == known_to_pyarrow(data)
    spans = [(group.columns[-1].least, group.columns[-1].most) for group in row_groups(footer_of(data))]
    assert [(_number(least), _number(most)) for least, most in spans] == [
        (first, min(rows, first + group) - 1) for first in range(0, rows, group)
    ]


def _number(stored: bytes | None) -> int:
    assert stored is not None and len(stored) == 8
    return int.from_bytes(stored, "little")


def test_a_column_without_statistics_does_not_say_its_least_value():
    pq.write_table(pa.table({"a": [1]}), file := io.BytesIO(), write_statistics=False)
    [group] = row_groups(read_footer(file))
    assert (group.columns[0].least, group.columns[0].most) == (None, None)


def test_a_footer_longer_than_what_is_read_first_is_read_whole():
    data = written("snappy", columns=400, rows=40, group=10)
    footer = footer_of(data)
    assert len(footer) > 1 << 16 and footer == data[-len(footer) :]
    assert [len(group.columns) for group in row_groups(footer)] == [401] * 4


def test_a_codec_that_there_is_not_is_found():
    footer = footer_of(written("snappy"))
    assert set(codecs_of(footer.replace(b"\x15\x02\x16", b"\x15\x12\x16", 1))) == {1, 9}
    assert set(codecs_of(footer.replace(b"\x15\x02\x16", b"\x15\x01\x16", 1))) == {1, -1}


def test_a_footer_that_is_cut_off_is_refused():
    footer = footer_of(written("zstd"))[:-8]
    for size in range(len(footer)):
        with pytest.raises(FooterError):
            row_groups(footer[:size] + bytes(8))


@pytest.mark.parametrize(
    "footer",
    [
        b"",
        bytes([0x1C]) * 1000,  # structs within structs
        bytes([0x19, 0x19]) * 1000,  # lists within lists
        bytes([0x19, 0xF1, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F]),  # four billion bools
        bytes([0x18, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F]),  # a text of four billion bytes
        bytes([0x15]) + b"\xff" * 1000,  # a number without end
        bytes([0x1F]),  # of no kind
        bytes([0x45, 0x02, 0x00]),  # row groups that are a number
        bytes([0x49, 0x15, 0x02, 0x00]),  # row groups that are numbers
    ],
)
def test_what_is_no_footer_is_refused(footer):
    with pytest.raises(FooterError):
        row_groups(footer + bytes(8))


@pytest.mark.parametrize(
    "end", [b"", b"PAR1", bytes(8), b"\xff\xff\xff\x7fPAR1", b"\0\0\0\0PAR1", b"\x09\0\0\0PAR1"]
)
def test_a_file_that_does_not_end_as_parquet_does_is_refused(end):
    with pytest.raises(FooterError):
        read_footer(io.BytesIO(b"PAR1" + end))


def test_changed_bytes_are_read_or_refused():
    footer, rng = footer_of(written("snappy")), random.Random(0)
    for _ in range(5000):
        changed = bytearray(footer)
        for _ in range(rng.choice((1, 3, 30))):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        try:
            row_groups(bytes(changed))
        except FooterError:
            continue
