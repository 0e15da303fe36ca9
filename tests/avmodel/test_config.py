from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avmodel.config import (
    KL_TERMS,
    MDSA_PRESETS,
    STDIT_PRESETS,
    STREAMS,
    ConfigError,
    MDSAConfig,
    STDiTConfig,
)
from avmodel.latents import LatentLayout
from avprep.spec import ClipSpec

PAPER = MDSA_PRESETS["paper"]


def test_what_the_paper_takes_from_pvdm_follows_from_dim():
    assert (PAPER.projector_heads, PAPER.projector_head_dim, PAPER.mlp) == (4, 48, 512)
    assert (PAPER.plane_heads, PAPER.plane_head_dim) == (4, 96)
    assert PAPER.grid == 32
    assert PAPER.layout.shape == (4, 6, 32, 32)


@pytest.mark.parametrize("name", MDSA_PRESETS)
def test_each_preset_takes_clips_that_can_be_made(name: str):
    config = MDSA_PRESETS[name]
    config.check_spec(ClipSpec(frames=config.frames, size=config.size, n_mels=min(128, config.size)))


@given(
    streams=st.sampled_from(STREAMS),
    kl=st.sampled_from(KL_TERMS),
    switches=st.tuples(*(st.booleans() for _ in range(4))),
)
def test_a_config_comes_back_from_json(streams: str, kl: str, switches: tuple[bool, ...]):
    names = ("mt_self_attn", "gcm_attn", "bi_block", "adversarial")
    config = dataclasses.replace(PAPER, streams=streams, kl=kl, **dict(zip(names, switches, strict=True)))
    assert MDSAConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize("name", STDIT_PRESETS)
def test_an_stdit_config_comes_back_from_json(name: str):
    config = STDIT_PRESETS[name]
    assert STDiTConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(("streams", "planes"), [("av", "vvvaaa"), ("v", "vvv"), ("a", "aaa")])
def test_the_video_stands_before_the_audio(streams: str, planes: str):
    layout = dataclasses.replace(PAPER, streams=streams).layout
    assert "".join(plane[0] for plane in layout.planes) == planes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"streams": "va"}, "streams must be one of av, v, a, not 'va'"),
        ({"kl": "pixel"}, "kl must be one of latent, data, none, not 'pixel'"),
        ({"plane_positions": "sine"}, "plane_positions must be one of rotary, learned, none, not 'sine'"),
        ({"size": 250}, "size 250 is no multiple of patch 8"),
        ({"dim": 100}, "dim 100 is no multiple of 8"),
        ({"head_dim": 6}, "head_dim 6 is no multiple of 4"),
        ({"block": (3, 8, 8)}, "3 does not divide 16 tokens along t"),
        ({"block": (4, 8, 5)}, "5 does not divide 32 tokens along w"),
        ({"scales": (1, 3)}, "scales \\(1, 3\\): each must divide the 16 frames"),
    ],
)
def test_a_config_that_cannot_be_is_refused_by_name_and_value(changes: dict, words: str):
    with pytest.raises(ConfigError, match=words):
        dataclasses.replace(PAPER, **changes)


def test_a_config_from_before_plane_positions_is_one_without_them():
    old = {name: value for name, value in PAPER.to_dict().items() if name != "plane_positions"}
    assert MDSAConfig.from_dict(old) == dataclasses.replace(PAPER, plane_positions="none")


def test_an_stdit_config_from_before_the_norms_and_a_time_per_stream_is_one_without_them():
    config, added = STDIT_PRESETS["paper"], ("qk_norm", "temporal_norm", "stream_times")
    old = {n: value for n, value in config.to_dict().items() if n not in added}
    assert STDiTConfig.from_dict(old) == dataclasses.replace(config, **dict.fromkeys(added, False))


def test_a_field_that_was_always_there_may_not_be_absent():
    short = {name: value for name, value in PAPER.to_dict().items() if name != "kl"}
    with pytest.raises(ConfigError, match="MDSAConfig: kl"):
        MDSAConfig.from_dict(short)


def test_an_unknown_field_is_named():
    with pytest.raises(ConfigError, match="MDSAConfig: width"):
        MDSAConfig.from_dict(PAPER.to_dict() | {"width": 3})


def test_clips_of_another_size_are_refused_with_the_values_that_fit():
    with pytest.raises(ConfigError, match="frames = 16, size = 256"):
        PAPER.check_spec(ClipSpec(size=128))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("depth", 10**9),
        ("heads", 0),
        ("dim", 0),
        ("dim", 16.0),
        ("scales", (0,)),
        ("scales", ()),
        ("scales", (1,) * 10_000),
        ("block", (1, 1)),
        ("block", 2),
        ("frames", True),
        ("size", "16"),
        ("latent_channels", [4]),
        ("mt_self_attn", 1),
        ("streams", ["v", "a"]),
        ("patch", -4),
    ],
)
def test_an_mdsa_out_of_bounds_is_refused_with_the_field_named(name, value):
    config = MDSA_PRESETS["tiny"].to_dict() | {name: value}
    with pytest.raises(ConfigError, match=f"^{name} "):
        MDSAConfig.from_dict(config)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("depth", 10**9),
        ("heads", 0),
        ("hidden", 10**9),
        ("patch", [2]),
        ("patch", 2),
        ("classes", -1),
        ("classes", 10**12),
        ("mlp_ratio", None),
        ("caption_dropout", "0.1"),
        ("caption_dropout", float("nan")),
        ("packed", "yes"),
    ],
)
def test_an_stdit_out_of_bounds_is_refused_with_the_field_named(name, value):
    config = STDIT_PRESETS["tiny"].to_dict() | {name: value}
    with pytest.raises(ConfigError, match=f"^{name} "):
        STDiTConfig.from_dict(config)


@pytest.mark.parametrize(
    "changes", [{"grid": 10**6}, {"frames": 0}, {"channels": "4"}, {"streams": ("a", "v")}]
)
def test_a_layout_out_of_bounds_is_refused(changes):
    values = {"channels": 4, "frames": 4, "grid": 4, "streams": ("v", "a")} | changes
    with pytest.raises(ConfigError, match=f"^{next(iter(changes))} must be"):
        LatentLayout(**values)
