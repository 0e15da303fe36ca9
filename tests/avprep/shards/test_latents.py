"""The latent format: what is stored is what was given, and its statistics are exact."""

from __future__ import annotations

import dataclasses
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avprep.shards.clips import load_npy
from avprep.shards.latents import EncoderHeader, LatentSums, pack, pack_clip_latents, unpack
from avprep.shards.layout import ShardError
from avprep.spec import ClipSpec
from tests.fake_encoder import fake_header

PAPER = EncoderHeader(
    spec=ClipSpec(),
    channels=4,
    planes=("v_hw", "v_tw", "v_th", "a_hw", "a_tw", "a_th"),
    rows=32,
    columns=32,
    valid_rows=(32, 16, 16, 32, 16, 16),
    weights="0123",
    config={"depth": 8},
)
SMALL = fake_header(ClipSpec())
CLIP = {
    "labels": ["dog"],
    "caption": "a dog",
    "source": "ä.mp4",
    "start_s": 1.6,
    "stop_s": 3.2,
    "has_audio": True,
}


def latent(header: EncoderHeader, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).uniform(-1, 1, header.shape).astype(np.float16)
    values[:, header.padding()] = 0
    return values


def test_the_papers_latent_has_16384_real_values():
    assert PAPER.shape == (4, 6, 32, 32)
    assert PAPER.values == 16384
    assert pack(latent(PAPER), PAPER).shape == (16384,)


@pytest.mark.parametrize("header", [PAPER, SMALL])
def test_a_packed_latent_comes_back_whole(header):
    given_latent = latent(header)
    packed = pack(given_latent, header)
    assert np.array_equal(unpack(packed, header), given_latent)
    assert np.array_equal(unpack(given_latent, header), given_latent)


def test_the_layout_says_where_a_plane_lies():
    given_latent, layout = latent(PAPER), PAPER.packed_layout()
    packed = pack(given_latent, PAPER)
    assert [place["plane"] for place in layout] == list(PAPER.planes)
    a_tw = layout[4]
    found = packed[a_tw["offset"] :][: int(np.prod(a_tw["shape"]))].reshape(a_tw["shape"])
    assert np.array_equal(found, given_latent[:, 4, :16])


def test_a_latent_of_another_shape_is_refused():
    with pytest.raises(ShardError, match=r"\(4, 6, 32, 32\) or \(16384,\)"):
        unpack(np.zeros(16383, np.float16), PAPER)


@pytest.mark.parametrize("packed", [False, True])
def test_a_clips_files(packed):
    given_latent = latent(SMALL)
    members = pack_clip_latents(
        clip=CLIP | {"fps": 10}, latent=given_latent, logvar=-given_latent, header=SMALL, packed=packed
    )
    assert list(members) == ["json", "latent.npy", "logvar.npy"]
    assert json.loads(members["json"]) == CLIP
    stored = load_npy(members["logvar.npy"])
    assert stored.dtype == np.float16 and stored.ndim == (1 if packed else 4)
    assert np.array_equal(unpack(stored, SMALL), -given_latent)
    plain = pack_clip_latents(clip=CLIP, latent=given_latent, logvar=None, header=SMALL, packed=packed)
    assert list(plain) == ["json", "latent.npy"]


def test_a_header_comes_back_from_spec_json():
    written = json.loads(json.dumps({"kind": "latents", "format": 1} | PAPER.to_dict()))
    assert EncoderHeader.from_dict(written) == PAPER
    with pytest.raises(ShardError, match="not that of latents"):
        EncoderHeader.from_dict(written | {"kind": "clips"})
    with pytest.raises(ShardError, match="weights"):
        EncoderHeader.from_dict({name: v for name, v in written.items() if name != "weights"})


@pytest.mark.parametrize("changed", [{"valid_rows": (32, 16)}, {"valid_rows": (33, 16, 16, 32, 16, 16)}])
def test_planes_and_rows_must_go_together(changed):
    with pytest.raises(ShardError, match="valid rows"):
        dataclasses.replace(PAPER, **changed)


def sums_of(latents: list[np.ndarray], header: EncoderHeader) -> LatentSums:
    sums = LatentSums()
    for i, values in enumerate(latents):
        sums.add(values, [f"label {i % 2}"], header)
    return sums


def test_statistics_are_numpys_over_the_real_values():
    latents = [latent(SMALL, seed) ** 3 for seed in range(5)]
    found = sums_of(latents, SMALL).statistics(SMALL)
    assert found["count"] == 5
    stack = np.stack(latents).astype(np.float64)
    for p, valid in enumerate(SMALL.valid_rows):
        real = stack[:, :, p, :valid]
        np.testing.assert_allclose(found["mean"][p], real.mean((0, 2, 3)), rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(found["std"][p], real.std((0, 2, 3)), rtol=1e-12)
        assert found["saturated"][p] == (np.abs(real) > 0.99).mean()


def test_constant_latents_have_no_spread():
    values = np.where(SMALL.padding()[None, :, :, None], 0, np.float16(0.1)) * np.ones(
        SMALL.shape, np.float16
    )
    found = sums_of([values.astype(np.float16)] * 7, SMALL).statistics(SMALL)
    assert np.all(np.array(found["std"]) == 0)
    assert np.all(np.array(found["mean"]) == np.float64(np.float16(0.1)))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 2**31), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_sums_are_the_same_in_any_order_and_any_parts(seeds, random):
    latents = [latent(SMALL, seed) for seed in seeds]
    whole = sums_of(latents, SMALL)
    shuffled = latents[:]
    random.shuffle(shuffled)
    cut = random.randint(0, len(shuffled))
    parts = LatentSums()
    for part in (shuffled[cut:], shuffled[:cut]):
        parts.merge(LatentSums.from_json(sums_of(part, SMALL).to_json()))
    assert (parts.total, parts.squares, parts.saturated) == (whole.total, whole.squares, whole.saturated)
    assert parts.statistics(SMALL) == whole.statistics(SMALL)


def test_the_extreme_float16_values_are_counted_exactly():
    values = latent(SMALL)
    values[:, ~SMALL.padding()] = np.float16(2**-24)  # the smallest there is
    values[0, 0, 0, 0] = -1
    sums = sums_of([values], SMALL)
    size = SMALL.valid_rows[0] * SMALL.columns
    assert sums.total[0][0] == size - 1 - 2**24
    assert sums.squares[0][0] == size - 1 + 2**48
    assert sums.saturated == [1, 0, 0, 0, 0, 0]


def test_arrays_are_plain_npy():
    members = pack_clip_latents(clip=CLIP, latent=latent(SMALL), logvar=None, header=SMALL, packed=True)
    assert np.load(io.BytesIO(members["latent.npy"]), allow_pickle=False).dtype == np.float16
