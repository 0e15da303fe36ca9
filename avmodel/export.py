"""A checkpoint's weights as safetensors, its config and spec in the file's metadata as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors.torch

from avmodel.mdsa.checkpoint import KIND
from avmodel.training.checkpoints import entry, load_checkpoint
from avprep.shards.store import LocalStore


def export_safetensors(ckpt: Path, path: Path) -> None:
    """Raises CheckpointError for a file that is no MDSA checkpoint."""
    payload = load_checkpoint(ckpt, KIND)
    described = {name: payload[name] for name in ("kind", "config", "spec", "step")}
    metadata = {name: json.dumps(value, sort_keys=True) for name, value in described.items()}
    weights = entry(payload, "weights", dict, ckpt)
    contiguous = {name: tensor.contiguous() for name, tensor in weights.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with LocalStore(str(path.parent)).write(path.name) as file:
        file.write(safetensors.torch.save(contiguous, metadata=metadata))
