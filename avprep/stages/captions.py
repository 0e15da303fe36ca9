"""Text embeddings beside the latents: one entry per distinct text in the captions file.

    "a dog barks": float16 (tokens, width), the encoder's last hidden states up to the end-of-text token

The texts are the captions of the written clips and, for every label, the prompt of that label alone. States
after the end of the text are not kept: the encoder is causal, so no earlier state depends on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import numpy as np
import torch
from safetensors.numpy import save

from avprep.errors import AvprepError
from avprep.shards.layout import CAPTIONS_FILE, prompt_of
from avprep.shards.ledger import read_ledgers
from avprep.shards.plan import PlanReader
from avprep.shards.store import Store

_BATCH = 64

# Texts -> one float16 (tokens, width) each.
TextEncoder = Callable[[list[str]], list[np.ndarray]]


class TextEncoderError(AvprepError):
    """The text encoder cannot be loaded."""


def texts_of(store: Store) -> list[str]:
    """The distinct captions and label prompts of an output's written clips, sorted."""
    plan = PlanReader(store)
    found: set[str] = set()
    for index, rows, _ in read_ledgers(store):
        written = {row.key for row in rows if row.status == "written"}
        for row in plan.rows(index):
            if row.key in written:
                found.update(prompt_of(label) for label in row.labels)
                found.update({row.caption} - {""})
    return sorted(found)


def write_captions(store: Store, texts: Iterable[str], encode: TextEncoder, name: str) -> int:
    """Writes the embeddings of the texts; `name` of the encoder is kept in the file. Returns their number."""
    embeddings = dict(_embedded(iter(texts), encode))
    with store.write(CAPTIONS_FILE) as file:
        file.write(save(embeddings, metadata={"text_encoder": name}))
    return len(embeddings)


def _embedded(texts: Iterator[str], encode: TextEncoder) -> Iterator[tuple[str, np.ndarray]]:
    while batch := list(islice(texts, _BATCH)):
        yield from zip(batch, encode(batch), strict=True)


def open_clip_text(path_or_name: str, device: str) -> TextEncoder:
    """CLIP's text model through transformers, from a local folder or under its name.

    Raises:
        TextEncoderError: transformers is not installed, or the weights are not there.
    """
    try:
        from transformers import AutoTokenizer, CLIPTextModel
    except ImportError as error:
        raise TextEncoderError("it needs transformers: pip install transformers") from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(path_or_name)
        model = CLIPTextModel.from_pretrained(path_or_name).eval().to(device)
    except (OSError, ValueError) as error:
        raise TextEncoderError(f"no CLIP text model there: {str(error).splitlines()[0]}") from error

    @torch.inference_mode()
    def encode(texts: list[str]) -> list[np.ndarray]:
        tokens = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").to(device)
        states = model(**tokens).last_hidden_state.to(torch.float16).cpu().numpy()
        # The first end-of-text token: padding repeats it.
        ends = (tokens.input_ids == tokenizer.eos_token_id).int().argmax(1).tolist()
        return [np.ascontiguousarray(state[: end + 1]) for state, end in zip(states, ends, strict=True)]

    return encode
