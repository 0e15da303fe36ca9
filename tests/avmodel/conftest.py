"""A checkpoint of a small MDSA, for all tests that encode or decode."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from avmodel.config import MDSA_PRESETS
from avmodel.mdsa.checkpoint import mdsa_payload
from avmodel.mdsa.model import MDSA
from avmodel.training.checkpoints import save_checkpoint
from tests.made_clips import TINY


@pytest.fixture(scope="session")
def mdsa(tmp_path_factory) -> Path:
    """Random weights."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("mdsa") / "mdsa.pt"
    save_checkpoint(path, mdsa_payload(MDSA(MDSA_PRESETS["tiny"]), TINY, 0))
    return path
