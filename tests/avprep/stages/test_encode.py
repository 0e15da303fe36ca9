"""The encode worker: its threads never hang, and every clip that cannot be encoded is a row."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch

from avprep.shards.clips import load_npy
from avprep.shards.integrity import sha256_of
from avprep.shards.latents import SUMS_ENTRY, LatentSums
from avprep.shards.ledger import ShardRecord, read_ledger, write_ledger
from avprep.shards.store import open_store
from avprep.shards.tar import read_shard
from avprep.shards.writer import ShardWriter
from avprep.stages.clip_input import ClipShard, read_clip_shard
from avprep.stages.encode import EncodeOptions, EncodeTask, EncodeWorker, WorkerClosed
from avprep.stages.encoder import EncodeError, find_batch_size, try_encode
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


def outputs(clips: Path) -> list[Path]:
    """All files of the output, temporary ones too."""
    return [path for path in (clips.parent / "out").rglob("*") if path.is_file()]


def test_a_reader_that_raises_ends_its_task_alone(clips):
    fails = [True]

    def read(task, _should_stop, _note):
        for i, clip in enumerate(read_clip_shard(task.source)):
            if fails and i == 3:
                fails.clear()
                raise OSError(5, "Input/output error")
            yield clip

    made = worker(read=read)
    try:
        with pytest.raises(OSError, match="Input/output"):
            made.run(task(clips))
        assert not outputs(clips)
        assert made.run(task(clips, index=1)).sums.planned == 5
    finally:
        made.close()


def test_a_writer_that_raises_ends_its_task_alone(clips, monkeypatch):
    def full(self, key, members):
        raise OSError(28, "No space left on device")

    made = worker()
    try:
        with monkeypatch.context() as patched, pytest.raises(OSError, match="No space"):
            patched.setattr(ShardWriter, "add", full)
            made.run(task(clips, batch_size=1))
        assert not outputs(clips)
        assert made.run(task(clips)).sums.planned == 5
    finally:
        made.close()


@dataclass(frozen=True)
class OpenHooked:
    """The fake encoder, with `before` called with the number of each batch before it is encoded."""

    before: Callable[[int], None]

    def __call__(self, **options):
        encoder, numbers = FAKE(**options), count()
        plain = encoder.encode

        def encode(frames, mel):
            self.before(next(numbers))
            return plain(frames, mel)

        encoder.encode = encode
        return encoder


def test_an_encoder_that_raises_ends_its_task_alone_and_stops_its_reader(clips):
    """The reader waits for clips that never come: it ends since it is asked to."""
    second_is_wanted = threading.Event()

    def fail_once(number: int) -> None:
        if number == 0:
            second_is_wanted.wait(10)
            raise ValueError("the model is wrong")

    def read(task, should_stop, _note):
        clips = read_clip_shard(task.source)
        yield next(clips)
        if task.index == 0:
            second_is_wanted.set()
            while not should_stop():
                time.sleep(0.01)
            return
        yield from clips

    made = worker(OpenHooked(fail_once), read)
    try:
        with pytest.raises(ValueError, match="the model is wrong"):
            made.run(task(clips, batch_size=1))
        assert not outputs(clips)
        assert made.run(task(clips, index=1)).sums.planned == 5
    finally:
        made.close()


def test_the_next_batch_is_read_while_one_is_encoded(clips):
    third_is_read = threading.Event()

    def read(task, _should_stop, _note):
        for i, clip in enumerate(read_clip_shard(task.source)):
            if i == 2:
                third_is_read.set()
            yield clip

    def before(number: int) -> None:
        if number == 1:
            assert third_is_read.wait(10), "the reader waits for the model"

    assert run(task(clips, batch_size=1), OpenHooked(before), read).sums.planned == 5


def test_the_next_batch_is_encoded_while_one_is_written(clips, monkeypatch):
    second_is_encoded = threading.Event()
    plain = ShardWriter.add

    def add(self, key, members):
        assert second_is_encoded.wait(10), "the model waits for the writer"
        plain(self, key, members)

    monkeypatch.setattr(ShardWriter, "add", add)
    hooked = OpenHooked(lambda number: second_is_encoded.set() if number == 1 else None)
    assert run(task(clips, batch_size=1), hooked).sums.planned == 5


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


def test_shards_are_read_one_after_the_other(clips):
    """Two tasks are in hand at once; what is read ahead, and waits in memory, is one shard's."""
    reading, most = [], []

    def read(task, _should_stop, _note):
        reading.append(task.index)
        for clip in read_clip_shard(task.source):
            most.append(len(reading))
            yield clip
        reading.remove(task.index)

    made = worker(FAKE.but(slow_s=0.005), read)
    try:
        with ThreadPoolExecutor(3) as threads:
            list(threads.map(made.run, [task(clips, i, batch_size=1) for i in range(3)]))
    finally:
        made.close()
    assert set(most) == {1} and len(most) == 12


@pytest.mark.parametrize("heeds_a_stop", [True, False])
def test_a_task_that_is_closed_in_the_middle_raises_and_writes_nothing(clips, heeds_a_stop):
    """A reader that ends early because it was asked to must not look like the end of a shorter shard."""
    began = threading.Event()

    def read(task, should_stop, _note):
        for _ in range(1000):
            for clip in read_clip_shard(task.source):
                if heeds_a_stop and should_stop():
                    return
                yield clip
                began.set()

    made = worker(FAKE.but(slow_s=0.02), read)
    with ThreadPoolExecutor(2) as threads:
        running = [threads.submit(made.run, task(clips, index)) for index in range(2)]
        began.wait(10)
        made.close()
        assert all(run.exception(timeout=10) is not None for run in running)
    assert not outputs(clips)


def test_a_reader_that_was_stopped_before_its_first_clip_writes_nothing(clips):
    made = worker(read=lambda task, should_stop, note: iter(() if made.close() is None else ()))
    with pytest.raises(WorkerClosed):
        made.run(task(clips))
    assert not outputs(clips)


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
