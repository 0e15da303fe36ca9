"""A checkpoint's weights as safetensors, its config and spec in the file's metadata as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors.torch

from avmodel.mdsa.checkpoint import KIND
from avmodel.training.loop import load_checkpoint


def export_safetensors(ckpt: Path, path: Path) -> None:
    """Raises CheckpointError for a file that is no MDSA checkpoint."""
    payload = load_checkpoint(ckpt, KIND)
    told = ("kind", "config", "spec", "step")
    metadata = {name: json.dumps(payload[name], sort_keys=True) for name in told}
    weights = {name: tensor.contiguous() for name, tensor in payload["weights"].items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(weights, path, metadata=metadata)
