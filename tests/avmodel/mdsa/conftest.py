"""Clips to train on, for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.made_clips import write_clips


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> Path:
    return write_clips(tmp_path_factory.mktemp("made") / "clips", sources=6)
