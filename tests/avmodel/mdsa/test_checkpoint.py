"""mdsa.pt as hostile input: one message, in seconds, whatever it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from avmodel.config import MDSA_PRESETS
from avmodel.mdsa.checkpoint import KIND, load_mdsa, mdsa_payload, read_codec_header, weights_hash
from avmodel.mdsa.model import MDSA
from avmodel.training.checkpoints import load_checkpoint
from avmodel.training.errors import CheckpointError
from tests.made_clips import TINY


@pytest.fixture(scope="module")
def model() -> MDSA:
    torch.manual_seed(0)
    return MDSA(MDSA_PRESETS["tiny"])


def written(path: Path, payload: dict[str, Any]) -> Path:
    torch.save(payload, path)
    return path


def with_config(payload: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return payload | {"config": payload["config"] | changes}


def with_weight(payload: dict[str, Any], change) -> dict[str, Any]:
    name = next(iter(payload["weights"]))
    return payload | {"weights": payload["weights"] | {name: change(payload["weights"][name])}}


def without(payload: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in payload.items() if key != name}


HOSTILE = {
    "a depth of a billion": lambda p: with_config(p, depth=10**9),
    "no heads": lambda p: with_config(p, heads=0),
    "a scale of nothing": lambda p: with_config(p, scales=[0]),
    "no width": lambda p: with_config(p, dim=0),
    "a width of text": lambda p: with_config(p, dim="16"),
    "the largest that is allowed": lambda p: with_config(p, dim=8192, depth=64),
    "other heads": lambda p: with_config(p, heads=4),
    "an unknown field": lambda p: with_config(p, colour=1),
    "another grid": lambda p: with_config(p, patch=2),
    "a config that is a list": lambda p: p | {"config": [1]},
    "a spec that is text": lambda p: p | {"spec": "16"},
    "a spec of other fields": lambda p: p | {"spec": {"fps": 10}},
    "a spec that the model does not take": lambda p: p | {"spec": p["spec"] | {"size": 32}},
    "weights that are a list": lambda p: p | {"weights": list(p["weights"].values())},
    "no weights": lambda p: p | {"weights": {}},
    "a weight of another shape": lambda p: with_weight(p, lambda w: w[:1].clone()),
    "a weight of another type": lambda p: with_weight(p, lambda w: w.double()),
    "a weight that is text": lambda p: with_weight(p, lambda w: "w"),
    "a weight with NaN": lambda p: with_weight(p, lambda w: torch.full_like(w, torch.nan)),
    "a weight of stride 0": lambda p: with_weight(p, lambda w: torch.ones(1).expand(10**12)),
    "a weight on no device": lambda p: with_weight(p, lambda w: torch.empty(w.shape, device="meta")),
    "a sparse weight": lambda p: with_weight(p, lambda w: w.to_sparse()),
    "an expanded weight": lambda p: with_weight(p, lambda w: torch.ones(()).expand(w.shape)),
    "no spec": lambda p: without(p, "spec"),
    "no config": lambda p: without(p, "config"),
    "no weights entry": lambda p: without(p, "weights"),
    "another kind": lambda p: p | {"kind": "dit"},
    "a kind that is a list": lambda p: p | {"kind": [1] * 1000},
}
HARMLESS = {"an expanded weight"}  # of its own shape, within the file's size: it is only read


@pytest.mark.timeout(60)
@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("read", [load_mdsa, read_codec_header])
def test_a_hostile_checkpoint_is_one_message(model, tmp_path, change, read, request):
    path = written(tmp_path / "mdsa.pt", change(mdsa_payload(model, TINY, 0)))
    if any(name in request.node.name for name in HARMLESS):
        read(path)
        return
    with pytest.raises(CheckpointError, match="mdsa.pt") as caught:
        read(path)
    assert len(str(caught.value)) < 1000 and "\n" not in str(caught.value)


def test_what_was_saved_is_loaded(model, tmp_path):
    path = written(tmp_path / "mdsa.pt", mdsa_payload(model, TINY, 7))
    loaded, header = load_mdsa(path)
    assert weights_hash(loaded.state_dict()) == weights_hash(model.state_dict()) == header.weights
    assert not loaded.training and header.spec == TINY and header.shape == model.layout.shape
    assert read_codec_header(path) == header and load_checkpoint(path, KIND)["step"] == 7


def test_a_checkpoint_from_before_plane_positions_is_loaded_without_them(model, tmp_path):
    payload = mdsa_payload(model, TINY, 7)
    del payload["config"]["plane_positions"]
    loaded, header = load_mdsa(written(tmp_path / "mdsa.pt", payload))
    assert loaded.config.plane_positions == "none"
    assert header.weights == weights_hash(model.state_dict())
