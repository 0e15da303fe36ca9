"""Presets fitted to clips of any shape that divides."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from avmodel import info
from avmodel.cli import main
from avmodel.config import MDSA_PRESETS, STDIT_PRESETS, ConfigError
from avmodel.dit.checkpoint import load_dit
from avmodel.dit.model import Captions, STDiT
from avmodel.fitting import (
    FARTHEST,
    clip_command,
    fitted_mdsa,
    fitted_stdit,
    fitted_to_clips,
    spec_for,
)
from avmodel.latents import LatentLayout
from avmodel.mdsa.checkpoint import load_mdsa
from avmodel.mdsa.model import MDSA
from avprep.spec import ClipSpec
from tests.avmodel.made_latents import write_latents
from tests.made_clips import write_clips

SMALL, TINY = MDSA_PRESETS["small"], MDSA_PRESETS["tiny"]


@pytest.mark.parametrize("name", MDSA_PRESETS)
def test_a_presets_own_shape_gives_the_preset(name: str):
    preset = MDSA_PRESETS[name]
    assert fitted_mdsa(preset, frames=preset.frames, size=preset.size) == preset
    assert fitted_stdit(STDIT_PRESETS[name], preset.layout) == STDIT_PRESETS[name]


def test_a_fitted_preset_has_the_grid_the_blocks_and_the_latent_that_follow():
    config = fitted_mdsa(SMALL, frames=24, size=128)
    assert config.grid == 16
    assert config.block == (4, 4, 4)
    assert config.layout.shape == (16, 6, 24, 16)
    assert dataclasses.replace(config, frames=16, size=64) == SMALL


@given(frames=st.integers(1, 64), size=st.integers(1, 512), name=st.sampled_from(list(MDSA_PRESETS)))
@settings(max_examples=100, deadline=None)
def test_a_shape_fits_or_is_refused_with_shapes_that_do(frames: int, size: int, name: str):
    preset = MDSA_PRESETS[name]
    try:
        config = fitted_mdsa(preset, frames=frames, size=size)
    except ConfigError as error:
        field, near = re.match(r"(frames|size) = .* that fit: (.*)", str(error)).groups()
        for value in near.split(" or "):
            fitted_mdsa(preset, **{"frames": preset.frames, "size": preset.size, field: int(value)})
        return
    assert (config.frames, config.size, config.patch, config.dim) == (frames, size, preset.patch, preset.dim)
    for found, wanted in zip(config.block, preset.block, strict=True):
        assert wanted / FARTHEST <= found <= wanted * FARTHEST
    grid, rows = size // preset.patch, max(size // preset.patch, frames)
    assert config.layout.shape == (preset.latent_channels, 6, rows, grid)


@pytest.mark.parametrize(
    ("frames", "size", "words"),
    [
        (25, 64, "frames = 25 does not fit the preset: each of the scales 1, 2, 4 must divide it.* 24 or 28"),
        (16, 100, "size = 100 does not fit the preset: .*even multiple of 8 pixels.* 96 or 112"),
        (16, 88, "size = 88 .* blocks of about 4 x 4 tokens.* 80 or 96"),
        (2, 64, "frames = 2 .* fit: 4$"),
    ],
)
def test_a_shape_that_does_not_divide_names_the_nearest_that_do(frames: int, size: int, words: str):
    with pytest.raises(ConfigError, match=words):
        fitted_mdsa(SMALL, frames=frames, size=size)


@pytest.mark.parametrize(("frames", "size"), [(8, 24), (12, 20), (4, 32)])
def test_a_fitted_model_reconstructs_and_its_latents_are_generated(frames: int, size: int):
    config = fitted_mdsa(TINY, frames=frames, size=size)
    clips = {s: torch.rand(1, n, frames, size, size) for s, n in config.channels.items()}
    out, posterior = MDSA(config)(clips, sample=True)
    assert {s: x.shape for s, x in out.items()} == {s: x.shape for s, x in clips.items()}
    stdit = fitted_stdit(STDIT_PRESETS["tiny"], config.layout)
    captions = Captions(torch.zeros(1, 4, 16), torch.ones(1, 4, dtype=torch.bool))
    velocity = STDiT(stdit, config.layout)(posterior.sample(), torch.rand(1), captions)
    assert velocity.shape == (1, *config.layout.shape)


@given(frames=st.integers(1, 64), grid=st.integers(1, 64))
@settings(max_examples=50, deadline=None)
def test_the_patch_of_a_fitted_stdit_divides_every_plane(frames: int, grid: int):
    layout = LatentLayout(channels=4, frames=frames, grid=grid, streams=("v", "a"))
    rows, columns = fitted_stdit(STDIT_PRESETS["paper"], layout).patch
    assert all(n % rows == 0 for n in layout.valid_rows) and grid % columns == 0


# The clips that fit


@given(
    fps=st.sampled_from([10, 12, 15, 16, 20, 24, 25, 30, 50, 60]),
    frames=st.sampled_from([4, 8, 16, 24, 32]),
    size=st.sampled_from([16, 64, 72, 96, 128, 224, 256]),
)
@settings(max_examples=50, deadline=None)
def test_the_clips_that_are_named_fit(fps: int, frames: int, size: int):
    config = fitted_mdsa(TINY, frames=frames, size=size)
    try:
        spec = spec_for(config, fps)
    except ConfigError as error:
        for value in str(error).split("that fit: ")[1].split(" or "):
            assert fitted_to_clips(TINY, spec_for(config, int(value))) == config
        return
    assert spec.fps == fps
    assert fitted_to_clips(TINY, spec) == config


@pytest.mark.parametrize(
    ("name", "changes", "fps", "command"),
    [
        ("paper", {}, 10, "avprep clip"),
        ("small", {}, 10, "avprep clip --size 64 --n-mels 64"),
        ("tiny", {}, 10, "avprep clip --frames 4 --size 16 --n-mels 16"),
        (
            "small",
            {"frames": 24, "size": 128},
            25,
            "avprep clip --fps 25 --frames 24 --size 128 --hop 80",
        ),
        ("paper", {}, 30, "avprep clip --fps 30 --sample-rate 24000"),
    ],
)
def test_the_clip_command_of_a_preset(name: str, changes: dict[str, int], fps: int, command: str):
    preset = MDSA_PRESETS[name]
    config = fitted_mdsa(preset, **{"frames": preset.frames, "size": preset.size, **changes})
    assert clip_command(config, fps) == command
    options = dict(zip(*(iter(shlex.split(command)[2:]),) * 2, strict=True))
    fields = {option.removeprefix("--").replace("-", "_"): int(value) for option, value in options.items()}
    assert fitted_to_clips(preset, ClipSpec(**fields)) == config


def test_a_mel_stack_that_does_not_fit_is_refused_with_one_that_does():
    clips = ClipSpec(fps=24, sample_rate=24000)  # 10 columns per frame
    with pytest.raises(
        ConfigError, match="128 bands and 10 columns per frame must divide the clips' 256 px"
    ) as e:
        fitted_to_clips(MDSA_PRESETS["paper"], clips)
    rate, hop, bands = map(int, re.findall(r"(?:sample_rate|hop|n_mels) = (\d+)", str(e.value)))
    fits = dataclasses.replace(clips, sample_rate=rate, hop=hop, n_mels=bands)
    fitted_to_clips(MDSA_PRESETS["paper"], fits)


def test_info_shows_the_fitted_preset_and_the_clips_that_fit(monkeypatch: pytest.MonkeyPatch):
    for report in ("mdsa_report", "stdit_report"):  # their figures take seconds, and tests of their own
        monkeypatch.setattr(info, report, lambda config, *_: repr(config))
    arguments = ["info", "--preset", "tiny", "--size", "32", "--frames", "8", "--fps", "25"]
    shown = CliRunner().invoke(main, arguments)
    assert shown.exit_code == 0, shown.output
    first, second = shown.output.splitlines()[:2]
    assert repr(fitted_mdsa(TINY, frames=8, size=32)) in shown.output
    assert first == "clips that fit: avprep clip --fps 25 --frames 8 --size 32 --hop 80 --n-mels 32"
    assert second == "latent (4, 6, 8, 8), blocks (2, 2, 2), patch of the STDiT (2, 2)"
    refused = CliRunner().invoke(main, ["info", "--preset", "tiny", "--size", "30"])
    assert refused.exit_code == 2 and "--size 30 does not fit" in refused.output


def test_the_trainings_fit_their_presets_to_the_clips_and_to_the_latents(tmp_path: Path):
    """8 frames of 5 x 5 tokens, where preset tiny has 4 of 4 x 4: no plane divides by its STDiT's patch."""
    spec = ClipSpec(frames=8, size=20, n_mels=20, n_fft=256, hop=80)
    write_clips(tmp_path / "clips", sources=4, spec=spec)
    short = "--preset tiny --loader-workers 0 --batch-size 2"
    arguments = (
        f"--clips {tmp_path}/clips --out {tmp_path}/mdsa --stage1-steps 1 --lpips none --no-adversarial"
    )
    done = CliRunner().invoke(main, ["train-mdsa", *short.split(), *arguments.split()])
    assert done.exit_code == 0, done.output
    model, header = load_mdsa(tmp_path / "mdsa" / "mdsa.pt")
    assert (model.config.frames, model.config.grid) == (8, 5) and header.spec == spec
    write_latents(tmp_path / "latents", header)
    arguments = f"--latents {tmp_path}/latents --out {tmp_path}/dit --steps 1"
    done = CliRunner().invoke(main, ["train-dit", *short.split(), *arguments.split()])
    assert done.exit_code == 0, done.output
    assert load_dit(tmp_path / "dit" / "dit.pt", None).model.config.patch == (1, 1)
