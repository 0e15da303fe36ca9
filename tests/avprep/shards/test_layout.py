"""The format on disk: names that others rely on, and output headers."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avprep.shards import layout
from avprep.shards.layout import (
    ShardError,
    fingerprint_of,
    jpeg_frame,
    kind_of,
    ledger_index,
    ledger_name,
    read_header,
    shard_name,
    spec_of,
)
from avprep.shards.store import open_store
from avprep.spec import ClipSpec


def test_names_are_those_that_users_have_on_their_disks():
    assert layout.FORMAT_VERSION == 1
    assert layout.OUTPUT_FILES == ("plan.parquet", "stats.json", "captions.safetensors", "spec.json")
    assert shard_name("clips", 7) == "shards/clips-000007.tar"
    assert shard_name("latents", 1234567) == "shards/latents-1234567.tar"
    assert ledger_name(0) == "ledger/000000.parquet"
    assert [jpeg_frame(3, 16), jpeg_frame(3, 130)] == ["frame03.jpg", "frame003.jpg"]


@given(st.integers(0, 10**9))
def test_a_ledgers_name_gives_its_shard(index):
    assert ledger_index(ledger_name(index)) == index


@pytest.mark.parametrize(
    "name", ["ledger/0.parquet", "ledger/000000.parquet.bak", "ledger/.parquet", "ledger/00000١.parquet", "x"]
)
def test_other_files_are_no_ledgers(name):
    assert ledger_index(name) is None


def test_a_header_says_what_an_output_holds(tmp_path):
    store = open_store(tmp_path)
    with pytest.raises(ShardError, match="holds no spec.json: not an output"):
        read_header(store)
    (tmp_path / "spec.json").write_text(json.dumps({"format": 1, "spec": ClipSpec().to_dict()}))
    header = read_header(store)
    assert kind_of(header) == "clips" and kind_of(header | {"kind": "latents"}) == "latents"
    assert spec_of(header) == ClipSpec()
    with pytest.raises(ShardError, match="'models', which this version does not know"):
        kind_of({"kind": "models"})
    (tmp_path / "spec.json").write_text('{"format": 2}')
    with pytest.raises(ShardError, match="is of format 2; this version reads format 1"):
        read_header(store)


def test_a_fingerprint_is_of_values_and_not_of_their_order():
    assert fingerprint_of({"a": 1, "b": [2]}) == fingerprint_of({"b": [2], "a": 1})
    assert fingerprint_of({"a": 1}) != fingerprint_of({"a": 2})
    assert fingerprint_of({"format": 1}) == "0344048662ba1c5afeaffdb5ef850aa3"
