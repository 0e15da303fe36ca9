"""What each clip of a sampling is asked to show: from a file, from arguments, or drawn.

    labels,caption,seed
    rain|thunder,,7
    ,a dog barks at a passing car,8

A csv or JSON lines file with a row per clip. `labels` are separated by '|' (in JSON a list will do), as in a
manifest; columns that a model does not read may be absent. A row's seed decides its noise wherever the row
stands; without one it is the run's seed and the row's number.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from avmodel.dit.options import SampleOptions
from avmodel.dit.text import LabelTexts, TextError, Texts

COLUMNS = ("labels", "caption", "seed")
DEFAULT_CLIPS = 8
_MOST_BYTES = 256 << 20
_MOST_SEED = 2**62


@dataclass(frozen=True)
class Prompt:
    labels: tuple[str, ...] = ()
    caption: str = ""
    seed: int | None = None  # of the clip's noise; None: the run's, and the clip's number


def prompts_of(options: SampleOptions, texts: Texts) -> list[Prompt]:
    """A prompt per clip.

    Raises:
        TextError: a file that cannot be read, arguments that do not go together, or a text that the model
            does not know: everything is checked before anything is generated.
    """
    found = _asked(options, texts)
    if options.prompts is None:
        _check(found[0], texts)
    for number, prompt in enumerate(found if options.prompts else [], 1):
        try:
            _check(prompt, texts)
        except TextError as error:
            raise TextError(f"prompts = {options.prompts}: row {number}: {error}") from error
    return found


def _check(prompt: Prompt, texts: Texts) -> None:
    """Raises TextError for a text that the model does not know."""
    if prompt.caption and isinstance(texts, LabelTexts):
        raise TextError(f"caption = {prompt.caption!r}: the model was trained on labels; give `labels`")
    texts.captions([prompt.labels], [prompt.caption])


def _asked(options: SampleOptions, texts: Texts) -> list[Prompt]:
    if options.prompts is not None:
        if options.labels or options.caption:
            raise TextError(f"prompts = {options.prompts}: `labels` and `caption` are not given beside it")
        return _from_file(options.prompts, options.n)
    n = DEFAULT_CLIPS if options.n is None else options.n
    is_given = options.given_video is not None or options.given_audio is not None
    if options.labels or options.caption or is_given or not isinstance(texts, LabelTexts):
        return [Prompt(options.labels, options.caption)] * n
    generator = torch.Generator().manual_seed(options.seed)
    return [Prompt(labels) for labels in texts.draw(n, generator)]


def _from_file(path: Path, n: int | None) -> list[Prompt]:
    found = read_prompts(path)
    if n is not None and n > len(found):
        raise TextError(f"n = {n}: {path} has {len(found)} rows")
    return found[:n]


def read_prompts(path: Path) -> list[Prompt]:
    """The rows of a prompts file. Raises TextError with the line of what cannot be used."""
    readers = {".csv": _csv_rows, ".jsonl": _json_rows}
    if path.suffix.lower() not in readers:
        raise TextError(f"prompts = {path}: it has none of the suffixes {', '.join(readers)}")
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise TextError(f"prompts = {path}: it has more than {_MOST_BYTES:,} bytes")
        rows = readers[path.suffix.lower()](path)
        prompts = [_prompt(row, f"prompts = {path}: line {line}") for line, row in rows]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TextError(f"prompts = {path}: it cannot be read: {error}") from error
    if not prompts:
        raise TextError(f"prompts = {path}: it has no row")
    return prompts


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        columns = reader.fieldnames or []
        if not set(columns) & set(COLUMNS) or len(set(columns)) != len(columns):
            raise TextError(f"prompts = {path}: its columns are {columns}, not of {', '.join(COLUMNS)}")
        for row in reader:
            if None in row or None in row.values():
                raise TextError(f"prompts = {path}: line {reader.line_num} has not {len(columns)} cells")
            yield reader.line_num, row


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8") as file:
        for line, text in enumerate(file, 1):
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise TextError(f"prompts = {path}: line {line} is no JSON: {error}") from error
            if not isinstance(row, dict):
                raise TextError(f"prompts = {path}: line {line} is no object")
            yield line, row


def _prompt(row: dict[str, Any], place: str) -> Prompt:
    unknown = [name for name in row if name not in COLUMNS]
    if unknown:
        raise TextError(f"{place} has {unknown[0]!r:.40}, which is none of {', '.join(COLUMNS)}")
    labels, caption, seed = row.get("labels") or (), row.get("caption") or "", row.get("seed")
    parts = labels.split("|") if isinstance(labels, str) else labels
    if not isinstance(parts, (list, tuple)) or not all(isinstance(part, str) for part in parts):
        raise TextError(f"{place}: labels = {labels!r:.40} are no texts")
    if not isinstance(caption, str):
        raise TextError(f"{place}: caption = {caption!r:.40} is no text")
    named = tuple(part.strip() for part in parts if part.strip())
    return Prompt(named, caption.strip(), _seed(seed, place))


def _seed(value: object, place: str) -> int | None:
    if value is None or value == "":
        return None
    text = str(value).strip()
    if isinstance(value, (bool, float)) or not text.isascii() or not text.isdigit() or int(text) > _MOST_SEED:
        raise TextError(f"{place}: seed = {value!r:.40} is no whole number from 0 to {_MOST_SEED}")
    return int(text)
