"""The ledger: what is counted from two of its columns is what its rows say."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avprep.reasons import Reason
from avprep.shards.layout import ShardError, ledger_name
from avprep.shards.ledger import (
    STATUSES,
    LedgerRow,
    ShardRecord,
    Sums,
    read_ledger,
    read_outcomes,
    write_ledger,
)
from avprep.shards.store import LocalStore

ROWS = st.lists(
    st.builds(
        LedgerRow,
        key=st.text("0123456789abcdef", max_size=8),
        shard=st.just(0),
        source=st.just("x"),
        start_s=st.floats(0, 1e5),
        status=st.sampled_from(STATUSES),
        reason=st.sampled_from(["", *(reason.value for reason in Reason)]),
    ),
    max_size=40,
)


@settings(max_examples=30)
@given(ROWS)
def test_outcomes_count_as_the_rows_do(rows):
    with TemporaryDirectory() as root:
        store = LocalStore(root)
        write_ledger(store, 0, rows, ShardRecord("", "", 0, "made"))
        counted, added = Sums(), Sums()
        counted.count(read_outcomes(store, 0))
        added.add(read_ledger(store, 0)[0])
    assert counted == added
    assert counted.planned == len(rows)


def test_a_damaged_ledger_is_named(tmp_path: Path):
    store = LocalStore(str(tmp_path))
    write_ledger(store, 0, [], ShardRecord("", "", 0, "made"))
    path = tmp_path / ledger_name(0)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ShardError, match=r"ledger/000000.parquet is damaged .*remove it"):
        read_outcomes(store, 0)
