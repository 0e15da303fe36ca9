"""An MDSA with random weights, clips, their latents, and files of the clips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from avmodel.mdsa.checkpoint import read_codec_header
from avprep.media.mux import write_mp4
from tests.avmodel.made_latents import write_latents
from tests.made_clips import TINY, write_clips


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> Path:
    return write_clips(tmp_path_factory.mktemp("made") / "clips", sources=6, clips_each=4)


@pytest.fixture(scope="session")
def latents(mdsa, tmp_path_factory) -> Path:
    return write_latents(tmp_path_factory.mktemp("made") / "latents", read_codec_header(mdsa))


@pytest.fixture(scope="session")
def videos(tmp_path_factory) -> Path:
    """Four mp4 files of one clip and two frames more: three windows each; and two files that are left out."""
    out = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    for i in range(4):
        seconds = np.arange(round(0.6 * TINY.sample_rate)) / TINY.sample_rate
        sound = (0.3 * np.sin(2 * np.pi * (300 + 100 * i) * seconds)).astype(np.float32)
        frames = rng.integers(0, 255, (6, 32, 48, 3), np.uint8)
        write_mp4(out / f"{i}.mp4", frames, sound, fps=TINY.fps, sample_rate=TINY.sample_rate)
    write_mp4(out / "short.mp4", frames[:2], sound[:3200], fps=TINY.fps, sample_rate=TINY.sample_rate)
    (out / "damaged.mp4").write_bytes(b"no video")
    return out
