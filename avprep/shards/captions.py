"""captions.safetensors, the embeddings of texts beside latents, of several outputs as one."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from avprep.shards.layout import CAPTIONS_FILE, ShardError
from avprep.shards.store import Store


def merge_captions(stores: Sequence[Store], target: Store) -> None:
    """Writes all embeddings into `target`; nothing where no output has any.

    Raises:
        ShardError: only some outputs have embeddings, a file is damaged, or two were made by different text
            encoders.
    """
    lacking = [store for store in stores if not store.exists(CAPTIONS_FILE)]
    if lacking:
        if len(lacking) < len(stores):
            raise ShardError(f"{lacking[0].uri} holds no {CAPTIONS_FILE}, and another output does")
        return
    (merged, metadata), *others = [_read(store) for store in stores]
    for store, (table, own) in zip(stores[1:], others, strict=True):
        for text, embedding in table.items():
            if own != metadata or not np.array_equal(merged.setdefault(text, embedding), embedding):
                raise ShardError(
                    f"{store.uri} and {stores[0].uri} do not go together: their {CAPTIONS_FILE} were made by "
                    f"different text encoders"
                )
    with target.write(CAPTIONS_FILE) as file:
        file.write(save(merged, metadata=metadata))


def _read(store: Store) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The embeddings by text, and the file's metadata: the encoder's name."""
    with store.open(CAPTIONS_FILE) as file:
        data = file.read()
    try:
        table = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return table, dict(header.get("__metadata__", {}))
    except (SafetensorError, ValueError, TypeError, RecursionError) as error:
        raise ShardError(f"{store.uri}/{CAPTIONS_FILE} is damaged: {error}") from error
