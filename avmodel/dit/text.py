"""What a clip shows, as the STDiT reads it: learned tokens, one a label, or cached caption embeddings.

    labels ("rain", "thunder")  ->  tokens (L) of a learned table             no text encoder needed
    caption "a dog barks"       ->  embeddings (L, width) of captions.safetensors, beside the latents

Nothing to say, no label and no caption, is the learned null.
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file
from torch import Tensor

from avmodel.dit.model import Captions
from avprep.errors import AvprepError
from avprep.shards.layout import CAPTION_PROMPT

LABELS_A_CLIP = 8  # label tokens at most; AudioSet's clips have 2.7 in mean


class TextError(AvprepError, ValueError):
    """A label or caption that the model was not trained on; a sentence."""


class Texts(Protocol):
    """Turns labels and captions into what the model reads."""

    def captions(self, labels: list[tuple[str, ...]], captions: list[str]) -> Captions:
        """One row a clip. Raises TextError for what is not known."""

    def to_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""


class LabelTexts:
    """One learned token a label. The vocabulary is that of the training set, sorted."""

    def __init__(self, counts: dict[str, int]) -> None:
        self.counts = dict(sorted(counts.items()))
        self._number = {label: i for i, label in enumerate(self.counts)}

    def captions(self, labels: list[tuple[str, ...]], captions: list[str]) -> Captions:
        """Captions are not read: training clips have them beside their labels."""
        tokens = torch.zeros(len(labels), LABELS_A_CLIP, dtype=torch.long)
        mask = torch.zeros(len(labels), LABELS_A_CLIP, dtype=torch.bool)
        for row, of_clip in enumerate(labels):
            for place, label in enumerate(of_clip[:LABELS_A_CLIP]):
                tokens[row, place], mask[row, place] = self._number_of(label), True
        return Captions(tokens, mask)

    def draw(self, count: int, generator: torch.Generator) -> list[tuple[str, ...]]:
        """Labels as often as the training set has them; none where it has none."""
        if not self.counts:
            return [()] * count
        shares = torch.tensor([float(n) for n in self.counts.values()])
        names = list(self.counts)
        drawn = torch.multinomial(shares, count, replacement=True, generator=generator)
        return [(names[i],) for i in drawn.tolist()]

    def to_dict(self) -> dict[str, Any]:
        return {"labels": self.counts}

    def _number_of(self, label: str) -> int:
        if label not in self._number:
            near = get_close_matches(label, self._number, n=3, cutoff=0.4) or list(self._number)[:3]
            nearest = f"; the nearest are {', '.join(map(repr, near))}" if near else ""
            raise TextError(f"no label {label!r} among the {len(self._number)} trained on{nearest}")
        return self._number[label]


class CaptionTexts:
    """Embeddings that were computed once for every distinct text."""

    def __init__(self, table: dict[str, np.ndarray], width: int, tokens: int) -> None:
        self._table, self._width, self._tokens = table, width, tokens

    def captions(self, labels: list[tuple[str, ...]], captions: list[str]) -> Captions:
        rows = [self._of_clip(*clip) for clip in zip(labels, captions, strict=True)]
        tokens = torch.zeros(len(rows), self._tokens, self._width)
        mask = torch.zeros(len(rows), self._tokens, dtype=torch.bool)
        for i, row in enumerate(rows):
            row = row[: self._tokens]
            tokens[i, : len(row)], mask[i, : len(row)] = row, True
        return Captions(tokens, mask)

    def to_dict(self) -> dict[str, Any]:
        return {"embeddings": {"width": self._width, "tokens": self._tokens}}

    def _of_clip(self, labels: tuple[str, ...], caption: str) -> Tensor:
        """The caption's embedding; without one, that of the labels' joint prompt (what clips of a dataset
        without captions have for theirs), or those of each label's own."""
        joint = CAPTION_PROMPT.format(", ".join(labels))
        texts = (
            [caption]
            if caption
            else [joint]
            if joint in self._table
            else [CAPTION_PROMPT.format(label) for label in labels]
        )
        unknown = [text for text in texts if text not in self._table]
        if unknown:
            near = get_close_matches(unknown[0], self._table, n=3, cutoff=0.4)
            raise TextError(
                f"no embedding of {unknown[0]!r} beside the latents"
                + (f"; the nearest are {', '.join(map(repr, near))}" if near else "")
            )
        rows = [torch.from_numpy(self._table[text]).float() for text in texts]
        return torch.cat(rows) if rows else torch.zeros(0, self._width)


def read_caption_table(path: str | Path) -> dict[str, np.ndarray] | None:
    """{text: float16 (tokens, width)} of a captions.safetensors; None where there is none.

    Raises:
        TextError: a file that is none.
    """
    if not Path(path).exists():
        return None
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise TextError(f"{path} is no captions.safetensors of avprep encode: {error}") from error
