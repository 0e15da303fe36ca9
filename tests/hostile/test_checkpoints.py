"""Whatever a checkpoint holds, its reader gives a model or one message with the file's name, soon and in
little memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from _pytest.mark import ParameterSet

from avmodel.config import MDSA_PRESETS, STDIT_PRESETS
from avmodel.data import layout_of
from avmodel.dit.checkpoint import dit_payload, load_dit
from avmodel.dit.model import STDiT
from avmodel.dit.text import LabelTexts
from avmodel.mdsa.checkpoint import load_mdsa, mdsa_payload, read_codec_header
from avmodel.mdsa.model import MDSA
from avmodel.training.checkpoints import save_checkpoint
from avmodel.training.errors import CheckpointError
from tests.hostile.checkpoint_corpus import ODD_VALUES, damaged, places, replaced, without
from tests.hostile.limits import limited
from tests.made_clips import TINY

FAST = ("None", "10^9", "a terminal's escape", "a list", "a tensor of 4 TB")  # of the odd values


@pytest.fixture(scope="module")
def payloads(tmp_path_factory) -> dict[str, dict[str, Any]]:
    torch.manual_seed(0)
    mdsa = mdsa_payload(MDSA(MDSA_PRESETS["tiny"]), TINY, 7)
    path = tmp_path_factory.mktemp("mdsa") / "mdsa.pt"
    save_checkpoint(path, mdsa)
    header = read_codec_header(path)
    config = replace(STDIT_PRESETS["tiny"], classes=2)
    texts = LabelTexts({"rain": 3, "wind": 1}, [("rain",), ("rain", "wind"), ()])
    weights = STDiT(config, layout_of(header)).state_dict()
    return {"mdsa": mdsa, "dit": dit_payload(config, weights, header, texts, 5)}


READERS: dict[str, Callable[[Path], object]] = {"mdsa": load_mdsa, "dit": lambda path: load_dit(path, None)}


def in_time(name: str) -> ParameterSet:
    return pytest.param(ODD_VALUES[name], id=name, marks=[] if name in FAST else pytest.mark.slow)


def assert_read_or_refused(kind: str, path: Path, what: str) -> bool:
    """Whether it was refused."""
    try:
        with limited():
            READERS[kind](path)
    except CheckpointError as error:
        message = str(error)
        assert path.name in message, what
        assert len(message) < 1000 and message.isprintable(), f"{what}: {message[:2000]!r}"
        return True
    except BaseException as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {str(error)[:300]}") from error
    return False


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("value", [in_time(name) for name in ODD_VALUES])
def test_an_odd_value_in_any_entry(payloads, tmp_path, kind, value):
    refused = 0
    found = list(places(payloads[kind]))
    for place in found:
        path = tmp_path / "odd.pt"
        torch.save(replaced(payloads[kind], place, value), path)
        refused += assert_read_or_refused(kind, path, f"{kind} {place}")
    assert refused > len(found) // 3


@pytest.mark.parametrize("kind", READERS)
def test_any_entry_missing(payloads, tmp_path, kind):
    for place in places(payloads[kind]):
        path = tmp_path / "missing.pt"
        torch.save(without(payloads[kind], place), path)
        assert_read_or_refused(kind, path, f"{kind} without {place}")


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("count", [20, pytest.param(300, marks=pytest.mark.slow)])
def test_changed_bytes(payloads, tmp_path, kind, count):
    torch.save(payloads[kind], tmp_path / "whole.pt")
    data = (tmp_path / "whole.pt").read_bytes()
    assert not assert_read_or_refused(kind, tmp_path / "whole.pt", "the whole file")
    refused = 0
    for seed in range(count):
        path = tmp_path / "damaged.pt"
        path.write_bytes(damaged(data, seed))
        refused += assert_read_or_refused(kind, path, f"{kind} of seed {seed}")
    assert refused > count // 3
