"""The other half beside a given one: by an STDiT with a time per stream, and by one without."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from avmodel.config import STDIT_PRESETS
from avmodel.data import LatentData
from avmodel.dit.checkpoint import load_dit
from avmodel.dit.flow import draw_source, path
from avmodel.dit.given import Given, solve_beside
from avmodel.dit.guidance import guided
from avmodel.dit.model import Captions, STDiT
from avmodel.dit.train import train_dit
from avmodel.latents import LatentLayout
from avmodel.mdsa.checkpoint import read_codec_header
from tests.avmodel.dit.made_training import config
from tests.avmodel.made_latents import write_latents

LAYOUT = LatentLayout(channels=4, frames=4, grid=8, streams=("v", "a"))
PLANES_OF = {"v": slice(0, 3), "a": slice(3, 6)}
OTHER = {"v": "a", "a": "v"}


def noise(n: int, layout: LatentLayout = LAYOUT, seed: int = 0) -> Tensor:
    return draw_source((n, *layout.shape), torch.Generator().manual_seed(seed)) * layout.mask()


@pytest.mark.parametrize("stream", ["v", "a"])
@pytest.mark.parametrize("stream_times", [False, True])
def test_the_given_stream_is_seen_as_the_model_was_trained(stream: str, stream_times: bool):
    """Without noise at t = 1, or on the path at the time of the other."""
    eps, known, own = noise(2), noise(1, seed=1), PLANES_OF[stream]
    seen: list[float] = []

    def v(z: Tensor, t: Tensor) -> Tensor:
        if stream_times:
            times = dict(zip("va", t[0].tolist(), strict=True))
            assert times.pop(stream) == 1
            seen.append(times.popitem()[1])
            expected = known.expand_as(z)
        else:
            assert t.shape == (2,)
            seen.append(t[0].item())
            expected = path(eps, known.expand_as(z), t)
        torch.testing.assert_close(z[:, :, own], expected[:, :, own])
        return torch.full_like(z, 0.1)

    given = Given(stream, known, None, None)
    z = solve_beside(given, v, eps, LAYOUT, stream_times=stream_times, steps=4, solver="euler")
    assert seen == [0, 0.25, 0.5, 0.75]
    assert torch.equal(z[:, :, own], known.expand_as(z)[:, :, own])
    rest = PLANES_OF[OTHER[stream]]
    moved = (z - eps)[:, :, rest][:, :, LAYOUT.mask()[rest]]
    inside = eps[:, :, rest][:, :, LAYOUT.mask()[rest]] < 0.9
    torch.testing.assert_close(moved[inside], torch.full_like(moved[inside], 0.1))
    assert not z[:, :, ~LAYOUT.mask()].any()


def test_without_a_given_stream_all_have_one_time():
    times = []

    def v(z: Tensor, t: Tensor) -> Tensor:
        times.append(t)
        return z

    solve_beside(None, v, noise(3), LAYOUT, stream_times=True, steps=2, solver="euler")
    assert [t.tolist() for t in times] == [[0.0] * 3, [0.5] * 3]


# Latents whose streams agree: of either level, 0.1 and -0.1 within noise of 0.4, in both streams.

COUNT = 200


@pytest.fixture(scope="module")
def agreeing(mdsa, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("agreeing") / "latents"
    levels = {"low": -0.1, "high": 0.1}
    return write_latents(out, read_codec_header(mdsa), noise=0.4, count=96, levels=levels)


def trained_on(latents: Path, out: Path, **changes) -> STDiT:
    model = replace(STDIT_PRESETS["tiny"], caption_dropout=0.9, **changes)
    options = config(latents, out, model=model, steps=300, lr=3e-3, ema=0.98, batch_size=16)
    train_dit(replace(options, eval_every=300, checkpoint_every=300))
    return load_dit(out / "dit.pt", None).model


def right_share(model: STDiT, data: LatentData, stream: str, *, stream_times: bool) -> float:
    """Of samples without a caption beside a given stream: the share whose made half has the given's sign."""
    layout = model.layout
    known = torch.stack([data[i % len(data)].latent for i in range(COUNT)]).float()
    nothing = Captions(torch.zeros(COUNT, 1, dtype=torch.long), torch.zeros(COUNT, 1, dtype=torch.bool))
    z = solve_beside(
        Given(stream, known, None, None),
        guided(model, nothing, 1.0),
        noise(COUNT, layout),
        layout,
        stream_times=stream_times,
        steps=30,
        solver="euler",
    )
    made, given = z[:, :, PLANES_OF[OTHER[stream]]], known[:, :, PLANES_OF[stream]]
    return (made.mean((1, 2, 3, 4)).sign() == given.mean((1, 2, 3, 4)).sign()).double().mean().item()


@pytest.mark.slow
def test_a_time_per_stream_makes_the_half_that_belongs_to_the_given_one(agreeing, tmp_path):
    """One in two would be right by chance. The same weights by replacement are right in two of three."""
    data, model = LatentData(agreeing), trained_on(agreeing, tmp_path, stream_times=True)
    for stream in ("v", "a"):
        trained = right_share(model, data, stream, stream_times=True)
        replaced = right_share(model, data, stream, stream_times=False)
        assert trained > 0.85 and trained > replaced + 0.1
