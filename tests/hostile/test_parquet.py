"""Hostile parquet files of an output are refused by name, soon and in little memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from avprep.errors import AvprepError
from avprep.shards.layout import PLAN_FILE, ledger_name, scores_name
from avprep.shards.ledger import read_ledger, read_outcomes, read_record
from avprep.shards.plan import PlanReader
from avprep.shards.scores import PROBLEMS, read_scores, read_scores_record, write_scores
from avprep.shards.selection import (
    FunnelStep,
    SelectionHeader,
    digest_of,
    read_selection,
    selection_name,
    write_selection,
)
from avprep.shards.store import Store, open_store
from tests.hostile.limits import limited
from tests.hostile.parquet_corpus import DAMAGED, REFUSED, REFUSED_WITH_TEXTS
from tests.made_clips import write_clips


@pytest.fixture(scope="module")
def sound_output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output of clips with scores and a selection."""
    out = write_clips(tmp_path_factory.mktemp("sound") / "out", sources=1, clips_each=2)
    store = open_store(out)
    keys = [row.key for row in read_ledger(store, 0)[0]]
    scores = pa.table({"key": keys, "luma": [1.0, 2.0], "problems": pa.array([["no"], []], PROBLEMS.type)})
    write_scores(store, 0, scores, clips_sha256=read_record(store, 0).sha256, scores={"luma": ""})
    step = FunnelStep(step="", removed=0, kept=2)
    header = SelectionHeader(query="", options={}, funnel=(step,), fingerprint="f", digest=digest_of(keys))
    write_selection(store, "all", pa.table({"key": keys, "shard": [0, 0]}), header)
    return out


def _read_ledger(store: Store) -> int:
    read_record(store, 0)
    read_outcomes(store, 0)
    return len(read_ledger(store, 0)[0])


def _read_plan(store: Store) -> int:
    plan = PlanReader(store)
    plan.clips_of(range(plan.shards))
    plan.unmade()
    list(plan.spans())
    plan.history()
    return sum(len(plan.rows(shard)) for shard in range(plan.shards))


def _read_scores(store: Store) -> int:
    read_scores_record(store, 0)
    return len(read_scores(store, 0))


def _read_selection(store: Store) -> int:
    return len(read_selection(store, "all")[0])


READERS: dict[str, Callable[[Store], int]] = {
    ledger_name(0): _read_ledger,
    PLAN_FILE: _read_plan,
    scores_name(0): _read_scores,
    selection_name("all"): _read_selection,
}
REFUSALS = [(file, change) for file in READERS for change in REFUSED]
REFUSALS += [(file, change) for file in READERS if "selections" not in file for change in REFUSED_WITH_TEXTS]


def changed(sound_output: Path, out: Path, file: str, change: Callable[[bytes], bytes]) -> Store:
    """A copy of the output's file alone, changed."""
    (out / file).parent.mkdir(parents=True, exist_ok=True)
    (out / file).write_bytes(change((sound_output / file).read_bytes()))
    return open_store(out)


@pytest.mark.parametrize("file", READERS)
def test_what_is_not_changed_is_read(sound_output, file):
    with limited():
        assert READERS[file](open_store(sound_output)) == 2


@pytest.mark.parametrize(("file", "change"), REFUSALS)
def test_a_hostile_file_is_refused_by_its_name(sound_output, tmp_path, file, change):
    store = changed(sound_output, tmp_path, file, (REFUSED | REFUSED_WITH_TEXTS)[change])
    assert (tmp_path / file).stat().st_size < 40 << 20
    with limited(), pytest.raises(AvprepError) as caught:
        READERS[file](store)
    message = str(caught.value)
    assert file in message and "\n" not in message and len(message) < 1000
    if change in REFUSED_WITH_TEXTS:
        assert "bytes of text; at most" in message  # and not for want of memory


@pytest.mark.parametrize("file", READERS)
@pytest.mark.parametrize("change", DAMAGED)
def test_a_damaged_file_is_read_as_it_was_or_refused(sound_output, tmp_path, file, change):
    store = changed(sound_output, tmp_path, file, DAMAGED[change])
    try:
        with limited():
            assert READERS[file](store) == 2
    except AvprepError as error:
        assert file in str(error) and "\n" not in str(error) and len(str(error)) < 1000
