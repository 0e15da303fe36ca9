"""A trained STDiT's checkpoint, `dit.pt`: the averaged model, the latents that it makes, and its texts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from avmodel.config import ConfigError, STDiTConfig
from avmodel.data import layout_of
from avmodel.dit.model import STDiT
from avmodel.dit.text import CaptionTexts, LabelTexts, TextError, Texts, read_caption_table
from avmodel.training.checkpoints import build_model, entry, load_checkpoint
from avmodel.training.errors import CheckpointError
from avprep.shards.latents import EncoderHeader
from avprep.shards.layout import LATENTS, ShardError
from avprep.spec import SpecError

KIND = "dit"


@dataclass(frozen=True)
class TrainedDiT:
    model: STDiT  # with the averaged weights, on the CPU, in eval mode
    latents: EncoderHeader  # of the latents that it makes
    texts: Texts  # how it reads labels or captions


def dit_payload(
    config: STDiTConfig, weights: dict[str, Tensor], latents: EncoderHeader, texts: Texts, step: int
) -> dict[str, Any]:
    """What `dit.pt` holds. `weights`: the averaged ones."""
    return {
        "kind": KIND,
        "config": config.to_dict(),
        "latents": {"kind": LATENTS} | latents.to_dict(),
        "texts": texts.to_dict(),
        "step": step,
        "weights": dict(weights),
    }


def labels_of(payload: dict[str, Any], path: Path) -> list[str]:
    """The labels of a checkpoint's table, by row; [] if the model reads captions. Raises CheckpointError."""
    texts = entry(payload, "texts", dict, path)
    return list(entry(texts, "labels", dict, path)) if "labels" in texts else []


def load_dit(path: Path, captions_file: Path | None) -> TrainedDiT:
    """
    Args:
        captions_file: embeddings of captions, for a model that reads those.

    Raises:
        CheckpointError: a damaged checkpoint, or one that is not of this version.
        TextError: a captions file that is missing, damaged, or of no use to this model.
    """
    payload = load_checkpoint(path, KIND)
    try:
        config = STDiTConfig.from_dict(entry(payload, "config", dict, path))
        header = EncoderHeader.from_dict(entry(payload, "latents", dict, path))
        layout = layout_of(header)
        weights = entry(payload, "weights", dict, path)
        model = build_model(lambda: STDiT(config, layout), weights, path)
    except (ConfigError, ShardError, SpecError) as error:
        raise CheckpointError(f"{path} is not of this version: {error}") from error
    return TrainedDiT(model.eval(), header, _texts_of(payload, config, path, captions_file))


def _texts_of(payload: dict[str, Any], config: STDiTConfig, path: Path, captions_file: Path | None) -> Texts:
    texts = entry(payload, "texts", dict, path)
    if "labels" in texts:
        if captions_file is not None:
            raise TextError(f"captions_file = {captions_file}: {path} was trained on labels and reads none")
        counts = entry(texts, "labels", dict, path)
        if not all(isinstance(name, str) and type(n) is int and n >= 0 for name, n in counts.items()):
            raise CheckpointError(f"{path}: its labels are not names with numbers of clips")
        if len(counts) > config.classes:
            raise CheckpointError(f"{path}: it has {len(counts)} labels and a table of {config.classes}")
        return LabelTexts(counts, _label_sets(texts, counts, path))
    shape = entry(texts, "embeddings", dict, path)
    width, tokens = entry(shape, "width", int, path), entry(shape, "tokens", int, path)
    if (width, tokens) != (config.caption_dim, config.caption_tokens):
        raise CheckpointError(f"{path}: its embeddings are not those of its config")
    return CaptionTexts(_table_of(captions_file, width, path), width, tokens)


def _label_sets(texts: dict[str, Any], counts: dict[str, int], path: Path) -> list[tuple[str, ...]]:
    """The sets of labels to draw from; [] in a checkpoint of version 0.1. Raises CheckpointError."""
    sets = entry(texts, "sets", list, path) if "sets" in texts else []
    lists = all(isinstance(labels, list) for labels in sets)
    if not lists or not all(isinstance(name, str) and name in counts for labels in sets for name in labels):
        raise CheckpointError(f"{path}: its sets of labels are not made of its labels")
    return [tuple(labels) for labels in sets]


def _table_of(captions_file: Path | None, width: int, path: Path) -> dict[str, np.ndarray]:
    """Raises TextError for a file that is missing, damaged or of another width."""
    table = read_caption_table(captions_file) if captions_file else None
    if table is None:
        raise TextError(
            f"{path} reads caption embeddings: `captions_file` must name the captions.safetensors beside "
            f"the latents"
        )
    found = next(iter(table.values())).shape[1]
    if found != width:
        raise TextError(
            f"captions_file = {captions_file}: its embeddings have {found} values, and {path} reads {width}"
        )
    return table


def check_made_by(latents: EncoderHeader, mdsa: EncoderHeader, ckpt: str, what: str) -> None:
    """
    Args:
        ckpt: how the message begins: 'mdsa = PATH:'.
        what: what holds the latents.

    Raises:
        CheckpointError: the latents are not those of this MDSA.
    """
    if latents.weights != mdsa.weights:
        raise CheckpointError(
            f"{ckpt} its weights are {mdsa.weights[:12]}; {what} was made with another MDSA's, "
            f"{latents.weights[:12]}: it would decode to something else"
        )
