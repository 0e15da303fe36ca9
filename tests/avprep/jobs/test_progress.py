"""stats.json: it follows from the ledgers, and is made whenever it does not."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from avprep.jobs.progress import ClipReport, keep_stats
from avprep.shards.layout import STATS_FILE
from avprep.shards.ledger import Sums
from avprep.shards.store import open_store

SUMS = Sums(Counter(written=3, failed=1), Counter(corrupt=1))


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path)


def read(store) -> dict:
    return json.loads((store.root / STATS_FILE).read_text())


def test_a_run_that_made_shards_writes_what_the_output_holds_and_what_it_did(store):
    report = ClipReport(shards=2, made=1, sums=SUMS, made_sums=SUMS, elapsed_s=2.0, counts=Counter(seeks=7))
    keep_stats(store, report)
    stats = read(store)
    assert stats["clips"] == {"written": 3, "filtered": 0, "failed": 1}
    assert stats["reasons"] == {"corrupt": 1} and stats["shards"] == 2
    assert stats["last_run"] == {
        "clips": 4,
        "elapsed_s": 2.0,
        "clips_per_s": 2.0,
        "worker_seconds": {},
        "seeks": 7,
    }


@pytest.mark.parametrize("found", [None, "{", "[]", '{"clips": {"written": 2}, "last_run": {"clips": 2}}'])
def test_a_run_with_nothing_to_do_mends_what_is_not_of_the_ledgers(store, found):
    if found is not None:
        (store.root / STATS_FILE).write_text(found)
    keep_stats(store, ClipReport(shards=2, sums=SUMS))
    stats = read(store)
    assert stats.pop("last_run", None) == ({"clips": 2} if found and "last_run" in found else None)
    assert stats == ClipReport(shards=2, sums=SUMS).stats()


def test_what_is_of_the_ledgers_is_not_written_again(store):
    keep_stats(store, ClipReport(shards=2, made=1, sums=SUMS, elapsed_s=1.0))
    before = (store.root / STATS_FILE).stat().st_mtime_ns, read(store)
    keep_stats(store, ClipReport(shards=2, sums=SUMS))
    assert ((store.root / STATS_FILE).stat().st_mtime_ns, read(store)) == before
