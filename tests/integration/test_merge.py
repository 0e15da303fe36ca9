"""`avprep merge`: one output of several, which every reader takes for one that was made whole."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import avprep as api
from avprep.cli import main
from avprep.jobs.config import MergeConfig
from avprep.jobs.merge import run_merge
from avprep.jobs.output import JobError, Stopped
from avprep.jobs.progress import Progress
from avprep.shards.latents import EncoderHeader
from avprep.shards.layout import ShardError, read_header
from avprep.shards.ledger import LedgerRow, ShardRecord, read_ledgers, read_record, write_ledger
from avprep.shards.plan import PlanReader
from avprep.shards.store import open_store
from avprep.shards.verify import verify
from avprep.shards.writer import write_header
from tests.avmodel.made_latents import write_latents
from tests.fake_encoder import fake_header
from tests.integration.encode_driver import encode
from tests.integration.test_encode_job import FAKE
from tests.made_clips import write_clips

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def a(tmp_path) -> Path:
    """12 clips in shards of 5, 5, 2."""
    return write_clips(tmp_path / "a")


@pytest.fixture
def b(tmp_path) -> Path:
    """6 clips of other sources in shards of 5 and 1, and a shard in which each clip failed."""
    out = write_clips(tmp_path / "b", first_source=10, sources=2)
    store = open_store(out)
    rows = [row for _, rows, _ in read_ledgers(store) for row in rows]
    lost = LedgerRow(
        **{n: getattr(rows[-1], n) for n in ("key", "source", "start_s")},
        shard=1,
        status="failed",
        reason="corrupt",
        detail="made",
    )
    write_ledger(store, 1, [lost], ShardRecord("", "", 0, read_header(store)["fingerprint"]))
    (out / "shards" / "clips-000001.tar").unlink()
    return out


def merge(*outputs: Path, out: Path, **options):
    config = MergeConfig(outputs=tuple(map(str, outputs)), out=str(out), **options)
    return run_merge(config, Progress())


def avprep(*args: object):
    return CliRunner().invoke(main, [str(arg) for arg in args])


def files(out: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def test_the_merged_output_is_whole_and_its_counts_add_up(a, b, tmp_path):
    done = avprep("merge", a, b, "--out", tmp_path / "c")
    assert done.exit_code == 0, done.output
    assert "5 of 5 shards: 4 linked, 0 copied, 1 without a clip" in done.output
    assert "18 planned = 17 written, 0 filtered, 1 failed" in done.output
    store = open_store(tmp_path / "c")
    assert list(verify(store)) == []
    assert "5 of 5 shards, 18 of 18 clips" in avprep("status", tmp_path / "c").output
    parts = [api.ClipDataset(out) for out in (a, b)]
    merged = api.ClipDataset(tmp_path / "c")
    assert merged.keys == parts[0].keys + parts[1].keys
    for position in (0, 11, 12, 16):
        part, place = divmod(position, 12)
        assert np.array_equal(merged[position]["frames"], parts[part][place]["frames"])
    assert [row.shard for _, rows, _ in read_ledgers(store) for row in rows] == [0] * 5 + [1] * 5 + [
        2
    ] * 2 + [3] * 5 + [4]


def test_shards_are_on_the_disk_once_and_survive_their_first_output(a, b, tmp_path):
    merge(a, b, out=tmp_path / "c")
    for theirs, ours in ((a / "shards/clips-000002.tar", 2), (b / "shards/clips-000000.tar", 3)):
        assert os.path.samefile(theirs, tmp_path / "c" / "shards" / f"clips-{ours:06d}.tar")
    before = files(tmp_path / "c")
    for out in (a, b):
        for path in out.rglob("*.tar"):
            path.unlink()
    assert files(tmp_path / "c") == before and list(verify(open_store(tmp_path / "c"))) == []


def test_the_inputs_stay_as_they_are(a, b, tmp_path):
    before = files(a), files(b)
    merge(a, b, out=tmp_path / "c")
    assert (files(a), files(b)) == before


def test_merging_again_does_nothing_and_other_outputs_are_refused(a, b, tmp_path):
    merge(a, b, out=tmp_path / "c")
    before = files(tmp_path / "c")
    done = avprep("merge", a, b, "--out", tmp_path / "c")
    assert "nothing to do: all 5 shards are there" in done.output
    assert files(tmp_path / "c") == before
    with pytest.raises(JobError, match="it was begun with merged.0"):
        merge(b, a, out=tmp_path / "c")
    merge(b, a, out=tmp_path / "c", rebuild=True)
    assert list(verify(open_store(tmp_path / "c"))) == []


@pytest.mark.parametrize("shards", [0, 1, 3])
def test_an_interrupted_merge_continues_to_the_same_files(a, b, tmp_path, monkeypatch, shards):
    merge(a, b, out=tmp_path / "whole")
    config = MergeConfig(outputs=(str(a), str(b)), out=str(tmp_path / "parts"))
    taken: list[object] = []

    class Killed(Exception):
        pass

    def done(*_: object) -> None:
        taken.append(None)
        if len(taken) > shards:
            raise Killed

    with pytest.raises(Killed):
        run_merge(config, Progress(shard_done=done))
    again = run_merge(config, Progress())
    assert again.made == 5 - len(taken)
    assert files(tmp_path / "parts") == files(tmp_path / "whole")


def test_a_shard_that_was_made_again_is_brought_again(a, b, tmp_path):
    merge(a, b, out=tmp_path / "c")
    other = write_clips(tmp_path / "other", seed=3)
    for name in ("shards/clips-000001.tar", "ledger/000001.parquet"):
        (a / name).unlink()
        (a / name).write_bytes((other / name).read_bytes())
    assert merge(a, b, out=tmp_path / "c").made == 1
    c, again = (read_record(open_store(out), 1) for out in (tmp_path / "c", a))
    assert c.sha256 == again.sha256
    assert list(verify(open_store(tmp_path / "c"))) == []


def test_a_file_system_without_links_is_copied_to_and_a_damaged_shard_is_found(a, b, tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    merged = merge(a, b, out=tmp_path / "c")
    assert (merged.made, merged.linked, merged.copied) == (5, 0, 4)
    assert list(verify(open_store(tmp_path / "c"))) == []
    tar = a / "shards" / "clips-000001.tar"
    tar.write_bytes(bytes(tar.stat().st_size))
    with pytest.raises(ShardError, match=r"a/shards/clips-000001.tar: its bytes are not those written"):
        merge(a, b, out=tmp_path / "d")
    assert not (tmp_path / "d" / "shards" / "clips-000001.tar").exists()


def test_an_object_store_is_copied_to_and_from(a, b, tmp_path):
    (tmp_path / "c").mkdir()
    merged = merge(a, b, out=f"file://{tmp_path}/c")
    assert (merged.made, merged.linked, merged.copied) == (5, 0, 4)
    assert list(verify(open_store(tmp_path / "c"))) == []
    third = write_clips(tmp_path / "third", first_source=20, sources=1)
    config = MergeConfig(outputs=(f"file://{tmp_path}/c", str(third)), out=str(tmp_path / "d"))
    run_merge(config, Progress())
    assert list(verify(open_store(tmp_path / "d"))) == []
    assert len(api.ClipDataset(tmp_path / "d")) == 20


def test_scores_are_brought_too_and_a_selection_is_made_of_all(a, b, tmp_path):
    for out in (a, b):
        api.score_dataset(out, only=["luma"], workers=0)
    merge(a, b, out=tmp_path / "c")
    made = api.select(tmp_path / "c", "luma >= 0", name="all")
    assert made.funnel[-1].kept == 17
    assert len(api.ClipDataset(tmp_path / "c", select="all")) == 17


def test_the_merged_output_is_encoded_as_its_parts_are(a, tmp_path):
    b = write_clips(tmp_path / "b", first_source=10, sources=2)
    merge(a, b, out=tmp_path / "c")
    for name in "abc":
        encode(tmp_path / name, tmp_path / f"latents-{name}", fake=FAKE)
    merge(tmp_path / "latents-a", tmp_path / "latents-b", out=tmp_path / "merged")
    merged, whole = (api.LatentDataset(tmp_path / name) for name in ("merged", "latents-c"))
    assert merged.keys == whole.keys
    assert all(np.array_equal(x["latent"], y["latent"]) for x, y in zip(merged, whole, strict=True))
    assert list(verify(open_store(tmp_path / "merged"))) == []
    stats = [(tmp_path / name / "stats.json").read_text() for name in ("merged", "latents-c")]
    mine, theirs = map(json.loads, stats)
    assert {n: mine[n] for n in ("latents", "labels", "clips")} == {
        n: theirs[n] for n in ("latents", "labels", "clips")
    }


def test_a_merged_output_may_be_merged(a, tmp_path):
    others = [write_clips(tmp_path / f"{n}", first_source=n, sources=1) for n in (10, 20)]
    merge(a, others[0], out=tmp_path / "c")
    merge(tmp_path / "c", others[1], out=tmp_path / "d")
    merge(a, *others, out=tmp_path / "e")
    d, e = (read_header(open_store(tmp_path / name)) for name in "de")
    assert d == e and list(d["merged"]) == ["0", "1", "2"] and d["roots"] == [".", ".", "."]
    assert PlanReader(open_store(tmp_path / "d")).clips == 18


# --- what is refused ------------------------------------------------------------------------------------


def refused(*args: object) -> str:
    done = avprep("merge", *args)
    assert done.exit_code == 2, done.output
    return done.output


def test_outputs_that_do_not_go_together_are_refused_before_anything_is_written(a, b, tmp_path):
    out = ("--out", tmp_path / "c")
    assert "at least 2, not 1" in refused(a, *out)
    assert "the same output is named 2 times" in refused(a, f"{a}/", *out)
    assert "it is one of the outputs that are merged" in refused(a, b, "--out", b)
    same = write_clips(tmp_path / "same", seed=1)
    assert f"{a} and {same} both plan a clip of the key" in refused(a, same, *out)
    (b / "ledger" / "000000.parquet").unlink()
    assert "1 of its 2 shards are not made yet; finish it first" in refused(a, b, *out)
    assert not (tmp_path / "c").exists()


def test_a_missing_shard_is_named_before_anything_is_brought(a, b, tmp_path):
    (b / "shards" / "clips-000000.tar").unlink()
    with pytest.raises(ShardError, match="b/shards/clips-000000.tar is not there"):
        merge(a, b, out=tmp_path / "c")
    assert not list((tmp_path / "c").rglob("*.tar"))


def test_a_merge_that_is_stopped_finishes_its_shard(a, b, tmp_path, monkeypatch):
    def stop(*_: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    config = MergeConfig(outputs=(str(a), str(b)), out=str(tmp_path / "c"))
    with pytest.raises(Stopped):
        run_merge(config, Progress(shard_done=stop))
    assert len(list((tmp_path / "c" / "ledger").iterdir())) == 1


def test_latents_that_differ_are_refused_by_the_field(tmp_path):
    header = fake_header(FAKE.header.spec)
    first = write_latents(tmp_path / "first", header)
    packed = write_latents(tmp_path / "packed", header, first=100, packed=True)
    with pytest.raises(ShardError, match="the first has options.packed = True, not False"):
        merge(first, packed, out=tmp_path / "c")
    other = write_latents(
        tmp_path / "other", EncoderHeader(**{**vars(header), "weights": "f" * 64}), first=100
    )
    with pytest.raises(ShardError, match="the first has weights = fff"):
        merge(first, other, out=tmp_path / "c")
    clips = write_clips(tmp_path / "clips")
    with pytest.raises(ShardError, match=f"{first} holds latents, and {clips} clips"):
        merge(first, clips, out=tmp_path / "c")


def test_embeddings_are_merged_where_one_encoder_made_them(tmp_path):
    header = fake_header(FAKE.header.spec)
    outs = [write_latents(tmp_path / name, header, first=n) for name, n in (("a", 0), ("b", 100))]
    vectors = {text: np.full((2, 3), i, np.float16) for i, text in enumerate("xyz")}
    save_file({n: vectors[n] for n in "xy"}, outs[0] / "captions.safetensors", {"text_encoder": "one"})
    with pytest.raises(ShardError, match="b holds no captions.safetensors, and another output does"):
        merge(*outs, out=tmp_path / "c")
    save_file({n: vectors[n] for n in "yz"}, outs[1] / "captions.safetensors", {"text_encoder": "one"})
    merge(*outs, out=tmp_path / "c")
    found = load_file(tmp_path / "c" / "captions.safetensors")
    assert found.keys() == vectors.keys() and all(np.array_equal(found[n], vectors[n]) for n in vectors)
    with safe_open(tmp_path / "c" / "captions.safetensors", "numpy") as file:
        assert file.metadata() == {"text_encoder": "one"}
    save_file({n: vectors[n] + 1 for n in "yz"}, outs[1] / "captions.safetensors", {"text_encoder": "one"})
    with pytest.raises(ShardError, match="made by different text encoders"):
        merge(*outs, out=tmp_path / "d")


@pytest.mark.slow
def test_a_failed_clip_is_tried_again_where_its_own_media_lie(a, b, tmp_path):
    for out, root in ((a, "first"), (b, "second")):
        store = open_store(out)
        write_header(
            store, read_header(store) | {"root": str(tmp_path / root), "options": {"crop": "center"}}
        )
    merge(a, b, out=tmp_path / "c")
    failed = next(
        row for _, rows, _ in read_ledgers(open_store(tmp_path / "c")) for row in rows if row.reason
    )
    done = avprep("status", tmp_path / "c", "--try", failed.key)
    assert done.exit_code == 1 and f"{tmp_path}/second/{failed.source} at" in done.output
