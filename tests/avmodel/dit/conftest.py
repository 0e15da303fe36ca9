"""One MDSA, latents that are easy to learn, and an STDiT trained on them, for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from avmodel.dit.train import train_dit
from avmodel.mdsa.checkpoint import read_codec_header
from tests.avmodel.dit.made_training import config
from tests.avmodel.made_latents import write_latents


@pytest.fixture(scope="session")
def latents(mdsa, tmp_path_factory) -> Path:
    return write_latents(tmp_path_factory.mktemp("made") / "latents", read_codec_header(mdsa))


@pytest.fixture(scope="session")
def trained(latents, mdsa, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("dit")
    train_dit(config(latents, out, steps=300, lr=3e-3, ema=0.98, batch_size=16, mdsa=mdsa, eval_every=300))
    return out
