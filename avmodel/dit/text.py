"""What a clip shows, as the STDiT reads it: learned tokens, one per label, or cached caption embeddings.

    labels ("rain", "thunder")  ->  tokens (L) of a learned table             no text encoder needed
    caption "a dog barks"       ->  embeddings (L, width) of captions.safetensors, beside the latents

A clip with neither label nor caption gets the learned null.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file
from torch import Tensor

from avmodel.config import STDiTConfig
from avmodel.dit.model import Captions
from avmodel.training.source import file_identity
from avprep.errors import AvprepError
from avprep.shards.layout import CAPTIONS_FILE, STATS_FILE, prompt_of
from avprep.shards.plan import PlanReader
from avprep.shards.store import open_store

_PLACES = 8  # the length of a batch's captions is a multiple of it
LABEL_SETS = 4096  # clips whose labels a checkpoint keeps, to draw from
LABELS_PER_CLIP = 8  # label tokens, at most; AudioSet's clips have 2.7 on average


class TextError(AvprepError, ValueError):
    """A label, caption or table of texts that cannot be used: the message says why."""


def trimmed(captions: Captions) -> Captions:
    """Without the places that no clip of the batch fills, but for a multiple of 8: a compiled model meets few
    lengths, and the learned null finds a place."""
    places = torch.arange(1, captions.mask.shape[1] + 1)
    longest = int((captions.mask * places).max())
    length = max(_PLACES, -(-longest // _PLACES) * _PLACES)
    return Captions(captions.tokens[:, :length], captions.mask[:, :length])


class Texts(Protocol):
    """Turns labels and captions into what the model reads."""

    def captions(self, labels: list[tuple[str, ...]], captions: list[str]) -> Captions:
        """One row per clip. Raises TextError for what is not known."""

    def to_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of them."""


class LabelTexts:
    """One learned token per label. The vocabulary is that of the training set, sorted.

    Args:
        counts: how many clips have each label.
        sets: the labels of clips of the training set, as `label_sets` gives them.
    """

    def __init__(self, counts: dict[str, int], sets: Sequence[tuple[str, ...]] = ()) -> None:
        self.counts = dict(sorted(counts.items()))
        self.sets = tuple(sets)
        self._number = {label: i for i, label in enumerate(self.counts)}

    def captions(self, labels: list[tuple[str, ...]], captions: list[str]) -> Captions:
        """Captions are not read: training clips have them beside their labels."""
        tokens = torch.zeros(len(labels), LABELS_PER_CLIP, dtype=torch.long)
        mask = torch.zeros(len(labels), LABELS_PER_CLIP, dtype=torch.bool)
        for row, of_clip in enumerate(labels):
            for place, label in enumerate(of_clip[:LABELS_PER_CLIP]):
                tokens[row, place], mask[row, place] = self._number_of(label), True
        return Captions(tokens, mask)

    def draw(self, count: int, generator: torch.Generator) -> list[tuple[str, ...]]:
        """The labels of clips of the training set, whole: labels that occur together are drawn together.

        Without `sets`, single labels as often as they occur.
        """
        if self.sets:
            chosen = torch.randint(len(self.sets), (count,), generator=generator)
            return [self.sets[i] for i in chosen.tolist()]
        if not self.counts:
            return [()] * count
        shares = torch.tensor([float(n) for n in self.counts.values()])
        names = list(self.counts)
        drawn = torch.multinomial(shares, count, replacement=True, generator=generator)
        return [(names[i],) for i in drawn.tolist()]

    def to_dict(self) -> dict[str, Any]:
        return {"labels": self.counts, "sets": [list(labels) for labels in self.sets]}

    def _number_of(self, label: str) -> int:
        if label not in self._number:
            near = get_close_matches(label, self._number, n=3, cutoff=0.4) or list(self._number)[:3]
            nearest = f"; the nearest are {', '.join(map(repr, near))}" if near else ""
            raise TextError(f"no label {label!r} among the {len(self._number)} trained on{nearest}")
        return self._number[label]


