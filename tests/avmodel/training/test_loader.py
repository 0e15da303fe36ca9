from __future__ import annotations

import os
import signal
from collections import namedtuple
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from avmodel.data import PREFETCH, ClipBatch, ClipData, Steps, step_loader
from avmodel.training import loader as module
from avmodel.training.errors import LoaderError, TrainingError
from avmodel.training.loader import (
    check_shared_memory,
    leave_dead_processes_to_the_next_read,
    reading,
    with_checksums,
)
from avprep.shards.index import ShardIndex
from avprep.shards.layout import ShardError
from avprep.shards.order import ClipOrder
from tests.hostile.shard_corpus import MELS, change_members
from tests.made_clips import write_clips

Usage = namedtuple("Usage", "total used free")
# 2000 bytes of tensors.
SAMPLE = (torch.zeros(1000, dtype=torch.uint8), torch.zeros(500, dtype=torch.float16), ["text"])


def check(monkeypatch, free: int, workers: int = 2) -> None:
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: Usage(free, 0, free))
    check_shared_memory(SAMPLE, batch_size=10, batches=3, workers=workers)


def test_shared_memory_that_is_too_small_is_named_with_both_figures(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "SHARED_MEMORY", tmp_path)
    needed = 2000 * 10 * (PREFETCH * 2 + 3)
    check(monkeypatch, needed)
    with pytest.raises(TrainingError, match="^loader_workers = 2: .* has 0 MB free, and the loader needs"):
        check(monkeypatch, needed - 1)
    check(monkeypatch, 0, workers=0)  # reads in this process
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # two processes on this machine share it
    with pytest.raises(TrainingError):
        check(monkeypatch, 2 * needed - 1)


def test_a_machine_without_dev_shm_is_not_checked(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "SHARED_MEMORY", tmp_path / "none")
    check(monkeypatch, 0)


def test_the_default_of_docker_is_too_small_for_the_papers_clips(monkeypatch):
    """4 clips of 16 frames of 256 x 256, two processes: what hung before."""
    clip = ClipBatch(torch.empty(16, 256, 256, 3, dtype=torch.uint8), torch.empty(16, 128, 16).half())
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: Usage(64 << 20, 0, 64 << 20))
    monkeypatch.setattr(module, "SHARED_MEMORY", Path("/"))
    with pytest.raises(TrainingError, match="has 67 MB free, and the loader needs up to 116 MB"):
        check_shared_memory(clip, batch_size=4, batches=1, workers=2)


class Data(Dataset):
    """Item `at` does what it is told in the process that reads it."""

    def __init__(self, at: int, action) -> None:
        self.at, self.action = at, action

    def __len__(self) -> int:
        return 100

    def __getitem__(self, position: int) -> ClipBatch:
        if position == self.at:
            self.action()
        return ClipBatch(torch.zeros(1), torch.zeros(1))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def bus_error() -> None:
    os.kill(os.getpid(), signal.SIGBUS)  # what a full /dev/shm gives


def damaged() -> None:
    raise ShardError("clips-000003.tar has changed since it was indexed")


def vanished() -> None:
    raise FileNotFoundError(2, "No such file or directory", "clips-000003.tar")


def fault() -> None:
    raise KeyError("a fault of the program")


def read_all(action, workers: int) -> None:
    steps = Steps(ClipOrder([100], seed=0), 4)
    loaded = iter(step_loader(Data(37, action), steps, workers=workers, pin=False))
    no_shards = ShardIndex((), (), (), (), (), *[np.empty(0, np.int64)] * 3)
    with reading(workers):
        list(islice(with_checksums(loaded, no_shards, steps), 30))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("action", [die, bus_error])
def test_a_reader_that_died_is_a_loader_error(action):
    with pytest.raises(LoaderError, match="^loader_workers = 1: a process that reads the data has died"):
        read_all(action, workers=1)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("action", "message"),
    [(damaged, "clips-000003.tar has changed"), (vanished, "No such file or directory")],
)
def test_a_damaged_or_vanished_shard_is_one_line(workers, action, message):
    with pytest.raises(LoaderError, match=message) as caught:
        read_all(action, workers)
    assert len(str(caught.value).splitlines()) == 1 and "Traceback" not in str(caught.value)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("workers", [0, 1])
def test_a_fault_of_the_program_stays_one(workers):
    with pytest.raises(KeyError):
        read_all(fault, workers)


@pytest.mark.timeout(60)
def test_a_reader_that_dies_does_not_interrupt_what_runs():
    """Its death is seen at the next read, and not in the middle of a step."""
    batches = iter(step_loader(Data(-1, die), Steps(ClipOrder([100], seed=0), 4), workers=1, pin=False))
    leave_dead_processes_to_the_next_read()
    next(batches)
    [reader] = batches._workers
    reader.kill()
    reader.join()
    assert sum(range(100_000)) == 4_999_950_000  # a step
    with pytest.raises(LoaderError, match="a process that reads the data has died"), reading(1):
        list(islice(batches, 30))


# --- damaged shards --------------------------------------------------------------------------------------


def read_clips(data: ClipData, batch: int, workers: int, batches: int) -> None:
    steps = Steps(ClipOrder([len(data)], seed=0), batch)
    loaded = iter(step_loader(data, steps, workers=workers, pin=False))
    with reading(workers):
        for _ in islice(with_checksums(loaded, data.index, steps), batches):
            pass


@pytest.mark.timeout(60)
def test_the_loader_processes_end_with_the_batches_though_the_iterator_is_kept(tmp_path):
    data, steps = ClipData(write_clips(tmp_path / "clips")), Steps(ClipOrder([12], seed=0), 2)
    loaded = iter(step_loader(data, steps, workers=1, pin=False))
    [reader] = loaded._workers
    batches = with_checksums(loaded, data.index, steps)
    next(batches)
    assert reader.is_alive()
    batches.close()
    assert not reader.is_alive()


def flip_a_bit(out: Path) -> None:
    """Of a pixel: only the shard's checksum shows it."""
    shard = out / "shards" / "clips-000001.tar"
    data = bytearray(shard.read_bytes())
    data[data.index(b"frames.npy") + 512 + 400] ^= 1
    shard.write_bytes(data)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("workers", [0, 1])
def test_a_flipped_bit_that_only_the_checksum_shows_ends_the_reading(tmp_path, workers):
    out = write_clips(tmp_path / "clips")
    flip_a_bit(out)
    with pytest.raises(LoaderError, match=r"clips-000001\.tar: its bytes are not those written"):
        read_clips(ClipData(out), 2, workers, batches=10**6)


@pytest.mark.timeout(60)
def test_checksums_that_the_index_has_taken_are_not_taken_again(tmp_path):
    out = write_clips(tmp_path / "clips")
    data = ClipData(out, on_damage="skip")
    flip_a_bit(out)
    read_clips(data, 2, workers=0, batches=300)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("workers", [0, 1])
def test_a_clip_that_cannot_be_read_ends_the_reading_with_one_line(tmp_path, workers):
    out = write_clips(tmp_path / "clips", sources=1, clips_each=1)
    change_members(out, MELS["mel: 10**4"])
    data = ClipData(out)
    with pytest.raises(LoaderError) as caught:
        read_clips(data, 1, workers, batches=1)
    what = "a mel stack with values outside [-1, 1], or NaN"
    assert str(caught.value) == f"the data cannot be read: {out}: clip {data.keys[0]} cannot be read: {what}"
