"""Presets fitted to clips of another shape: a preset is a width and a depth, with any sizes that divide.

clips           frames T, size S
grid            S / patch: the patch is the preset's
block           per axis the divisor of T, grid and grid that is nearest to the preset's
latent          (channels, 6, max(T, grid), grid)
STDiT patch     per axis the divisor of the planes' sides that is nearest to the preset's
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from avmodel.config import ConfigError, MDSAConfig, STDiTConfig
from avprep.spec import ClipSpec

if TYPE_CHECKING:
    from avmodel.latents import LatentLayout

FARTHEST = 2  # the largest ratio of a block's side to the preset's


def fitted_mdsa(preset: MDSAConfig, *, frames: int, size: int) -> MDSAConfig:
    """The preset for clips of `frames` frames at `size` pixels; the preset itself where they are its own.

    Raises:
        ConfigError: a number that does not divide, with the nearest that do.
    """
    for name, value in (("frames", frames), ("size", size)):
        fits = _fits_frames if name == "frames" else _fits_size
        if not fits(preset, value):
            raise ConfigError(
                f"{name} = {value} does not fit the preset: {_why(preset, name)}. "
                f"The nearest that fit: {_nearest(partial(fits, preset), value)}"
            )
    grid = size // preset.patch
    lengths = (frames, grid, grid)
    t, h, w = (_divisor(n, wanted) for n, wanted in zip(lengths, preset.block, strict=True))
    return replace(preset, frames=frames, size=size, block=(t, h, w))


def fitted_to_clips(preset: MDSAConfig, spec: ClipSpec) -> MDSAConfig:
    """The preset for clips of a spec.

    Raises:
        ConfigError: clips that no model of this preset takes, with the nearest that it takes.
    """
    config = fitted_mdsa(preset, frames=spec.frames, size=spec.size)
    if spec.size % spec.n_mels or spec.size % spec.columns:
        near = spec_for(config, spec.fps)
        raise ConfigError(
            f"the mel stack's {spec.n_mels} bands and {spec.columns} columns per frame must divide the "
            f"clips' {spec.size} px. At fps = {spec.fps}, clips that fit have sample_rate = "
            f"{near.sample_rate}, hop = {near.hop}, n_mels = {near.n_mels}"
        )
    return config


def fitted_stdit(preset: STDiTConfig, layout: LatentLayout) -> STDiTConfig:
    """The preset with a patch that divides the planes of `layout`."""
    sides = (math.gcd(*layout.valid_rows), layout.columns)
    rows, columns = (_divisor(n, wanted) for n, wanted in zip(sides, preset.patch, strict=True))
    return replace(preset, patch=(rows, columns))


def clip_command(config: MDSAConfig, fps: int) -> str:
    """The `avprep clip` options whose clips fit a model: those that are not its defaults.

    Raises:
        ConfigError: no mel stack of this frame rate fits, with the nearest frame rates that do.
    """
    spec, default = spec_for(config, fps), ClipSpec()
    options = {name: value for name, value in spec.to_dict().items() if value != default.to_dict()[name]}
    return " ".join(["avprep clip", *(f"--{name.replace('_', '-')} {v}" for name, v in options.items())])


def spec_for(config: MDSAConfig, fps: int) -> ClipSpec:
    """The spec nearest to the default whose clips a model takes.

    Raises:
        ConfigError: no mel stack of this frame rate fits, with the nearest frame rates that do.
    """
    found = _spec_for(config, fps)
    if found is None:
        raise ConfigError(
            f"fps = {fps}: no mel stack of a common sample rate has columns per frame that divide "
            f"{config.size} px. The nearest that fit: "
            f"{_nearest(lambda n: _spec_for(config, n) is not None, fps)}"
        )
    return found


# --- what fits ---

SAMPLE_RATES = (16000, 24000, 22050, 32000, 44100, 48000)  # in order of preference
_FPS = range(1, 241)
_HOPS = (50, 200)  # samples at 16 kHz: from half to twice the default


def _spec_for(config: MDSAConfig, fps: int) -> ClipSpec | None:
    if fps not in _FPS:
        return None
    bands = max((n for n in range(1, ClipSpec.n_mels + 1) if config.size % n == 0), default=1)
    for rate in SAMPLE_RATES:
        low, high = (edge * rate / 16000 for edge in _HOPS)
        hops = [rate // (fps * w) for w in _divisors(config.size) if rate % (fps * w) == 0]
        hops = [hop for hop in hops if low <= hop <= min(high, ClipSpec.n_fft)]
        if hops:
            hop = min(hops, key=lambda h: abs(math.log(h / ClipSpec.hop)))
            return ClipSpec(
                fps=fps, frames=config.frames, size=config.size, sample_rate=rate, hop=hop, n_mels=bands
            )
    return None


def _fits_frames(preset: MDSAConfig, frames: int) -> bool:
    return (
        0 < frames <= 1024
        and all(frames % scale == 0 for scale in preset.scales)
        and _is_near(_divisor(frames, preset.block[0]), preset.block[0])
    )


def _fits_size(preset: MDSAConfig, size: int) -> bool:
    """Even, as a clip's frames must be."""
    if not 16 <= size <= 4096 or size % 2 or size % preset.patch:
        return False
    return all(_is_near(_divisor(size // preset.patch, wanted), wanted) for wanted in preset.block[1:])


def _why(preset: MDSAConfig, name: str) -> str:
    if name == "frames":
        scales = ", ".join(map(str, preset.scales))
        return f"each of the scales {scales} must divide it, and a block of about {preset.block[0]} frames"
    return (
        f"it must be an even multiple of {preset.patch} pixels, with blocks of about {preset.block[1]} x "
        f"{preset.block[2]} tokens"
    )


def _divisors(length: int) -> list[int]:
    return [n for n in range(1, length + 1) if length % n == 0]


def _divisor(length: int, wanted: int) -> int:
    """The divisor of `length` that is nearest to `wanted` by ratio, the larger of two."""
    return min(_divisors(length), key=lambda n: (abs(math.log(n / wanted)), -n))


def _is_near(found: int, wanted: int) -> bool:
    return max(found / wanted, wanted / found) <= FARTHEST


def _nearest(fits: Callable[[int], bool], value: int) -> str:
    """The nearest number below and the nearest above that fit."""
    below = next((n for n in range(value - 1, 0, -1) if fits(n)), None)
    above = next((n for n in range(value + 1, 4097) if fits(n)), None)
    return " or ".join(str(n) for n in (below, above) if n is not None) or "none"
