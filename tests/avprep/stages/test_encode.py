"""The encode worker: three threads that never hang, and every clip that cannot be encoded is a row."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from avprep.shards.clips import ShardWriter, load_npy, read_shard, sha256_of
from avprep.shards.latents import SUMS_ENTRY, LatentSums
from avprep.shards.ledger import ShardRecord, read_ledger, write_ledger
from avprep.shards.store import open_store
from avprep.stages.clip_input import ClipShard, read_clip_shard
from avprep.stages.encode import EncodeTask, EncodeWorker
from avprep.stages.encoder import EncodeError, find_batch_size, try_encode
from avprep.stages.options import EncodeOptions
from tests.fake_encoder import Faults, OpenFake
from tests.made_clips import TINY, write_clips

FAKE = OpenFake(TINY)
pytestmark = pytest.mark.timeout(60)  # a hang would be the bug


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """12 clips in shards of 5, 5, 2."""
    (tmp_path / "out").mkdir()
    return write_clips(tmp_path / "clips")


def worker(fake: OpenFake = FAKE, read=None) -> EncodeWorker:
    def read_shard_of(task, _should_stop, _tell):
        return read_clip_shard(task.source)

    return EncodeWorker(fake, read or read_shard_of, device="cpu", compile=False)


def task(clips: Path, index: int = 0, batch_size: int = 2, **options: bool) -> EncodeTask:
    return EncodeTask(
        index=index,
        out=str(clips.parent / "out"),
        fingerprint="f",
        options=EncodeOptions(**options),
        weights="fake",
        batch_size=batch_size,
        source=ClipShard(str(clips), index, TINY),
    )


def run(task: EncodeTask, fake: OpenFake = FAKE, read=None):
    made = worker(fake, read)
    try:
        return made.run(task)
    finally:
        made.close()


def stored(clips: Path, index: int = 0) -> dict[str, dict[str, bytes]]:
    store = open_store(clips.parent / "out")
    with store.open(f"shards/latents-{index:06d}.tar") as file:
        return dict(read_shard(file))


def remake(clips: Path, change, *, index: int = 0) -> None:
    """Writes a clip shard anew with some clip's files changed, and its ledger to match."""
    store = open_store(clips)
    rows, record = read_ledger(store, index)
    with store.open(record.name) as file:
        old = list(read_shard(file))
    with store.write(record.name) as file:
        writer = ShardWriter(file)
        for i, (key, members) in enumerate(old):
            writer.add(key, change(i, members))
        digest = writer.close()
    write_ledger(store, index, rows, ShardRecord(record.name, digest, writer.size, record.fingerprint))


def test_latents_are_the_encoders_by_key_with_padding_zero(clips):
    result = run(task(clips, posterior=True))
    assert result.sums.by_status == {"written": 5} and not result.damaged
    encoder = FAKE(device="cpu", batch_size=5, compile=False)
    found = stored(clips)
    for clip in read_clip_shard(ClipShard(str(clips), 0, TINY)):
        direct = encoder.encode(torch.from_numpy(clip.frames)[None], torch.from_numpy(clip.mel)[None])
        latent = load_npy(found[clip.row.key]["latent.npy"])
        assert np.array_equal(latent, direct.mean[0].half().numpy())
        assert not np.signbit(latent[:, FAKE.header.padding()]).any()
        logvar = load_npy(found[clip.row.key]["logvar.npy"])
        assert logvar[:, ~FAKE.header.padding()].max() < -4
        assert not logvar[:, FAKE.header.padding()].any()
        assert json.loads(found[clip.row.key]["json"])["source"] == clip.row.source


@pytest.mark.parametrize("batch_size", [1, 3, 5, 64])
def test_batch_size_changes_nothing_here(clips, batch_size):
    run(task(clips))
    before = stored(clips)
    run(task(clips, batch_size=batch_size))
    assert stored(clips) == before


def test_the_ledger_keeps_the_sums_of_its_latents(clips):
    result = run(task(clips))
    _, record = read_ledger(open_store(clips.parent / "out"), 0)
    assert LatentSums.from_json(record.extra[SUMS_ENTRY]) == result.latents
    assert result.latents.clips == 5 and result.latents.labels.total() == 5
    with open_store(clips.parent / "out").open(record.name) as file:
        assert sha256_of(file) == record.sha256


def test_a_nan_is_a_failed_row_and_never_a_zero(clips):
    levels = {c.row.key: c.frames.mean() for c in read_clip_shard(ClipShard(str(clips), 0, TINY))}
    middle = sorted(levels.values())[2]
    result = run(task(clips), FAKE.but(nan_above=middle + 1e-3))
    bright = {key for key, level in levels.items() if level > middle + 1e-3}
    assert 0 < len(bright) < 5
    assert result.sums.by_reason == {"not_finite": len(bright)}
    assert stored(clips).keys() == levels.keys() - bright
    rows, _ = read_ledger(open_store(clips.parent / "out"), 0)
    assert {row.key for row in rows if row.status == "failed"} == bright
    assert "1 of " in next(row.detail for row in rows if row.status == "failed")


