from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from hypothesis import given
from hypothesis import strategies as st

from avmodel.data import ClipData, Steps, step_loader, to_model, to_pixels
from avprep.dsp.mel import frames_to_stack
from avprep.shards.clips import load_npy
from avprep.shards.layout import ShardError
from avprep.shards.order import ClipOrder
from tests.made_clips import TINY, write_clips


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    return write_clips(tmp_path_factory.mktemp("made") / "clips")


def test_clips_are_those_that_plain_webdataset_reads(clips):
    data = ClipData(clips)
    urls = [str(path) for path in sorted((clips / "shards").iterdir())]
    plain = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert len(data) == len(plain) == 12
    for i, sample in enumerate(plain):
        assert sample["__key__"] == data.index.keys[i]
        assert np.array_equal(data[i].frames.numpy(), load_npy(sample["frames.npy"]))
        assert np.array_equal(data[i].mel.numpy(), load_npy(sample["mel.npy"]))


def test_the_models_view_goes_back_to_what_is_stored(clips):
    batch = next(iter(step_loader(ClipData(clips), Steps(ClipOrder([12], seed=0), 3), workers=0, pin=False)))
    view = to_model(batch, TINY.size)
    assert view["v"].shape == (3, 3, 4, 16, 16) and view["a"].shape == (3, 1, 4, 16, 16)
    assert view["v"].min() >= -1 and view["v"].max() <= 1
    assert torch.equal(to_pixels(view["v"]), batch.frames)
    assert torch.equal(frames_to_stack(view["a"][:, 0], TINY), batch.mel.float())


@given(
    clips=st.integers(1, 20),
    batch=st.integers(1, 5),
    world=st.integers(1, 3),
    first=st.integers(0, 30),
    seed=st.integers(0, 2**31),
)
def test_the_order_can_be_taken_up_anywhere(clips, batch, world, first, seed):
    def run(rank: int, start: int, count: int) -> list[list[int]]:
        steps = Steps(ClipOrder([clips], seed=seed), batch, first=start, rank=rank, world=world)
        return list(islice(iter(steps), count))

    ranks = [run(rank, 0, first + 3) for rank in range(world)]
    for rank in range(world):
        assert run(rank, first, 3) == ranks[rank][first:]
    row = [i for step in zip(*ranks, strict=True) for part in step for i in part]
    for epoch in range(len(row) // clips):
        assert sorted(row[epoch * clips : (epoch + 1) * clips]) == list(range(clips))


def test_workers_do_not_change_the_order(clips):
    data = ClipData(clips)
    loaders = [step_loader(data, Steps(ClipOrder([12], seed=3), 4), workers=n, pin=False) for n in (0, 2)]
    for alone, shared in zip(*(islice(loader, 7) for loader in loaders), strict=True):
        assert torch.equal(alone.frames, shared.frames)
        assert torch.equal(alone.mel, shared.mel)


def test_sources_are_held_out_whole(tmp_path):
    data = ClipData(write_clips(tmp_path / "clips", sources=40, clips_each=2))
    training, held_out = data.split_by_source(0.3)
    assert len(training) + len(held_out) == 80 and 4 < len(held_out) < 44
    assert not {key[:16] for key in training.index.keys} & {key[:16] for key in held_out.index.keys}


def test_nothing_held_out_is_no_clip_and_not_all_of_them(clips):
    training, held_out = ClipData(clips).split_by_source(0.0)
    assert (len(training), len(held_out)) == (12, 0)
    training, held_out = ClipData(clips).split_by_source(1.0)
    assert (len(training), len(held_out)) == (0, 12)


def test_an_empty_split_is_a_sentence():
    with pytest.raises(ShardError, match="no clip to train on"):
        Steps(ClipOrder([0], seed=0), 4)


def test_clips_are_not_latents(clips, tmp_path):
    from avmodel.data import LatentData

    with pytest.raises(ShardError, match="holds clips, not latents"):
        LatentData(clips)
    with pytest.raises(ShardError, match="no spec.json"):
        ClipData(tmp_path)


# --- damage ----------------------------------------------------------------------------------------------


def test_ranks_share_the_shards_that_are_checked():
    shares = [Steps(ClipOrder([9], seed=0), 1, rank=rank, world=3).share_of(7) for rank in range(3)]
    assert sorted(i for share in shares for i in share) == list(range(7))


def test_a_data_set_without_its_damaged_shards_is_a_choice(tmp_path):
    out = write_clips(tmp_path / "clips")
    whole = ClipData(out)
    (out / "shards" / "clips-000001.tar").unlink()
    with pytest.raises(ShardError, match=r"clips-000001\.tar is not there"):
        ClipData(out)
    assert ClipData(out, on_damage="skip").keys == whole.keys[:5] + whole.keys[10:]