def label_sets(folders: Sequence[str | Path], keys: Sequence[str]) -> list[tuple[str, ...]]:
    """The labels of up to LABEL_SETS clips, spread over `keys`, as the plans of the outputs have them."""
    count = min(LABEL_SETS, len(keys))
    chosen = {keys[i * len(keys) // count] for i in range(count)}
    found: dict[str, tuple[str, ...]] = {}
    for folder in folders:
        found |= PlanReader(open_store(folder)).labels_of(chosen)
    return [found[key] for key in sorted(found)]


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
        """The caption's embedding; without a caption, that of the labels' joint prompt if the table has it
        (datasets without captions do), else those of each label's own prompt."""
        joint = prompt_of(*labels)
        texts = [joint] if joint in self._table else [prompt_of(label) for label in labels]
        texts = [caption] if caption else texts
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
    """{text: float16 (tokens, width)} of a captions.safetensors; None if there is no such file.

    Raises:
        TextError: it is not such a file.
    """
    if not Path(path).exists():
        return None
    try:
        table = load_file(path)
    except (SafetensorError, OSError) as error:
        raise TextError(f"{path} is no captions.safetensors of avprep encode: {error}") from error
    _check_table(table, path)
    return table


def _check_table(table: dict[str, np.ndarray], path: str | Path) -> None:
    widths = {embedding.shape[1:] for embedding in table.values()}
    if len(widths) != 1 or len(next(iter(widths))) != 1:
        raise TextError(f"{path} is no captions.safetensors of avprep encode: shapes (tokens, width) differ")
    if not all(np.isfinite(embedding).all() for embedding in table.values()):
        raise TextError(f"{path} holds embeddings with NaN or Inf")


class TextsOfLatents(NamedTuple):
    texts: Texts
    config: STDiTConfig  # the preset, sized for the texts
    identity: dict[str, Any]  # what a resumed training must have in common


def texts_of_latents(
    folders: Sequence[str | Path], preset: STDiTConfig, *, keys: set[str] | None = None
) -> TextsOfLatents:
    """The caption embeddings beside the latents or, without them, the labels.

    Args:
        folders: of the outputs.
        keys: of the clips that are trained on; None: all of them. Their labels are those of the plan; without
            `keys`, those of stats.json.

    Raises:
        TextError: neither is there, or it is damaged; outputs of which only some have embeddings, or whose
            embeddings were made otherwise.
    """
    paths = [Path(folder) / CAPTIONS_FILE for folder in folders]
    tables = {path: table for path in paths if (table := read_caption_table(path)) is not None}
    if not tables:
        counts = _label_counts(folders, keys)
        # At least one row: without a label every clip reads the null, and the model stays in the label mode.
        config = replace(preset, classes=max(1, len(counts)), caption_tokens=LABELS_PER_CLIP)
        return TextsOfLatents(LabelTexts(counts), config, {"labels": sorted(counts)})
    for path in paths:
        if path not in tables:
            raise TextError(f"there is no {path}, and {next(iter(tables))} is there: embed both or neither")
    table, encoder = _joined_tables(tables)
    width = next(iter(table.values())).shape[1]
    # Room for the longest text: one that is cut off may lose what tells it from others.
    tokens = max(preset.caption_tokens, *(len(embedding) for embedding in table.values()))
    config = replace(preset, caption_dim=width, caption_tokens=tokens)
    files = [file_identity(path) for path in tables]
    identity = {"text encoder": encoder, "captions.safetensors": " + ".join(files)}
    return TextsOfLatents(CaptionTexts(table, width, tokens), config, identity)


def _joined_tables(tables: dict[Path, dict[str, np.ndarray]]) -> tuple[dict[str, np.ndarray], str]:
    """All texts, and the encoder's name. Raises TextError for tables that were made by different encoders."""
    (first, joined), *others = tables.items()
    joined, encoder = dict(joined), _text_encoder(first)
    for path, table in others:
        differs = _text_encoder(path) != encoder
        for text, embedding in table.items():
            differs = differs or not np.array_equal(joined.setdefault(text, embedding), embedding)
        if differs or len({embedding.shape[1] for embedding in joined.values()}) > 1:
            raise TextError(f"{path} and {first} were made by different text encoders: embed both by one")
    return joined, encoder


def _text_encoder(path: Path) -> str:
    with safe_open(path, "numpy") as file:
        return (file.metadata() or {}).get("text_encoder", "")


def _label_counts(folders: Sequence[str | Path], keys: set[str] | None) -> dict[str, int]:
    """How many clips have each label."""
    counts: Counter[str] = Counter()
    for folder in folders:
        if keys is None:
            counts.update(_counts_of_stats(folder))
        else:
            labels = PlanReader(open_store(folder)).labels_of(keys)
            counts.update(label for of_clip in labels.values() for label in of_clip)
    return dict(counts)


def _counts_of_stats(folder: str | Path) -> dict[str, int]:
    path = Path(folder) / STATS_FILE
    try:
        counts = json.loads(path.read_bytes())["labels"]
    except FileNotFoundError:
        raise TextError(
            f"latents = {folder}: there is no stats.json yet, which names the labels. Run the same avprep "
            f"encode command to its end first"
        ) from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise TextError(f"{path} is damaged: {error!r}") from error
    if not isinstance(counts, dict) or not all(type(n) is int and n >= 0 for n in counts.values()):
        raise TextError(f"{path} is damaged: its labels are not names with numbers of clips")
    return counts
