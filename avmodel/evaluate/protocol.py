"""Protocols: which windows of the videos are compared, and as which pictures.

                  windows                                    pictures             clips per side
    mm-diffusion  drawn from all offsets of all videos       letterboxed, 64 px   up to 2,048
    stylegan-v    one per video, drawn from its offsets      centre crop, stored  up to 2,048

Sources: Ruan et al., "MM-Diffusion", CVPR 2023, and its evaluation code; Skorokhodov et al., "StyleGAN-V",
CVPR 2022, and its fvd2048_16f metric. Both compare 16 frames.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from avmodel.evaluate.options import MOST_CLIPS, Crop, EvaluationOptions, ProtocolName
from avmodel.evaluate.sides import UNCROPPED, Fields
from avmodel.metrics import MetricError

WINDOW_FRAMES = 16
_AUDIOCLIP_RATE = 44100  # Hz: what mm-diffusion's sound is compared at


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How windows are drawn and pictures prepared."""

    name: ProtocolName
    windows: str  # for people
    one_per_video: bool
    crop: Crop  # 'pad' is letterboxed
    size: int | None  # pixels that the networks see; None: as stored
    sample_rate: int | None  # Hz of the published evaluation's sound; None: it has no sound
    most: int = MOST_CLIPS

    def choose(self, videos: np.ndarray, n: int, seed: int) -> np.ndarray:
        """Positions of windows, int64, ascending: up to `n` of those whose videos are `videos` (windows,).

        Equal arguments give equal windows.
        """
        if not len(videos):
            raise MetricError("a side holds no clip")
        rng = np.random.default_rng([seed, len(videos)])
        order = rng.permutation(len(videos))
        if self.one_per_video:
            _, first = np.unique(videos[order], return_index=True)
            order = order[np.sort(first)]
        return np.sort(order[: min(n, self.most)])

    def departures(self, side: str, fields: Fields) -> list[str]:
        """In what a side is not as the protocol has it, for people."""
        found = []
        if fields.frames != WINDOW_FRAMES:
            found.append(f"{side}: windows of {fields.frames} frames, not {WINDOW_FRAMES}")
        if fields.crop not in (self.crop, UNCROPPED):
            found.append(f"{side}: crop {fields.crop}, not {self.crop}")
        if self.sample_rate is not None and fields.sample_rate != self.sample_rate:
            found.append(
                f"{side}: sound mixed to mono at {fields.sample_rate} Hz, not the first channel at "
                f"{self.sample_rate} Hz"
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        size = "stored size" if self.size is None else f"{self.size} px"
        return f"{self.name}: {self.windows}; {self.crop}, {size}; up to {self.most:,} clips per side"


_PROTOCOLS: dict[ProtocolName, Protocol] = {
    "mm-diffusion": Protocol(
        name="mm-diffusion",
        windows="windows drawn from all offsets of all videos",
        one_per_video=False,
        crop="pad",
        size=64,
        sample_rate=_AUDIOCLIP_RATE,
    ),
    "stylegan-v": Protocol(
        name="stylegan-v",
        windows="one random window per video",
        one_per_video=True,
        crop="center",
        size=None,
        sample_rate=None,
    ),
}


def protocol_of(options: EvaluationOptions) -> Protocol:
    """The protocol that the options ask for, at their size."""
    protocol = _PROTOCOLS[options.protocol]
    return protocol if options.size is None else replace(protocol, size=options.size)
