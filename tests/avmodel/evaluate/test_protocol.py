from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from avmodel.evaluate.options import EvaluationOptions
from avmodel.evaluate.protocol import Protocol, protocol_of
from avmodel.evaluate.sides import Fields
from avmodel.metrics import MetricError


def protocol(name: str, **more) -> Protocol:
    return protocol_of(EvaluationOptions(reference=Path("a"), generated=Path("b"), protocol=name, **more))


VIDEOS = np.repeat(np.arange(40), 25)  # 40 videos of 25 windows


def test_stylegan_v_takes_one_random_window_of_each_video():
    chosen = protocol("stylegan-v").choose(VIDEOS, 2048, seed=0)
    assert sorted(VIDEOS[chosen]) == list(range(40))
    offsets = chosen % 25
    assert len(set(offsets.tolist())) > 10  # not always the first
    assert len(protocol("stylegan-v").choose(VIDEOS, 10, seed=0)) == 10


def test_mm_diffusion_draws_from_all_windows():
    chosen = protocol("mm-diffusion").choose(VIDEOS, 200, seed=0)
    assert len(set(chosen.tolist())) == 200
    assert len(set(VIDEOS[chosen].tolist())) < 200  # several of one video
    assert len(protocol("mm-diffusion").choose(VIDEOS, 10_000, seed=0)) == 1000


def test_more_than_the_protocol_s_clips_are_never_taken():
    assert len(protocol("mm-diffusion").choose(np.arange(5000), 5000, seed=0)) == 2048


@pytest.mark.parametrize("name", ["mm-diffusion", "stylegan-v"])
def test_a_seed_gives_its_windows_again_and_another_gives_others(name: str):
    first, again, other = (protocol(name).choose(VIDEOS, 30, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert np.array_equal(first, np.sort(first))


def test_an_empty_side_is_refused():
    with pytest.raises(MetricError, match="no clip"):
        protocol("stylegan-v").choose(np.empty(0, np.int64), 10, seed=0)


def test_what_departs_from_the_protocol_is_named():
    fields = Fields(fps="10", frames=8, size="64x64", crop="center", sample_rate=16000, codec="raw")
    found = protocol("mm-diffusion").departures("reference", fields)
    assert [text.split(": ")[1].split()[0] for text in found] == ["windows", "crop", "sound"]
    assert protocol("stylegan-v").departures("reference", fields) == [
        "reference: windows of 8 frames, not 16"
    ]


def test_the_size_is_the_protocol_s_unless_it_is_given():
    assert protocol("mm-diffusion").size == 64
    assert protocol("stylegan-v").size is None
    assert protocol("mm-diffusion", size=128).size == 128


@pytest.mark.parametrize(
    "more, message",
    [
        ({"n": 1}, "n must be at least 2, not 1"),
        ({"workers": 0}, "workers must be at least 1"),
        ({"size": 8}, "size must be from 16"),
        ({"generated": None}, "generated needs a path"),
        ({"recon": True}, "with `recon` the MDSA makes the other side"),
        ({"recon": True, "generated": None}, "mdsa needs a checkpoint"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(more: dict, message: str):
    arguments = {"reference": Path("a"), "generated": Path("b")} | more
    with pytest.raises(MetricError, match=message):
        EvaluationOptions(**arguments)