def test_a_shard_without_a_written_clip_has_no_tar(clips):
    result = run(task(clips), FAKE.but(nan_above=-1))
    assert result.sums.by_status == {"failed": 5} and result.latents.clips == 0
    assert not (clips.parent / "out" / "shards").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda m: m | {"frames.npy": m["frames.npy"][:50]},
        lambda m: m | {"mel.npy": b""},
        lambda m: m | {"json": b"{"},
        lambda m: {k: v for k, v in m.items() if k != "frames.npy"},
        lambda m: m | {"mel.npy": m["frames.npy"]},
    ],
    ids=["frames cut", "mel empty", "json cut", "no frames", "mel is frames"],
)
def test_a_clip_whose_files_are_damaged_is_a_failed_row(clips, damage):
    remake(clips, lambda i, members: dict(sorted(damage(members).items())) if i == 1 else members)
    result = run(task(clips))
    assert result.sums.by_status == {"written": 4, "failed": 1}
    assert result.sums.by_reason == {"corrupt": 1}


@pytest.mark.parametrize("kind", ["flip", "cut", "gone", "other"])
def test_a_damaged_clip_shard_is_left_alone(clips, kind):
    shard = clips / "shards" / "clips-000000.tar"
    data = bytearray(shard.read_bytes())
    if kind == "flip":
        data[600] ^= 1
        shard.write_bytes(data)
    elif kind == "cut":
        shard.write_bytes(data[: len(data) // 2])
    elif kind == "gone":
        shard.unlink()
    else:
        shard.write_bytes((clips / "shards" / "clips-000001.tar").read_bytes())
    result = run(task(clips))
    assert "clips-000000.tar" in result.damaged
    assert not list((clips.parent / "out").rglob("*0*"))  # no tar, no ledger, no temporary file


@pytest.mark.parametrize("fits", [1, 2, 3])
def test_out_of_memory_halves_the_batch_and_says_so(clips, fits):
    run(task(clips))
    before = stored(clips)
    result = run(task(clips, batch_size=5), FAKE.but(fits=fits))
    assert stored(clips) == before
    assert result.notes[0] == "out of memory with 5 clips a batch; goes on with 2"
    assert len(result.notes) == (2 if fits == 1 else 1)


def test_a_clip_that_does_not_fit_alone_is_a_sentence(clips):
    with pytest.raises(EncodeError, match="out of memory on cpu with a single clip"):
        run(task(clips), FAKE.but(fits=0))


def test_other_weights_than_the_jobs_are_refused(clips):
    with pytest.raises(EncodeError, match="changed while the job ran"):
        run(task(clips), OpenFake(TINY, weights="other"))


def test_a_value_outside_the_range_is_the_encoders_fault(clips):
    with pytest.raises(EncodeError, match="outside"):
        run(task(clips), FAKE.but(scale=2.0))


def test_an_error_of_the_model_is_that_tasks_alone(clips):
    fails = [True]

    def read(task, _should_stop, _tell):
        for i, clip in enumerate(read_clip_shard(task.source)):
            if fails and i == 3:
                fails.clear()
                raise OSError(5, "Input/output error")
            yield clip

    made = worker(read=read)
    try:
        with pytest.raises(OSError, match="Input/output"):
            made.run(task(clips))
        assert not list((clips.parent / "out").rglob("*.t*"))
        assert made.run(task(clips, index=1)).sums.planned == 5
    finally:
        made.close()


def test_a_disk_that_is_full_ends_its_task_and_hangs_nothing(clips, monkeypatch):
    def full(self, key, members):
        raise OSError(28, "No space left on device")

    made = worker()
    try:
        with monkeypatch.context() as patched, pytest.raises(OSError, match="No space"):
            patched.setattr(ShardWriter, "add", full)
            made.run(task(clips, batch_size=1))
        assert made.run(task(clips)).sums.planned == 5
    finally:
        made.close()


def test_tasks_at_once_give_what_they_give_alone(clips):
    alone = []
    for index in range(3):
        run(task(clips, index))
        alone.append(stored(clips, index))
    made = worker(FAKE.but(slow_s=0.01))
    try:
        with ThreadPoolExecutor(3) as threads:
            results = list(threads.map(made.run, [task(clips, i) for i in range(3)]))
    finally:
        made.close()
    assert [result.index for result in results] == [0, 1, 2]
    assert [stored(clips, i) for i in range(3)] == alone


def test_closing_frees_whoever_waits(clips):
    began = threading.Event()

    def read(task, should_stop, _tell):
        for _ in range(1000):
            began.set()
            yield from read_clip_shard(task.source)

    made = worker(FAKE.but(slow_s=0.05), read)
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(made.run, task(clips))
        began.wait(10)
        made.close()
        assert running.exception(timeout=10) is not None
    assert not list((clips.parent / "out").rglob("*.parquet"))


@pytest.mark.parametrize(("fits", "found"), [(1, 1), (5, 4), (8, 8)])
def test_auto_finds_the_largest_batch_that_fits(fits, found, monkeypatch):
    monkeypatch.setattr("avprep.stages.encoder._GROWTH", 0)  # as on a GPU: memory alone decides
    assert find_batch_size(FAKE.but(fits=fits), TINY, "cpu") == found


def test_auto_says_if_nothing_fits():
    with pytest.raises(EncodeError, match="single clip"):
        find_batch_size(FAKE.but(fits=0), TINY, "cpu")


def test_auto_stops_on_a_cpu_where_nothing_is_gained(monkeypatch):
    rates = {1: 10.0, 2: 15.0, 4: 20.0, 8: 20.5, 16: 40.0}
    monkeypatch.setattr("avprep.stages.encoder._clips_per_s", lambda o, s, d, size: rates[size])
    assert find_batch_size(FAKE, TINY, "cpu") == 4


def test_an_error_that_is_not_of_memory_is_not_tried_again():
    class Broken:
        def encode(self, frames, mel):
            raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        try_encode(Broken(), [0], [0], 1)


def test_faults_are_off_by_default():
    assert Faults() == OpenFake(TINY).faults
